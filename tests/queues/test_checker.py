"""The invariants past a watermark: each run asks about what is new, sees the same wounds, and says so until somebody cared."""

import asyncio

import pytest

from agents.checker import Checker, CheckerSettings
from sql import checks, errors, invariants, queues, reconciliation
from sql.db import Database
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.conftest import admin, db
from tests.sql.test_commit_batch_model import play
from tests.sql.test_invariants import WOUNDS, played
from tests.sql.worlds import World

__all__ = ["admin", "db", "played"]

ONLY_AS_A_WHOLE = {
    "i2_balances_are_the_sum_of_entries",
    "i9_refunds_stay_within_what_was_paid",
    "i10_pending_credits_are_verified_payments",
    "i12_nothing_is_lost_between_producers_and_consumers",
    "i13_windows_are_what_the_ledger_says",
    "i13_wider_windows_are_sums_of_minutes",
    "i14_the_ledger_refuses_rewriting",
    "i15_no_hold_outlives_its_limit_unflagged",
    "i16_clearing_is_what_the_gateway_owes",
    "i17_every_credit_of_a_lot_is_somewhere",
    "i18_invoice_numbers_are_gapless",
    "i19_revenue_is_what_was_sold",
    "i19_a_lot_earns_what_its_debits_earned",
    "i20_the_audit_log_is_whole",
}
"""What a sum over the whole ledger says, or no batch tells: asked by `./dev verify` and by the daily check."""

# Wounds of what all balances rest on; the checks of a part must see each, by these invariants and no other.
SEEN = {
    "an entry is of another amount": {
        "i1_every_transaction_balances",
        "i8_entries_are_of_the_amount",
        "i14_the_content_is_what_was_hashed",
    },
    "a balance is raised": {"i5_balances_join_up", "i17_lots_explain_the_wallet"},
    "a balance is below zero": {"i3_balances_are_not_negative"},
    "a transaction is gone": {
        "i4_sequences_are_gapless",
        "i7_every_record_has_one_outcome",
        "i14_the_content_is_what_was_hashed",
    },
    "a key has two outcomes": {"i6_a_key_means_one_thing", "i14_the_content_is_what_was_hashed"},
    "a refusal is forgotten": {"i7_every_record_has_one_outcome", "i14_the_content_is_what_was_hashed"},
    "an outcome is counted twice": {"i7_every_record_has_one_outcome", "i14_the_chain_verifies"},
    "a credited payment was never verified": {"i10_a_verified_payment_is_credited_once_or_waits_visibly"},
    "a link is another": {"i14_the_chain_verifies"},
    "a transaction is of another wallet's key": {"i14_the_content_is_what_was_hashed"},
    "a lot has more than its wallet": {"i17_lots_explain_the_wallet"},
    "a batch earned what no debit did": {
        "i14_the_chain_verifies",
        "i19_a_batch_books_what_its_debits_earned",
    },
    "an offset was skipped": {"i11_offsets_only_rise"},
}
SKIPPED = """
UPDATE batches b SET from_offset = from_offset + 1, link = batch_link(
    coalesce((SELECT p.link FROM batches p WHERE p.topic = b.topic AND p.partition = b.partition
                 AND p.consumer_group = b.consumer_group AND p.batch_no = b.batch_no - 1), '\\x'),
    batch_line(id, topic, partition, consumer_group, batch_no, from_offset + 1, to_offset, n_records, posted, refused,
               existing, conflict, parked, quarantined, recognised_paise), content)
  FROM (SELECT id AS last FROM batches WHERE topic = 'wallet.debit' ORDER BY batch_no DESC LIMIT 1) x WHERE b.id = x.last"""


def checker(db: Database, database: Prepared, **settings: float) -> Checker:
    return Checker(db, database.url, CheckerSettings(**settings), holder="test")  # type: ignore[arg-type]


async def test_every_batch_is_checked_once_in_runs_of_a_bounded_size(
    played: World, db: Database, database: Prepared, admin: Connection
) -> None:
    checking, total = (
        checker(db, database, check_batches=30),
        int(await admin.fetchval("SELECT count(*) FROM batches")),
    )
    sizes = []
    while size := (await checking.once()).batches:
        sizes.append(size)
    assert sum(sizes) == total
    assert max(sizes) == 30
    await play(played, 5)
    checking = checker(db, database)
    run = await checking.once()
    assert 0 < run.batches == run.behind < 200
    assert run.violations == []
    assert await admin.fetchval("SELECT bool_and(violated = '{}') FROM invariant_runs")


@pytest.mark.parametrize("wound", SEEN)
async def test_what_is_wrong_with_new_batches_is_seen(
    played: World, db: Database, database: Prepared, admin: Connection, wound: str
) -> None:
    statement = SKIPPED if wound == "an offset was skipped" else WOUNDS[wound][0]
    async with admin.transaction():
        await admin.execute("SET LOCAL session_replication_role = replica")
        await admin.execute(statement)
        if wound == "an offset was skipped":
            await admin.execute(
                "UPDATE consumer_offsets o SET link = b.link FROM batches b WHERE b.topic = o.topic AND b.partition = o.partition"
                " AND b.consumer_group = o.consumer_group AND b.batch_no = o.batch_no"
            )
    checking = checker(db, database, check_batches=100_000, check_budget_s=20)
    found = {violation.name for violation in (await checking.once()).violations}
    assert found == SEEN[wound]


def test_each_invariant_is_asked_of_a_part_or_known_to_need_the_whole() -> None:
    assert set(checks.NAMES) | ONLY_AS_A_WHOLE == set(invariants.NAMES)
    assert not set(checks.NAMES) & ONLY_AS_A_WHOLE
    assert set().union(*SEEN.values()) == set(checks.NAMES)


async def test_a_violation_is_told_in_every_run_until_a_person_resolved_its_case(
    played: World, db: Database, database: Prepared, admin: Connection
) -> None:
    async with admin.transaction():
        await admin.execute("SET LOCAL session_replication_role = replica")
        await admin.execute(WOUNDS["a balance is raised"][0])
    checking = checker(db, database, check_batches=100_000, check_budget_s=20)
    assert (await checking.once()).violations
    assert (await checking.once()).batches == 0
    expected = sorted(SEEN["a balance is raised"])
    violated = "SELECT violated FROM invariant_runs ORDER BY id DESC LIMIT 1"
    assert sorted(await admin.fetchval(violated)) == expected
    cases = await reconciliation.get_cases(
        db, limit=10, before=None, state="open", kind="invariant", owner=None
    )
    assert sorted(case.subject for case in cases) == expected
    assert cases[0].actual["rows"]
    for case in cases:
        await reconciliation.resolve_case(
            db, case.id, "corrected by a journal entry", actor="asha", accept=False
        )
    await checking.once()
    assert await admin.fetchval(violated) == []


async def test_everything_is_checked_too_and_a_run_out_of_time_is_cut_off(
    played: World, db: Database, database: Prepared, admin: Connection
) -> None:
    run = await checker(db, database).everything()
    assert (run.scope, run.violations) == ("all", [])
    age = await checks.full_check_age_s(db)
    assert age is not None
    assert age < 60
    with pytest.raises(errors.Unavailable):
        await checks.check_all(database.url, timeout_s=0.001)


async def test_one_worker_at_a_time_checks(db: Database) -> None:
    assert await queues.take_duty(db, "check", "a", lease_s=0.3)
    assert not await queues.take_duty(db, "check", "b", lease_s=10)
    assert await queues.take_duty(db, "check", "a", lease_s=0.3)
    await asyncio.sleep(0.4)
    assert await queues.take_duty(db, "check", "b", lease_s=10)
