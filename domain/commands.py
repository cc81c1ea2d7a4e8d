"""What the ledger is asked and what it answers: commands, transactions, outcomes. Plain values."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from domain.gst import GstSplit
from domain.lots import Move
from domain.money import Credits, Paise
from domain.postings import Legs


class Kind(StrEnum):
    """What a transaction does. `chargeback` is the gateway's forced reversal; the others are asked for."""

    PURCHASE = "purchase"
    GRANT = "grant"
    SPEND = "spend"
    HOLD = "hold"
    CAPTURE = "capture"
    RELEASE = "release"
    REFUND = "refund"
    EXPIRE = "expire"
    CHARGEBACK = "chargeback"


KINDS: Final = frozenset(kind.value for kind in Kind)

MAX_CREDITS: Final = 1_000_000_000
"""The most one command may ask for."""

INCOMING: Final = frozenset({Kind.PURCHASE, Kind.GRANT})
"""Kinds that bring credits: never refused, only posted or parked."""


class Status(StrEnum):
    """The one outcome of every command (I7)."""

    POSTED = "posted"
    REFUSED = "refused"
    EXISTS = "exists"
    CONFLICT = "conflict"
    PARKED = "parked"
    QUARANTINED = "quarantined"


class Reason(StrEnum):
    """Why a command was not posted."""

    INSUFFICIENT_CREDITS = "insufficient_credits"
    HOLD_NOT_OPEN = "hold_not_open"
    HOLD_TOO_SMALL = "hold_too_small"
    LOT_NOT_FREE = "lot_not_free"

    UNKNOWN_WALLET = "unknown_wallet"
    UNVERIFIED_PAYMENT = "unverified_payment"
    PENDING_CREDITS = "pending_credits"
    BEHIND_PARKED = "behind_parked"

    UNKNOWN_KIND = "unknown_kind"
    BAD_AMOUNT = "bad_amount"


@dataclass(frozen=True, slots=True)
class Payment:
    """What our payments row says about a purchase; the event's own amounts are never authority.

    `invoice` is the price as taxable value and tax, and sums to it; `offer_paise` of it was paid by an offer.
    """

    wallet_id: UUID
    invoice: GstSplit
    base: Credits
    bonus: Credits
    verified: bool = True
    held: bool = False
    offer_paise: Paise = 0

    @property
    def amount_paise(self) -> Paise:
        return self.invoice.total_paise

    @property
    def credits_granted(self) -> Credits:
        return self.base + self.bonus


@dataclass(frozen=True, slots=True)
class Command:
    """One thing asked of one wallet. `key` is already scoped to its principal; `credits` is 1 to 10^9.

    `kind` is text, since an unknown one must be answered. The id becomes the transaction's, and that of the
    lot (purchase, grant) or hold (hold) it makes. `hold_id` names the hold of capture, release and refund
    from a hold; `lot_id` the lot of refund, expire and chargeback, or the only lot a hold may take.
    `expires_at`, `priority` and `promotional` belong to the lot that is made; `refund_paise` is the money of
    a refund or chargeback.
    """

    id: UUID
    wallet_id: UUID
    kind: str
    credits: Credits
    key: str
    request_hash: bytes
    occurred_at: datetime
    source: str = ""
    source_id: str = ""
    feature: str | None = None
    community_id: UUID | None = None
    expires_at: datetime | None = None
    priority: int = 0
    promotional: bool = False
    hold_id: UUID | None = None
    lot_id: UUID | None = None
    payment: Payment | None = None
    refund_paise: Paise = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """One posted change of one wallet.

    `effect` is the signed change of the available credits, `credits` the amount asked for. `seq` counts from
    1 without gaps per wallet and the balances join up (I4, I5). `moves` says which lots gave or got what; an
    account may have more than one of the `legs`.
    """

    id: UUID
    wallet_id: UUID
    seq: int
    kind: Kind
    key: str
    occurred_at: datetime
    credits: Credits
    effect: Credits
    balance_before: Credits
    balance_after: Credits
    locked_after: Credits
    moves: tuple[Move, ...]
    legs: Legs


@dataclass(frozen=True, slots=True)
class Outcome:
    """The ledger's answer. A transaction if and only if posted; `original` if and only if exists."""

    status: Status
    reason: Reason | None = None
    transaction: Transaction | None = None
    original: "Outcome | None" = None


def posted(transaction: Transaction) -> Outcome:
    return Outcome(Status.POSTED, transaction=transaction)


def refused(reason: Reason) -> Outcome:
    return Outcome(Status.REFUSED, reason)


def parked(reason: Reason) -> Outcome:
    return Outcome(Status.PARKED, reason)


def quarantined(reason: Reason) -> Outcome:
    return Outcome(Status.QUARANTINED, reason)


def exists(original: Outcome) -> Outcome:
    return Outcome(Status.EXISTS, original=original)


CONFLICT: Final = Outcome(Status.CONFLICT)
