"""What we ask of Cashfree, typed; `to_wire` is the JSON it wants, with amounts as exact decimals."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import msgspec

from domain.money import Paise, paise_to_rupees
from gateway.wire import Json, Malformed, Object, child, text

Wire = dict[str, object]


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A vendor's part of an order (easy split)."""

    vendor_id: str
    amount_paise: Paise


class NewOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order to create. Store `order_id` (3 to 45 of `[A-Za-z0-9_-]`) before the call: it is the key."""

    order_id: str
    amount_paise: Paise
    customer_id: str
    customer_phone: str
    currency: str = "INR"
    customer_email: str | None = None
    customer_name: str | None = None
    return_url: str | None = None
    notify_url: str | None = None
    payment_methods: str | None = None
    expires_at: datetime | None = None
    note: str | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    splits: tuple[Split, ...] = ()

    def to_wire(self) -> Wire:
        """The body of POST /orders; what is not given is left out."""
        customer = _given(
            customer_id=self.customer_id,
            customer_phone=self.customer_phone,
            customer_email=self.customer_email,
            customer_name=self.customer_name,
        )
        meta = _given(
            return_url=self.return_url, notify_url=self.notify_url, payment_methods=self.payment_methods
        )
        return _given(
            order_id=self.order_id,
            order_amount=paise_to_rupees(self.amount_paise),
            order_currency=self.currency,
            customer_details=customer,
            order_meta=meta or None,
            order_expiry_time=self.expires_at.astimezone(UTC).isoformat() if self.expires_at else None,
            order_note=self.note,
            order_tags=self.tags or None,
            order_splits=_splits(self.splits),
        )


class NewRefund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund to create. Store `refund_id` (3 to 40 of `[A-Za-z0-9_-]`) before the call: it is the key."""

    refund_id: str
    amount_paise: Paise
    currency: str = "INR"
    note: str | None = None
    speed: str = "STANDARD"
    splits: tuple[Split, ...] = ()

    def to_wire(self) -> Wire:
        """The body of POST /orders/{id}/refunds."""
        return _given(
            refund_id=self.refund_id,
            refund_amount=paise_to_rupees(self.amount_paise),
            refund_note=self.note,
            refund_speed=self.speed,
            refund_splits=_splits(self.splits),
        )


class PaymentStart(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt goes on: `action` says what to do with `url` (open it, show it as a QR code, post a
    form).
    """

    cf_payment_id: str
    channel: str | None
    action: str | None
    url: str | None
    payload: dict[str, str]


def read_payment_start(node: Object) -> PaymentStart:
    """POST /orders/sessions."""
    cf_payment_id = text(node, "cf_payment_id")
    if cf_payment_id is None:
        raise Malformed("missing", "the answer has no cf_payment_id")
    data = child(node, "data")
    url = data.get("url")
    return PaymentStart(
        cf_payment_id=cf_payment_id,
        channel=text(node, "channel"),
        action=text(node, "action"),
        url=url if isinstance(url, str) else None,
        payload={key: value for key, value in child(data, "payload").items() if isinstance(value, str)},
    )


def page_request(start: datetime, end: datetime, cursor: str | None, limit: int = 1000) -> Wire:
    """The body that settlements and reconciliations are asked with; `cursor` null asks for the first page."""
    filters: dict[str, Json] = {
        "start_date": start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "end_date": end.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return {"pagination": {"limit": limit, "cursor": cursor}, "filters": filters}


def _splits(splits: tuple[Split, ...]) -> list[dict[str, str | Decimal]] | None:
    wire: list[dict[str, str | Decimal]] = [
        {"vendor_id": split.vendor_id, "amount": paise_to_rupees(split.amount_paise)} for split in splits
    ]
    return wire or None


def _given(**fields: object) -> Wire:
    return {key: value for key, value in fields.items() if value is not None}
