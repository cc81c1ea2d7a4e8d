"""What keeps plans from depending on how full the tables were when a session made them."""

from collections.abc import AsyncIterator

import pytest

from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.plans import Driven, Read, driven

WALLETS = 4_000
MOST_PER_EVENT = 60
"""Index entries that one event may read of one table: a wallet's lots, a payment's legs; never a table's size."""


async def test_what_commits_batches_never_reads_a_table_from_end_to_end(admin: Connection) -> None:
    careless = await admin.fetch(
        "SELECT proname FROM pg_proc p CROSS JOIN LATERAL (SELECT unnest(proconfig) AS said) c"
        " WHERE pronamespace = 'public'::regnamespace GROUP BY proname"
        " HAVING bool_or(said LIKE 'plan_cache_mode=%') AND NOT bool_or(said = 'enable_seqscan=off')"
    )
    assert [row["proname"] for row in careless] == []


@pytest.fixture
async def books(database: Prepared, admin: Connection) -> AsyncIterator[Driven]:
    """3,000 wallets with 10,000 lots and more transactions, and what a few hundred payments, debits and orders leave."""
    async with driven(database.url, admin, database.admin_url, wallets=3_000) as found:
        for _ in range(3):
            await found.usage(500)
            await found.payments(400)
            await found.spends(500)
            await found.others(200)
            await found.orders_made(50)
        await found.settle()
        yield found


def wasteful(reads: list[Read], events: int) -> list[Read]:
    """The tables of which more was read than the events need."""
    return [read for read in reads if read.scanned or read.looked_up > MOST_PER_EVENT * events]


async def test_each_kind_of_call_reads_a_few_rows_per_event(books: Driven) -> None:
    found = {}
    for work in (books.payments, books.spends, books.others, books.orders_made, books.usage):
        found[work.__name__] = await books.reads(work, 10, 10, 10)
    assert {kind: wasteful(reads, 30) for kind, reads in found.items()} == {kind: [] for kind in found}
    assert all(any(read.looked_up for read in reads) for reads in found.values())


async def test_an_index_that_is_gone_is_noticed(books: Driven, admin: Connection) -> None:
    for work, drop, table in (
        (books.spends, "DROP INDEX lots_open", "lots"),
        (
            books.spends,
            "ALTER TABLE wallet_transactions DROP CONSTRAINT transaction_key",
            "wallet_transactions",
        ),
        (books.payments, "DROP INDEX transaction_purchase", "wallet_transactions"),
        (
            books.orders_made,
            "ALTER TABLE payments DROP CONSTRAINT payments_pkey CASCADE",
            "payments",
        ),
    ):
        await admin.execute(drop)
        noticed = [read.table for read in wasteful(await books.reads(work, 10, 10, 10), 30)]
        assert table in noticed, drop
