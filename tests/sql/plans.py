"""Means to see how many rows the hot functions read: a filled database, what drives them, PostgreSQL's own counters.

The counters say what plans did, whatever EXPLAIN would say of a function's inner statements: rows read from a table end to
end, and entries read from its indexes. A plan that lost its index reads a table's size for each call; one that has it, a
few entries for each event.
"""

from __future__ import annotations

import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from bench.prepare import PRICE_PAISE, World, prepare
from bench.stages import Line, Meter
from domain import gst
from domain.packs import pack_for
from sql import payments, usage
from sql.db import Database, DatabaseSettings
from sql.payments import NewPayment
from sql.usage import NewUsage
from tests.sql.books import Connection
from tests.sql.desk import Partition, command

BIG = 1_000
"""Rows from which on a table must not be read from end to end."""
_COUNTERS = """
SELECT t.relname, coalesce(t.seq_tup_read, 0) AS scanned, coalesce(sum(i.idx_tup_read), 0)::bigint AS looked_up
  FROM pg_stat_user_tables t LEFT JOIN pg_stat_user_indexes i USING (relid)
 WHERE t.schemaname = 'public' GROUP BY t.relname, t.seq_tup_read
"""
_SIZES = "SELECT relname, reltuples::bigint AS n FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"


@dataclass(frozen=True, slots=True)
class Read:
    """What one drive read of one table: rows end to end, entries of indexes; `size` is how many rows it has."""

    table: str
    scanned: int
    looked_up: int
    size: int


@dataclass
class Driven:
    """A filled database and one connection that has driven it since it was nearly empty: its plans are that old."""

    db: Database
    admin: Connection
    world: World
    line: Line
    debits: Partition
    users: list[UUID]
    orders: int = 0
    sizes: dict[str, int] = field(default_factory=dict)

    def quiet(self, count: int) -> list[UUID]:
        """Wallets with few purchases: a debit reads all open lots of its wallet, and the first ones have hundreds."""
        return list(self.world.wallets[-count:])

    async def payments(self, count: int) -> None:
        """So many webhooks through all stages: to the credit, the invoice, the notice and the windows."""
        ranks = array.array("I", self.world.orders)
        await self.line.through(range(self.orders + 1, self.orders + count + 1), ranks)
        self.orders += count

    async def spends(self, count: int) -> None:
        """Plain debits in one batch, each of another wallet, and once more: then each exists."""
        commands = [command(wallet) for wallet in self.quiet(count)]
        for _ in range(2):
            await self.debits.commit(commands)

    async def others(self, count: int) -> None:
        """Debits that go one by one: holds, captures, releases, one that is refused."""
        wallets = self.quiet(count)
        holds = [command(wallet, "hold", 5) for wallet in wallets]
        await self.debits.commit(holds)
        await self.debits.commit(
            [
                command(hold.wallet_id, kind, 3 if kind == "capture" else 5, extra={"hold_id": str(hold.id)})
                for hold, kind in zip(holds, ["capture", "release"] * count, strict=False)
            ]
        )
        await self.debits.commit([command(wallet, "spend", 900_000_000) for wallet in wallets])

    async def orders_made(self, count: int) -> None:
        """Orders of customers, each in a call of its own."""
        pack = pack_for(PRICE_PAISE)
        for user, wallet in list(zip(self.users, self.world.wallets, strict=True))[-count:]:
            id_ = uuid7()
            new = NewPayment(
                id=id_, key=f"desk:{id_}", request_hash=b"h", user_id=user, wallet_id=wallet, order_id=f"cd_{id_.hex}", pack=pack,
                split=gst.split_inclusive(PRICE_PAISE, inter_state=True), place_of_supply="27", customer_phone="9999999999",
                customer_email=None, device_id="d", ip=None, metadata=None,
            )  # fmt: skip
            await payments.get_buyer(self.db, user, wallet)
            await payments.create_payment(self.db, new, shard=0, created_partition=0)
            await payments.order_created(
                self.db, id_, cf_order_id=id_.hex, session_id="s", expires_at=datetime(2030, 1, 1, tzinfo=UTC)
            )
            await payments.get_payment(self.db, id_)

    async def usage(self, count: int) -> None:
        """Usage events over the API's inbox."""
        events = [
            NewUsage(id_ := uuid7(), str(id_), wallet, "chat.message", 1, 1, None, None, b"h", datetime.now(UTC))
            for wallet in self.quiet(count)
        ]  # fmt: skip
        await usage.insert_usage(self.db, "desk", events)

    async def settle(self) -> None:
        """Statistics and sizes as they are now. The session's plans stay as old as they are."""
        await self.admin.execute("VACUUM (ANALYZE)")
        self.sizes = {row["relname"]: row["n"] for row in await self.admin.fetch(_SIZES)}

    async def reads(self, work: Callable[[int], Awaitable[None]], *counts: int) -> list[Read]:
        """What these calls read of each big table."""
        before = await self._counters()
        for count in counts:
            await work(count)
        after = await self._counters()
        return [
            Read(table, after[table][0] - before[table][0], after[table][1] - before[table][1], size)
            for table, size in sorted(self.sizes.items())
            if size > BIG
        ]

    async def _counters(self) -> dict[str, tuple[int, int]]:
        await self.db.value("SELECT pg_stat_force_next_flush()")
        return {
            row["relname"]: (row["scanned"], row["looked_up"]) for row in await self.admin.fetch(_COUNTERS)
        }


@asynccontextmanager
async def driven(url: str, admin: Connection, admin_url: str, *, wallets: int) -> AsyncIterator[Driven]:
    """Plans made while the tables are empty, then a filled database under the same session."""
    async with await Database.connect(
        DatabaseSettings(database_url=url, database_pool_size=1, database_statement_cache_size=100)
    ) as db:
        world = await prepare(admin_url, wallets=wallets, orders=2_000)
        line = Line(db, 2, Meter(await db.value("SELECT pg_backend_pid()")))
        await line.start()
        users = [row["user_id"] for row in await admin.fetch("SELECT user_id FROM bench.people ORDER BY n")]
        yield Driven(db, admin, world, line, await Partition.claim(db), users)
