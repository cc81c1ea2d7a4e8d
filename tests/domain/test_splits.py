"""Parts sum to the whole (W22), refunds empty the shares, communities get what is theirs (W19, W20, W27)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gst import GstSplit, split_exclusive, split_inclusive
from domain.payouts import PayoutState, affordable, may_follow, payable_now
from domain.postings import Account
from domain.settlements import REGISTERED, UNREGISTERED, WITHOUT_PAN, Withholding, community_sale, postings_of
from domain.splits import split, split_refund

weights = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.integers(0, 10_000), min_size=1
).filter(lambda each: sum(each.values()) > 0)


@pytest.mark.parametrize(
    ("amount", "shares", "parts"),
    [
        (10_000, [1, 1, 1], [3_334, 3_333, 3_333]),
        (99_999, [50, 30, 20], [49_999, 30_000, 20_000]),
        (100, [1] * 7, [15, 15, 14, 14, 14, 14, 14]),
        (1, [50, 30, 20], [1, 0, 0]),
    ],
)
def test_w22_the_largest_remainders_get_the_odd_paise(
    amount: int, shares: list[int], parts: list[int]
) -> None:
    parties = dict(zip("abcdefg", shares, strict=False))
    assert list(split(amount, parties).values()) == parts


@given(st.integers(0, 10**12), weights)
def test_a_split_sums_to_its_amount_and_is_within_a_paisa_of_fair(
    amount: int, parties: dict[str, int]
) -> None:
    parts = split(amount, parties)
    assert sum(parts.values()) == amount
    total = sum(parties.values())
    assert all(abs(parts[p] * total - amount * weight) < total for p, weight in parties.items())
    assert parts == split(amount, dict(reversed(parties.items()))), "the order of the parties is no matter"


@given(st.integers(1, 10**6), weights, st.lists(st.integers(1, 10**6), max_size=8))
def test_refund_slices_never_make_a_share_negative_and_a_full_refund_empties_all(
    amount: int, parties: dict[str, int], slices: list[int]
) -> None:
    left = split(amount, parties)
    for paise in [*slices, amount]:
        paise = min(paise, sum(left.values()))
        back = split_refund(paise, left)
        assert sum(back.values()) == paise
        left = {party: share - back[party] for party, share in left.items()}
        assert min(left.values()) >= 0
    assert set(left.values()) == {0}


@pytest.mark.parametrize(
    ("amount", "shares"), [(-1, {"a": 1}), (1, {}), (1, {"a": 0}), (1, {"a": 2, "b": -1})]
)
def test_a_split_of_nonsense_is_refused(amount: int, shares: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="negative"):
        split(amount, shares)


def test_a_refund_of_more_than_is_left_is_refused() -> None:
    with pytest.raises(ValueError, match="left"):
        split_refund(11, {"a": 5, "b": 5})
    assert split_refund(0, {"a": 0}) == {"a": 0}


def test_w19_a_registered_communitys_sale_is_shared_out_to_the_paisa() -> None:
    sale = community_sale(
        split_exclusive(100_000, inter_state=False),
        fee_bp=1_000,
        gateway_fee_paise=2_301,
        withholding=REGISTERED,
        fee_inter_state=True,
    )
    assert (sale.gross_paise, sale.payable_paise) == (118_000, 102_885)
    assert (sale.fee.taxable_paise, sale.fee.tax_paise) == (10_000, 1_800)
    assert (sale.gateway.taxable_paise, sale.gateway.tax_paise) == (2_301, 414)
    assert (sale.tcs_paise, sale.tds_paise) == (500, 100)
    legs = {leg.account: leg.amount for leg in postings_of(sale)}
    assert legs[Account.COMMUNITY_PAYABLE] == -102_885
    assert legs[Account.GATEWAY_CLEARING] == 118_000
    assert legs[Account.IGST_PAYABLE] == -2_214


def test_w20_an_inclusive_price_within_the_state_with_a_fee_taxed_in_two_halves() -> None:
    price = split_inclusive(49_900, inter_state=False)
    assert price == GstSplit(42_288, cgst_paise=3_806, sgst_paise=3_806)
    sale = community_sale(
        price, fee_bp=1_000, gateway_fee_paise=0, withholding=UNREGISTERED, fee_inter_state=False
    )
    assert (sale.fee.taxable_paise, sale.fee.tax_paise) == (4_229, 762)


@given(st.integers(1, 10**9), st.booleans(), st.sampled_from([REGISTERED, UNREGISTERED, WITHOUT_PAN]))
def test_the_parts_of_any_sale_balance(price: int, inter_state: bool, withholding: Withholding) -> None:
    sale = community_sale(
        split_inclusive(price, inter_state=inter_state),
        fee_bp=1_000,
        gateway_fee_paise=price // 50,
        withholding=withholding,
        fee_inter_state=inter_state,
    )
    assert sum(leg.amount for leg in postings_of(sale)) == 0


@pytest.mark.parametrize(
    ("balance", "paid"), [(650, ["a"]), (750, ["a", "c"]), (0, []), (1_200, ["a", "b", "c"]), (99, [])]
)
def test_w27_payouts_go_first_come_first_served_and_pass_over_what_is_too_large(
    balance: int, paid: list[str]
) -> None:
    assert affordable([("a", 600), ("b", 500), ("c", 100)], balance) == paid


def test_a_negative_payable_pays_nothing() -> None:
    assert (payable_now(-5), payable_now(0), payable_now(7)) == (0, 0, 7)


def test_a_payout_that_failed_or_was_reversed_never_moves_again() -> None:
    for news in PayoutState:
        assert not may_follow(PayoutState.FAILED, news)
        assert not may_follow(PayoutState.REVERSED, news)
    assert may_follow(PayoutState.QUEUED, PayoutState.PENDING_APPROVAL)
    assert may_follow(PayoutState.PROCESSING, PayoutState.PAID)
    assert may_follow(PayoutState.PAID, PayoutState.REVERSED)
    assert not may_follow(PayoutState.PAID, PayoutState.PROCESSING)
