"""What a tax invoice or credit note shows: numbers' series, heads of tax, and a frozen document in words and figures.

A document is JSON, made and frozen by the transaction that issues it; nothing printed is computed from anything
else. `present` turns it into text for the template, in which no arithmetic is left.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, Final
from urllib.parse import quote

from domain.gst import IST
from domain.gstin import STATES
from domain.money import BASIS_POINTS, Paise, group_digits, paise_to_rupees

SERIES_LIMIT: Final = 26 * 26 * 11
"""How many series there are: C.. to M.. for invoices, N.. to X.. for the credit notes of each."""

_UNION_TERRITORIES: Final = frozenset({"04", "25", "26", "31", "35", "38"})
"""Without a legislature of their own: their half of the tax is UTGST (UTGST Act 2017, s. 7)."""


def series_of_partition(partition: int) -> str:
    """The series of one partition's invoices: 0 -> CAA, 1 -> CAB, 26 -> CBA. Errors: ValueError outside the series."""
    if not 0 <= partition < SERIES_LIMIT:
        raise ValueError(f"there are {SERIES_LIMIT} series, none for partition {partition}")
    first, rest = divmod(partition, 676)
    second, third = divmod(rest, 26)
    return "".join(chr(code) for code in (ord("C") + first, ord("A") + second, ord("A") + third))


def credit_series(series: str) -> str:
    """The series of the credit notes on a series' invoices: CAB -> NAB."""
    return chr(ord(series[0]) + 11) + series[1:]


def state_tax(state_code: str) -> str:
    """What the State's half of an intra-State supply is called there: SGST, or UTGST."""
    return "UTGST" if state_code in _UNION_TERRITORIES else "SGST"


def state_name(state_code: str) -> str:
    """Name and code, as the law wants a place of supply: "Karnataka (29)"."""
    return f"{STATES.get(state_code, 'State')} ({state_code})"


def percent(rate_bp: int) -> str:
    """A rate for people: 1800 -> 18%, 25 -> 0.25%."""
    whole, rest = divmod(rate_bp, BASIS_POINTS // 100)
    return f"{whole}.{rest:02d}".rstrip("0") + "%" if rest else f"{whole}%"


def figure(amount_paise: Paise) -> str:
    """An amount in a column that has said it is rupees: 1,23,456.78. Errors: AssertionError below zero."""
    assert amount_paise >= 0
    return f"{group_digits(amount_paise // 100)}.{amount_paise % 100:02d}"


def long_date(iso: str) -> str:
    """2026-11-03 -> 3 November 2026."""
    day = date.fromisoformat(iso)
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


def _day_in_india(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone(IST).date().isoformat()


_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip


def upi_link(*, payee: str, name: str, amount_paise: Paise, reference: str, note: str) -> str:
    """The text of a UPI QR code that pays an amount. Source: NPCI, UPI Linking Specification."""
    fields = {
        "pa": payee,
        "pn": name,
        "am": str(paise_to_rupees(amount_paise)),
        "cu": "INR",
        "tr": reference,
        "tn": note,
    }
    return "upi://pay?" + "&".join(f"{key}={quote(value, safe='@.')}" for key, value in fields.items())


def payment_link(document: Mapping[str, Any]) -> str | None:
    """The UPI link of what is still due on a document; None if nothing is, or its seller takes no UPI."""
    due: Paise = document["amount_due_paise"]
    payee = document["seller"].get("upi")
    if due <= 0 or not payee:
        return None
    number = document["number"]
    return upi_link(
        payee=payee,
        name=document["seller"]["name"],
        amount_paise=due,
        reference=number.replace("/", ""),
        note=f"Invoice {number}",
    )


def storage_key(document: Mapping[str, Any]) -> str:
    """Where a document's PDF lies: by kind, financial year and series, so that no folder grows without end."""
    series, year, serial = document["number"].split("/")
    return f"{document['kind']}s/{year}/{series}/{serial[:6]}/{series}-{year}-{serial}.pdf"


def present(document: Mapping[str, Any], *, voided: bool = False) -> dict[str, Any]:
    """A frozen document as the template's text: every amount grouped, every code named, absent things None."""
    seller, buyer, totals = document["seller"], document["buyer"], document["totals"]
    credit_note = document["kind"] == "credit_note"
    rate_bp = document["rate_bp"]
    if document["inter_state"]:
        heads = [("IGST", "igst_paise", rate_bp)]
    else:
        heads = [
            ("CGST", "cgst_paise", rate_bp // 2),
            (state_tax(seller["state_code"]), "sgst_paise", rate_bp // 2),
        ]
    due = document["amount_due_paise"]
    payment, refund, against = document["payment"], document.get("refund"), document.get("against")
    return {
        "title": "Credit Note" if credit_note else "Tax Invoice",
        "credit_note": credit_note,
        "voided": voided,
        "number": document["number"],
        "iso_date": document["date"],
        "date": long_date(document["date"]),
        "financial_year": document["financial_year"],
        "seller": {
            "name": seller["name"],
            "address": list(seller["address"]),
            "gstin": seller["gstin"],
            "state": state_name(seller["state_code"]),
            "email": seller.get("email"),
            "website": seller.get("website"),
        },
        "buyer": {
            "name": buyer["name"] or "Customer",
            "gstin": buyer["gstin"],
            "state": state_name(buyer["state_code"]),
            "email": buyer["email"],
            "phone": buyer["phone"],
        },
        "place_of_supply": state_name(document["place_of_supply"]),
        "supply": "Inter-State" if document["inter_state"] else "Intra-State",
        "reverse_charge": "Yes" if document["reverse_charge"] else "No",
        "heads": [f"{name} {percent(bp)}" for name, _, bp in heads],
        "lines": [
            {
                "description": line["description"],
                "sac": line["sac"],
                "credits": group_digits(line["credits"]),
                "taxable": figure(line["taxable_paise"]),
                "taxes": [figure(line[key]) for _, key, _ in heads],
                "gross": figure(line["gross_paise"]),
            }
            for line in document["lines"]
        ],
        "taxable": figure(totals["taxable_paise"]),
        "taxes": [figure(totals[key]) for _, key, _ in heads],
        "gross": figure(totals["gross_paise"]),
        "due": figure(due),
        "is_due": due > 0,
        "paid": figure(totals["gross_paise"] - due),
        "words": document["amount_in_words"],
        "against": against and {"number": against["number"], "date": long_date(against["date"])},
        "payment": {
            "order": payment["order_id"],
            "reference": payment["gateway_payment_id"],
            "method": method_name(payment["method"]),
            "date": payment["paid_at"] and long_date(_day_in_india(payment["paid_at"])),
            "paid": _rupees(payment.get("paid_paise")),
            "offer": _rupees(payment.get("offer_paise")),
        },
        "refund": refund
        and {
            "reference": refund["id"],
            "reason": refund["reason"],
            "paid_back": _rupees(refund.get("paid_back_paise")),
        },
    }


def _rupees(paise: int | None) -> str | None:
    """An amount in a sentence; None where there is none to tell."""
    return None if paise is None else f"₹{figure(paise)}"


_METHODS: Final = {
    "upi": "UPI",
    "credit_card": "Credit card",
    "debit_card": "Debit card",
    "prepaid_card": "Prepaid card",
    "net_banking": "Net banking",
    "wallet": "Wallet",
    "app": "Wallet",
}


def method_name(group: str | None) -> str | None:
    """The gateway's payment group in words; one that nobody has told us about as it is."""
    return None if group is None else _METHODS.get(group, group.replace("_", " ").capitalize())
