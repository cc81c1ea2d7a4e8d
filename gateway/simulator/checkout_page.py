"""What the hosted page shows: choose a method, wait for the bank, and how it ended. Everything a merchant or
customer wrote is escaped.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from html import escape
from importlib import resources
from string import Template
from typing import Final
from urllib.parse import quote, urlencode

import segno

from domain.money import format_rupees
from gateway.simulator import checkout_form as forms
from gateway.simulator.checkout_form import Wrong
from gateway.simulator.records import Attempt, Order
from gateway.wire import IST

MERCHANT: Final = "CommDesk"
FILES: Final = {
    name: resources.files("gateway.simulator").joinpath("pages", name).read_bytes()
    for name in ("checkout.css", "checkout.js", "icon.svg")
}
_TICK: Final = "M20 33.5l8.5 8.5L45 24.5"
_CROSS: Final = "M23 23l18 18M41 23L23 41"
_BANG: Final = "M32 18v18M32 45.5v.5"
_METHODS: Final = {"upi": "UPI", "card": "Card", "netbanking": "Netbanking", "app": "Wallet"}
_WHEEL: Final = '<div class="wheel" aria-hidden="true"></div>'


def _template(name: str) -> Template:
    return Template(resources.files("gateway.simulator").joinpath("pages", name).read_text("utf-8"))


_FRAME: Final = _template("frame.html")
_CHOOSE: Final = _template("choose.html")
_WAITING: Final = _template("waiting.html")
_ENDED: Final = _template("ended.html")


def choose(order: Order, form: Mapping[str, str] | None = None, wrong: Wrong | None = None) -> str:
    """The ways to pay; after a wrong entry with what was typed (but no card verification value)."""
    typed = form or {}
    shown = {
        "upi": "upi_id",
        "number": "card_number",
        "expiry": "card_expiry",
        "cvv": "card_cvv",
        "phone": "phone",
    }
    beside = wrong is not None and wrong.field in shown.values()
    fields = {
        "amount": _amount(order),
        "notice": _notice(order, None if beside else wrong),
        "upi_id": escape(typed.get("upi_id", forms.upi_id_of(order))),
        "phone": escape(typed.get("phone", forms.phone_of(order))),
        "card_number": escape(typed.get("card_number", "")),
        "card_expiry": escape(typed.get("card_expiry", "")),
        "apps": _choices("app", forms.APPS, typed.get("app", "gpay")),
        "wallets": _choices("wallet", forms.WALLETS, typed.get("wallet", "phonepe")),
        "banks": "".join(
            f'<option value="{code}"{" selected" if typed.get("bank") == code else ""}>{name}</option>'
            for code, name in forms.BANKS.items()
        ),
    }
    for name in ("upi", "card", "netbanking", "wallet"):
        fields[f"{name}_checked"] = "checked" if typed.get("method", "upi") == name else ""
    for name in forms.CHANNELS:
        fields[f"{name}_checked"] = "checked" if typed.get("channel", "qrcode") == name else ""
    for name, field in shown.items():
        bad = wrong is not None and wrong.field == field
        fields[f"{name}_bad"] = "bad" if bad else ""
        fields[f"{name}_error"] = (
            f'<p class="error" role="alert">{escape(wrong.words)}</p>' if bad and wrong else ""
        )
    return _frame(order, "choose", _CHOOSE.substitute(fields))


def waiting(order: Order, attempt: Attempt) -> str:
    """The attempt is with the bank."""
    (kind, details), *_ = attempt.method.items()
    told = {name: escape(str(value)) for name, value in details.items()}
    picture = _WHEEL
    match kind, told.get("channel"):
        case "upi", "qrcode":
            picture = f'<div class="code">{_qr(order)}</div>'
            headline, words = "Scan to pay", "Open any UPI app, scan this code and approve the payment."
        case "upi", "link":
            app = forms.APPS.get(told.get("app", ""), "your UPI app")
            headline, words = (
                f"Approve in {app}",
                f"{app} asks you to pay <b>{_amount(order)}</b> to {MERCHANT}.",
            )
        case "upi", _:
            headline = "Approve the request"
            words = f"Open the UPI app of <b>{told['upi_id']}</b> and approve the request from {MERCHANT}."
        case "card", _:
            headline = "Waiting for your bank"
            words = (
                f"Your bank confirms the payment with the card ending in <b>{told['card_number'][-4:]}</b>."
            )
        case "netbanking", _:
            headline = "Waiting for your bank"
            words = f"Log in at <b>{told['netbanking_bank_name']}</b> and confirm the payment."
        case _:
            wallet = forms.WALLETS.get(told.get("provider", ""), "your wallet")
            headline, words = (
                f"Confirm in {wallet}",
                f"The wallet of <b>{told.get('phone', '')}</b> is charged.",
            )
    content = _WAITING.substitute(
        picture=picture, headline=headline, words=words, attempt=attempt.cf_payment_id, amount=_amount(order)
    )
    return _frame(order, "waiting", content)


def ended(order: Order, attempt: Attempt) -> str:
    """How an attempt ended; after success, where the customer goes next."""
    amount = format_rupees(attempt.amount_paise)
    again = f'<a class="button main" href="{_home(order)}">Try again</a>'
    match attempt.status:
        case "SUCCESS" if attempt is order.paid_by:
            return _end(
                order, "success", "good", _TICK, "Payment successful", f"{MERCHANT} has received {amount}.",
                attempt=attempt, actions=_back(order, leaving=True),
            )  # fmt: skip
        case "SUCCESS":
            return _end(
                order, "twice", "calm", _BANG, "You have paid twice",
                f"This order was paid already. The second {amount} goes back to where it came from by itself; "
                "there is nothing you need to do.", attempt=attempt, actions=_back(order),
            )  # fmt: skip
        case "USER_DROPPED" | "CANCELLED":
            return _end(
                order, "dropped", "calm", _BANG, "Payment not completed",
                "You left before the payment was approved. Nothing was charged; you can try again.",
                attempt=attempt, actions=again if order.status == "ACTIVE" else _back(order),
            )  # fmt: skip
        case _:
            return _end(
                order, "failed", "fault", _CROSS, "Payment failed",
                "Your bank declined the payment. Nothing was charged; you can try again or pay another way.",
                attempt=attempt, actions=again if order.status == "ACTIVE" else _back(order),
            )  # fmt: skip


def closed(order: Order) -> str:
    """An order that takes no more payments."""
    if order.status == "PAID":
        return _end(
            order, "paid", "good", _TICK, "Already paid", "This order is paid. You do not need to pay again.",
            attempt=order.paid_by, actions=_back(order),
        )  # fmt: skip
    words = {
        "EXPIRED": "The time to pay this order is over.",
        "TERMINATED": "The shop has withdrawn this order.",
    }.get(order.status, "The shop is withdrawing this order.")
    return _end(
        order, "closed", "calm", _BANG, "This order cannot be paid", f"{words} Nothing was charged.",
        attempt=None, actions=_back(order),
    )  # fmt: skip


def return_address(order: Order) -> str | None:
    """Where the shop wants its customers back, if it said."""
    address = order.meta.get("return_url")
    return address.replace("{order_id}", order.order_id) if isinstance(address, str) else None


def _end(
    order: Order, state: str, tone: str, mark: str, headline: str, words: str, *, attempt: Attempt | None,
    actions: str,
) -> str:  # fmt: skip
    content = _ENDED.substitute(
        tone=tone,
        mark=mark,
        role="alert" if tone == "fault" else "status",
        headline=headline,
        words=words,
        facts="" if attempt is None else _facts(attempt),
        actions=actions,
    )
    return _frame(order, state, content)


def _frame(order: Order, state: str, content: str) -> str:
    paid = order.status == "PAID"
    customer = order.customer.get("customer_name") or order.customer.get("customer_email")
    return _FRAME.substitute(
        title=f"Pay {_amount(order)} to {MERCHANT}",
        state=state,
        merchant=MERCHANT,
        due_label="Paid" if paid else "To pay",
        amount=_amount(order),
        order_id=escape(order.order_id),
        order_short=escape(order.order_id if len(order.order_id) <= 20 else f"…{order.order_id[-12:]}"),
        customer=escape(str(customer or forms.phone_of(order))),
        until="" if paid else f"<div><dt>Valid until</dt><dd>{_time(order.expiry_ms)}</dd></div>",
        content=content,
    )


def _notice(order: Order, wrong: Wrong | None) -> str:
    if wrong is not None:
        return f'<p class="notice bad" role="alert">{escape(wrong.words)}</p>'
    pending = next((attempt for attempt in order.attempts if attempt.status == "PENDING"), None)
    if pending is None:
        return ""
    address = f"{_home(order)}?attempt={pending.cf_payment_id}"
    return (
        '<p class="notice" role="status">A payment of this order is still with your bank. '
        f'<a href="{address}">Go on with it</a>, or you may be charged twice.</p>'
    )


def _facts(attempt: Attempt) -> str:
    (kind, details), *_ = attempt.method.items()
    instrument = details.get("upi_id") or details.get("netbanking_bank_name") or details.get("phone")
    if kind == "card":
        instrument = f"•••• {str(details.get('card_number', ''))[-4:]}"
    lines = {
        "Amount": format_rupees(attempt.amount_paise),
        "Paid by" if attempt.status == "SUCCESS" else "Tried with": f"{_METHODS[kind]} · {instrument}",
        "Payment ID": str(attempt.cf_payment_id),
        "Bank reference": attempt.bank_reference or "",
        "Time": _time(attempt.completed_ms or attempt.started_ms),
    }
    rows = (f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in lines.items() if value)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _back(order: Order, *, leaving: bool = False) -> str:
    address = return_address(order)
    if address is None:
        return '<p class="hint">You can close this window.</p>'
    link = f'<a class="button main" href="{escape(address)}">Back to {MERCHANT}</a>'
    return link + ('<p class="hint">You are taken there in a moment.</p>' if leaving else "")


def _choices(name: str, options: Mapping[str, str], chosen: str) -> str:
    return "".join(
        f'<label><input type="radio" name="{name}" value="{key}"{" checked" if key == chosen else ""}>'
        f'<span data-letter="{label[0]}">{label}</span></label>'
        for key, label in options.items()
    )


def _qr(order: Order) -> str:
    """A code in the form UPI apps read; nobody owns its payee."""
    said = {
        "pa": "nobody@simulated",
        "pn": MERCHANT,
        "am": f"{order.amount_paise // 100}.{order.amount_paise % 100:02}",
        "cu": "INR",
        "tr": order.order_id,
    }
    out = io.BytesIO()
    code = segno.make(f"upi://pay?{urlencode(said, quote_via=quote)}", error="m", micro=False)
    code.save(out, kind="svg", border=0, xmldecl=False, svgclass=None, lineclass=None, omitsize=True)
    return out.getvalue().decode()


def _home(order: Order) -> str:
    return f"/checkout/{quote(order.session_id, safe='')}"


def _amount(order: Order) -> str:
    return format_rupees(order.amount_paise)


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms // 1000, IST).strftime("%-d %b %Y, %H:%M")
