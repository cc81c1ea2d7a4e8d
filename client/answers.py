"""What the API answers, as types. Amounts are integers with their unit in the name; times have their zone.

Fields that are new to this version of the client are passed over, so an older client goes on working.
"""

from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from msgspec import Struct

T = TypeVar("T")


class Answer(Struct, frozen=True, kw_only=True):
    """What the core says."""


class Page(Answer, Generic[T], frozen=True):
    """A part of a list; `next` asks for the part after it."""

    items: list[T]
    next: str | int | None = None


class User(Answer, frozen=True):
    """Somebody who owns wallets and buys."""

    id: UUID
    external_id: str
    name: str | None
    email: str | None
    phone: str | None
    state_code: str | None
    gstin: str | None
    created_at: datetime


class Wallet(Answer, frozen=True):
    """Balances in whole credits: what can be spent, what holds have locked, what is verified and on its way, what is owed."""

    id: UUID
    owner_id: UUID
    community_id: UUID | None
    available_credits: int
    locked_credits: int
    pending_credits: int
    debt_credits: int
    lifetime_purchased_credits: int
    auto_recharge_enabled: bool
    auto_recharge_threshold_credits: int
    created_at: datetime
    updated_at: datetime


class Consumption(Answer, frozen=True):
    """Credits that a transaction took from one lot, and the revenue that they were."""

    lot_id: UUID
    credits: int
    recognised_paise: int
    promotional: bool
    payment_id: UUID | None


class Transaction(Answer, frozen=True):
    """One line of a wallet's history, numbered by `seq` without a gap; `credits` is signed."""

    id: UUID
    wallet_id: UUID
    seq: int
    transaction_type: str
    credits: int
    amount_credits: int
    balance_before_credits: int
    balance_after_credits: int
    locked_after_credits: int
    source: str
    source_id: str
    feature: str | None
    community_id: UUID | None
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime
    lots: list[Consumption] | None = None


class Posted(Answer, frozen=True):
    """A command that is in the ledger; `available_credits` is the balance right after it."""

    transaction_id: UUID
    wallet_id: UUID
    credits: int
    available_credits: int
    hold_id: UUID | None = None


class Hold(Answer, frozen=True):
    """Credits set aside. `state`: held, captured, released."""

    id: UUID
    wallet_id: UUID
    credits: int
    captured_credits: int
    state: str
    reason: str | None
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None


class Outcome(Answer, frozen=True):
    """posted, refused, quarantined; parked and pending are not decided yet; dead needs a person."""

    outcome: str
    reason: str | None
    transaction_id: UUID | None
    balance_credits: int | None


class UsageResult(Answer, frozen=True):
    """accepted, replayed (known already), conflict (the id stands for another event), invalid."""

    index: int
    id: str | None
    status: str
    code: str | None = None
    reason: str | None = None
    outcome: Outcome | None = None


class UsageResults(Answer, frozen=True):
    """One result per event, in the order sent."""

    accepted: int
    replayed: int
    conflict: int
    invalid: int
    results: list[UsageResult]


class UsageRecord(Answer, frozen=True):
    """A stored event and what became of it."""

    id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    occurred_at: datetime
    recorded_at: datetime
    outcome: Outcome


class Pack(Answer, frozen=True):
    """A pack on sale; the price includes GST."""

    pack_paise: int
    credits: int
    base_credits: int
    bonus_credits: int


class Order(Answer, frozen=True):
    """What the customer pays at `checkout_url`, or with `payment_session_id` in the gateway's own form."""

    payment_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    credits: int
    payment_session_id: str | None
    checkout_url: str | None
    expires_at: datetime | None


class Attempt(Answer, frozen=True):
    """One attempt to pay an order; `status` is the gateway's word."""

    cf_payment_id: str
    status: str
    payment_group: str | None
    amount_paise: int | None
    occurred_at: datetime


class Payment(Answer, frozen=True):
    """A payment. Its credits are in the wallet once it is `credited`."""

    id: UUID
    user_id: UUID
    wallet_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    credits: int
    base_credits: int
    bonus_credits: int
    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int
    place_of_supply: str
    payment_session_id: str | None
    payment_group: str | None
    failure: str | None
    fraud_score: int | None
    refund_paise: int
    offer_paise: int
    created_at: datetime
    expires_at: datetime | None
    verified_at: datetime | None
    credited_at: datetime | None
    failed_at: datetime | None
    attempts: list[Attempt]


class Refund(Answer, frozen=True):
    """Money on its way back, and the credits taken against it."""

    id: UUID
    refund_id: str
    payment_id: UUID
    wallet_id: UUID
    amount_paise: int
    policy: str
    status: str
    credits: int
    reason: str | None
    failure: str | None
    created_at: datetime
    finished_at: datetime | None


class Invoice(Answer, frozen=True):
    """A tax invoice or credit note; `pdf` is where it can be fetched once it is rendered."""

    id: UUID
    kind: str
    number: str
    payment_id: UUID
    refund_id: UUID | None
    invoice_id: UUID | None
    document: dict[str, Any]
    issued_at: datetime
    voided_at: datetime | None
    pdf: str | None


class Endpoint(Answer, frozen=True):
    """Where an account's events are sent. `kinds` None: all of them."""

    id: UUID
    owner_id: UUID
    url: str
    description: str
    kinds: list[str] | None
    state: str
    why: str | None
    last_sequence: int
    failures: int
    failing_since: datetime | None
    blocked_until: datetime | None
    delivered_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime


class EndpointSecret(Answer, frozen=True):
    """An endpoint and the secret that signs from now on, shown this once."""

    secret: str | None
    endpoint: Endpoint


class Delivery(Answer, frozen=True):
    """An event on its way to an endpoint. `state`: pending, delivered, failed."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    kind: str
    sequence: int
    previous_sequence: int
    state: str
    attempts: int
    next_at: datetime | None
    status: int | None
    error: str | None
    took_ms: int | None
    delivered_at: datetime | None
    created_at: datetime


class Replayed(Answer, frozen=True):
    """How many are sent again; `next` is the number to go on from."""

    replayed: int
    next: int | None


class Watermark(Answer, frozen=True):
    """Everything up to `covered_seq` of this partition has its outcome."""

    partition: int
    covered_seq: int


class Watermarks(Answer, frozen=True):
    """What a publisher may forget."""

    publisher: str
    session: UUID
    items: list[Watermark]
