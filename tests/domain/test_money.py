"""Amounts are exact or refused, and every rounding does what its name says."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.money import (
    MAX_PAISE,
    BadAmount,
    amount_in_words,
    div_ceil,
    div_floor,
    div_half_up,
    format_rupees,
    paise_to_rupees,
    rupees_to_paise,
)


@pytest.mark.parametrize(
    ("rupees", "paise"),
    [
        ("170.00", 17_000),
        ("170", 17_000),
        ("1.8", 180),
        ("0.01", 1),
        ("10.34", 1_034),
        ("1.7e2", 17_000),
        ("-5.50", -550),
        (40_000, 4_000_000),
        (Decimal("399.00"), 39_900),
        (Decimal("1E+3"), 100_000),
        (Decimal(0), 0),
    ],
)
def test_rupees_become_exact_paise(rupees: Decimal | int | str, paise: int) -> None:
    assert rupees_to_paise(rupees) == paise


@pytest.mark.parametrize(
    "rupees",
    [
        "1.005",
        "0.001",
        "1e-3",
        "NaN",
        "Infinity",
        "",
        " 1",
        "1_000",
        "+1",
        "01",
        ".5",
        "1.",
        "١",
        "1e99999999999999999999",
        "1e16",
        "9" * 41,
        Decimal("NaN"),
        Decimal("-Infinity"),
        Decimal("1.001"),
        Decimal("1E+1000000"),
        1.5,
        True,
        None,
    ],
)
def test_anything_that_is_not_exact_paise_is_refused(rupees: object) -> None:
    with pytest.raises(BadAmount):
        rupees_to_paise(rupees)  # type: ignore[arg-type]  # refusing other types is the point


@given(st.integers(-MAX_PAISE, MAX_PAISE))
def test_paise_survive_the_way_out_and_back_through_json(paise: int) -> None:
    text = json.dumps({"order_amount": 0}).replace("0", str(paise_to_rupees(paise)))
    parsed = json.loads(text, parse_float=Decimal)["order_amount"]
    assert rupees_to_paise(parsed) == paise


@given(st.integers(-(10**18), 10**18), st.integers(1, 10**9))
def test_each_division_rounds_as_named(numerator: int, denominator: int) -> None:
    exact = Fraction(numerator, denominator)
    assert 0 <= exact - div_floor(numerator, denominator) < 1
    assert 0 <= div_ceil(numerator, denominator) - exact < 1
    nearest = div_half_up(numerator, denominator)
    assert abs(nearest - exact) <= Fraction(1, 2)
    if abs(nearest - exact) == Fraction(1, 2):
        assert abs(nearest) > abs(exact)


@pytest.mark.parametrize(
    ("paise", "text"),
    [
        (0, "₹0.00"),
        (5, "₹0.05"),
        (99_900, "₹999.00"),
        (100_000, "₹1,000.00"),
        (12_345_678, "₹1,23,456.78"),
        (1_234_567_890, "₹1,23,45,678.90"),
        (-5, "-₹0.05"),
    ],
)
def test_rupees_are_written_in_indian_grouping(paise: int, text: str) -> None:
    assert format_rupees(paise) == text


@pytest.mark.parametrize(
    ("paise", "words"),
    [
        (0, "Rupees Zero Only"),
        (50_000, "Rupees Five Hundred Only"),
        (1_950, "Rupees Nineteen and Fifty Paise Only"),
        (
            12_345_678,
            "Rupees One Lakh Twenty Three Thousand Four Hundred Fifty Six and Seventy Eight Paise Only",
        ),
        (10_000_000_00, "Rupees One Crore Only"),
        (123_00_00_000_00, "Rupees One Hundred Twenty Three Crore Only"),
    ],
)
def test_an_invoice_states_its_amount_in_words(paise: int, words: str) -> None:
    assert amount_in_words(paise) == words


def test_an_amount_below_zero_has_no_words() -> None:
    with pytest.raises(ValueError, match="from zero"):
        amount_in_words(-100)
