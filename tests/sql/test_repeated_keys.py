"""The same key twice within one batch: the first copy counts, the others find it, and the wallet still goes as a set."""

import asyncio

from msgspec.structs import replace

from sql import invariants
from sql.db import Database, DatabaseSettings
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.desk import Partition, command, fund, open_wallets

CALLS = "SELECT coalesce(sum(calls), 0)::integer FROM pg_stat_user_functions WHERE funcname = 'apply_command'"


async def test_the_first_counts_and_the_others_find_it(
    db: Database, database: Prepared, admin: Connection
) -> None:
    hot, other = await open_wallets(admin, 2)
    await fund(db, [hot, other], 1_000)
    debit = await Partition.claim(db)
    first = command(hot, amount=5)
    spends = [command(hot, amount=10 + n) for n in range(20)]
    told_otherwise = replace(command(hot, amount=7, key=first.key), request_hash=b"other")
    batch = [first, *spends[:10], command(hot, amount=5, key=first.key), *spends[10:]]
    committed = await debit.commit([*batch, told_otherwise, command(other, amount=3), replace(first)])
    decisions = list(committed.decisions or ())
    assert [d.outcome for d in decisions] == (
        ["posted"] * 11 + ["exists"] + ["posted"] * 10 + ["conflict", "posted", "exists"]
    )
    assert {(d.transaction_id, d.balance_credits) for d in (decisions[0], decisions[11], decisions[-1])} == {
        (first.id, 995)
    }
    left = 1_000 - 5 - sum(spend.credits for spend in spends)
    assert await admin.fetchval("SELECT available_credits FROM wallets WHERE id = $1", hot) == left
    assert await invariants.check(database.readonly_url) == []


async def test_a_repeated_key_does_not_send_its_wallet_one_by_one(
    db: Database, database: Prepared, admin: Connection
) -> None:
    (hot,) = await open_wallets(admin, 1)
    await fund(db, [hot], 1_000)
    name = await admin.fetchval("SELECT current_database()")
    await admin.execute(f"ALTER DATABASE {name} SET track_functions = 'pl'")
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as counted:
        debit = await Partition.claim(counted)
        first = command(hot)
        await debit.commit([first, *(command(hot) for _ in range(50)), replace(first)])
    calls = 0
    async with asyncio.timeout(5):  # a session reports what it counted when it ends
        while not calls:
            await asyncio.sleep(0.05)
            calls = await admin.fetchval(CALLS)
    assert calls == 1


async def test_credits_that_suffice_without_the_copies_suffice(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 10)
    debit = await Partition.claim(db)
    first = command(wallet, amount=10)
    committed = await debit.commit([first, replace(first), replace(first), command(wallet, amount=1)])
    assert [(d.outcome, d.reason) for d in committed.decisions or ()] == [
        ("posted", None),
        ("exists", "posted"),
        ("exists", "posted"),
        ("refused", "insufficient_credits"),
    ]


async def test_one_key_of_two_wallets_is_the_first_s(db: Database, admin: Connection) -> None:
    one, two = await open_wallets(admin, 2)
    await fund(db, [one, two], 100)
    debit = await Partition.claim(db)
    first = command(one)
    other = replace(command(two, key=first.key), request_hash=b"other")
    committed = await debit.commit([first, other, command(one), command(two)])
    assert [d.outcome for d in committed.decisions or ()] == ["posted", "conflict", "posted", "posted"]


async def test_a_key_whose_first_copy_was_set_aside_is_still_free(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    debit = await Partition.claim(db)
    nothing = command(wallet, amount=0)
    committed = await debit.commit([nothing, command(wallet, key=nothing.key), command(wallet)])
    assert [d.outcome for d in committed.decisions or ()] == ["quarantined", "posted", "posted"]
