"""Balances are recomputed and never overwritten; holds past their limit are told."""

from datetime import timedelta

from uuid_utils.compat import uuid7

from sql import balances, invariants, ledger
from sql.db import Database
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.desk import AT, Partition, command, fund, open_wallets


async def test_a_wallet_that_is_right_agrees_with_its_entries(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 1_000)
    debit = await Partition.claim(db)
    await debit.commit([command(wallet, "spend", 30), command(wallet, "hold", 200)])
    found = await balances.sync_balance(db, wallet)
    assert found.outcome == "agrees"
    assert found.stated == found.booked
    assert (found.booked["available_credits"], found.booked["held_credits"]) == (770, 200)
    assert await admin.fetchval("SELECT count(*) FROM reconciliation_cases") == 0


async def test_a_difference_opens_one_case_and_the_balance_stays(db: Database, admin: Connection) -> None:
    wallet, other = await open_wallets(admin, 2)
    await fund(db, [wallet, other], 1_000)
    await admin.execute("UPDATE wallets SET available_credits = 1234 WHERE id = $1", wallet)
    first, second = [await balances.sync_balance(db, wallet) for _ in range(2)]
    assert first.outcome == "differs"
    assert (first.stated["available_credits"], first.booked["available_credits"]) == (1_234, 1_000)
    assert first.case_id == second.case_id
    case = await admin.fetchrow("SELECT * FROM reconciliation_cases")
    assert case is not None
    assert (case["kind"], case["subject"], case["state"]) == ("wallet_balance", str(wallet), "open")
    assert await admin.fetchval("SELECT available_credits FROM wallets WHERE id = $1", wallet) == 1_234
    assert (await balances.sync_balance(db, other)).outcome == "agrees"


async def test_a_wallet_that_nobody_opened_is_unknown(db: Database) -> None:
    found = await balances.sync_balance(db, uuid7())
    assert found.outcome == "unknown_wallet"


async def test_a_hold_past_its_limit_is_flagged_once(
    db: Database, database: Prepared, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 1_000)
    late = {"expires_at": (AT - timedelta(days=1)).isoformat()}
    await ledger.call(db, 0, command(wallet, "hold", 10, extra=late))
    await ledger.call(db, 0, command(wallet, "hold", 10))
    names = [violation.name for violation in await invariants.check(database.readonly_url)]
    assert names == ["i15_no_hold_outlives_its_limit_unflagged"]
    assert [await balances.flag_overdue_holds(db) for _ in range(2)] == [1, 0]
    assert await invariants.check(database.readonly_url) == []
