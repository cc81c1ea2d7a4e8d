"""The ledger's months: rows lie in theirs, months are made ahead and wait for nobody, and each refuses what the whole refuses."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from agents import months
from sql import errors, invariants
from sql.db import Database
from tests.conftest import Database as Prepared

from .books import Connection
from .conftest import admin, db
from .desk import Partition, command, fund, open_wallets

__all__ = ["admin", "db"]

TABLES = ("ledger_entries", "lot_consumptions")
NEWEST = """
SELECT DISTINCT ON (i.inhparent) i.inhparent::regclass::text AS whole, i.inhrelid::regclass::text AS part FROM pg_inherits i
 WHERE i.inhparent IN ('ledger_entries'::regclass, 'lot_consumptions'::regclass)
   AND i.inhrelid::regclass::text ~ '_\\d{4}_\\d\\d$'
 ORDER BY i.inhparent, i.inhrelid::regclass::text DESC"""


async def used(db: Database, admin: Connection) -> None:
    """A wallet that has spent."""
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 10)
    await (await Partition.claim(db)).commit([command(wallet, "spend", 3)])


async def drop_newest(admin: Connection) -> list[str]:
    parts = [row["part"] for row in await admin.fetch(NEWEST)]
    for part in parts:
        await admin.execute(f"DROP TABLE {part}")
    return parts


async def test_what_is_booked_lies_in_its_month(db: Database, admin: Connection) -> None:
    await used(db, admin)
    month = datetime.now(UTC).strftime("%Y_%m")
    for table in TABLES:
        places = await admin.fetch(f"SELECT DISTINCT tableoid::regclass::text FROM {table}")
        assert [tuple(row) for row in places] == [(f"{table}_{month}",)]


async def test_months_are_made_ahead_once(db: Database, admin: Connection) -> None:
    assert await months.once(db) == 0
    gone = await drop_newest(admin)
    assert sum(await asyncio.gather(*(months.once(db) for _ in range(4)))) == len(gone) == len(TABLES)
    assert [row["part"] for row in await admin.fetch(NEWEST)] == gone


async def test_a_month_begins_where_the_one_before_it_ends(admin: Connection) -> None:
    for table in TABLES:
        bounds = await admin.fetch(
            """
            SELECT m[1] AS first, m[2] AS beyond
              FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
                   regexp_match(pg_get_expr(c.relpartbound, c.oid), $$FROM \\('(.+)'\\) TO \\('(.+)'\\)$$) m
             WHERE i.inhparent = $1::text::regclass AND m IS NOT NULL ORDER BY 1""",
            table,
        )
        assert len(bounds) == months.AHEAD + 1
        assert [row["beyond"] for row in bounds[:-1]] == [row["first"] for row in bounds[1:]]


async def test_who_reads_the_ledger_is_not_waited_for_and_nobody_behind_him(
    db: Database, admin: Connection, database: Prepared
) -> None:
    gone = await drop_newest(admin)
    reader = await asyncpg.connect(database.url)
    try:
        async with reader.transaction():
            await reader.fetch("SELECT count(*) FROM ledger_entries")
            with pytest.raises(errors.Unavailable):
                await months.once(db)
            async with asyncio.timeout(5):
                await used(db, admin)
    finally:
        await reader.close()
    assert await months.once(db) == len(gone)


@pytest.mark.parametrize(
    "statement", ["UPDATE {} SET transaction_id = transaction_id", "DELETE FROM {}", "TRUNCATE {}"]
)
async def test_a_month_refuses_to_be_rewritten(db: Database, admin: Connection, statement: str) -> None:
    await used(db, admin)
    for table in TABLES:
        for part in (f"{table}_{datetime.now(UTC):%Y_%m}", table):
            with pytest.raises(asyncpg.PostgresError) as refused:
                await admin.execute(statement.format(part))
            assert refused.value.sqlstate == "LG010"


async def test_a_month_without_its_triggers_is_seen(db: Database, admin: Connection) -> None:
    assert await invariants.violations(admin) == []
    (part, *_) = [row["part"] for row in await admin.fetch(NEWEST)]
    await admin.execute(f"DROP TRIGGER refuse_truncate ON {part}")
    found = await invariants.violations(admin)
    assert [violation.name for violation in found] == ["i14_the_ledger_refuses_rewriting"]
