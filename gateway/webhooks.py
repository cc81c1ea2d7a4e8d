"""From a webhook's raw body to one normalised event, whatever version of Cashfree wrote it.

`parse` answers a value either way: a `WebhookEvent` to act on or a `Refused` with its reason to park. It
never decides about money: amounts here are what the message claims, and only an order fetched from
Cashfree is evidence.

Shapes: 2022-09-01 writes ids as numbers, later versions as text; vendor settlements once nested `type` inside
`data`; statuses and types grow over time, so an unknown one is kept as it came and marked `kind="unknown"`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

import msgspec

from gateway.readers import READERS, Claims, Kind, Parts, read_unknown
from gateway.wire import Malformed, Object, decode, instant, text


class WebhookEvent(Claims, frozen=True, kw_only=True, omit_defaults=True):
    """One webhook, normalised. `business_key` is what deduplicates: the same fact has the same key in every
    version and delivery.
    """

    kind: Kind
    event_type: str
    business_key: str
    version: str | None = None
    event_time: datetime | None = None


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A body that cannot be an event of Cashfree's; `reason` is stable, `detail` is for a person.

    Reasons: not_utf8, not_json, duplicate_key, not_finite, too_deep, not_an_object, no_type, two_types,
    no_data, no_id, no_status, bad_text, bad_amount, negative_amount.
    """

    reason: str
    detail: str


def parse(raw_body: bytes, version: str | None = None) -> WebhookEvent | Refused:
    """Read a webhook body; `version` is its `x-webhook-version` header, kept as it came."""
    try:
        return _parse(raw_body, version)
    except Malformed as error:
        return Refused(reason=error.reason, detail=error.detail)


def _parse(raw_body: bytes, version: str | None) -> WebhookEvent:
    message = decode(raw_body)
    if not isinstance(message, dict):
        raise Malformed("not_an_object", "the body is not a JSON object")
    data = message.get("data")
    if not isinstance(data, dict):
        raise Malformed("no_data", "the body has no data object")
    envelope = _envelope(message, data)
    event_type = text(envelope, "type") or ""
    event_time = instant(envelope, "event_time")
    if event_type == "WEBHOOK":
        digest = hashlib.sha256(raw_body).hexdigest()[:32]
        return _event("test", event_type, Parts(entity_id=digest, status="TEST"), version, event_time)
    for prefix, kind, read in READERS:
        if event_type.startswith(prefix):
            parts = read(event_type, data)
            if kind == "subscription":
                parts = msgspec.structs.replace(parts, revision=text(envelope, "event_time"))
            return _event(kind, event_type, parts, version, event_time)
    return _event("unknown", event_type, read_unknown(raw_body, data), version, event_time)


def _envelope(message: Object, data: Object) -> Object:
    """The object that holds `type` and `event_time`: the body, or in a legacy form its `data`."""
    outer, inner = text(message, "type"), text(data, "type")
    if outer is None and inner is None:
        raise Malformed("no_type", "neither the body nor its data names a type")
    if outer is not None and inner is not None and outer != inner and "event_time" in data:
        raise Malformed("two_types", f"the body says {outer}, its data says {inner}")
    return message if outer is not None else data


def _event(
    kind: Kind, event_type: str, parts: Parts, version: str | None, event_time: datetime | None
) -> WebhookEvent:
    for name in ("amount_paise", "order_amount_paise"):
        claimed = getattr(parts, name)
        if claimed is not None and claimed < 0:
            raise Malformed("negative_amount", f"{name} is below zero")
    fields = msgspec.structs.asdict(parts)
    revision = fields.pop("revision")
    key = "|".join(part for part in (event_type, parts.entity_id, parts.status, revision) if part)
    return WebhookEvent(
        kind=kind,
        event_type=event_type,
        business_key=key,
        version=version,
        event_time=event_time,
        **fields,
    )
