"""What the simulator accepts, and Cashfree's words for what it does not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from domain.money import BadAmount, Paise, rupees_to_paise
from gateway.simulator.book import Rejected
from gateway.wire import Json, Object

_ORDER_ID: Final = re.compile(r"[A-Za-z0-9_-]{3,45}")
_REFUND_ID: Final = re.compile(r"[A-Za-z0-9_-]{3,40}")
_CUSTOMER_ID: Final = re.compile(r"[A-Za-z0-9_-]{3,50}")
_PHONE: Final = re.compile(r"\+?[0-9]{10,15}")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
MIN_ORDER_PAISE: Final = 100
MAX_TAGS: Final = 15


def invalid(field: str, why: str) -> Rejected:
    """A 400 about one field, in Cashfree's form."""
    return Rejected(400, f"{field.replace('.', '_')}_invalid", f"{field} : {why}")


def need_object(value: Json, field: str) -> dict[str, Json]:
    """The field as an object. Rejected otherwise."""
    if not isinstance(value, dict):
        raise invalid(field, "should be an object")
    return value


def optional_object(node: Object, key: str) -> dict[str, Json] | None:
    """The field as an object, or None where absent or null."""
    value = node.get(key)
    return None if value is None else need_object(value, key)


def need_text(node: Object, key: str, form: re.Pattern[str]) -> str:
    """The field as text of a form. Rejected otherwise."""
    value = node.get(key)
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise invalid(key, "is missing or has an invalid value in the request")
    return value


def optional_text(node: Object, key: str, low: int, high: int) -> str | None:
    """The field as text of a length, or None where absent or null."""
    value = node.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not low <= len(value) <= high:
        raise invalid(key, f"should be a string of {low} to {high} characters")
    return value


def need_amount(node: Object, key: str, minimum_paise: Paise) -> Paise:
    """The field as paise. Rejected if it is not a number, has a third decimal or is too small."""
    value = node.get(key)
    if isinstance(value, bool | str) or value is None or isinstance(value, list | dict):
        raise invalid(key, "is missing or has an invalid value in the request")
    try:
        amount = rupees_to_paise(value)
    except BadAmount as error:
        raise invalid(key, str(error)) from error
    if amount < minimum_paise:
        raise invalid(key, f"should be at least {minimum_paise / 100:.2f}")
    return amount


def need_instant(value: Json, field: str) -> datetime:
    """The field as a time of ISO 8601. Rejected otherwise."""
    if isinstance(value, str):
        try:
            parsed = datetime.fromisoformat(value)
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            pass
    raise invalid(field, "should be an ISO8601 time, for example 2021-07-02T10:20:12+05:30")


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """A checked POST /orders."""

    order_id: str | None
    amount_paise: Paise
    currency: str
    customer: dict[str, Json]
    meta: dict[str, Json]
    tags: dict[str, Json] | None
    note: str | None
    splits: list[Json]
    expiry_ms: int | None


def order_request(body: Json, now_ms: int) -> OrderRequest:
    """Check POST /orders. Rejected (400) with the field at fault."""
    node = need_object(body, "body")
    order_id = None if node.get("order_id") is None else need_text(node, "order_id", _ORDER_ID)
    amount_paise = need_amount(node, "order_amount", MIN_ORDER_PAISE)
    currency = need_text(node, "order_currency", _CURRENCY)
    customer = dict(need_object(node.get("customer_details"), "customer_details"))
    need_text(customer, "customer_id", _CUSTOMER_ID)
    need_text(customer, "customer_phone", _PHONE)
    optional_text(customer, "customer_email", 3, 100)
    optional_text(customer, "customer_name", 3, 100)
    expiry = node.get("order_expiry_time")
    expiry_ms = None
    if expiry is not None:
        expiry_ms = round(need_instant(expiry, "order_expiry_time").timestamp() * 1000)
        if expiry_ms <= now_ms:
            raise invalid("order_expiry_time", "should be in the future")
    return OrderRequest(
        order_id=order_id,
        amount_paise=amount_paise,
        currency=currency,
        customer=customer,
        meta=_meta(node),
        tags=_tags(node),
        note=optional_text(node, "order_note", 3, 200),
        splits=_splits(node, "order_splits", amount_paise),
        expiry_ms=expiry_ms,
    )


@dataclass(frozen=True, slots=True)
class RefundRequest:
    """A checked POST /orders/{id}/refunds."""

    refund_id: str
    amount_paise: Paise
    note: str | None
    speed: str


def refund_request(body: Json) -> RefundRequest:
    """Check POST /orders/{id}/refunds. Rejected (400) with the field at fault."""
    node = need_object(body, "body")
    speed = node.get("refund_speed") or "STANDARD"
    if speed not in ("STANDARD", "INSTANT"):
        raise invalid("refund_speed", "should be STANDARD or INSTANT")
    amount_paise = need_amount(node, "refund_amount", 1)
    _splits(node, "refund_splits", amount_paise)
    return RefundRequest(
        refund_id=need_text(node, "refund_id", _REFUND_ID),
        amount_paise=amount_paise,
        note=optional_text(node, "refund_note", 3, 100),
        speed=str(speed),
    )


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Checked pagination and filters; `start_ms` and `end_ms` None mean unbounded."""

    limit: int
    after: int
    start_ms: int | None
    end_ms: int | None
    settlement_ids: frozenset[str]
    utrs: frozenset[str]


def page_request(body: Json) -> PageRequest:
    """Check POST /settlements, /recon and /settlement/recon. Rejected (400) with the field at fault."""
    node = need_object(body, "body")
    pagination = need_object(node.get("pagination"), "pagination")
    filters = need_object(node.get("filters"), "filters")
    limit = pagination.get("limit")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise invalid("pagination.limit", "should be from 1 to 1000")
    cursor = pagination.get("cursor")
    if cursor not in (None, "") and not (isinstance(cursor, str) and cursor.isascii() and cursor.isdigit()):
        raise invalid("pagination.cursor", "is not a cursor of ours")
    if isinstance(cursor, str) and len(cursor) > 18:
        raise invalid("pagination.cursor", "is not a cursor of ours")
    start_ms, end_ms = _bound(filters, "start_date"), _bound(filters, "end_date")
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise invalid("filters.start_date", "start date can not be greater than end date")
    return PageRequest(
        limit=limit,
        after=int(cursor) if isinstance(cursor, str) and cursor else 0,
        start_ms=start_ms,
        end_ms=end_ms,
        settlement_ids=_texts(filters, "cf_settlement_ids"),
        utrs=_texts(filters, "settlement_utrs"),
    )


def _bound(filters: Object, key: str) -> int | None:
    value = filters.get(key)
    return None if value is None else round(need_instant(value, f"filters.{key}").timestamp() * 1000)


def _texts(filters: Object, key: str) -> frozenset[str]:
    value = filters.get(key)
    if value is None:
        return frozenset()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise invalid(f"filters.{key}", "should be a list of strings")
    return frozenset(item for item in value if isinstance(item, str))


def _meta(node: Object) -> dict[str, Json]:
    meta = optional_object(node, "order_meta") or {}
    for key in ("return_url", "notify_url"):
        value = optional_text(meta, key, 1, 250)
        if value is not None and not value.startswith(("http://", "https://")):
            raise invalid(f"order_meta.{key}", "should be a valid url")
    return dict(meta)


def _tags(node: Object) -> dict[str, Json] | None:
    tags = optional_object(node, "order_tags")
    if tags is None:
        return None
    if len(tags) > MAX_TAGS:
        raise invalid("order_tags", f"should have at most {MAX_TAGS} tags")
    for value in tags.values():
        if not isinstance(value, str) or not 1 <= len(value) <= 255:
            raise invalid("order_tags", "values should be strings of 1 to 255 characters")
    return dict(tags)


def _splits(node: Object, key: str, amount_paise: Paise) -> list[Json]:
    value = node.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid(key, "should be a list")
    total = 0
    for item in value:
        split = need_object(item, key)
        if not isinstance(split.get("vendor_id"), str):
            raise invalid(f"{key}.vendor_id", "is missing")
        if split.get("amount") is not None:
            total += need_amount(split, "amount", 0)
        elif split.get("percentage") is not None:
            need_amount(split, "percentage", 0)
    if total > amount_paise:
        raise invalid(key, "add up to more than the amount")
    return list(value)
