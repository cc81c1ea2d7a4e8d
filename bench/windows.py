"""`./dev bench windows`: fraud and billing windows with a million keys: cost, the bounded cache, what a start reads.

Once with empty tables and once with `--keys` rows in each, in databases of their own: payments through all stages (CPU of
fraud.detection per payment), batches of billing deltas to random keys (CPU and rate), reading the newest windows at a claim
of all partitions, and every key through the cache once: it must not hold more than its limit, and its memory is measured.
"""

from __future__ import annotations

import argparse
import array
import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psutil
from rich.console import Console
from rich.table import Table

from bench.frame import durability, machine, passed, report, say
from bench.prepare import World, prepare
from bench.stages import Line, Meter
from deploy.local.postgres import SUPERUSER
from deploy.local.private import private_postgres
from sql import offsets
from sql.batches import Head, Progress
from sql.bulk import Bulk, bulk
from sql.db import Database, DatabaseSettings
from sql.fraud import VelocitySignal
from sql.queries import parse
from sql.windows import WindowDelta, commit_windows
from streams.topics import partition_of
from tables.fraud import TOPIC, FraudWindows

_Q: Final = parse((Path(__file__).parent / "windows.sql").read_text())
NAME: Final = "windows"
KINDS: Final = ("user", "device", "ip", "instrument")
LIMIT: Final = 50_000
"""Of the cache, as in production."""
_CHUNK: Final = 50_000
_BATCH: Final = 500
_BILLING: Final = "analytics.billing"


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--wallets", type=int, default=20_000, help="of the payments; four keys each")
    parser.add_argument("--payments", type=int, default=4_000)
    parser.add_argument("--deltas", type=int, default=50_000)


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if the cache was not bounded."""
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        found: dict[str, Any] = {}
        for keys in (0, options.keys):
            async with private_postgres() as postgres:
                settings = await durability(postgres.url(SUPERUSER)) | vars(options)
                one = await measure(postgres.url(), postgres.url(SUPERUSER), keys, options)
                found |= {f"{keys} keys: {name}": value for name, value in one.items()}
        found["violations"] = [f"{found[name]} windows in memory, the limit is {LIMIT}" for name in found
                               if name.endswith("cached most") and found[name] > LIMIT]  # fmt: skip
        runs.append(found)
    written = report(options, NAME, {k: str(v) for k, v in settings.items()}, runs, about=about)
    show(written["median"], options.keys)
    return 0 if passed(written) else 1


async def measure(url: str, admin_url: str, keys: int, options: argparse.Namespace) -> dict[str, float]:
    """All of it in one database with so many keys."""
    say(f"{keys} keys: preparing")
    world = await prepare(
        admin_url, wallets=options.wallets, orders=options.payments, seed=options.seed, uniform=True
    )
    async with bulk(admin_url) as admin:
        await _fill(admin, keys, options)
        found: dict[str, float] = {**(await admin.rows(_Q["sizes"]))[0]}
    async with await Database.connect(
        DatabaseSettings(database_url=url, database_pool_size=1, database_statement_cache_size=100)
    ) as db:
        meter = Meter(await db.value("SELECT pg_backend_pid()"))
        if keys:
            say("a start, and every key through the cache")
            found |= await _cache(db, keys, options)
        say("payments through all stages")
        found |= await _payments(db, meter, world, options)
        say("billing deltas")
        found |= await _deltas(db, meter, max(keys, 1), options)
    return found


def entities(keys: int, users: dict[int, str]) -> Iterator[tuple[str, str]]:
    """So many (kind, entity), the first ones those of the bench's payments."""
    for n in range(1, keys // len(KINDS) + 1):
        user = users.get(n, str(UUID(int=n)))
        yield from zip(KINDS, (user, f"device-{n}", _ip(n), f"u{n}@bench"), strict=True)


def _ip(n: int) -> str:
    return f"13.{n >> 16}.{n >> 8 & 255}.{n & 255}"


async def _fill(admin: Bulk, keys: int, options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    minute = int(now.timestamp()) // 60 * 60
    hour = minute // 3600 * 3600
    by_minute = [[minute - 600, 1, 30_000], [minute - 120, 2, 60_000]]
    by_hour = [[hour - 7200, 3, 90_000], [hour, 3, 90_000]]
    buckets = json.dumps({"1m": by_minute, "1h": by_hour})
    users = {row["n"]: row["user_id"] for row in await admin.rows(_Q["people"], options.wallets)}
    found = list(entities(keys, users))
    for start in range(0, len(found), _CHUNK):
        part = found[start : start + _CHUNK]
        places = [partition_of(f"{kind}:{entity}", options.partitions) for kind, entity in part]
        await admin.run(
            _Q["put_fraud_windows"], [k for k, _ in part], [e for _, e in part], places, now, buckets
        )
    if keys:
        await admin.run(_Q["put_billing_windows"], keys // 3, _minute(), options.partitions)
    await admin.run(_Q["settle"])


def _minute() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(hours=2)


async def _payments(
    db: Database, meter: Meter, world: World, options: argparse.Namespace
) -> dict[str, float]:
    line = Line(db, options.partitions, meter)
    began = time.perf_counter()
    await line.start()
    started = time.perf_counter() - began
    ranks = array.array("I", world.orders)
    for start in range(1, options.payments + 1, 400):
        await line.through(range(start, min(start + 400, options.payments + 1)), ranks)
    backend, own, _ = meter.spent[TOPIC]
    meter.spent.clear()
    return {
        "start_s": round(started, 2),
        "fraud postgres_us": round(backend / options.payments / 1e3, 1),
        "fraud worker_us": round(own / options.payments / 1e3, 1),
    }


async def _deltas(db: Database, meter: Meter, keys: int, options: argparse.Namespace) -> dict[str, float]:
    claims = await offsets.claim(db, _BILLING, "bench", "bench", range(options.partitions))
    rng, at, minute = random.Random(options.seed), [0] * options.partitions, _minute()
    began = time.perf_counter()
    for number in range(options.deltas // _BATCH):
        place = number % options.partitions
        head = Head(
            _BILLING,
            place,
            "bench",
            claims[place].epoch,
            at[place],
            at[place] + _BATCH,
            at[place] + _BATCH - 1,
            b"d",
        )
        at[place] += _BATCH
        chosen = sorted(rng.sample(range(max(keys // 3, 10 * _BATCH)), _BATCH))
        deltas = [WindowDelta("credits_spent", f"community=-,feature=f{n}", minute, 1, 1, 1) for n in chosen]
        await meter.take("deltas", commit_windows(db, head, deltas, records=_BATCH, progress=Progress()))
    seconds, (backend, own, _) = time.perf_counter() - began, meter.spent["deltas"]
    return {
        "deltas per_s": round(options.deltas / seconds, 1),
        "delta postgres_us": round(backend / options.deltas / 1e3, 1),
        "delta worker_us": round(own / options.deltas / 1e3, 1),
    }


async def _cache(db: Database, keys: int, options: argparse.Namespace) -> dict[str, float]:
    """A claim of all partitions by a fresh worker, then every key once."""
    process = psutil.Process()
    before = process.memory_info().rss
    windows = FraudWindows(db, limit=LIMIT)
    began = time.perf_counter()
    for partition in range(options.partitions):
        await windows.restore(TOPIC, partition)
    restored, seconds = len(windows), time.perf_counter() - began
    after_start = process.memory_info().rss
    most, highest, now, signals = restored, after_start, datetime.now(UTC), 0
    waiting: dict[int, list[VelocitySignal]] = {place: [] for place in range(options.partitions)}
    began = time.perf_counter()
    for kind, entity in entities(keys, {}):
        place = partition_of(f"{kind}:{entity}", options.partitions)
        waiting[place].append(VelocitySignal(UUID(int=signals), kind, entity, 30_000, now, signals))
        signals += 1
        if len(waiting[place]) == _BATCH:
            folded = await windows.fold(place, waiting[place])
            windows.committed(place, folded, signals)
            waiting[place] = []
            most, highest = max(most, len(windows)), max(highest, process.memory_info().rss)
    folding = time.perf_counter() - began
    return {
        "restore_s": round(seconds, 3),
        "restore_ms per partition": round(seconds / options.partitions * 1e3, 1),
        "restored windows": restored,
        "cached most": most,
        "cache mib": round((highest - before) / 2**20, 1),
        "cache mib per partition": round((highest - before) / 2**20 / options.partitions, 2),
        "keys folded per_s": round(signals / folding, 1),
    }


def show(median: dict[str, float], keys: int) -> None:
    """Empty and full, side by side."""
    table = Table("", "empty", f"{keys:,} keys")
    for name in [key.partition(": ")[2] for key in median if key.startswith(f"{keys} keys: ")]:
        table.add_row(name, str(median.get(f"0 keys: {name}", "")), str(median[f"{keys} keys: {name}"]))
    Console(width=120).print(table)
