"""What a customer fills in on the hosted page, judged: a way to pay, or which field is wrong and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.simulator.records import Order

APPS: Final = {"gpay": "Google Pay", "phonepe": "PhonePe", "paytm": "Paytm", "bhim": "BHIM"}
BANKS: Final = {
    "3021": "HDFC Bank",
    "3022": "ICICI Bank",
    "3044": "State Bank of India",
    "3003": "Axis Bank",
    "3032": "Kotak Mahindra Bank",
    "3333": "Test Bank",
}
WALLETS: Final = {"phonepe": "PhonePe", "paytm": "Paytm", "amazon": "Amazon Pay", "mobikwik": "MobiKwik"}
CHANNELS: Final = ("qrcode", "link", "collect")
_UPI_ID: Final = re.compile(r"[\w.-]{2,64}@[A-Za-z][A-Za-z0-9]{1,63}", re.ASCII)
_PHONE: Final = re.compile(r"(?:\+?91)?[6-9][0-9]{9}")
_EXPIRY: Final = re.compile(r"(0[1-9]|1[0-2])/?([0-9]{2})")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A way to pay: the method, a name for the instrument, and the details the gateway reports of it."""

    method: str
    instrument: str
    details: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wrong:
    """A field that cannot be used, and what to tell the customer."""

    field: str
    words: str


def read(form: Mapping[str, str], order: Order) -> Chosen | Wrong:
    """The chosen way to pay. A verification value of a card is judged here and kept nowhere."""
    match form.get("method", "upi"):
        case "upi":
            return _upi(form, order)
        case "card":
            return _card(form)
        case "netbanking":
            code = form.get("bank", "3333")
            if code not in BANKS:
                return Wrong("bank", "Choose your bank.")
            return Chosen("netbanking", BANKS[code], {"netbanking_bank_code": code})
        case "wallet":
            return _wallet(form, order)
    return Wrong("method", "Choose a way to pay.")


def phone_of(order: Order) -> str:
    """The ten digits of the customer's number, or a stand-in."""
    digits = re.sub(r"\D", "", str(order.customer.get("customer_phone") or ""))
    return digits[-10:] if len(digits) >= 10 else "9999999999"


def upi_id_of(order: Order) -> str:
    """The UPI ID that this customer pays with unless another is typed."""
    return f"{phone_of(order)}@upi"


def _upi(form: Mapping[str, str], order: Order) -> Chosen | Wrong:
    channel = form.get("channel", "collect")
    if channel not in CHANNELS:
        return Wrong("channel", "Choose how to pay by UPI.")
    typed = form.get("upi_id", "").strip() or upi_id_of(order)
    upi_id = typed if channel == "collect" else upi_id_of(order)
    if _UPI_ID.fullmatch(upi_id) is None:
        return Wrong("upi_id", "A UPI ID looks like name@bank.")
    app = form.get("app", "gpay")
    if channel == "link" and app not in APPS:
        return Wrong("app", "Choose your UPI app.")
    return Chosen("upi", upi_id, {"channel": channel} | ({"app": app} if channel == "link" else {}))


def _card(form: Mapping[str, str]) -> Chosen | Wrong:
    number = re.sub(r"[ -]", "", form.get("card_number", ""))
    if not (number.isascii() and number.isdigit() and 12 <= len(number) <= 19 and _luhn(number)):
        return Wrong("card_number", "This is not a card number. Check its digits.")
    if _EXPIRY.fullmatch(form.get("card_expiry", "").replace(" ", "")) is None:
        return Wrong("card_expiry", "As on the card: MM / YY.")
    if re.fullmatch(r"[0-9]{3,4}", form.get("card_cvv", "")) is None:
        return Wrong("card_cvv", "3 or 4 digits.")
    network = {"4": "visa", "5": "mastercard", "6": "rupay", "3": "amex"}.get(number[0], "visa")
    return Chosen("card", "X" * (len(number) - 4) + number[-4:], {"card_network": network})


def _wallet(form: Mapping[str, str], order: Order) -> Chosen | Wrong:
    provider = form.get("wallet", "phonepe")
    phone = re.sub(r"[ -]", "", form.get("phone", "")) or phone_of(order)
    if provider not in WALLETS:
        return Wrong("wallet", "Choose your wallet.")
    if _PHONE.fullmatch(phone) is None:
        return Wrong("phone", "Ten digits, beginning with 6 to 9.")
    return Chosen("wallet", phone[-10:], {"provider": provider})


def _luhn(number: str) -> bool:
    """The check digit of card numbers. Source: ISO/IEC 7812-1, annex B."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(number)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
