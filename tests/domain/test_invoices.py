"""What a document shows: series, heads of tax, figures, dates, and what its UPI code pays."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import invoices
from domain.gst import invoice_number
from domain.money import format_rupees


def document(**more: Any) -> dict[str, Any]:
    """An intra-State invoice of the 500-rupee pack."""
    amounts = {
        "taxable_paise": 42_372,
        "cgst_paise": 3_814,
        "sgst_paise": 3_814,
        "igst_paise": 0,
        "gross_paise": 50_000,
    }
    return {
        "kind": "tax_invoice",
        "number": "CAA/26/000000001",
        "date": "2026-11-03",
        "financial_year": "26-27",
        "rate_bp": 1800,
        "inter_state": False,
        "reverse_charge": False,
        "place_of_supply": "29",
        "amount_due_paise": 0,
        "amount_in_words": "Rupees Five Hundred Only",
        "totals": {**amounts, "tax_paise": 7_628},
        "lines": [{"description": "Credits", "sac": "998439", "credits": 5000, **amounts}],
        "seller": {
            "name": "Seller",
            "address": ["Street", "City"],
            "gstin": "29AAACD0000D1ZL",
            "state_code": "29",
        },
        "buyer": {"name": None, "gstin": None, "email": None, "phone": None, "state_code": "29"},
        "payment": {
            "order_id": "cd_1",
            "gateway_payment_id": None,
            "method": "upi",
            "paid_at": "2026-11-02T20:00:00Z",
        },
        **more,
    }


def test_each_partition_has_a_series_of_its_own_and_so_have_its_credit_notes() -> None:
    series = [invoices.series_of_partition(p) for p in range(invoices.SERIES_LIMIT)]
    assert (series[0], series[1], series[26], series[676]) == ("CAA", "CAB", "CBA", "DAA")
    notes = [invoices.credit_series(s) for s in series]
    assert notes[1] == "NAB"
    assert len({*series, *notes}) == 2 * invoices.SERIES_LIMIT
    assert all(len(invoice_number(s, 2026, 1)) == 16 for s in (series[-1], notes[-1]))


@pytest.mark.parametrize("partition", [-1, invoices.SERIES_LIMIT])
def test_a_partition_without_a_series_is_refused(partition: int) -> None:
    with pytest.raises(ValueError, match="series"):
        invoices.series_of_partition(partition)


def test_within_a_state_two_heads_are_shown_and_between_states_one() -> None:
    intra = invoices.present(document())
    assert intra["heads"] == ["CGST 9%", "SGST 9%"]
    assert (intra["taxable"], intra["taxes"], intra["gross"]) == ("423.72", ["38.14", "38.14"], "500.00")
    inter = invoices.present(document(inter_state=True, place_of_supply="27"))
    assert inter["heads"] == ["IGST 18%"]
    assert (inter["supply"], inter["place_of_supply"]) == ("Inter-State", "Maharashtra (27)")


def test_a_union_territory_without_a_legislature_has_utgst() -> None:
    assert [invoices.state_tax(code) for code in ("04", "38", "07", "34", "29")] == [
        "UTGST",
        "UTGST",
        "SGST",
        "SGST",
        "SGST",
    ]


def test_a_nameless_unregistered_buyer_is_a_customer() -> None:
    shown = invoices.present(document())
    assert (shown["buyer"]["name"], shown["buyer"]["gstin"]) == ("Customer", None)
    assert (shown["date"], shown["payment"]["date"], shown["payment"]["method"]) == (
        "3 November 2026",
        "3 November 2026",
        "UPI",
    )
    assert (shown["is_due"], shown["paid"], shown["against"], shown["refund"]) == (
        False,
        "500.00",
        None,
        None,
    )


def test_a_credit_note_shows_what_it_corrects() -> None:
    shown = invoices.present(
        document(
            kind="credit_note",
            against={"id": "1", "number": "CAA/26/000000001", "date": "2026-04-01"},
            refund={"id": "r", "reason": None},
        ),
        voided=True,
    )
    assert (shown["title"], shown["voided"]) == ("Credit Note", True)
    assert shown["against"] == {"number": "CAA/26/000000001", "date": "1 April 2026"}


@given(st.integers(0, 10**13))
def test_a_figure_is_the_amount_without_its_sign(amount_paise: int) -> None:
    assert "₹" + invoices.figure(amount_paise) == format_rupees(amount_paise)


@pytest.mark.parametrize(
    ("rate_bp", "shown"), [(1800, "18%"), (250, "2.5%"), (25, "0.25%"), (0, "0%"), (1050, "10.5%")]
)
def test_a_rate_is_shown_without_needless_zeros(rate_bp: int, shown: str) -> None:
    assert invoices.percent(rate_bp) == shown


def test_only_what_is_due_to_a_seller_with_upi_has_a_link() -> None:
    seller = document()["seller"] | {"upi": "seller@bank"}
    assert invoices.payment_link(document(seller=seller)) is None
    assert invoices.payment_link(document(amount_due_paise=1)) is None
    assert invoices.payment_link(document(seller=seller, amount_due_paise=123_45)) == (
        "upi://pay?pa=seller@bank&pn=Seller&am=123.45&cu=INR&tr=CAA26000000001&tn=Invoice%20CAA%2F26%2F000000001"
    )


@pytest.mark.parametrize(("group", "shown"), [(None, None), ("upi", "UPI"), ("pay_later", "Pay later")])
def test_a_method_is_named_and_an_unknown_one_kept(group: str | None, shown: str | None) -> None:
    assert invoices.method_name(group) == shown
