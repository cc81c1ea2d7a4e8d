"""The specification's answers, one by one: keys, parking, refusals, holds, refunds, expiry (W17 included)."""

from typing import Any

import pytest

from domain.commands import Outcome, Reason, Status
from domain.invariants import violations
from tests.domain.worlds import CREDIT, DEBIT, NOW, Desk, days, payment_of, uid


@pytest.fixture
def desk() -> Desk:
    return Desk()


def reason_of(outcome: Outcome) -> tuple[str, str | None]:
    return outcome.status.value, outcome.reason.value if outcome.reason else None


def test_a_purchase_makes_one_lot_and_lowers_what_is_pending(desk: Desk) -> None:
    desk.ledger.expect_credits(desk.wallet.id, 6_000)
    bought = desk.buy(50_000)
    lot = desk.ledger.lots[bought.id]
    assert (lot.granted, lot.bonus, lot.free) == (5_500, 500, 5_500)
    wallet = desk.wallet
    assert (wallet.available, wallet.pending, wallet.lifetime_purchased) == (5_500, 500, 5_500)
    assert (bought.seq, bought.balance_before, bought.balance_after) == (1, 0, 5_500)


def test_the_same_key_answers_with_the_first_outcome_and_another_body_is_a_conflict(desk: Desk) -> None:
    desk.buy(15_000)
    first = desk.do("spend", 100, key="a:1", request_hash=b"x")
    again = desk.do("spend", 100, key="a:1", request_hash=b"x")
    other = desk.do("spend", 200, key="a:1", request_hash=b"y")
    assert again.status is Status.EXISTS
    assert again.original == first
    assert other.status is Status.CONFLICT
    assert desk.wallet.available == 1_400


def test_a_refused_debit_stays_refused_after_a_top_up(desk: Desk) -> None:
    assert reason_of(desk.do("spend", 100, key="a:1")) == ("refused", "insufficient_credits")
    desk.buy(15_000)
    again = desk.do("spend", 100, key="a:1")
    assert again.original is not None
    assert again.original.reason is Reason.INSUFFICIENT_CREDITS
    assert desk.posted("spend", 100, key="a:2").balance_after == 1_400


def test_w17_a_hundred_debits_of_100_on_5500_post_exactly_55(desk: Desk) -> None:
    desk.buy(50_000)
    outcomes = [desk.do("spend", 100).status for _ in range(100)]
    assert outcomes == [Status.POSTED] * 55 + [Status.REFUSED] * 45
    assert desk.wallet.available == 0


@pytest.mark.parametrize("credits", [0, -5, 1_000_000_001])
def test_an_amount_out_of_range_is_quarantined_and_takes_no_key(desk: Desk, credits: int) -> None:
    assert reason_of(desk.do("spend", credits, key="a:1")) == ("quarantined", "bad_amount")
    assert reason_of(desk.do("steal", 1, key="a:1")) == ("quarantined", "unknown_kind")
    assert reason_of(desk.do("refund", 1, key="a:1", refund_paise=-1)) == ("quarantined", "bad_amount")
    desk.buy(15_000)
    assert desk.do("spend", 5, key="a:1").status is Status.POSTED


def test_an_unknown_wallet_parks_a_credit_and_quarantines_a_debit(desk: Desk) -> None:
    stranger: dict[str, Any] = {"wallet_id": uid(9)}
    assert reason_of(desk.do("grant", 10, **stranger)) == ("parked", "unknown_wallet")
    assert reason_of(desk.do("spend", 10, **stranger)) == ("quarantined", "unknown_wallet")
    desk.ledger.open_wallet(uid(9))
    assert reason_of(desk.do("grant", 5, **stranger)) == ("parked", "behind_parked")
    statuses = [desk.ledger.retry(CREDIT, uid(9)).status for _ in range(2)]
    assert statuses == [Status.POSTED, Status.POSTED]
    assert desk.posted("spend", 15, **stranger).balance_after == 0


@pytest.mark.parametrize(
    "payment",
    [
        None,
        payment_of(15_000, verified=False),
        payment_of(15_000, held=True),
        payment_of(15_000, uid(2)),
        payment_of(30_000),
    ],
)
def test_a_purchase_without_its_verified_payment_is_parked(desk: Desk, payment: Any) -> None:
    outcome = desk.do("purchase", 1_500, payment=payment)
    assert reason_of(outcome) == ("parked", "unverified_payment")
    assert desk.wallet.available == 0
    assert desk.ledger.transactions == []


def test_a_payment_is_credited_once_whatever_key_asks(desk: Desk) -> None:
    desk.buy(15_000, source="payment", source_id="p1", key="core:1")
    again = desk.do(
        "purchase", 1_500, payment=payment_of(15_000), source="payment", source_id="p1", key="core:2"
    )
    assert again.status is Status.EXISTS
    assert desk.wallet.available == 1_500


def test_a_debit_waits_for_credits_on_their_way_and_later_ones_wait_behind_it(desk: Desk) -> None:
    desk.posted("grant", 100)
    desk.ledger.expect_credits(desk.wallet.id, 1_500)
    assert reason_of(desk.do("spend", 1_601)) == ("refused", "insufficient_credits")
    assert reason_of(desk.do("spend", 1_600, key="a:1")) == ("parked", "pending_credits")
    assert reason_of(desk.do("spend", 1)) == ("parked", "behind_parked")
    assert desk.ledger.retry(DEBIT, desk.wallet.id).status is Status.PARKED
    desk.buy(15_000)
    assert desk.ledger.retry(DEBIT, desk.wallet.id).status is Status.POSTED
    assert reason_of(desk.ledger.retry(DEBIT, desk.wallet.id)) == ("refused", "insufficient_credits")
    assert desk.do("spend", 1_600, key="a:1").status is Status.EXISTS


def test_a_debit_whose_time_is_up_is_decided_without_what_is_pending(desk: Desk) -> None:
    desk.ledger.expect_credits(desk.wallet.id, 1_500)
    desk.do("hold", 100)
    outcome = desk.ledger.retry(DEBIT, desk.wallet.id, wait_for_pending=False)
    assert reason_of(outcome) == ("refused", "insufficient_credits")


def test_a_hold_is_captured_in_part_and_the_rest_comes_back(desk: Desk) -> None:
    desk.posted("grant", 100, promotional=True, expires_at=days(9))
    desk.buy(15_000)
    hold = desk.posted("hold", 300)
    assert (hold.balance_after, hold.locked_after) == (1_300, 300)
    assert [(m.lot_id, m.credits) for m in hold.moves] == [(uid(1001), 100), (uid(1002), 200)]
    assert reason_of(desk.do("capture", 301, hold_id=hold.id)) == ("refused", "hold_too_small")
    captured = desk.posted("capture", 150, hold_id=hold.id)
    assert (captured.effect, captured.balance_after, captured.locked_after) == (150, 1_450, 0)
    assert [(m.lot_id, m.target.value, m.credits) for m in captured.moves] == [
        (uid(1001), "spent", 100),
        (uid(1002), "spent", 50),
        (uid(1002), "free", 150),
    ]
    for kind in ("capture", "release"):
        assert reason_of(desk.do(kind, 1, hold_id=hold.id)) == ("refused", "hold_not_open")


def test_a_hold_of_another_wallet_is_not_open(desk: Desk) -> None:
    desk.buy(15_000)
    hold = desk.posted("hold", 10)
    desk.ledger.open_wallet(uid(2))
    outcome = desk.do("release", 10, hold_id=hold.id, wallet_id=uid(2))
    assert reason_of(outcome) == ("refused", "hold_not_open")
    assert reason_of(desk.do("capture", 10)) == ("refused", "hold_not_open")


def test_a_refund_holds_and_reverses_its_own_lot_only(desk: Desk) -> None:
    desk.posted("grant", 100, promotional=True)
    lot = desk.buy(15_000).id
    assert reason_of(desk.do("hold", 1_501, lot_id=lot)) == ("refused", "lot_not_free")
    hold = desk.posted("hold", 1_000, lot_id=lot)
    assert [(m.lot_id, m.credits) for m in hold.moves] == [(lot, 1_000)]
    assert reason_of(desk.do("refund", 501, lot_id=lot, refund_paise=5_000)) == ("refused", "lot_not_free")
    done = desk.posted("refund", 900, lot_id=lot, hold_id=hold.id, refund_paise=9_000)
    assert (done.effect, done.balance_after, done.locked_after) == (100, 700, 0)
    state = desk.ledger.lots[lot]
    assert (state.reversed, state.free, state.refunded_paise) == (900, 600, 9_000)
    assert reason_of(desk.do("refund", 1, lot_id=lot, refund_paise=6_001)) == ("refused", "lot_not_free")
    assert violations(desk.ledger) == []


def test_a_lot_of_another_wallet_cannot_be_refunded_or_expired(desk: Desk) -> None:
    lot = desk.buy(15_000).id
    desk.ledger.open_wallet(uid(2))
    for kind in ("refund", "expire", "hold", "chargeback"):
        outcome = desk.do(kind, 1, lot_id=lot, refund_paise=1, wallet_id=uid(2))
        assert reason_of(outcome) == ("refused", "lot_not_free")
    assert reason_of(desk.do("expire", 1)) == ("refused", "lot_not_free")


def test_what_is_due_expires_before_a_command_is_decided_even_if_that_is_refused(desk: Desk) -> None:
    late = desk.posted("grant", 70, expires_at=days(2), promotional=True)
    early = desk.posted("grant", 30, expires_at=days(1), promotional=True)
    assert reason_of(desk.do("spend", 1, occurred_at=days(2))) == ("refused", "insufficient_credits")
    assert [(t.key, t.credits, t.balance_after) for t in desk.ledger.transactions[2:]] == [
        (f"core:expire/{early.id}", 30, 70),
        (f"core:expire/{late.id}", 70, 0),
    ]


def test_an_explicit_expiry_takes_its_own_lot_due_or_not(desk: Desk) -> None:
    due = desk.posted("grant", 70, expires_at=days(1), promotional=True)
    assert desk.posted("expire", 70, lot_id=due.id, occurred_at=days(1)).balance_after == 0
    lot = desk.buy(15_000)
    withdrawn = desk.posted("expire", 500, lot_id=lot.id)
    assert withdrawn.balance_after == 1_000
    assert desk.ledger.lots[lot.id].recognised_paise == 12_712 * 500 // 1_500
    assert reason_of(desk.do("expire", 1_001, lot_id=lot.id)) == ("refused", "lot_not_free")


def test_a_known_key_expires_nothing(desk: Desk) -> None:
    desk.posted("grant", 70, expires_at=days(1), key="a:1")
    desk.do("grant", 70, occurred_at=days(3), key="a:1")
    assert len(desk.ledger.transactions) == 1
    assert desk.wallet.available == 70


def test_a_debt_is_paid_by_packs_of_any_price_and_the_difference_is_rounding(desk: Desk) -> None:
    lot = desk.buy(100_000)
    desk.posted("spend", 12_000)
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=100_000)
    assert (desk.wallet.debt, desk.wallet.receivable_paise) == (12_000, 84_746)
    desk.buy(15_000)
    desk.ledger.expect_credits(desk.wallet.id, 12_000)
    assert reason_of(desk.do("spend", 1_501)) == ("refused", "insufficient_credits")
    assert reason_of(desk.do("spend", 1_500)) == ("parked", "pending_credits")
    desk.buy(100_000)
    assert (desk.wallet.debt, desk.wallet.receivable_paise) == (0, 0)
    assert desk.wallet.available == 1_500
    assert violations(desk.ledger) == []


def test_the_invariants_see_a_book_that_was_tampered_with(desk: Desk) -> None:
    desk.buy(15_000)
    desk.posted("hold", 10)
    assert violations(desk.ledger) == []
    desk.wallet.available += 1
    assert {line[:3] for line in violations(desk.ledger)} == {"I2 ", "I17"}
    desk.wallet.available -= 1
    desk.ledger.transactions.append(desk.ledger.transactions[0])
    assert {line[:3] for line in violations(desk.ledger)} >= {"I2 ", "I4 ", "I5 ", "I6 ", "I19"}
    assert desk.ledger.transactions[0].occurred_at == NOW


def test_a_debit_does_not_wait_for_credits_that_leave_a_debt(desk: Desk) -> None:
    lot = desk.buy(15_000)
    desk.posted("spend", 1_500)
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=15_000)
    desk.posted("grant", 5_000, promotional=True)
    desk.ledger.expect_credits(desk.wallet.id, 1_499)
    assert reason_of(desk.do("spend", 1)) == ("refused", "insufficient_credits")
    desk.ledger.expect_credits(desk.wallet.id, 1)
    assert reason_of(desk.do("spend", 1)) == ("parked", "pending_credits")


def test_a_chargeback_leaves_held_credits_alone_but_not_their_revenue(desk: Desk) -> None:
    lot = desk.buy(100_000)
    desk.posted("spend", 11_000)
    hold = desk.posted("hold", 500)
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=100_000)
    state = desk.ledger.lots[lot.id]
    assert (state.free, state.held, state.deferred_paise) == (0, 500, 0)
    assert (desk.wallet.debt, desk.wallet.receivable_paise) == (11_500, 77_683)
    captured = desk.posted("capture", 200, hold_id=hold.id)
    assert captured.moves[0].recognised_paise == 0
    assert desk.ledger.lots[lot.id].free == 300
    assert violations(desk.ledger) == []
