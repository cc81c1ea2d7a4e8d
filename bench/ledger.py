"""`python -m bench.ledger [--json FILE]`: commit_batch with everything on, against the limit of no logic at all.

The limit is binary COPY of the very same rows into identical tables (same columns, constraints and indexes) and
the same changes of wallets and lots as two set updates, one transaction a batch, in the same durable server and
the same run: what any ledger that keeps these rows must pay. A figure is the median over the rounds.

Every wallet has four lots, three of them bought; 2 % of the commands are duplicates, half within their batch and half of
earlier ones; 1 % are refused. One process drives all connections, each on a partition and wallets of its own.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import uvloop
from msgspec import structs
from uuid_utils.compat import uuid7

from deploy.local.postgres import SUPERUSER
from deploy.local.private import private_postgres
from sql import ledger, offsets
from sql.batches import Head
from sql.bulk import Bulk, bulk
from sql.db import Database, DatabaseSettings
from sql.ledger import LedgerCommand
from sql.queries import parse

TOPIC, GROUP = "wallet.debit", "bench"
DUPLICATES, REFUSALS = 0.02, 0.01
TURN: Final = 4
TOO_MUCH: Final = 900_000_000
Q: Final = parse((Path(__file__).parent / "ledger.sql").read_text())
SCHEMA: Final = (Path(__file__).parent / "ledger_limit.sql").read_text()
_ROWS: Final = ("wallet_transactions", "ledger_entries", "lot_consumptions", "refusals", "outbox", "batches")


@dataclass
class Lane:
    """One connection: a partition under our epoch, the wallets it charges, and the keys it has used."""

    number: int
    wallets: Sequence[UUID]
    head: Head
    rng: random.Random
    used: list[LedgerCommand] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def batch(self, size: int) -> list[LedgerCommand]:
        """One random batch of spends."""
        now = datetime.now(UTC)
        commands: list[LedgerCommand] = []
        for _ in range(size):
            chance = self.rng.random()
            past = commands if chance < DUPLICATES / 2 else self.used
            if chance < DUPLICATES and past:
                commands.append(structs.replace(self.rng.choice(past), id=uuid7()))
                continue
            id_, refused = uuid7(), chance < DUPLICATES + REFUSALS
            commands.append(
                LedgerCommand(
                    id=id_,
                    wallet_id=self.rng.choice(self.wallets),
                    kind="spend",
                    credits=TOO_MUCH if refused else self.rng.randint(1, 50),
                    key=f"bench:{id_}",
                    request_hash=id_.bytes,
                    occurred_at=now,
                    source="usage",
                    source_id=str(id_),
                    analytics_partition=self.rng.randrange(16),
                    feature=self.rng.choice(["chat.message", "ai.summary", "voice.minute"]),
                    metadata='{"model": "small", "tokens": 812}',
                )
            )
        self.used = [*self.used[-2_000:], *commands]
        return commands

    def next_head(self, size: int) -> Head:
        begin = self.head.to_offset
        self.head = Head(
            TOPIC, self.number, GROUP, self.head.epoch, begin, begin + size, begin + size - 1, b"digest"
        )
        return self.head


@dataclass(frozen=True)
class BareBatch:
    """A committed batch as nothing but rows: COPY data by table, and what changed in wallets, lots and the offset."""

    tables: dict[str, bytes]
    wallets: tuple[Any, ...]
    lots: tuple[Any, ...]
    head: Head


async def commit_all(db: Database, lane: Lane, work: list[list[LedgerCommand]]) -> list[Head]:
    """Every batch through commit_batch, one after the other."""
    heads = []
    for commands in work:
        head = lane.next_head(len(commands))
        await ledger.commit_batch(db, head, commands)
        heads.append(head)
    return heads


async def bare(source: Bulk, head: Head) -> BareBatch:
    """What a batch left in the tables."""
    where = (head.topic, head.partition, head.group, head.to_offset)
    tables = {name: await source.read(Q[f"rows_of_{name}"], *where) for name in _ROWS}
    ((*wallets,),) = await source.run(Q["changed_wallets"], *where)
    ((*lots,),) = await source.run(Q["changed_lots"], *where)
    return BareBatch(tables, tuple(wallets), tuple(lots), head)


async def write_all(target: Bulk, batches: list[BareBatch]) -> None:
    """The same rows again, with no logic: one transaction per batch."""
    for batch in batches:
        async with target.transaction():
            for name, rows in batch.tables.items():
                await target.write(name, rows)
            await target.run(Q["update_wallets"], *batch.wallets)
            await target.run(Q["update_lots"], *batch.lots)
            head = batch.head
            await target.run(Q["update_offset"], head.topic, head.partition, head.group, head.to_offset)


@dataclass
class Round:
    """Seconds that the same commands took, with all logic and with none."""

    commands: int
    logic_s: float
    limit_s: float


async def one_round(
    db: Database, admin: Bulk, targets: list[Bulk], lanes: list[Lane], size: int, total: int
) -> Round:
    """Commit about `total` commands and copy their rows, in turns of a few batches: a busy machine is busy for both."""
    commands, logic_s, limit_s = 0, 0.0, 0.0
    await admin.run("CHECKPOINT")
    while commands < total:
        work = [[lane.batch(size) for _ in range(TURN)] for lane in lanes]
        began = time.perf_counter()
        done = await asyncio.gather(*(commit_all(db, lane, w) for lane, w in zip(lanes, work, strict=True)))
        logic_s += time.perf_counter() - began
        rows = [[await bare(admin, head) for head in heads] for heads in done]
        began = time.perf_counter()
        pairs = zip(targets, rows, strict=True)
        await asyncio.gather(*(write_all(target, batches) for target, batches in pairs))
        limit_s += time.perf_counter() - began
        commands += sum(len(batch) for lane_work in work for batch in lane_work)
    return Round(commands, logic_s, limit_s)


async def measure(
    url: str, admin_url: str, wallets: int, sizes: list[int], connections: list[int], rounds: int, total: int
) -> list[dict[str, Any]]:
    """All combinations of batch size and connections."""
    report = []
    async with AsyncExitStack() as stack:
        admin = await stack.enter_async_context(bulk(admin_url))
        await admin.run(SCHEMA)
        await admin.run(Q["make_wallets"], wallets)
        await admin.run(Q["make_lots"])
        await admin.run(Q["copy_wallets"])
        await admin.run(Q["copy_lots"])
        await admin.run("VACUUM (ANALYZE)")
        ids = [row["id"] for row in await admin.run(Q["wallet_ids"], wallets)]
        most = max(connections)
        targets = [await stack.enter_async_context(bulk(admin_url)) for _ in range(most)]
        for target in targets:
            await target.run("SET search_path = bare")
        settings = DatabaseSettings(database_url=url, database_pool_size=most)
        db = await stack.enter_async_context(await Database.connect(settings))
        claims = await offsets.claim(db, TOPIC, GROUP, "bench", range(most))
        await admin.run(Q["copy_offsets"])
        lanes = [
            Lane(n, ids[n::most], Head(TOPIC, n, GROUP, claims[n].epoch, 0, 0, 0, b""), random.Random(n))
            for n in range(most)
        ]
        await one_round(db, admin, targets, lanes, 100, 2_000)  # warm caches and connections
        for count in connections:
            for size in sizes:
                found = [
                    await one_round(db, admin, targets[:count], lanes[:count], size, total)
                    for _ in range(rounds)
                ]
                report.append(summary(count, size, found))
                print("{connections} connections, batches of {batch}: {commit_batch_per_s}/s, limit {limit_per_s}/s, "
                      "ratio {ratio} {ratios}".format(**report[-1]), flush=True)  # fmt: skip
    return report


def summary(connections: int, size: int, found: list[Round]) -> dict[str, Any]:
    """Rates in commands per second, and the median of the rounds' ratios."""
    ratios = [round(r.limit_s / r.logic_s, 3) for r in found]
    return {
        "connections": connections,
        "batch": size,
        "commit_batch_per_s": round(statistics.median(r.commands / r.logic_s for r in found)),
        "limit_per_s": round(statistics.median(r.commands / r.limit_s for r in found)),
        "us_per_command": round(statistics.median(r.logic_s / r.commands for r in found) * 1e6, 1),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
    }


async def main(options: argparse.Namespace) -> None:
    """Measure on a private durable server, or on a scratch database whose URLs are given."""
    sizes = [int(size) for size in options.sizes.split(",")]
    connections = [int(count) for count in options.connections.split(",")]
    scale = (options.wallets, sizes, connections, options.rounds, options.commands)
    if options.url:
        report = await measure(options.url, options.admin_url or options.url, *scale)
    else:
        async with private_postgres() as postgres:
            report = await measure(postgres.url(), postgres.url(SUPERUSER), *scale)
    if options.json:
        options.json.write_text(json.dumps({"wallets": options.wallets, "results": report}, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--url", help="an empty migrated database, as core_app")
    parser.add_argument("--admin-url", help="the same database as superuser")
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--sizes", default="100,500", help="commands per batch")
    parser.add_argument("--connections", default="1,2,4")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--commands", type=int, default=12_000, help="commands per round")
    return parser.parse_args()


if __name__ == "__main__":
    uvloop.run(main(_options()))
