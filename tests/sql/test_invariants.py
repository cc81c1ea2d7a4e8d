"""Each invariant can fail: a database is damaged as no role of ours could, and exactly that invariant says so."""

import random
from pathlib import Path

import pytest

from sql import invariants
from sql.db import Database
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.test_commit_batch_model import play
from tests.sql.worlds import World

# What is done to the books, and every invariant that must then complain (a wound may show in more than one place).
WOUNDS: dict[str, tuple[str, set[str]]] = {
    "an entry is of another amount": (
        """UPDATE ledger_entries SET amount = amount + 1
            WHERE account = 'credits_issued' AND transaction_id = (SELECT id FROM wallet_transactions
            WHERE transaction_type = 'grant' LIMIT 1)""",
        {
            "i1_every_transaction_balances",
            "i8_entries_are_of_the_amount",
            "i14_the_content_is_what_was_hashed",
        },
    ),
    "a balance is raised": (
        "UPDATE wallets SET available_credits = available_credits + 1 WHERE id = (SELECT id FROM wallets ORDER BY id LIMIT 1)",
        {
            "i2_balances_are_the_sum_of_entries",
            "i5_balances_join_up",
            "i17_lots_explain_the_wallet",
        },
    ),
    "a balance is below zero": (
        """ALTER TABLE wallets DROP CONSTRAINT wallets_debt_paise_check;
           UPDATE wallets SET debt_paise = -1 WHERE id = (SELECT id FROM wallets ORDER BY id LIMIT 1)""",
        {"i3_balances_are_not_negative", "i2_balances_are_the_sum_of_entries"},
    ),
    "a transaction is gone": (
        """DELETE FROM wallet_transactions WHERE id = (SELECT t.id FROM wallet_transactions t JOIN wallets w
             ON w.id = t.wallet_id WHERE t.transaction_type = 'grant' AND t.seq < w.seq ORDER BY t.id LIMIT 1)""",
        {
            "i4_sequences_are_gapless",
            "i5_balances_join_up",
            "i7_every_record_has_one_outcome",
            "i8_entries_are_of_the_amount",
            "i13_windows_are_what_the_ledger_says",
            "i14_the_content_is_what_was_hashed",
        },
    ),
    "a key has two outcomes": (
        """UPDATE refusals SET idempotency_key = (SELECT min(idempotency_key) FROM wallet_transactions)
            WHERE idempotency_key = (SELECT min(idempotency_key) FROM refusals)""",
        {"i6_a_key_means_one_thing", "i14_the_content_is_what_was_hashed"},
    ),
    "a refusal is forgotten": (
        "DELETE FROM refusals WHERE idempotency_key = (SELECT min(idempotency_key) FROM refusals)",
        {"i7_every_record_has_one_outcome", "i14_the_content_is_what_was_hashed"},
    ),
    "an outcome is counted twice": (
        """ALTER TABLE batches DROP CONSTRAINT every_record_has_one_outcome;
           UPDATE batches SET existing = existing + 1 WHERE id = (SELECT id FROM batches ORDER BY id LIMIT 1)""",
        {"i7_every_record_has_one_outcome", "i14_the_chain_verifies"},
    ),
    "an entry belongs to nothing": (
        """INSERT INTO ledger_entries VALUES ('00000000-0000-7000-8000-000000000000', 1, 'bank', NULL, 5),
             ('00000000-0000-7000-8000-000000000000', 2, 'gateway_fee', NULL, -5)""",
        {"i8_entries_are_of_the_amount"},
    ),
    "more is refunded than was paid": (
        """UPDATE lots SET refunded_paise = taxable_paise + cgst_paise + sgst_paise + igst_paise + 1
            WHERE id = (SELECT id FROM lots WHERE taxable_paise = 0 ORDER BY id LIMIT 1)""",
        {
            "i9_refunds_stay_within_what_was_paid",
            "i16_clearing_is_what_the_gateway_owes",
            "i19_revenue_is_what_was_sold",
        },
    ),
    "a credited payment was never verified": (
        "UPDATE payments SET verified_at = NULL WHERE id = (SELECT id FROM payments WHERE status = 'credited' LIMIT 1)",
        {
            "i10_a_verified_payment_is_credited_once_or_waits_visibly",
            "i13_windows_are_what_the_ledger_says",
        },
    ),
    "a verified payment is forgotten": (
        """UPDATE payments SET fraud_decided_at = now() WHERE id = (SELECT id FROM payments p
            WHERE status = 'verified' AND NOT EXISTS (
              SELECT FROM retries r WHERE r.payload -> 'extra' ->> 'payment_id' = p.id::text) LIMIT 1)""",
        {"i10_a_verified_payment_is_credited_once_or_waits_visibly"},
    ),
    "pending credits leak": (
        "UPDATE wallets SET pending_credits = pending_credits + 1 WHERE id = (SELECT id FROM wallets ORDER BY id LIMIT 1)",
        {"i10_pending_credits_are_verified_payments"},
    ),
    "an offset goes back": (
        "UPDATE consumer_offsets SET next_offset = next_offset - 1 WHERE topic = 'wallet.debit'",
        {"i11_offsets_only_rise"},
    ),
    "a slice is lost": (
        """DELETE FROM outbox WHERE ctid = (SELECT ctid FROM outbox WHERE dest_topic = 'notifications.billing'
            ORDER BY batch_no LIMIT 1)""",
        {"i12_nothing_is_lost_between_producers_and_consumers"},
    ),
    "a watermark is of a batch that nobody sent": (
        """INSERT INTO producer_watermarks VALUES ('notifications.billing', 9, 'commdesk', 'nobody', 0, 'commdesk', 1)""",
        {"i12_nothing_is_lost_between_producers_and_consumers"},
    ),
    "a window counts too much": (
        "INSERT INTO billing_windows VALUES ('credits_spent', '1m', 'feature=x', now(), 1, 1, 1, 0, 0)",
        {
            "i13_windows_are_what_the_ledger_says",
            "i13_wider_windows_are_sums_of_minutes",
        },
    ),
    "an hour is not its minutes": (
        "INSERT INTO billing_windows VALUES ('credits_spent', '1h', 'feature=x', now(), 1, 1, 1, 0, 0)",
        {"i13_wider_windows_are_sums_of_minutes"},
    ),
    "a trigger is disabled": (
        "ALTER TABLE ledger_entries DISABLE TRIGGER refuse_truncate",
        {"i14_the_ledger_refuses_rewriting"},
    ),
    "settled lines may be rewritten": (
        "DROP TRIGGER refuse_rewrite ON settlement_lines",
        {"i14_the_ledger_refuses_rewriting"},
    ),
    "a posting without a wallet may be rewritten": (
        "ALTER TABLE journal_entries DISABLE TRIGGER refuse_rewrite",
        {"i14_the_ledger_refuses_rewriting"},
    ),
    "a mismatch is nobody's": (
        "UPDATE payments SET status = 'mismatch' WHERE id = (SELECT id FROM payments WHERE status = 'verified' LIMIT 1)",
        {
            "i10_a_verified_payment_is_credited_once_or_waits_visibly",
            "i10_pending_credits_are_verified_payments",
        },
    ),
    "a program may write a table": (
        "GRANT UPDATE ON wallets TO core_worker",
        {"i14_the_ledger_refuses_rewriting"},
    ),
    "a link is another": (
        "UPDATE batches SET link = sha256('x') WHERE id = (SELECT id FROM batches ORDER BY id LIMIT 1)",
        {"i14_the_chain_verifies"},
    ),
    "a transaction is of another wallet's key": (
        "UPDATE wallet_transactions SET request_hash = 'forged' WHERE id = (SELECT id FROM wallet_transactions LIMIT 1)",
        {"i14_the_content_is_what_was_hashed"},
    ),
    "a hold outlives its limit": (
        "UPDATE holds SET expires_at = now() - interval '1 hour' WHERE id = (SELECT id FROM holds WHERE state = 'held' LIMIT 1)",
        {"i15_no_hold_outlives_its_limit_unflagged"},
    ),
    "money is missing in clearing": (
        "UPDATE ledger_entries SET account = 'unapplied_receipts' WHERE account = 'cgst_payable'",
        {
            "i14_the_content_is_what_was_hashed",
            "i16_clearing_is_what_the_gateway_owes",
            "i19_revenue_is_what_was_sold",
        },
    ),
    "a lot has more than its wallet": (
        """UPDATE lots SET free_credits = free_credits + 1, spent_credits = spent_credits - 1
            WHERE id = (SELECT id FROM lots WHERE spent_credits > 0 AND open ORDER BY id LIMIT 1)""",
        {"i17_lots_explain_the_wallet", "i17_every_credit_of_a_lot_is_somewhere"},
    ),
    "an invoice number is skipped": (
        "INSERT INTO invoice_series (series, financial_year, last_number) VALUES ('ZZZ', 2026, 1)",
        {"i18_invoice_numbers_are_gapless"},
    ),
    "a lot earned what no debit did": (
        """UPDATE lots SET recognised_paise = recognised_paise + 1
            WHERE id = (SELECT id FROM lots WHERE open AND taxable_paise > returned_paise + recognised_paise LIMIT 1)""",
        {"i19_revenue_is_what_was_sold", "i19_a_lot_earns_what_its_debits_earned"},
    ),
    "a batch earned what no debit did": (
        "UPDATE batches SET recognised_paise = recognised_paise + 1 WHERE id = (SELECT id FROM batches ORDER BY id LIMIT 1)",
        {"i14_the_chain_verifies", "i19_a_batch_books_what_its_debits_earned"},
    ),
    "a row is put into the audit log": (
        """INSERT INTO audit_logs (chain, seq, actor, action, object_kind, object_id, link)
           VALUES ('wallet', 1, 'nobody', 'look', 'wallet', 'x', '\\x00')""",
        {"i20_the_audit_log_is_whole"},
    ),
}


@pytest.fixture
async def played(db: Database, admin: Connection) -> World:
    """A world in which everything has happened at least once."""
    world = World(db, admin, random.Random(3))
    await world.begin(6)
    await play(world, 100)
    return world


async def test_every_invariant_sees_its_wound_and_no_other(
    played: World, database: Prepared, admin: Connection
) -> None:
    assert await invariants.check(database.readonly_url) == []
    wrong = {}
    for wound, (statement, expected) in WOUNDS.items():
        found = await _wounded(admin, statement)
        if found != expected:
            wrong[wound] = {"unexpected": found - expected, "unseen": expected - found}
    assert wrong == {}
    assert set().union(*(expected for _, expected in WOUNDS.values())) == set(invariants.NAMES)


async def _wounded(admin: Connection, statement: str) -> set[str]:
    """Which invariants complain after `statement`, done past every trigger; then it is undone."""
    wound = admin.transaction()
    await wound.start()
    try:
        await admin.execute("SET LOCAL session_replication_role = replica")
        await admin.execute(statement)
        return {violation.name for violation in await invariants.violations(admin)}
    finally:
        await wound.rollback()


async def test_a_violation_says_what_and_where(played: World, database: Prepared, admin: Connection) -> None:
    await admin.execute(
        "UPDATE wallets SET pending_credits = pending_credits + 1 WHERE id = $1", played.wallets[0]
    )
    (violation,) = await invariants.check(database.readonly_url)
    assert str(played.wallets[0]) in str(violation)
    assert violation.meaning in str(violation)


def test_every_invariant_of_the_file_has_a_meaning() -> None:
    assert set(invariants.MEANINGS) == set(invariants.NAMES)
    text = (Path(invariants.__file__).parent / "invariants.sql").read_text()
    assert {f"i{number}" for number in range(1, 21)} == {name.split("_")[0] for name in invariants.NAMES}
    assert text.count("-- name:") == len(invariants.NAMES)
