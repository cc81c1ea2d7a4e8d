"""Refunds: pro-rata (W3, W4), RETIER (W5), the ceiling a customer cannot pass (W7), forced reversals (W8)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gst import refund_split
from domain.lots import Lot, Place, move, reverse
from domain.postings import Account
from domain.refunds import pro_rata_credits, refundable_paise, retier_credits
from tests.domain.worlds import Desk, pack_lot


def used(lot: Lot, credits: int) -> Lot:
    return move(lot, credits, Place.FREE, Place.SPENT)[0]


def refund(lot: Lot, paise: int) -> tuple[Lot, int]:
    credits = pro_rata_credits(
        paid_paise=lot.invoice.total_paise,
        granted=lot.granted,
        refunded_total_paise=lot.refunded_paise + paise,
        reversed_before=lot.reversed,
    )
    part = refund_split(lot.invoice, refunded_before_paise=lot.refunded_paise, refund_paise=paise)
    return reverse(lot, credits, Place.FREE, part)[0], credits


def test_w3_a_partial_refund_reverses_base_and_bonus_in_their_ratio() -> None:
    lot = used(pack_lot(100_000), 3_000)
    lot, credits = refund(lot, 25_000)
    bonus = pro_rata_credits(
        paid_paise=100_000, granted=2_000, refunded_total_paise=25_000, reversed_before=0
    )
    assert (credits, credits - bonus, bonus) == (3_000, 2_500, 500)
    assert lot.free == 6_000
    assert refundable_paise(lot) == 50_000


def test_w4_three_thirds_of_a_300_rupee_pack() -> None:
    lot, slices, bonus, before = pack_lot(30_000), [], [], 0
    for turn in (1, 2, 3):
        lot, credits = refund(lot, 10_000)
        slices.append(credits)
        bonus.append(
            pro_rata_credits(
                paid_paise=30_000, granted=200, refunded_total_paise=turn * 10_000, reversed_before=before
            )
        )
        before += bonus[-1]
    assert slices == [1_067, 1_067, 1_066]
    assert bonus == [67, 67, 66]
    assert (lot.free, lot.deferred_paise, refundable_paise(lot)) == (0, 0, 0)


@pytest.mark.parametrize(("paise", "credits"), [(85_000, 10_500), (40_000, 5_500)])
def test_w5_retier_leaves_what_the_net_amount_would_have_bought(paise: int, credits: int) -> None:
    assert retier_credits(pack_lot(100_000), paise) == credits


def test_w5_retier_is_refused_when_the_credits_are_no_longer_free() -> None:
    assert retier_credits(used(pack_lot(100_000), 1_500), 85_000) == 10_500
    assert retier_credits(used(pack_lot(100_000), 1_501), 85_000) is None


def test_w7_a_customer_gets_back_at_most_the_unused_share_less_what_is_under_way() -> None:
    lot = used(pack_lot(100_000), 3_000)
    assert refundable_paise(lot) == 75_000
    assert refundable_paise(lot, pending_paise=25_000) == 50_000
    assert refundable_paise(lot, pending_paise=75_001) == 0
    held = move(lot, 1_200, Place.FREE, Place.HELD)[0]
    assert refundable_paise(held) == 65_000
    assert refundable_paise(held, held_for_refunds=1_200) == 75_000
    assert refundable_paise(used(pack_lot(50_000), 5_500)) == 0


def amounts(legs: object) -> dict[Account, int]:
    totals: dict[Account, int] = {}
    for leg in legs:  # type: ignore[attr-defined]
        totals[leg.account] = totals.get(leg.account, 0) + leg.amount
    return totals


def test_w8_a_chargeback_beyond_what_is_left_is_debt_that_the_next_pack_pays_first() -> None:
    desk = Desk()
    lot = desk.buy(100_000)
    desk.posted("spend", 11_000)
    charged = desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=100_000)
    assert amounts(charged.legs) == {
        Account.WALLET: 1_000,
        Account.WALLET_DEBT: 11_000,
        Account.CREDITS_REVERSED: -12_000,
        Account.CGST_PAYABLE: 7_627,
        Account.SGST_PAYABLE: 7_627,
        Account.DEFERRED_REVENUE: 7_063,
        Account.CREDIT_DEBT_RECEIVABLE: 77_683,
        Account.GATEWAY_CLEARING: -100_000,
    }
    assert (desk.wallet.available, desk.wallet.debt) == (0, 11_000)
    desk.posted("grant", 50, promotional=True)
    assert desk.do("spend", 50).status == "refused", "a wallet in debt spends nothing"

    pack = desk.buy(100_000)
    assert pack.effect == 1_000
    assert amounts(pack.legs)[Account.CREDIT_DEBT_RECEIVABLE] == -77_683
    assert Account.REVENUE not in amounts(pack.legs)
    assert Account.ROUNDING not in amounts(pack.legs)
    bought = desk.ledger.lots[pack.id]
    assert (bought.debt_paid, bought.free, bought.recognised_paise) == (11_000, 1_000, 77_683)
    assert (desk.wallet.debt, desk.wallet.receivable_paise) == (0, 0)
    assert desk.posted("spend", 50).balance_after == 1_000


@given(
    st.sampled_from([15_000, 30_000, 50_000, 100_000]),
    st.lists(st.tuples(st.booleans(), st.integers(1, 40_000)), max_size=12),
)
def test_refunds_and_debits_in_any_order_stay_within_the_lot_and_close_it_at_zero(
    price: int, steps: list[tuple[bool, int]]
) -> None:
    lot = pack_lot(price)
    for is_refund, size in steps:
        if is_refund:
            paise = min(size, refundable_paise(lot))
            lot, _ = refund(lot, paise)
        elif lot.free:
            lot = used(lot, min(lot.free, size // 10 + 1))
        assert lot.deferred_paise >= 0
        assert lot.refunded_paise <= price
    if lot.free:
        lot = used(lot, lot.free)
    assert lot.deferred_paise == 0


def test_two_partial_chargebacks_of_a_spent_lot_owe_each_credit_once() -> None:
    desk = Desk()
    lot = desk.buy(100_000)
    desk.posted("spend", 12_000)
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=10_000)
    assert desk.wallet.debt == 1_200
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=10_000)
    assert desk.wallet.debt == 2_400
    desk.posted("chargeback", 1, lot_id=lot.id, refund_paise=80_000)
    assert (desk.wallet.debt, desk.ledger.lots[lot.id].owed) == (12_000, 12_000)
