"""Every event of the system as a type: the contract between services, agents and the ledger.

Amounts are integers with their unit in the name, times are RFC 3339 with an offset, ids are UUIDs in
lower-case text. `key` is the text whose hash decides the partition (see `topics`). The envelopes that carry
events on a stream are in `messages`; the JSON Schemas generated from both are in docs/events/.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Uuid = Annotated[
    str,
    Meta(
        pattern="^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$",
        description="a UUID in lower-case text",
    ),
]
Time = Annotated[datetime, Meta(tz=True, description="RFC 3339, with an offset")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Reference = Annotated[str, Meta(min_length=1, max_length=128)]
Feature = Annotated[str, Meta(pattern="^[a-z0-9_.-]{1,64}$", description="what was used, e.g. chat.message")]
Credits = Annotated[int, Meta(ge=1, le=1_000_000_000, description="whole credits, more than none")]
SignedCredits = Annotated[int, Meta(ge=-1_000_000_000_000, le=1_000_000_000_000, description="whole credits")]
Paise = Annotated[int, Meta(ge=0, le=1_000_000_000_000, description="paise")]
SignedPaise = Annotated[int, Meta(ge=-1_000_000_000_000, le=1_000_000_000_000, description="paise")]
Quantity = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
Count = Annotated[int, Meta(ge=-1_000_000_000, le=1_000_000_000)]

MAX_METADATA_BYTES = 4096
"""Largest `metadata` of a usage event, as compact JSON."""


class Event(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all events share: they are immutable, and a field nobody knows is an error."""


class WebhookReceived(Event, frozen=True):
    """webhook.processing: a verified webhook of the gateway lies in the inbox."""

    inbox_id: Uuid
    event_type: Reference
    order_id: Reference
    received_at: Time
    source_version: Name
    cf_payment_id: Reference | None = None
    refund_id: Reference | None = None
    status: Name | None = None

    @property
    def key(self) -> str:
        return self.order_id


class PaymentSignal(Event, frozen=True):
    """payment.processing: the gateway says something happened to an order. A hint to verify,
    never authority.
    """

    order_id: Reference
    inbox_id: Uuid
    kind: Literal["success", "failed", "dropped", "other"]
    occurred_at: Time
    cf_payment_id: Reference | None = None
    payment_group: Name | None = None

    @property
    def key(self) -> str:
        return self.order_id


class FraudSignal(Event, frozen=True):
    """fraud.detection: one verified payment as seen by one of its entities."""

    payment_id: Uuid
    entity_kind: Literal["user", "device", "ip", "instrument"]
    entity: Annotated[str, Meta(min_length=1, max_length=256)]
    amount_paise: Paise
    occurred_at: Time

    @property
    def key(self) -> str:
        return f"{self.entity_kind}:{self.entity}"


class CreditCommand(Event, frozen=True, tag="purchase", tag_field="kind"):
    """wallet.credit: post a purchase. The ledger checks it against its payment; this amount is no
    authority.
    """

    payment_id: Uuid
    wallet_id: Uuid
    credits: Credits
    occurred_at: Time

    @property
    def key(self) -> str:
        return self.wallet_id


class GrantCommand(Event, frozen=True, tag="grant", tag_field="kind"):
    """wallet.credit: give promotional credits. Lower `priority` burns first; `id` is the idempotency key."""

    id: Reference
    wallet_id: Uuid
    credits: Credits
    priority: Annotated[int, Meta(ge=0, le=1000)]
    occurred_at: Time
    reason: Reference
    expires_at: Time | None = None

    @property
    def key(self) -> str:
        return self.wallet_id


class UsageEvent(Event, frozen=True):
    """wallet.debit: a service used something and charges credits for it. `id` is the caller's idempotency
    key.

    `principal` is set by the core's own relay alone, which publishes on behalf of the callers of the API.
    """

    id: Reference
    wallet_id: Uuid
    feature: Feature
    credits: Credits
    quantity: Quantity = 1
    community_id: Uuid | None = None
    occurred_at: Time | None = None
    metadata: dict[str, Any] | None = None
    principal: Name | None = None

    @property
    def key(self) -> str:
        return self.wallet_id


class Delta(Event, frozen=True):
    """analytics.billing: add this to one metric's minute, for one combination of dimensions."""

    metric: Name
    dimension: Annotated[dict[Name, Annotated[str, Meta(max_length=128)]], Meta(max_length=8)]
    minute: Annotated[datetime, Meta(tz=True, description="RFC 3339, the start of a minute")]
    count: Count
    credits: SignedCredits
    amount_paise: SignedPaise

    @property
    def key(self) -> str:
        return ",".join(f"{name}={value}" for name, value in sorted(self.dimension.items()))


class InvoiceDue(Event, frozen=True):
    """invoice.generate: a payment was credited and needs its tax invoice."""

    payment_id: Uuid
    occurred_at: Time

    @property
    def key(self) -> str:
        return self.payment_id


class BillingNotice(Event, frozen=True):
    """notifications.billing: tell a user something about money."""

    user_id: Uuid
    kind: Name
    occurred_at: Time
    payment_id: Uuid | None = None
    wallet_id: Uuid | None = None
    credits: SignedCredits | None = None
    amount_paise: SignedPaise | None = None

    @property
    def key(self) -> str:
        return self.user_id


class RefundDue(Event, frozen=True):
    """refund.processing: a refund was decided and must be carried out."""

    refund_id: Uuid
    payment_id: Uuid
    occurred_at: Time

    @property
    def key(self) -> str:
        return self.payment_id


class SettlementDue(Event, frozen=True):
    """settlements.processing: the gateway says that it has settled with us; the lines of it are to be fetched and booked.

    A hint, never authority: no amount travels.
    """

    settlement_id: Reference
    inbox_id: Uuid
    occurred_at: Time

    @property
    def key(self) -> str:
        return self.settlement_id


def encode(event: Event) -> bytes:
    """One event as compact JSON, the form that goes into envelopes and outbox rows."""
    return msgspec.json.encode(event)
