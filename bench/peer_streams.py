"""The streams of `./dev bench peers`: our link and readers, bare rstream, rbfly, Faust's stock drain; one broker, in turns.

Every case is a process of its own, its own CPU is counted, and every message is one of 300 bytes with a key, in
batches of 500 over four partitions. rbfly is installed on demand and left out, loudly, where it cannot be.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench import peer_rbfly, transport
from bench.frame import say
from deploy.local.private import private_rabbitmq
from deploy.local.stack import LOCAL
from streams import amqp
from streams.address import Address
from streams.link import Link
from streams.topics import declare

_CASE_S: Final = 180
CASES: Final = {
    "publish: ours": "publish: link",
    "publish: rstream": "publish: rstream",
    "publish: rbfly": "publish",
    "consume: ours, batches": "consume: reader, batches",
    "consume: rstream": "consume: rstream",
    "consume: rbfly": "consume",
    "Faust: ours, run_batches": "Faust: run_batches",
    "Faust: stock drain": "Faust: stock drain",
}
"""What each is called in `transport`, or in `peer_rbfly`."""


async def measure(rounds: int, events: int) -> tuple[list[dict[str, Any]], str | None]:
    """The rounds' figures: events a second and CPU µs an event of each case; and why rbfly is missing, if it is."""
    missing, other = None, None
    say("rbfly: looking for it (built on first use)")
    try:
        other = await asyncio.to_thread(peer_rbfly.python, LOCAL)
    except peer_rbfly.NotInstalled as error:
        missing = str(error)
        say(f"measuring without rbfly. {missing}")
    streams = [f"{transport.TOPIC}-{number}" for number in range(transport.PARTITIONS)]
    found: list[dict[str, Any]] = []
    async with private_rabbitmq() as node:
        await declare(node.stream_url("core_admin"), transport.PARTITIONS)
        url = node.stream_url()
        await _fill(url, events)
        for number in range(rounds):
            say(f"streams, round {number + 1} of {rounds}")
            one: dict[str, Any] = {}
            for name, case in CASES.items():
                if not name.endswith("rbfly"):
                    command = [sys.executable, "-m", "bench.transport", "--case", case, "--url", url]
                    command += ["--events", str(events)]
                elif other is not None:
                    command = [str(other), peer_rbfly.__file__, case, url, str(events), *streams]
                else:
                    continue
                figures = await _figures(command)
                one[f"{name} per_s"] = round(figures["events"] / figures["seconds"], 1)
                one[f"{name} client_us"] = round(figures["cpu_s"] / figures["events"] * 1e6, 3)
            found.append(one)
    return found, missing


async def _fill(url: str, events: int) -> None:
    """What the consumers of the first round read: as much as there will be for the others."""
    batch = [amqp.encode(transport.KEY, transport.VALUE)] * transport.BATCH
    async with Link(Address.parse(url), name="bench") as link:
        for number in range(0, events, transport.BATCH):
            await link.send(f"{transport.TOPIC}-{number // transport.BATCH % transport.PARTITIONS}", batch)
        await link.flush()


async def _figures(command: Sequence[str]) -> dict[str, float]:
    child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=Path.cwd())
    out, _ = await asyncio.wait_for(child.communicate(), _CASE_S)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed")
    figures: dict[str, float] = json.loads(out.splitlines()[-1])
    return figures
