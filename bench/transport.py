"""What the transport costs: Faust's own drain against ours, and our rates against bare rstream, in one run.

`python -m bench.transport [--json FILE] [--url URL] [--runs 3] [--events 100000]`

Every case runs in a process of its own on the same broker (a private one, unless a URL is given), case after
case, `--runs` times over; the table shows medians. Targets: the fast drain costs at most half of the stock
drain's CPU per event, and publishing and consuming reach 0.8 of rstream's rates.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import rstream
import uvloop
from faust.transport import base
from rich.console import Console
from rich.table import Table

from deploy.local.private import private_rabbitmq
from streams import amqp
from streams.address import Address
from streams.app import CoreApp, make_app
from streams.batches import Batch, Claim
from streams.link import Link
from streams.runner import Lanes, run_batches
from streams.settings import StreamSettings
from streams.topics import declare
from streams.transport import Transport
from streams.transport.consumer import Consumer
from streams.transport.partition import Partition
from streams.transport.reader import Reader
from streams.writer import BatchWriter

TOPIC, PARTITIONS, BATCH = "wallet.debit", 4, 500
VALUE = b"x" * 300
KEY = b"0190b8f2-7d3a-7c11-8a51-3f1f0e6a9b01"


class Memory:
    """An ownership that remembers nothing: every run starts at the beginning."""

    @contextlib.asynccontextmanager
    async def join_lock(self) -> AsyncIterator[None]:
        yield

    async def claim(self, topic: str, partitions: Sequence[int], owner: str) -> Mapping[int, Claim]:
        return {partition: Claim(1, 1, 0, None, None) for partition in partitions}

    async def reincarnate(self, topic: str, partition: int, epoch: int, first_offset: int) -> Claim:
        return Claim(epoch + 1, 2, first_offset, None, None)

    async def restore(self, topic: str, partition: int, claim: Claim) -> None:
        return None

    async def positions(self, topic: str) -> Mapping[int, int]:
        return {}

    async def advance(self, topic: str, partition: int, **position: Any) -> bool:
        return True


class Meter:
    """Time and CPU from the first event to the last."""

    def __init__(self, events: int) -> None:
        self._goal = events
        self._seen = 0
        self._began = self._cpu = 0.0
        self.done = asyncio.Event()
        self.result: dict[str, float] = {}

    def add(self, events: int) -> None:
        if not self._seen:
            self._began, self._cpu = time.perf_counter(), _cpu_s()
            self._goal -= events
            self._seen = 1
            return
        self._goal -= events
        self._seen += events
        if self._goal <= 0 and not self.done.is_set():
            self.result = {
                "events": self._seen,
                "seconds": time.perf_counter() - self._began,
                "cpu_s": _cpu_s() - self._cpu,
            }
            self.done.set()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


# -- publishing


async def publish_rstream(url: str, events: int) -> dict[str, float]:
    """rstream's producer, raw bytes in batches, confirms counted."""
    confirmed, done = 0, asyncio.Event()

    def on_confirm(status: Any) -> None:
        nonlocal confirmed
        confirmed += 1
        if confirmed >= events:
            done.set()

    address = Address.parse(url)
    async with rstream.Producer(
        address.host,
        address.port,
        username=address.user,
        password=address.password,
        vhost=address.vhost,
        on_close_handler=None,
    ) as producer:
        payload = amqp.encode(KEY, VALUE)
        began, cpu = time.perf_counter(), _cpu_s()
        for number in range(0, events, BATCH):
            stream = f"{TOPIC}-{number // BATCH % PARTITIONS}"
            batch: list[Any] = [payload] * BATCH
            await producer.send_batch(stream, batch, on_publish_confirm=on_confirm)
        await done.wait()
        return {"events": events, "seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu}


async def publish_link(url: str, events: int) -> dict[str, float]:
    """Our link, the same bytes in the same batches."""
    async with Link(Address.parse(url), name="bench") as link:
        payload = amqp.encode(KEY, VALUE)
        began, cpu = time.perf_counter(), _cpu_s()
        for number in range(0, events, BATCH):
            await link.send(f"{TOPIC}-{number // BATCH % PARTITIONS}", [payload] * BATCH)
        await link.flush()
        return {"events": events, "seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu}


@dataclass(frozen=True, slots=True)
class _Message:
    partition: int
    topic: str = TOPIC
    key: str | None = KEY.decode()
    value: bytes | None = VALUE
    headers: ClassVar[Mapping[str, str]] = {}


async def publish_writer(url: str, events: int) -> dict[str, float]:
    """The relay's writer: encoding, an outcome per message, eight lists under way."""
    async with BatchWriter(url, name="bench") as writer:
        lists = [[_Message(number % PARTITIONS)] * BATCH for number in range(events // BATCH)]
        began, cpu = time.perf_counter(), _cpu_s()
        for start in range(0, len(lists), 8):
            await asyncio.gather(*(writer.publish(part) for part in lists[start : start + 8]))
        return {"events": events, "seconds": time.perf_counter() - began, "cpu_s": _cpu_s() - cpu}


# -- consuming


async def consume_rstream(url: str, events: int) -> dict[str, float]:
    """rstream's consumer, raw bytes, a callback that counts."""
    meter, address = Meter(events), Address.parse(url)
    consumer = rstream.Consumer(
        address.host, address.port, username=address.user, password=address.password, vhost=address.vhost
    )
    await consumer.start()

    async def on_message(_: Any, __: Any) -> None:
        meter.add(1)

    first = rstream.ConsumerOffsetSpecification(rstream.OffsetType.FIRST)
    for number in range(PARTITIONS):
        await consumer.subscribe(f"{TOPIC}-{number}", on_message, offset_specification=first)
    await meter.done.wait()
    await consumer.close()
    return meter.result


async def consume_batches(url: str, events: int) -> dict[str, float]:
    """Our reader and lanes: gate, checksum, decoding into records, batches."""
    meter = Meter(events)

    async def handle(batch: Batch) -> None:
        meter.add(len(batch.records))

    reader = Reader(Address.parse(url), Memory(), group=f"bench-{os.getpid()}", owner="bench")
    lanes = Lanes(reader, handle, max_records=BATCH, max_bytes=1 << 20, concurrency=4)
    reader.on_data = lanes.wake
    await reader.start()
    reader.follow({TOPIC: PARTITIONS})
    await meter.done.wait()
    await lanes.stop(deadline_s=1)
    await reader.leave(deadline_s=1)
    return meter.result


async def consume_raw(url: str, events: int) -> dict[str, float]:
    """Our reader alone: gate, checksum, raw messages, as rstream hands them to its callback."""
    meter = Meter(events)
    reader = Reader(Address.parse(url), Memory(), group=f"bench-{os.getpid()}", owner="bench")

    def on_data(partition: Partition) -> None:
        meter.add(len(partition.read(1 << 20, 1 << 30)))
        reader.committed(partition, partition.position)

    reader.on_data = on_data
    await reader.start()
    reader.follow({TOPIC: PARTITIONS})
    await meter.done.wait()
    await reader.leave(deadline_s=1)
    return meter.result


# -- Faust


class StockConsumer(Consumer):
    """Our consumer with Faust's own drain and acknowledgements."""

    _drain_messages = base.Consumer._drain_messages
    _new_offset = base.Consumer._new_offset


def _app(url: str) -> CoreApp:
    settings = StreamSettings(stream_url=url, partitions=PARTITIONS, consumer_group=f"bench-{os.getpid()}")
    return make_app(settings, Memory())


async def _run_app(app: CoreApp, meter: Meter) -> dict[str, float]:
    await app.start()
    await meter.done.wait()
    return meter.result


async def drain_plain(url: str, events: int) -> dict[str, float]:
    """A plain agent, event by event, on the fast drain."""
    app, meter = _app(url), Meter(events)

    async def agent(stream: Any) -> None:
        async for _ in stream.events():
            meter.add(1)

    app.agent(app.topic(TOPIC), name="bench")(agent)
    return await _run_app(app, meter)


async def drain_stock(url: str, events: int) -> dict[str, float]:
    """The same agent on Faust's own drain."""
    Transport.Consumer = StockConsumer
    Transport.Conductor = base.Conductor  # type: ignore[assignment]
    return await drain_plain(url, events)


async def drain_batches(url: str, events: int) -> dict[str, float]:
    """`run_batches` in an agent."""
    app, meter = _app(url), Meter(events)

    async def handle(batch: Batch) -> None:
        meter.add(len(batch.records))

    async def agent(stream: Any) -> None:
        await run_batches(app, stream, handle)

    app.agent(app.topic(TOPIC), name="bench")(agent)
    return await _run_app(app, meter)


CASES: dict[str, Callable[[str, int], Awaitable[dict[str, float]]]] = {
    "publish: rstream": publish_rstream,
    "publish: link": publish_link,
    "publish: relay's writer": publish_writer,
    "consume: rstream": consume_rstream,
    "consume: reader, raw": consume_raw,
    "consume: reader, batches": consume_batches,
    "Faust: stock drain": drain_stock,
    "Faust: fast drain": drain_plain,
    "Faust: run_batches": drain_batches,
}
RATIOS = {
    "publish rate, link to rstream": ("publish: link", "publish: rstream", "rate", 0.8),
    "publish rate, relay's writer to rstream": ("publish: relay's writer", "publish: rstream", "rate", 0.8),
    "consume rate, raw to rstream": ("consume: reader, raw", "consume: rstream", "rate", 0.8),
    "consume rate, decoded batches to rstream's raw": (
        "consume: reader, batches",
        "consume: rstream",
        "rate",
        0.8,
    ),
    "CPU per event, stock drain to fast drain": ("Faust: stock drain", "Faust: fast drain", "cpu_us", 2.0),
    "CPU per event, stock drain to run_batches": ("Faust: stock drain", "Faust: run_batches", "cpu_us", 2.0),
}


def _one(name: str, url: str, events: int) -> None:
    """Run one case in this process and print its figures."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(CASES[name](url, events))), flush=True)  # type: ignore[arg-type]
        os._exit(0)


async def _measure(url: str, runs: int, events: int, console: Console) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    async with Link(Address.parse(url), name="bench") as link:
        for number in range(0, events, BATCH):
            await link.send(f"{TOPIC}-{number // BATCH % PARTITIONS}", [amqp.encode(KEY, VALUE)] * BATCH)
        await link.flush()
    for run in range(runs):
        for name in CASES:
            console.print(f"run {run + 1} of {runs}: {name}", style="dim")
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.transport",
                "--case",
                name,
                "--url",
                url,
                "--events",
                str(events),
                stdout=subprocess.PIPE,
            )
            out, _ = await asyncio.wait_for(process.communicate(), 180)
            figures = json.loads(out.splitlines()[-1])
            figures["rate"] = figures["events"] / figures["seconds"]
            figures["cpu_us"] = figures["cpu_s"] / figures["events"] * 1e6
            found[name].append(figures)
    return found


def _report(found: dict[str, list[dict[str, float]]], console: Console) -> dict[str, Any]:
    cases = {
        name: {key: statistics.median(run[key] for run in runs) for key in ("rate", "cpu_us")}
        for name, runs in found.items()
    }
    table = Table("case", "events/s", "CPU µs/event", title="medians")
    for name, median in cases.items():
        table.add_row(name, f"{median['rate']:,.0f}", f"{median['cpu_us']:.2f}")
    console.print(table)
    ratios = {}
    table = Table("ratio", "measured", "target")
    for name, (above, below, key, target) in RATIOS.items():
        ratio = cases[above][key] / cases[below][key]
        ratios[name] = {"ratio": ratio, "target": target, "met": ratio >= target}
        table.add_row(name, f"{ratio:.2f}", f"≥ {target}")
    console.print(table)
    return {"cases": cases, "ratios": ratios, "runs": found}


async def main(arguments: argparse.Namespace) -> int:
    console = Console()
    async with contextlib.AsyncExitStack() as stack:
        url = arguments.url
        if url is None:
            node = await stack.enter_async_context(private_rabbitmq())
            await declare(node.stream_url("core_admin"), PARTITIONS)
            url = node.stream_url()
        found = await _measure(url, arguments.runs, arguments.events, console)
    report = _report(found, console)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(ratio["met"] for ratio in report["ratios"].values()) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.transport", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--url", help="a broker with the topics declared; a private one if left out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--case", choices=list(CASES), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        _one(given.case, given.url, given.events)
    sys.exit(asyncio.run(main(given)))
