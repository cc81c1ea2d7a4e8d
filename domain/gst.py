"""GST on what we sell: splitting a price into value and tax, places of supply, and documents' numbers.

Rates are arguments in basis points, because they are dated data; the arithmetic is the law's and ours.
Everything here is paise and pure. A registration number's checksum and State live in `gstin`.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from domain.money import BASIS_POINTS, Paise, div_half_up

GST_RATE_BP: Final = 1_800
IST: Final = timezone(timedelta(hours=5, minutes=30), "IST")


@dataclass(frozen=True, slots=True)
class GstSplit:
    """One price in paise: taxable value and heads of tax. CGST equals SGST; IGST excludes both."""

    taxable_paise: Paise
    cgst_paise: Paise = 0
    sgst_paise: Paise = 0
    igst_paise: Paise = 0

    @property
    def tax_paise(self) -> Paise:
        return self.cgst_paise + self.sgst_paise + self.igst_paise

    @property
    def total_paise(self) -> Paise:
        return self.taxable_paise + self.tax_paise


NOTHING: Final = GstSplit(0)
"""The split of no money at all."""


def _check_rate(rate_bp: int) -> None:
    if rate_bp % 2 or not 0 <= rate_bp <= BASIS_POINTS:
        raise ValueError(f"a GST rate is even and within 0..{BASIS_POINTS} basis points, not {rate_bp}")


def split_inclusive(gross_paise: Paise, *, rate_bp: int = GST_RATE_BP, inter_state: bool) -> GstSplit:
    """Split a tax-inclusive price into taxable value and tax.

    Within a State the tax is two equal halves, each rounded half-up once; the taxable
    value absorbs the odd paisa, so the parts always sum to `gross_paise`.

    Units: paise; `rate_bp` is the whole rate in basis points.
    Errors: ValueError if the price is not positive or the rate is odd or outside 0..10_000.
    Source: CGST Rules 2017, rule 35; IGST Act 2017, ss. 7-8.
    """
    _check_rate(rate_bp)
    if gross_paise <= 0:
        raise ValueError("a price is positive")
    if inter_state:
        igst = div_half_up(gross_paise * rate_bp, BASIS_POINTS + rate_bp)
        return GstSplit(gross_paise - igst, igst_paise=igst)
    half = div_half_up(gross_paise * (rate_bp // 2), BASIS_POINTS + rate_bp)
    return GstSplit(gross_paise - 2 * half, cgst_paise=half, sgst_paise=half)


def split_exclusive(base_paise: Paise, *, rate_bp: int = GST_RATE_BP, inter_state: bool) -> GstSplit:
    """Put tax on top of a base price; each head is rounded half-up once and the total is their sum.

    Errors: ValueError if the base is negative or the rate is odd or outside 0..10_000.
    """
    _check_rate(rate_bp)
    if base_paise < 0:
        raise ValueError("a base is not negative")
    if inter_state:
        return GstSplit(base_paise, igst_paise=div_half_up(base_paise * rate_bp, BASIS_POINTS))
    half = div_half_up(base_paise * (rate_bp // 2), BASIS_POINTS)
    return GstSplit(base_paise, cgst_paise=half, sgst_paise=half)


def refund_split(invoice: GstSplit, *, refunded_before_paise: Paise, refund_paise: Paise) -> GstSplit:
    """The credit note of one refund slice: the tax on all refunded so far, less the tax reversed before.

    Each head is the invoice's own tax in the proportion refunded, half-up on the running total, so a full
    refund in any slicing reverses exactly the invoice's tax. The taxable value is what is left of the slice.
    Errors: ValueError if the slices exceed the invoice or are negative.
    """
    total = invoice.total_paise
    refunded_paise = refunded_before_paise + refund_paise
    if refunded_before_paise < 0 or refund_paise < 0 or refunded_paise > total:
        raise ValueError("refunds stay between zero and the invoice's total")
    if total == 0:
        return GstSplit(0)

    def reversed_now(head_paise: Paise) -> Paise:
        until = div_half_up(head_paise * refunded_paise, total)
        return until - div_half_up(head_paise * refunded_before_paise, total)

    cgst, sgst, igst = (
        reversed_now(head) for head in (invoice.cgst_paise, invoice.sgst_paise, invoice.igst_paise)
    )
    return GstSplit(refund_paise - cgst - sgst - igst, cgst, sgst, igst)


def financial_year(at: datetime) -> int:
    """The calendar year in which the Indian financial year of this instant starts (April to March, by IST).

    Errors: ValueError for a datetime without a zone.
    """
    if at.tzinfo is None:
        raise ValueError("a financial year needs an instant: the datetime has no zone")
    local = at.astimezone(IST)
    return local.year if local.month >= 4 else local.year - 1


def financial_year_name(start_year: int) -> str:
    """2026 -> "26-27"."""
    return f"{start_year % 100:02d}-{(start_year + 1) % 100:02d}"


_SERIES: Final = re.compile(r"[A-Z0-9]{3}", re.ASCII)


def invoice_number(series: str, start_year: int, counter: int) -> str:
    """A document's number, 16 characters: series, the year the FY starts, a counter (CAA/26/000000001).

    Errors: ValueError for a series that is not 3 capitals or digits, or a counter outside 1..999999999.
    Source: CGST Rules 2017, rule 46(b): consecutive, unique within the FY, at most 16 of A-Z 0-9 - /.
    """
    if not _SERIES.fullmatch(series):
        raise ValueError("a series is three of A-Z and 0-9")
    if not 1 <= counter <= 999_999_999:
        raise ValueError("a counter has one to nine digits and starts at 1")
    return f"{series}/{start_year % 100:02d}/{counter:09d}"
