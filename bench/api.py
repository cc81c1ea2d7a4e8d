"""`./dev bench api`: what a web process reads: a wallet, its transactions, a payment, aggregates; and the live page's stream.

wrk (Debian's package, unpacked privately; our own generator where it cannot be had) asks for customers drawn by Zipf 1.1,
each kind alone: with one connection for the latency of an idle process, with `--connections` for what it can do. Usage is
spent and committed first, so that wallets have a past. The live stream: `--viewers` look for some seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.frame import Rig, machine, passed, report, say, share
from bench.prepare import World, order_id, prepare, zipf
from bench.usage import Bench
from bench.wrk import Generator

NAME: Final = "api"
_ORDERS: Final = 5_000
_WEB: Final = {"WEB_READS_PER_MINUTE": "100000000"}
"""One token is not a thousand customers' limit."""
_PAYMENTS: Final = "SELECT id FROM payments WHERE order_id BETWEEN $1 AND $2"


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.set_defaults(runs=3)
    parser.add_argument("--for", dest="seconds", type=float, default=5.0, help="seconds of each load")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--viewers", type=int, default=100, help="of the live page")
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--spent", type=int, default=200_000, help="usage events in the past")


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if a read failed or the books are not in order."""
    about, generator = machine(), await Generator.find()
    async with Rig(workers=1, partitions=4, extra=_WEB) as rig:
        say("preparing wallets")
        world = await prepare(rig.admin_url, wallets=options.wallets, orders=_ORDERS, seed=options.seed)
        await spend(rig, world, options)
        await rig.start_web()
        paths = await kinds(rig, world, options)
        runs = []
        for number in range(options.runs):
            say(f"run {number + 1} of {options.runs}, {generator.name}")
            found: dict[str, Any] = {}
            for name, asked in paths.items():
                for connections in (1, options.connections):
                    found |= await load(
                        rig, generator, f"{name}, {connections}", asked, connections, options.seconds
                    )
            found |= await look(rig, options.viewers, options.seconds)
            runs.append(found)
        runs[-1]["violations"] = await rig.verify()
        settings = rig.settings | {
            "wallets": options.wallets,
            "generator": generator.name,
            "web_processes": 1,
        }
    for one in runs:
        one["lost"] = sum(value for name, value in one.items() if name.endswith(" failed"))
    written = report(options, NAME, settings, runs, about=about)
    show(written["median"])
    return 0 if passed(written) else 1


async def spend(rig: Rig, world: World, options: argparse.Namespace) -> None:
    """A past for the wallets: usage through the worker."""
    wishes = argparse.Namespace(wallets=options.wallets, partitions=4, per_message=100, seed=options.seed)
    bench = Bench(rig, world, wishes)
    await bench.set_up(compare=False)
    rig.start_workers()
    say(f"spending {options.spent} times")
    await bench.portion(options.spent)


async def kinds(rig: Rig, world: World, options: argparse.Namespace) -> dict[str, list[str]]:
    """The paths of each kind of read, drawn."""
    wallets = [world.wallets[rank - 1] for rank in zipf(options.seed + 1, options.wallets, 10_000)]
    payments = [row["id"] for row in await rig.ask(_PAYMENTS, order_id(1), order_id(_ORDERS))]
    random.Random(options.seed).shuffle(payments)
    now = datetime.now(UTC)
    since = (now - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    until = (now + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "wallet": [f"/v1/wallets/{wallet}" for wallet in wallets],
        "transactions": [f"/v1/wallets/{wallet}/transactions?limit=50" for wallet in wallets],
        "payment": [f"/v1/payments/{payment}" for payment in payments],
        "aggregates": [
            f"/v1/aggregates/{metric}?window=1m&from={since}&to={until}{by}"
            for metric in ("credits_spent", "revenue_recognised", "payments")
            for by in ("", "&by=feature")
        ],
    }


async def load(
    rig: Rig, generator: Generator, name: str, paths: list[str], connections: int, seconds: float
) -> dict[str, float]:
    """One kind of read: requests a second, latencies, CPU µs a request by process."""
    before = rig.cpu()
    found = await generator.load(
        rig.environment["WEB_URL"], paths, rig.environment["API_TOKEN"], rig.stack.directory,
        connections=connections, seconds=seconds,
    )  # fmt: skip
    after, count = rig.cpu(), max(1, found["requests"])
    return {
        f"{name} per_s": round(found["requests"] / found["seconds"], 1),
        f"{name} p50_ms": round(found["p50_ms"], 3),
        f"{name} p99_ms": round(found["p99_ms"], 3),
        f"{name} web_us": round((after["web"] - before["web"]) / count * 1e6, 1),
        f"{name} postgres_us": round((after["postgres"] - before["postgres"]) / count * 1e6, 1),
        f"{name} generator_us": round(found["cpu_s"] / count * 1e6, 1),
        f"{name} failed": found["failed"],
    }


async def look(rig: Rig, viewers: int, seconds: float) -> dict[str, float]:
    """So many look at the live page: snapshots a second, the time until the first, CPU of the web process per snapshot sent."""
    firsts: list[float] = []
    seen = 0

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal seen
        began, first = time.perf_counter(), True
        async with session.get(rig.environment["WEB_URL"] + "/v1/live") as answer:
            answer.raise_for_status()
            async for line in answer.content:
                if line.startswith(b"data:"):
                    seen += 1
                    if first:
                        firsts.append(time.perf_counter() - began)
                        first = False

    before = rig.cpu()
    headers = {"authorization": f"Bearer {rig.environment['API_TOKEN']}"}
    async with aiohttp.ClientSession(
        headers=headers, connector=aiohttp.TCPConnector(limit=0), read_bufsize=1 << 20
    ) as session:
        tasks = [asyncio.create_task(one(session)) for _ in range(viewers)]
        await asyncio.sleep(seconds)
        after = rig.cpu()
        broken = sum(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return {
        "live per_s": round(seen / seconds, 1),
        "live first_p50_ms": round((share(firsts, 0.5) or 0.0) * 1e3, 1),
        "live first_p99_ms": round((share(firsts, 0.99) or 0.0) * 1e3, 1),
        "live web_us": round((after["web"] - before["web"]) / max(1, seen) * 1e6, 1),
        "live failed": broken,
    }


def show(median: dict[str, float]) -> None:
    """Each kind of read."""
    table = Table("read, connections", "per s", "p50 ms", "p99 ms", "web µs", "PostgreSQL µs", "generator µs")
    for name in [key.removesuffix(" per_s") for key in median if key.endswith(" per_s")]:
        cells = [median.get(f"{name} {key}", median.get(f"{name} first_{key}", "")) for key in
                 ("per_s", "p50_ms", "p99_ms", "web_us", "postgres_us", "generator_us")]  # fmt: skip
        table.add_row(name, *map(str, cells))
    Console(width=140).print(table)
