"""`./dev bench growth`: what an event costs as the tables grow, how long a worker takes to start, and its memory per partition.

Debits through `commit_batch` in batches of 500 over all wallets alike, one connection, nothing else: CPU of the backend (its
kernel's count) and ours per event. First with so many wallets as `--wallets` says (four lots each) and an empty ledger,
then with 100,000 wallets and so many transactions (two legs and a consumption each) as `--rows` says. A start claims and restores
every partition of every topic. Ten millions take long: ask for them (`--wallets …,10000000 --rows …,10000000`).
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import ledger
from bench.frame import durability, machine, passed, report, say
from bench.ledger import Lane
from bench.stages import Line, Meter
from deploy.local.postgres import SUPERUSER, Postgres
from deploy.local.private import private_postgres
from sql import offsets
from sql.batches import Head
from sql.bulk import Bulk, bulk
from sql.db import Database, DatabaseSettings
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "growth.sql").read_text())
NAME: Final = "growth"
FEW: Final = 100_000
"""Wallets while the ledger's rows grow."""
_BATCH: Final = 500
_CHUNK: Final = 250_000
_PARTITIONS: Final = 16


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.set_defaults(runs=3)
    parser.add_argument(
        "--wallets", default="10000,1000000", help="how many, several with commas; empty: none"
    )
    parser.add_argument(
        "--rows", default="0,1000000", help="transactions, rising, several with commas; empty: none"
    )
    parser.add_argument("--events", type=int, default=15_000, help="debits of each run")


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write."""
    about, settings = machine(), {"batch": _BATCH, "lots_per_wallet": 4}
    runs: list[dict[str, Any]] = [{} for _ in range(options.runs)]
    for wallets in _numbers(options.wallets):
        async with AsyncExitStack() as stack:
            grown = await Grown.make(stack, wallets)
            settings |= await durability(grown.admin_url)
            for number, found in enumerate(await grown.measure(options)):
                runs[number] |= {f"{wallets} wallets: {name}": value for name, value in found.items()}
    if rows := _numbers(options.rows):
        async with AsyncExitStack() as stack:
            grown = await Grown.make(stack, FEW)
            settings |= await durability(grown.admin_url)
            for count in rows:
                await grown.grow(count)
                for number, found in enumerate(await grown.measure(options)):
                    runs[number] |= {f"{count} rows: {name}": value for name, value in found.items()}
    written = report(options, NAME, settings, runs, about=about)
    show(written["median"])
    return 0 if passed(written) else 1


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


class Grown:
    """One database that grows."""

    def __init__(self, postgres: Postgres, admin: Bulk, wallets: int) -> None:
        self.admin_url = postgres.url(SUPERUSER)
        self._url = postgres.url()
        self._admin = admin
        self._wallets = wallets
        self._rows = 0

    @classmethod
    async def make(cls, stack: AsyncExitStack, wallets: int) -> Grown:
        """A server of its own with so many wallets."""
        say(f"{wallets} wallets with four lots each")
        postgres = await stack.enter_async_context(private_postgres())
        admin = await stack.enter_async_context(bulk(postgres.url(SUPERUSER)))
        await admin.run(_Q["begin"])
        await admin.run(ledger.Q["make_wallets"], wallets)
        await admin.run(ledger.Q["make_lots"])
        await admin.run(_Q["number_wallets"])
        await admin.run(_Q["index_wallets"])
        await admin.run(_Q["settle"])
        return cls(postgres, admin, wallets)

    async def grow(self, rows: int) -> None:
        """Until there are so many old transactions."""
        say(f"{rows} transactions in the ledger")
        while self._rows < rows:
            last = min(self._rows + _CHUNK, rows)
            await self._admin.run(_Q["add_transactions"], self._rows, last - 1, self._wallets)
            self._rows = last
        await self._admin.run(_Q["settle"])

    async def measure(self, options: argparse.Namespace) -> list[dict[str, float]]:
        """The runs: debits, each after a checkpoint; and a start of a worker."""
        ids = [
            row["id"] for row in await self._admin.run(ledger.Q["wallet_ids"], min(self._wallets, 200_000))
        ]
        found: list[dict[str, float]] = []
        async with await self._connect() as db:
            claims = await offsets.claim(db, ledger.TOPIC, ledger.GROUP, "bench", [0])
            head = Head(
                ledger.TOPIC,
                0,
                ledger.GROUP,
                claims[0].epoch,
                claims[0].next_offset,
                claims[0].next_offset,
                0,
                b"",
            )
            lane = Lane(0, ids, head, random.Random(options.seed))
            meter = Meter(await db.value("SELECT pg_backend_pid()"))
            await self._debits(db, meter, lane, 2_000)
            for number in range(options.runs):
                await self._admin.run(_Q["checkpoint"])
                say(f"run {number + 1} of {options.runs}")
                found.append(await self._debits(db, meter, lane, options.events))
        kept = await self._start(traced=True)
        for one in found:
            one["start_s"] = round(await self._start(), 3)
            one["memory_kib_per_partition"] = round(kept / 1024 / _PARTITIONS, 1)
        [size] = await self._admin.rows(_Q["size"])
        found[-1] |= {"database mib": round(size["bytes"] / 2**20)}
        return found

    async def _connect(self) -> Database:
        return await Database.connect(
            DatabaseSettings(database_url=self._url, database_pool_size=1, database_statement_cache_size=100)
        )

    async def _debits(self, db: Database, meter: Meter, lane: Lane, count: int) -> dict[str, float]:
        meter.spent.clear()
        work = [lane.batch(_BATCH) for _ in range(count // _BATCH)]
        began = time.perf_counter()
        await meter.take("debits", ledger.commit_all(db, lane, work))
        seconds, (backend, own, _) = time.perf_counter() - began, meter.spent["debits"]
        return {
            "per_s": round(count / seconds, 1),
            "postgres_us": round(backend / count / 1e3, 1),
            "worker_us": round(own / count / 1e3, 1),
        }

    async def _start(self, *, traced: bool = False) -> float:
        """Claim and restore every partition, look at the outbox and inboxes for the first time; seconds, or bytes if traced."""
        if traced:
            tracemalloc.start()
        began = time.perf_counter()
        async with await self._connect() as db:
            line = Line(db, _PARTITIONS, Meter(await db.value("SELECT pg_backend_pid()")))
            await line.start()
            await line.relay()
            seconds = time.perf_counter() - began
            if traced:
                kept = tracemalloc.get_traced_memory()[0]
                tracemalloc.stop()
                return kept
        return seconds


def show(median: dict[str, float]) -> None:
    """Each size."""
    names = ("per_s", "postgres_us", "worker_us", "start_s", "memory_kib_per_partition")
    table = Table("size", *names)
    for size in dict.fromkeys(key.partition(": ")[0] for key in median):
        table.add_row(size, *(str(median.get(f"{size}: {name}", "")) for name in names))
    Console(width=120).print(table)
