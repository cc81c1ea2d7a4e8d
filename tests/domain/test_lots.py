"""Lots: burn order (W14), undoing by record (W15), holds across an expiry (W16), recognition to the paisa."""

from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from domain.lots import Lot, Move, Place, burn_key, burn_plan, in_burn_order, move, restore
from tests.domain.worlds import NOW, WALLET, Desk, days, pack_lot, uid

P = Lot(uid(1), WALLET, 100, 100, NOW, expires_at=days(3), promotional=True)
A = pack_lot(15_000, number=2)
B = pack_lot(50_000, number=3, expires_at=days(38))


def spend(lots: list[Lot], amount: int) -> tuple[list[Lot], list[Move]]:
    plan = burn_plan(lots, amount)
    assert plan is not None
    done = [move(lot, part, Place.FREE, Place.SPENT) for lot, part in plan]
    after = {lot.id: lot for lot, _ in done}
    return [after.get(lot.id, lot) for lot in lots], [moved for _, moved in done]


def test_w14_a_debit_takes_the_promotion_that_expires_first_then_the_lot_with_an_expiry() -> None:
    plan = burn_plan([A, B, P], 2_000)
    assert plan is not None
    assert [(lot.id, part) for lot, part in plan] == [(P.id, 100), (B.id, 1_900)]


def test_w15_a_reversal_restores_by_record_and_what_is_past_its_expiry_expires_at_once() -> None:
    lots, moves = spend([A, B, P], 2_000)
    restored, undone = restore(lots, moves)
    assert restored == [A, B, P]
    assert [(m.lot_id, m.credits) for m in undone] == [(P.id, 100), (B.id, 1_900)]
    assert sum(m.recognised_paise for m in moves + undone) == 0

    promotion = restored[2]
    assert not promotion.due(days(2))
    assert promotion.due(days(3))
    expired, record = move(promotion, promotion.free, Place.FREE, Place.EXPIRED)
    assert (expired.spent, expired.expired, record.credits) == (0, 100, 100)


def test_w15_undoing_the_debit_that_finished_a_lot_defers_its_residue_again() -> None:
    lots, first = spend([B], 1_200)
    lots, last = spend(lots, 4_300)
    assert [m.recognised_paise for m in first + last] == [9_244, 33_128]
    restored, undone = restore(lots, last)
    assert restored[0].recognised_paise == 9_244
    assert undone[0].recognised_paise == -33_128


def test_w16_a_hold_from_before_the_expiry_can_be_captured_after_it() -> None:
    desk = Desk()
    lot = desk.buy(15_000, expires_at=days(1))
    hold = desk.posted("hold", 1_000)
    captured = desk.posted("capture", 600, hold_id=hold.id, occurred_at=days(2))
    assert captured.effect == 400
    expiries = [t for t in desk.ledger.transactions if t.kind == "expire"]
    assert [(t.credits, t.key) for t in expiries] == [
        (500, f"core:expire/{lot.id}"),
        (400, f"core:expire/{lot.id}/500"),
    ]
    assert desk.wallet.available == desk.wallet.locked == 0
    assert desk.ledger.lots[lot.id].deferred_paise == 0


def test_w16_a_hold_voided_after_the_expiry_expires_at_once() -> None:
    desk = Desk()
    lot = desk.buy(15_000, expires_at=days(1))
    hold = desk.posted("hold", 1_500)
    released = desk.posted("release", 1_500, hold_id=hold.id, occurred_at=days(2))
    assert (released.balance_before, released.balance_after) == (0, 1_500)
    last = desk.ledger.transactions[-1]
    assert (last.kind, last.credits, last.balance_after) == ("expire", 1_500, 0)
    assert desk.ledger.lots[lot.id].expired == 1_500


def test_the_burn_order_decides_by_priority_expiry_promotion_age_and_id() -> None:
    def lot(number: int, **fields: object) -> Lot:
        return replace(Lot(uid(number), WALLET, 10, 10, NOW), **fields)  # type: ignore[arg-type]

    expected = [
        lot(90, priority=-1),
        lot(80, expires_at=days(1)),
        lot(70, expires_at=days(2), promotional=True),
        lot(60, expires_at=days(2)),
        lot(50, promotional=True, effective_at=days(5)),
        lot(40, effective_at=NOW - timedelta(days=1)),
        lot(20),
        lot(30),
        lot(10, priority=1, expires_at=days(1), promotional=True),
    ]
    assert in_burn_order(reversed(expected)) == expected
    assert len({burn_key(one) for one in expected}) == len(expected)


def test_a_plan_for_more_than_there_is_does_not_exist() -> None:
    assert burn_plan([P, A], 1_601) is None
    assert burn_plan([], 1) is None


@given(
    st.lists(st.integers(1, 2_000), min_size=1, max_size=30),
    st.sampled_from([15_000, 30_000, 50_000, 100_000]),
)
def test_a_lot_earns_its_price_exactly_however_it_is_sliced(parts: list[int], price: int) -> None:
    lot, earned = pack_lot(price), 0
    for turn, part in enumerate(parts):
        if not lot.free:
            break
        target = (Place.SPENT, Place.EXPIRED, Place.DEBT_PAID)[turn % 3]
        lot, moved = move(lot, min(part, lot.free), Place.FREE, target)
        earned += moved.recognised_paise
        assert moved.recognised_paise >= 0
        if lot.open:
            assert earned == lot.invoice.taxable_paise * lot.used // lot.granted
    if lot.free:
        lot, moved = move(lot, lot.free, Place.FREE, Place.SPENT)
        earned += moved.recognised_paise
    assert earned == lot.invoice.taxable_paise == lot.recognised_paise
    assert lot.deferred_paise == 0
