"""Offers: our part of a price goes back to nobody, and refunds give it up again to the paisa."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.lots import Place, reverse
from domain.postings import Account, assert_balanced
from domain.postings import refund as refund_legs
from domain.refunds import force_reversal, pro_rata_credits, refund_slice, refundable_paise
from tests.domain.worlds import pack_lot


@given(
    st.sampled_from([15_000, 30_000, 50_000, 100_000]),
    st.data(),
    st.lists(st.integers(1, 60_000), max_size=8),
    st.booleans(),
)
def test_refunds_in_any_slicing_give_up_exactly_the_offer_and_reverse_exactly_the_invoice(
    price: int, data: st.DataObject, slices: list[int], inter_state: bool
) -> None:
    offer = data.draw(st.integers(0, price - 1))
    lot = replace(pack_lot(price, inter_state=inter_state), offer_paise=offer)
    paid, clearing, discount = price - offer, price - offer, offer
    assert (lot.paid_paise, refundable_paise(lot)) == (paid, paid)
    for wanted in [*slices, paid]:
        paise = min(wanted, refundable_paise(lot))
        part, given_up = refund_slice(lot, paise)
        assert given_up >= 0, "no share goes backwards"
        assert part.total_paise == paise + given_up
        credits = pro_rata_credits(
            paid_paise=lot.paid_paise,
            granted=lot.granted,
            refunded_total_paise=lot.paid_back_paise + paise,
            reversed_before=lot.reversed,
        )
        lot, reversal = reverse(lot, credits, Place.FREE, part, offer_paise=given_up)
        legs = refund_legs(reversal)
        assert_balanced(legs)
        clearing += sum(leg.amount for leg in legs if leg.account is Account.GATEWAY_CLEARING)
        discount += sum(leg.amount for leg in legs if leg.account is Account.OFFER_DISCOUNT)
    assert (clearing, discount, lot.free, lot.deferred_paise) == (0, 0, 0, 0)
    assert (lot.refunded_paise, lot.offer_returned_paise) == (price, offer)


def test_half_of_the_money_is_half_of_the_credits_and_half_of_the_offer() -> None:
    lot = replace(pack_lot(50_000), offer_paise=5_000)
    after, forced = force_reversal(lot, 22_500)
    assert (forced.reversal.credits, forced.reversal.offer_paise, forced.debt) == (2_750, 2_500, 0)
    assert (after.refunded_paise, after.paid_back_paise, refundable_paise(after)) == (25_000, 22_500, 22_500)


def test_more_than_was_paid_is_no_refund() -> None:
    with pytest.raises(ValueError, match="invoice's total"):
        refund_slice(replace(pack_lot(50_000), offer_paise=5_000), 45_001)
