"""Bodies, queries and answers of the API. Amounts are integers with their unit in the name, times RFC 3339.

Fields that nobody knows are refused. An answer leaves nothing out: what is not known is null.
"""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Raw, Struct

from streams.events import Credits, Feature, Quantity, Reference, Time

Text = Annotated[str, Meta(min_length=1, max_length=200)]
Phone = Annotated[str, Meta(pattern=r"^\+?[0-9]{8,15}$")]
Email = Annotated[str, Meta(pattern=r"^[^@\s]{1,64}@[^@\s]{1,255}$", max_length=254)]
StateCode = Annotated[str, Meta(pattern=r"^[0-9]{2}$", description="a GST State code")]
Gstin = Annotated[str, Meta(pattern=r"^[0-9]{2}[A-Z0-9]{13}$")]
Url = Annotated[str, Meta(pattern=r"^https?://[^\s]+$", max_length=500)]
Limit = Annotated[int, Meta(ge=1, le=200)]
WaitMs = Annotated[int, Meta(ge=0, le=10_000)]


class Body(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a caller sends."""


class Query(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands after the question mark."""


class Answer(Struct, frozen=True, kw_only=True):
    """What we send."""


class NoQuery(Query, frozen=True):
    """No parameter at all."""


class Nothing(Body, frozen=True):
    """No field at all; an empty body will do."""


class NewUser(Body, frozen=True):
    """POST /v1/users. `state_code` or `gstin` says where a purchase is taxed."""

    external_id: Reference
    name: Text | None = None
    email: Email | None = None
    phone: Phone | None = None
    state_code: StateCode | None = None
    gstin: Gstin | None = None


class UserAnswer(Answer, frozen=True):
    """A user."""

    id: UUID
    external_id: str
    name: str | None
    email: str | None
    phone: str | None
    state_code: str | None
    gstin: str | None
    created_at: datetime


class NewWallet(Body, frozen=True):
    """POST /v1/wallets."""

    owner_id: UUID
    community_id: UUID | None = None


class WalletAnswer(Answer, frozen=True):
    """A wallet. Available and locked are its balance; pending is on its way, debt is owed apart from it."""

    id: UUID
    owner_id: UUID
    community_id: UUID | None
    available_credits: int
    locked_credits: int
    pending_credits: int
    debt_credits: int
    lifetime_purchased_credits: int
    auto_recharge_enabled: bool
    auto_recharge_threshold: int
    created_at: datetime
    updated_at: datetime


class TransactionsQuery(Query, frozen=True):
    """`after` is the `next` of the page before; `expand=lots` adds which lots each transaction consumed."""

    after: Annotated[int, Meta(ge=1, le=2**62)] | None = None
    limit: Limit = 50
    expand: Literal["lots"] | None = None


class ConsumptionAnswer(Answer, frozen=True):
    """What a transaction took from one lot."""

    lot_id: UUID
    credits: int
    recognised_paise: int
    promotional: bool
    payment_id: UUID | None


class TransactionAnswer(Answer, frozen=True):
    """One line of a wallet's history; `credits` is the signed effect on the available balance."""

    id: UUID
    seq: int
    transaction_type: str
    credits: int
    amount_credits: int
    balance_before: int
    balance_after: int
    locked_after: int
    source: str
    source_id: str
    feature: str | None
    community_id: UUID | None
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime
    lots: list[ConsumptionAnswer] | None = None


class TransactionsPage(Answer, frozen=True):
    """Newest first. `next` is the cursor of the following page; null: this was the last one."""

    items: list[TransactionAnswer]
    next: str | None


class NewGrant(Body, frozen=True):
    """POST /v1/wallets/{id}/grants: promotional credits. Lower `priority` burns first."""

    credits: Credits
    reason: Reference
    priority: Annotated[int, Meta(ge=0, le=1000)] = 0
    expires_at: Time | None = None


class NewHold(Body, frozen=True):
    """POST /v1/holds: set credits aside."""

    wallet_id: UUID
    credits: Credits
    reason: Reference | None = None
    expires_at: Time | None = None


class Capture(Body, frozen=True):
    """POST /v1/holds/{id}/capture: spend up to what is held; the rest goes back."""

    credits: Credits
    feature: Feature | None = None
    community_id: UUID | None = None


class PostedAnswer(Answer, frozen=True):
    """A command that is in the ledger; `available_credits` is the balance right after it."""

    transaction_id: UUID
    wallet_id: UUID
    credits: int
    available_credits: int
    hold_id: UUID | None = None


class HoldAnswer(Answer, frozen=True):
    """A hold. state: held, captured, released."""

    id: UUID
    wallet_id: UUID
    credits: int
    captured_credits: int
    state: str
    reason: str | None
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None


class UsageItem(Body, frozen=True):
    """One usage event. `id` is the caller's own and its idempotency key, for ever."""

    id: Reference
    wallet_id: UUID
    feature: Feature
    credits: Credits
    quantity: Quantity = 1
    community_id: UUID | None = None
    occurred_at: Time | None = None
    metadata: dict[str, Any] | None = None


class UsageBody(Body, frozen=True):
    """POST /v1/usage: items are read one by one, so that a bad one does not undo its neighbours."""

    events: Annotated[list[Raw], Meta(min_length=1, max_length=1000)]


class UsageQuery(Query, frozen=True):
    """`wait` is how many milliseconds to wait for the debits' outcomes."""

    wait: WaitMs = 0


class OutcomeAnswer(Answer, frozen=True):
    """What became of an event: posted, refused, quarantined; parked and pending are not decided yet; dead
    needs a person.
    """

    outcome: str
    reason: str | None
    transaction_id: UUID | None
    balance_credits: int | None


class UsageResult(Answer, frozen=True, omit_defaults=True):
    """accepted, replayed (known already), conflict (the id stands for another event), invalid."""

    index: int
    id: str | None
    status: Literal["accepted", "replayed", "conflict", "invalid"]
    code: str | None = None
    reason: str | None = None
    outcome: OutcomeAnswer | None = None


class UsageResults(Answer, frozen=True):
    """One result per event, in the order sent."""

    accepted: int
    replayed: int
    conflict: int
    invalid: int
    results: list[UsageResult]


class UsageAnswer(Answer, frozen=True):
    """A stored event and what became of it."""

    id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    occurred_at: datetime
    recorded_at: datetime
    outcome: OutcomeAnswer


class PackAnswer(Answer, frozen=True):
    """A pack on sale; the price includes GST."""

    pack_paise: int
    credits: int
    base_credits: int
    bonus_credits: int


class Packs(Answer, frozen=True):
    """All packs on sale."""

    items: list[PackAnswer]


class NewOrder(Body, frozen=True):
    """POST /v1/payments/orders. The pack's price decides the credits; a caller never names them."""

    user_id: UUID
    wallet_id: UUID
    pack_paise: Annotated[int, Meta(ge=1, le=10_000_000_000)]
    return_url: Url | None = None
    customer_phone: Phone | None = None
    device_id: Reference | None = None
    metadata: dict[str, Any] | None = None


class OrderAnswer(Answer, frozen=True):
    """An order to be paid at `checkout_url`."""

    payment_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    credits: int
    payment_session_id: str | None
    checkout_url: str | None
    expires_at: datetime | None


class AttemptAnswer(Answer, frozen=True):
    """One attempt to pay an order; `status` is the gateway's word."""

    cf_payment_id: str
    status: str
    payment_group: str | None
    amount_paise: int | None
    occurred_at: datetime


class PaymentAnswer(Answer, frozen=True):
    """A payment. status: created, active, failed, expired, verified, held, rejected, credited, mismatch,
    refunded.
    """

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
    created_at: datetime
    expires_at: datetime | None
    verified_at: datetime | None
    credited_at: datetime | None
    failed_at: datetime | None
    attempts: list[AttemptAnswer]


class WatermarkAnswer(Answer, frozen=True):
    """Everything up to `covered_seq` of this partition has its outcome."""

    partition: int
    covered_seq: int


class Watermarks(Answer, frozen=True):
    """What a publisher may forget."""

    publisher: str
    session: UUID
    items: list[WatermarkAnswer]


class AggregateQuery(Query, frozen=True, rename={"start": "from", "end": "to"}):
    """Windows that start in [from, to). `dimension` filters ('feature=chat.message', several joined by ','),
    `by` breaks down by one dimension's values.
    """

    window: Literal["1m", "5m", "1h", "1d"] = "1m"
    start: Time | None = None
    end: Time | None = None
    dimension: Annotated[str, Meta(min_length=3, max_length=400)] | None = None
    by: Annotated[str, Meta(pattern="^[a-z_]{1,32}$")] | None = None


class WindowAnswer(Answer, frozen=True):
    """One window; `value` is that of the dimension it is broken down by."""

    window_start: datetime
    value: str | None
    count: int
    credits: int
    amount_paise: int


class TrueAtAnswer(Answer, frozen=True):
    """The windows hold everything of this partition up to `offset`."""

    partition: int
    incarnation: int
    offset: int | None


class AggregateAnswer(Answer, frozen=True, rename={"start": "from", "end": "to"}):
    """Windows in order of time. A `1d` window is an IST day."""

    metric: str
    window: str
    start: datetime
    end: datetime
    items: list[WindowAnswer]
    true_at: list[TrueAtAnswer]


class WebhookAnswer(Answer, frozen=True):
    """What became of a webhook: new, replay, or parked (signed, but not readable)."""

    status: Literal["new", "replay", "parked"]


class InvoiceAnswer(Answer, frozen=True):
    """A tax invoice or credit note as issued; `pdf` once it is rendered."""

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
