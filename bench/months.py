"""`./dev bench months`: what monthly partitions of the ledger's two largest tables cost, and what a detach takes.

Two databases on one durable server: one as migrated, with `ledger_entries` and `lot_consumptions` in months (two years of
them and a default), and one in which they are whole. `commit_batch` on both in short turns, the same commands in number and
kind, one connection. CPU of the backend is the kernel's own count, so a busy machine changes the ratio little. Then a month
is detached.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import ledger
from bench.frame import durability, machine, passed, report, say
from bench.ledger import Lane
from bench.stages import Meter
from deploy.local.postgres import DATABASE, SUPERUSER, Postgres
from deploy.local.private import private_postgres
from deploy.migrations import migrate
from sql import offsets
from sql.batches import Head
from sql.bulk import bulk
from sql.db import Database, DatabaseSettings
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "months.sql").read_text())
NAME: Final = "months"
SPLIT: Final = "commdesk_months"
_BATCH: Final = 500
_TURN: Final = 4


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.set_defaults(runs=5)
    parser.add_argument("--events", type=int, default=16_000, help="debits of each run, in each database")
    parser.add_argument("--wallets", type=int, default=50_000)


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write."""
    about = machine()
    async with private_postgres() as postgres, AsyncExitStack() as stack:
        settings = await durability(postgres.url(SUPERUSER))
        await postgres.create_database(SPLIT)
        await migrate(postgres.url("core_migrator", SPLIT))
        say("preparing wallets in both")
        whole = await Side.make(stack, postgres, DATABASE, options)
        split = await Side.make(stack, postgres, SPLIT, options, month=True)
        for side in (whole, split):
            await side.turn(4)
        runs: list[dict[str, Any]] = []
        for number in range(options.runs):
            say(f"run {number + 1} of {options.runs}")
            spent: dict[Side, list[float]] = {whole: [0.0, 0.0], split: [0.0, 0.0]}
            for turn in range(options.events // _BATCH // _TURN):
                for side in (whole, split) if turn % 2 else (split, whole):
                    seconds, backend = await side.turn(_TURN)
                    spent[side][0] += seconds
                    spent[side][1] += backend
            count = options.events // _BATCH // _TURN * _TURN * _BATCH
            runs.append(
                {
                    "whole per_s": round(count / spent[whole][0], 1),
                    "split per_s": round(count / spent[split][0], 1),
                    "whole postgres_us": round(spent[whole][1] / count * 1e6, 2),
                    "split postgres_us": round(spent[split][1] / count * 1e6, 2),
                    "cost of cpu": round(spent[split][1] / spent[whole][1] - 1, 4),
                    "cost of time": round(spent[split][0] / spent[whole][0] - 1, 4),
                }
            )
        async with bulk(postgres.url(SUPERUSER, SPLIT)) as admin:
            places = {row["partition"]: row["n"] for row in await admin.rows(_Q["partitions"])}
            began = time.perf_counter()
            await admin.run(_Q["detach"])
            detach_ms = round((time.perf_counter() - began) * 1e3, 1)
    ratio = {name: statistics.median(one[name] for one in runs) for name in ("cost of cpu", "cost of time")}
    more = {"events": options.events, "partitions": 26, "rows_by_partition": places, "detach_ms": detach_ms}
    written = report(options, NAME, settings | more, runs, about=about, ratio=ratio)
    table = Table("", "median", "runs")
    for name, value in written["median"].items():
        table.add_row(name, str(value), " ".join(str(one[name]) for one in runs))
    Console(width=120).print(table)
    say(f"rows by partition {places}; a month was detached in {detach_ms} ms")
    return 0 if passed(written) else 1


class Side:
    """One of the two databases, and the connection that commits to it."""

    def __init__(self, db: Database, meter: Meter, lane: Lane) -> None:
        self._db = db
        self._meter = meter
        self._lane = lane

    @classmethod
    async def make(
        cls,
        stack: AsyncExitStack,
        postgres: Postgres,
        name: str,
        options: argparse.Namespace,
        *,
        month: bool = False,
    ) -> Side:
        """Wallets with four lots each, and a claimed partition."""
        async with bulk(postgres.url(SUPERUSER, name)) as admin:
            await admin.run(_Q["make_many_months" if month else "make_whole"])
            await admin.run(ledger.Q["make_wallets"], options.wallets)
            await admin.run(ledger.Q["make_lots"])
            await admin.run("VACUUM (ANALYZE)")
            ids = [row["id"] for row in await admin.run(ledger.Q["wallet_ids"], options.wallets)]
        settings = DatabaseSettings(
            database_url=postgres.url("core_app", name),
            database_pool_size=1,
            database_statement_cache_size=100,
        )
        db = await stack.enter_async_context(await Database.connect(settings))
        claims = await offsets.claim(db, ledger.TOPIC, ledger.GROUP, "bench", [0])
        head = Head(ledger.TOPIC, 0, ledger.GROUP, claims[0].epoch, 0, 0, 0, b"")
        meter = Meter(await db.value("SELECT pg_backend_pid()"))
        return cls(db, meter, Lane(0, ids, head, random.Random(options.seed)))

    async def turn(self, batches: int) -> tuple[float, float]:
        """So many batches: seconds, and the backend's CPU seconds."""
        work = [self._lane.batch(_BATCH) for _ in range(batches)]
        self._meter.spent.clear()
        began = time.perf_counter()
        await self._meter.take("debits", ledger.commit_all(self._db, self._lane, work))
        return time.perf_counter() - began, self._meter.spent["debits"][0] / 1e9
