"""rbfly, the other Python client of RabbitMQ streams, as a case of `./dev bench peers`.

It has no wheels and needs a C compiler, so it is no dependency: `python()` installs it on demand into a private
environment, whose Python then runs this file as a program: `python peer_rbfly.py publish|consume URL EVENTS STREAM...`.
Outside the part that installs, nothing but rbfly, uvloop and the standard library is imported here.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from importlib import import_module
from pathlib import Path
from typing import Any, Final

VERSION: Final = "0.10.0"
BATCH: Final = 500
VALUE: Final = b"x" * 300
INSTALL_S: Final = 300


class NotInstalled(RuntimeError):
    """rbfly cannot be had here, and why."""


def python(directory: Path) -> Path:
    """The Python that has rbfly, installed below `directory` on first use. Errors: NotInstalled."""
    found = directory / f"rbfly-{VERSION}" / "bin" / "python"
    ready = found.parent / "ready"
    if ready.exists():
        return found
    commands = (
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(found.parent.parent)],
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(found),
            "install",
            "--quiet",
            f"rbfly=={VERSION}",
            "uvloop",
        ],
    )
    for command in commands:
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or error.stdout).strip().splitlines()
            raise NotInstalled(
                "rbfly could not be built (it needs a C compiler, Python's headers and a package index): "
                + " / ".join(lines[-3:])
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotInstalled(f"rbfly could not be installed: {error}") from error
    ready.touch()
    return found


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def publish(client: Any, streams: list[str], events: int) -> dict[str, float]:
    """Batches of the same size and content as everybody's, stream by stream in turn, each confirmed."""
    batches = import_module("rbfly.streams").PublisherBatchFast
    async with AsyncExitStack() as stack:
        publishers = [
            await stack.enter_async_context(client.publisher(stream, name=f"b{os.getpid()}", cls=batches))
            for stream in streams
        ]  # fmt: skip
        began, cpu = time.perf_counter(), _cpu_s()

        async def keep_publishing(place: int) -> None:
            for _ in range(place, events // BATCH, len(publishers)):
                for _ in range(BATCH):
                    publishers[place].batch(VALUE)
                await publishers[place].flush()

        await asyncio.gather(*(keep_publishing(place) for place in range(len(publishers))))
        return {"events": events, "seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu}


async def consume(client: Any, streams: list[str], events: int) -> dict[str, float]:
    """Every stream from its beginning, bodies counted, until there were so many."""
    first = import_module("rbfly.streams").Offset.FIRST
    seen, began, cpu = 0, 0.0, 0.0
    done = asyncio.Event()

    async def count(stream: str) -> None:
        nonlocal seen, began, cpu
        async for _ in client.subscribe(stream, offset=first):
            if not seen:
                began, cpu = time.perf_counter(), _cpu_s()
            seen += 1
            if seen >= events:
                done.set()

    tasks = [asyncio.create_task(count(stream)) for stream in streams]
    await done.wait()
    found = {"events": seen, "seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu}
    for task in tasks:
        task.cancel()
    return found


async def _main(case: str, url: str, events: int, streams: list[str]) -> None:
    streams_client = import_module("rbfly.streams").streams_client
    work = {"publish": publish, "consume": consume}[case]
    print(json.dumps(await work(streams_client(url), streams, events)), flush=True)
    os._exit(0)


if __name__ == "__main__":
    import uvloop

    uvloop.run(_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
