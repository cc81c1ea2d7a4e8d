"""Amounts: what money and credits are made of, and the few ways they may be rounded, read and written.

Money is an integer number of paise and credits are integers; the unit is in every name. A division always
says how it rounds. Rupees exist only at the edges: on their way in (`rupees_to_paise`) and out
(`format_rupees`).
"""

import re
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

Paise: TypeAlias = int
"""Money, in hundredths of a rupee. Signed where a posting is meant, positive elsewhere."""
Credits: TypeAlias = int
"""Prepaid service credits; at list price one credit is 10 paise."""

LIST_PAISE_PER_CREDIT: Final = 10
BASIS_POINTS: Final = 10_000
MAX_PAISE: Final = 10**15
"""Amounts beyond this (ten thousand crore rupees) are read as nonsense; it also keeps sums within 64 bits."""

_JSON_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)


class BadAmount(ValueError):
    """A text or number that is not an exact amount of rupees and paise."""


def div_floor(numerator: int, denominator: int) -> int:
    """numerator / denominator, rounded towards minus infinity. The denominator is positive."""
    assert denominator > 0
    return numerator // denominator


def div_ceil(numerator: int, denominator: int) -> int:
    """numerator / denominator, rounded towards plus infinity. The denominator is positive."""
    assert denominator > 0
    return -(-numerator // denominator)


def div_half_up(numerator: int, denominator: int) -> int:
    """numerator / denominator to the nearest integer, a half away from zero. The denominator is positive."""
    assert denominator > 0
    if numerator < 0:
        return -div_half_up(-numerator, denominator)
    return (2 * numerator + denominator) // (2 * denominator)


def rupees_to_paise(rupees: Decimal | int | str) -> Paise:
    """Decimal rupees, as the gateway sends them, in paise and exact.

    Takes a Decimal, an int, or the text of a JSON number (`170.00`, `170`, `1.7e2`); the sign is kept.
    Errors: BadAmount for anything else: a binary fraction (its decimal value is already a guess), NaN,
    infinity, more than two decimals, or more than `MAX_PAISE`.
    """
    if isinstance(rupees, bool) or not isinstance(rupees, Decimal | int | str):
        raise BadAmount(f"rupees are a Decimal, an int or a JSON number's text, not {type(rupees).__name__}")
    if isinstance(rupees, str) and (len(rupees) > 40 or not _JSON_NUMBER.fullmatch(rupees)):
        raise BadAmount("not the text of a JSON number")
    try:
        amount = Decimal(rupees)
    except InvalidOperation as error:
        raise BadAmount("not a decimal number") from error
    if not amount.is_finite():
        raise BadAmount("not a finite number")
    if amount and amount.adjusted() > 15:
        raise BadAmount("too large")
    sign, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)
    if exponent < -2:
        raise BadAmount("more than two decimals")
    paise: Paise = int("".join(map(str, digits))) * 10 ** (exponent + 2) if amount else 0
    if paise > MAX_PAISE:
        raise BadAmount("too large")
    return -paise if sign else paise


def paise_to_rupees(amount_paise: Paise) -> Decimal:
    """Paise as decimal rupees with two decimals, as the gateway wants them."""
    sign, magnitude = ("-", -amount_paise) if amount_paise < 0 else ("", amount_paise)
    return Decimal(f"{sign}{magnitude // 100}.{magnitude % 100:02d}")


def group_digits(number: int) -> str:
    """A whole number in Indian grouping: the last three digits, then pairs (12,34,567)."""
    sign, digits = ("-", str(-number)) if number < 0 else ("", str(number))
    head, tail = digits[:-3], digits[-3:]
    pairs = [head[max(0, end - 2) : end] for end in range(len(head), 0, -2)]
    return sign + ",".join([*reversed(pairs), tail])


def format_rupees(amount_paise: Paise) -> str:
    """For people: ₹1,23,456.78, and -₹0.05 below zero."""
    sign, magnitude = ("-", -amount_paise) if amount_paise < 0 else ("", amount_paise)
    return f"{sign}₹{group_digits(magnitude // 100)}.{magnitude % 100:02d}"


# fmt: off
_ONES: Final = (
    "Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve",
    "Thirteen", "Fourteen", "Fifteen", "Sixteen", "Seventeen", "Eighteen", "Nineteen",
)
_TENS: Final = ("Twenty", "Thirty", "Forty", "Fifty", "Sixty", "Seventy", "Eighty", "Ninety")
# fmt: on


def number_in_words(number: int) -> str:
    """A whole number in words, Indian system (Crore, Lakh, Thousand). Errors: ValueError below zero."""
    if number < 0:
        raise ValueError("only numbers from zero on have words here")
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens = _TENS[number // 10 - 2]
        return tens if number % 10 == 0 else f"{tens} {_ONES[number % 10]}"
    for size, name in ((10_000_000, "Crore"), (100_000, "Lakh"), (1_000, "Thousand"), (100, "Hundred")):
        if number >= size:
            many, rest = divmod(number, size)
            words = f"{number_in_words(many)} {name}"
            return words if rest == 0 else f"{words} {number_in_words(rest)}"
    raise AssertionError("every number is below twenty, below a hundred or above one of the sizes")


def amount_in_words(amount_paise: Paise) -> str:
    """The amount as an invoice states it: "Rupees Five Hundred Only". Errors: ValueError below zero."""
    rupees, paise = divmod(amount_paise, 100)
    words = f"Rupees {number_in_words(rupees)}"
    return f"{words} Only" if paise == 0 else f"{words} and {number_in_words(paise)} Paise Only"
