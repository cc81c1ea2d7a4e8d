"""GST: W1, W6 and the pack table; parts always sum; credit notes reverse exactly the invoice's tax."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.gst import (
    GstSplit,
    financial_year,
    financial_year_name,
    invoice_number,
    refund_split,
    split_exclusive,
    split_inclusive,
)

amounts = st.integers(1, 10**12)
rates = st.sampled_from([0, 500, 1_200, 1_800, 2_800])


@pytest.mark.parametrize(
    ("price", "intra", "inter"),
    [
        (15_000, (12_712, 1_144, 1_144), (12_712, 2_288)),
        (30_000, (25_424, 2_288, 2_288), (25_424, 4_576)),
        (50_000, (42_372, 3_814, 3_814), (42_373, 7_627)),
        (100_000, (84_746, 7_627, 7_627), (84_746, 15_254)),
    ],
)
def test_the_packs_split_as_the_table_says(
    price: int, intra: tuple[int, int, int], inter: tuple[int, int]
) -> None:
    assert split_inclusive(price, inter_state=False) == GstSplit(*intra)
    assert split_inclusive(price, inter_state=True) == GstSplit(inter[0], igst_paise=inter[1])


def test_w1_a_500_rupee_pack_within_the_state_sums_to_its_price() -> None:
    split = split_inclusive(50_000, inter_state=False)
    assert (split.taxable_paise, split.cgst_paise, split.sgst_paise) == (42_372, 3_814, 3_814)
    assert split.total_paise == 50_000


@given(amounts, rates, st.booleans())
def test_an_inclusive_split_sums_to_the_price_with_equal_halves(
    price: int, rate_bp: int, inter_state: bool
) -> None:
    split = split_inclusive(price, rate_bp=rate_bp, inter_state=inter_state)
    assert split.total_paise == price
    assert split.cgst_paise == split.sgst_paise
    assert split.taxable_paise >= 0
    assert (split.igst_paise == 0) or (split.cgst_paise == 0)


@given(amounts, rates, st.booleans())
def test_an_exclusive_price_splits_back_into_itself(base: int, rate_bp: int, inter_state: bool) -> None:
    on_top = split_exclusive(base, rate_bp=rate_bp, inter_state=inter_state)
    assert split_inclusive(on_top.total_paise, rate_bp=rate_bp, inter_state=inter_state) == on_top


@pytest.mark.parametrize("rate_bp", [-2, 1_801, 10_002])
def test_a_rate_that_cannot_be_halved_or_exceeds_the_price_is_refused(rate_bp: int) -> None:
    with pytest.raises(ValueError, match="rate"):
        split_inclusive(100, rate_bp=rate_bp, inter_state=False)


@pytest.mark.parametrize("price", [0, -1])
def test_a_price_that_is_not_positive_is_refused(price: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        split_inclusive(price, inter_state=True)


def slices_of(invoice: GstSplit, slices: list[int]) -> list[GstSplit]:
    notes, before = [], 0
    for paise in slices:
        notes.append(refund_split(invoice, refunded_before_paise=before, refund_paise=paise))
        before += paise
    return notes


def test_w6_refund_slices_reverse_the_tax_cumulatively() -> None:
    invoice = split_inclusive(100_000, inter_state=False)
    quarters = slices_of(invoice, [25_000] * 4)
    assert [note.cgst_paise for note in quarters] == [1_907, 1_907, 1_906, 1_907]
    assert sum(note.cgst_paise for note in quarters) == 7_627
    thirds = slices_of(invoice, [16_667, 16_667, 16_666])
    assert [note.cgst_paise for note in thirds] == [1_271, 1_271, 1_272]


@given(amounts, st.booleans(), st.lists(st.integers(0, 10**12), max_size=8))
def test_a_full_refund_in_any_slicing_reverses_exactly_the_invoice(
    price: int, inter_state: bool, cuts: list[int]
) -> None:
    invoice = split_inclusive(price, inter_state=inter_state)
    edges = [0, *sorted(cut % (price + 1) for cut in cuts), price]
    notes = slices_of(invoice, [high - low for low, high in pairwise(edges)])
    for head in ("taxable_paise", "cgst_paise", "sgst_paise", "igst_paise"):
        assert sum(getattr(note, head) for note in notes) == getattr(invoice, head)
    for note in notes:
        assert min(note.cgst_paise, note.igst_paise) >= 0
        assert note.cgst_paise == note.sgst_paise


def test_a_refund_beyond_the_invoice_is_refused() -> None:
    invoice = split_inclusive(15_000, inter_state=False)
    with pytest.raises(ValueError, match="total"):
        refund_split(invoice, refunded_before_paise=10_000, refund_paise=5_001)


def test_the_financial_year_turns_at_midnight_in_india() -> None:
    last = datetime(2027, 3, 31, 18, 29, 59, tzinfo=UTC)
    assert financial_year_name(financial_year(last)) == "26-27"
    assert financial_year_name(financial_year(last + timedelta(seconds=1))) == "27-28"
    assert financial_year_name(2099) == "99-00"


def test_a_financial_year_needs_a_zone() -> None:
    with pytest.raises(ValueError, match="zone"):
        financial_year(datetime(2027, 1, 1, tzinfo=UTC).replace(tzinfo=None))


def test_an_invoice_number_has_sixteen_characters() -> None:
    assert invoice_number("CAA", 2026, 1) == "CAA/26/000000001"
    assert len(invoice_number("C9Z", 2026, 999_999_999)) == 16


@pytest.mark.parametrize(
    ("series", "counter"), [("CA", 1), ("caa", 1), ("CAAA", 1), ("CA\n", 1), ("CAA", 0), ("CAA", 10**9)]
)
def test_a_number_outside_its_format_is_refused(series: str, counter: int) -> None:
    with pytest.raises(ValueError, match=r"series|counter"):
        invoice_number(series, 2026, counter)
