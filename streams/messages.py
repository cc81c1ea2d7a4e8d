"""Envelopes: what one stream message holds, and the strict reading of it.

    Slice       core to core: what one committed batch sends to one destination partition
    Inbox       the relay's events from the webhook inbox
    UsageBatch  usage events of one publisher for one partition, signed

A value that breaks the contract becomes a `BadEvent` with its reason; `decode` never raises on what the
world sent. Refused are: an unknown version, type or field, a float for an integer, a duplicate key, NaN, a
NUL character (which PostgreSQL cannot store), a value too large, a signature that does not fit.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import msgspec
from msgspec import Meta, Struct

from streams import events as ev
from streams.events import Name, Uuid

MAX_VALUE_BYTES = 900_000
"""Largest message value; the broker refuses frames of more than 1 MiB."""
MAX_EVENT_BYTES = 16_384
"""Largest usage event, as compact JSON."""
MAX_EVENTS = 10_000
"""Most events in one message."""

KEPT = "kept"
"""Header of a usage batch whose publisher keeps it until its outcome, and publishes it again with all that follow: so one
that comes before its turn may be left to it, and the order of a wallet's events survives what the broker loses."""

E = TypeVar("E")
Number = Annotated[int, Meta(ge=1, le=2**62)]
Events = Annotated[list[E], Meta(min_length=1, max_length=MAX_EVENTS)]


class Envelope(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What all envelopes share."""


class Producer(Struct, frozen=True, forbid_unknown_fields=True):
    """The partition and group whose committed batch a slice comes from."""

    topic: Name
    partition: Annotated[int, Meta(ge=0, le=100_000)]
    group: Name


class Slice(Envelope, Generic[E], frozen=True, tag="slice"):
    """Core to core. One message per (batch, destination partition), so it is the unit of deduplication and
    repair.

    `prev_batch_no` is the producer's previous batch that sent anything to this destination, 0 for none.
    """

    v: Literal[1]
    producer: Producer
    incarnation: Number
    batch_no: Number
    prev_batch_no: Annotated[int, Meta(ge=0, le=2**62)]
    events: Events[E]


class Inbox(Envelope, frozen=True, tag="inbox"):
    """On webhook.processing: rows of the inbox, published by the relay."""

    v: Literal[1]
    events: Events[ev.WebhookReceived]


class UsageBatch(Envelope, frozen=True, tag="usage.batch"):
    """On wallet.debit: `seq` counts the batches of (`session`, partition) from 1 without a gap.

    The message carries the headers `publisher` (a name), `mac` (see `sign`), and perhaps `KEPT`.
    """

    v: Literal[1]
    session: Uuid
    seq: Number
    events: Events[ev.UsageEvent]


class _RawUsageBatch(Envelope, frozen=True, tag="usage.batch"):
    v: Literal[1]
    session: Uuid
    seq: Number
    events: Events[msgspec.Raw]


@dataclass(frozen=True, slots=True)
class BadEvent:
    """Something that breaks the contract: a whole message, or one event of a usage batch (`index` counts from
    0).
    """

    reason: str
    payload: bytes
    index: int | None = None


Message = Slice[Any] | Inbox | UsageBatch


@dataclass(frozen=True, slots=True)
class Decoded:
    """A message, and the events of it that had to be left out: they are the caller's to quarantine."""

    message: Message
    bad: tuple[BadEvent, ...] = ()


_TYPES: dict[str, Any] = {
    "webhook.processing": Inbox,
    "payment.processing": Slice[ev.PaymentSignal],
    "wallet.credit": Slice[ev.CreditCommand | ev.GrantCommand],
    "wallet.debit": UsageBatch,
    "refund.processing": Slice[ev.RefundDue],
    "fraud.detection": Slice[ev.FraudSignal],
    "invoice.generate": Slice[ev.InvoiceDue],
    "notifications.billing": Slice[ev.BillingNotice],
    "settlements.processing": Slice[ev.SettlementDue],
    "analytics.billing": Slice[ev.Delta],
}
_DECODERS = {topic: msgspec.json.Decoder(kind) for topic, kind in _TYPES.items()}
_RAW_USAGE = msgspec.json.Decoder(_RawUsageBatch)
_USAGE_EVENT = msgspec.json.Decoder(ev.UsageEvent)
_ENCODER = msgspec.json.Encoder()


def message_type(topic: str) -> Any:
    """The envelope type that `topic` carries."""
    return _TYPES[topic]


def encode(message: Message) -> bytes:
    """A message as compact JSON, ready to be a stream value."""
    return _ENCODER.encode(message)


def encode_slice(
    producer: Producer, *, incarnation: int, batch_no: int, prev_batch_no: int, events_json: bytes | str
) -> bytes:
    """A slice whose events are JSON already (a row of the outbox), without parsing them again."""
    raw = msgspec.Raw(events_json.encode() if isinstance(events_json, str) else events_json)
    return _ENCODER.encode(
        {
            "type": "slice",
            "v": 1,
            "producer": producer,
            "incarnation": incarnation,
            "batch_no": batch_no,
            "prev_batch_no": prev_batch_no,
            "events": raw,
        }
    )


def encode_usage(event: ev.UsageEvent) -> bytes:
    """A usage event as compact JSON, checked against the contract. Errors: ValueError that says
    what is wrong.
    """
    raw = _ENCODER.encode(event)
    try:
        reason = _fault(_USAGE_EVENT.decode(raw), len(raw))
    except msgspec.MsgspecError as error:
        reason = str(error)
    if reason is not None:
        raise ValueError(f"usage event {event.id!r:.140}: {reason}")
    return raw


def encode_usage_batch(session: str, seq: int, events: Iterable[bytes]) -> bytes:
    """A usage batch of events that are encoded already."""
    raw = [msgspec.Raw(event) for event in events]
    return _ENCODER.encode({"type": "usage.batch", "v": 1, "session": session, "seq": seq, "events": raw})


def decode(topic: str, value: bytes | None) -> Decoded | BadEvent:
    """Read one message of `topic` strictly.

    A usage batch with some bad events is returned with the good ones and the bad ones apart, since one event
    that a service got wrong must not undo its neighbours. Every other fault makes the whole message a
    `BadEvent`.
    """
    if value is None:
        return BadEvent("a tombstone carries no event", b"")
    if len(value) > MAX_VALUE_BYTES:
        return BadEvent(f"the value has {len(value)} bytes, more than {MAX_VALUE_BYTES}", value)
    try:
        message = cast(Message, _DECODERS[topic].decode(value))
        if _ENCODER.encode(message) != value:
            _scan(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return _salvage(value) if topic == "wallet.debit" else BadEvent(_reason(error), value)
    if isinstance(message, UsageBatch):
        return _checked(message, value)
    return Decoded(message) if b"\\u0000" not in value else _without_nul(message, value)


def _checked(batch: UsageBatch, value: bytes) -> Decoded | BadEvent:
    if any(_fault(event) is not None for event in batch.events):
        return _salvage(value)
    return Decoded(batch)


def _fault(event: ev.UsageEvent, size: int = 0) -> str | None:
    """What the types cannot say about a usage event; None if it is fine. `size` is its JSON's,
    where known.
    """
    if size > MAX_EVENT_BYTES:
        return f"the event has {size} bytes, more than {MAX_EVENT_BYTES}"
    if "\x00" in event.id:
        return "a NUL character in id"
    if event.metadata is not None:
        encoded = _ENCODER.encode(event.metadata)
        if len(encoded) > ev.MAX_METADATA_BYTES:
            return f"metadata has {len(encoded)} bytes, more than {ev.MAX_METADATA_BYTES}"
        if b"\\u0000" in encoded:
            return "a NUL character in metadata"
    if event.principal is not None and "\x00" in event.principal:
        return "a NUL character in principal"
    return None


def _salvage(value: bytes) -> Decoded | BadEvent:
    """Read a usage batch event by event, to part the good from the bad."""
    try:
        raw = _RAW_USAGE.decode(value)
        _scan_object(value, deep=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        return BadEvent(_reason(error), value)
    good: list[ev.UsageEvent] = []
    bad: list[BadEvent] = []
    for index, item in enumerate(raw.events):
        payload = bytes(item)
        try:
            _scan_object(payload, deep=True)
            event = _USAGE_EVENT.decode(payload)
            reason = _fault(event, len(payload))
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
            reason = _reason(error)
        if reason is None:
            good.append(event)
        else:
            bad.append(BadEvent(reason, payload, index))
    return Decoded(UsageBatch(v=1, session=raw.session, seq=raw.seq, events=good), tuple(bad))


def _scan(value: bytes) -> None:
    """Find what a lenient reader lets pass. Raises ValueError."""
    _scan_object(value, deep=True)
    if b"type" not in value or b'"v"' not in value:
        raise ValueError("the message says neither type nor version")


def _scan_object(value: bytes, *, deep: bool) -> None:
    """Raise ValueError on a duplicate key: anywhere if `deep`, else in the outermost object only."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(items)
        if len(seen) != len(items) and (deep or "events" in seen):
            names = [name for name, _ in items]
            raise ValueError(f"duplicate key {next(n for n in names if names.count(n) > 1)!r}")
        return seen

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    parsed = json.loads(value, object_pairs_hook=pairs, parse_constant=refuse)
    if "events" in parsed and ("type" not in parsed or "v" not in parsed):
        raise ValueError("the message says neither type nor version")


def _without_nul(message: Message, value: bytes) -> Decoded | BadEvent:
    if _has_nul(msgspec.to_builtins(message)):
        return BadEvent("a NUL character in a text", value)
    return Decoded(message)


def _has_nul(item: object) -> bool:
    if isinstance(item, str):
        return "\x00" in item
    if isinstance(item, Mapping):
        return any(_has_nul(key) or _has_nul(value) for key, value in item.items())
    return isinstance(item, Iterable) and any(_has_nul(value) for value in item)


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "$.v" in text:
        return f"unknown version: {text}"
    if "$.type" in text:
        return f"unknown type: {text}"
    return text


def sign(value: bytes, secret: bytes) -> str:
    """The `mac` header of a usage batch: HMAC-SHA256 of the value's bytes under the publisher's secret, in
    hex.
    """
    return hmac.new(secret, value, hashlib.sha256).hexdigest()


def verify(value: bytes, secret: bytes, mac: str | None) -> bool:
    """Whether `mac` is this value's signature under `secret`, compared in constant time."""
    return mac is not None and hmac.compare_digest(sign(value, secret).encode(), mac.encode())
