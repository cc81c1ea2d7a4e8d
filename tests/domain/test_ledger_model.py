"""The ledger's specification, property by property: random commands keep every invariant."""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commands import Command, Kind, Status
from domain.invariants import account_balances, violations
from domain.ledger import Ledger
from domain.postings import Account
from tests.domain.worlds import CREDIT, DEBIT, NOW, payment_of, uid

PRICES = (15_000, 30_000, 50_000, 100_000)
KINDS = [*(kind.value for kind in Kind), "spend", "spend", "spend", "hold", "purchase", "nonsense"]


def build(draw: Any, ledger: Ledger, number: int) -> Command:
    """One random command; often on things that exist, sometimes on ones that do not."""
    kind = draw(st.sampled_from(KINDS))
    wallet_id = uid(draw(st.sampled_from([1, 1, 1, 2, 2, 3])))
    credits = draw(st.sampled_from([1, 7, 100, 999, 1_500, 3_200, 5_000, -1, 0]))
    fields: dict[str, Any] = {"source_id": str(number), "source": "test"}
    if kind == "purchase":
        payment = payment_of(draw(st.sampled_from(PRICES)), wallet_id, verified=draw(st.integers(0, 9)) > 0)
        credits = payment.credits_granted
        fields["payment"] = payment
        fields["source_id"] = str(draw(st.sampled_from([number, number, number - 1])))
    if kind in ("purchase", "grant"):
        fields["expires_at"] = draw(st.sampled_from([None, *(NOW + timedelta(days=d) for d in (1, 5, 30))]))
        fields["priority"] = draw(st.sampled_from([0, 0, 1]))
        fields["promotional"] = kind == "grant"
    if ledger.lots and (kind in ("refund", "expire", "chargeback") or draw(st.integers(0, 9)) == 0):
        lot = draw(st.sampled_from(sorted(ledger.lots.values(), key=lambda lot: lot.id)))
        fields["lot_id"] = lot.id
        fields["refund_paise"] = draw(st.sampled_from([0, 1, 10_000, lot.invoice.total_paise]))
        wallet_id = lot.wallet_id
        credits = draw(st.sampled_from([credits, max(1, lot.free), max(1, lot.free // 3)]))
    if ledger.holds and kind in ("capture", "release", "refund"):
        hold = draw(st.sampled_from(sorted(ledger.holds.values(), key=lambda hold: hold.id)))
        if kind != "refund" or draw(st.booleans()):
            fields["hold_id"] = hold.id
            wallet_id = hold.wallet_id
            credits = draw(st.sampled_from([credits, hold.credits, max(1, hold.credits // 2)]))
    key = draw(st.sampled_from([number, number, number, number, number - 1]))
    return Command(
        id=uid(1000 + number),
        wallet_id=wallet_id,
        kind=kind,
        credits=credits,
        key=f"test:{key}",
        request_hash=b"%d" % draw(st.sampled_from([0, 0, 1])),
        occurred_at=NOW + timedelta(days=number // 8, hours=draw(st.integers(-20, 20))),
        **fields,
    )


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_sequence_of_commands_keeps_the_books_right(data: st.DataObject) -> None:
    ledger = Ledger()
    ledger.open_wallet(uid(1))
    ledger.open_wallet(uid(2))
    for number in range(1, data.draw(st.integers(1, 40)) + 1):
        if data.draw(st.integers(0, 9)) == 0:
            ledger.expect_credits(uid(1), 3_200)
        waiting = sorted((key for key, queue in ledger.parked.items() if queue), key=str)
        if waiting and data.draw(st.integers(0, 3)) == 0:
            topic, wallet_id = data.draw(st.sampled_from(waiting))
            ledger.retry(topic, wallet_id, wait_for_pending=data.draw(st.booleans()))
        command = build(data.draw, ledger, number)
        before = len(ledger.transactions)
        topic = CREDIT if command.kind in ("purchase", "grant") else DEBIT
        outcome = ledger.apply(topic, command)
        assert (outcome.status is Status.POSTED) == (outcome.transaction is not None)
        if outcome.status in (Status.EXISTS, Status.CONFLICT, Status.QUARANTINED):
            assert len(ledger.transactions) == before
    assert violations(ledger) == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_deferred_revenue_and_receivables_close_to_zero_when_everything_is_used(data: st.DataObject) -> None:
    ledger = Ledger()
    ledger.open_wallet(uid(1))
    ledger.open_wallet(uid(2))
    for number in range(1, data.draw(st.integers(1, 25)) + 1):
        command = build(data.draw, ledger, number)
        ledger.apply(CREDIT if command.kind in ("purchase", "grant") else DEBIT, command)
    end = NOW + timedelta(days=90)
    number = 5_000
    for hold in list(ledger.holds.values()):
        number += 1
        release = Command(
            uid(number), hold.wallet_id, "release", 1, f"end:{number}", b"", end, hold_id=hold.id
        )
        ledger.apply("end", release)
    for wallet in list(ledger.wallets.values()):
        for _ in range(30):
            if not wallet.debt:
                break
            number += 1
            payment = payment_of(100_000, wallet.id)
            buy = Command(
                uid(number),
                wallet.id,
                "purchase",
                12_000,
                f"end:{number}",
                b"",
                end,
                source_id=f"end:{number}",
                payment=payment,
            )
            ledger.apply("end", buy)
        if wallet.available:
            number += 1
            everything = wallet.available
            spend = Command(uid(number), wallet.id, "spend", everything, f"end:{number}", b"", end)
            ledger.apply("end", spend)
            if wallet.available:  # what was due expired before the debit, which then did not fit
                number += 1
                spend = Command(uid(number), wallet.id, "spend", wallet.available, f"end:{number}", b"", end)
                ledger.apply("end", spend)
    totals = account_balances(ledger)
    for account in (Account.DEFERRED_REVENUE, Account.CREDIT_DEBT_RECEIVABLE, Account.WALLET_DEBT):
        assert totals[account] == 0, account
    assert totals[Account.WALLET] == totals[Account.WALLET_HELD] == 0
    assert violations(ledger) == []
