"""Money that moves without our asking: orders looked at as a whole, and what the gateway then shows of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sql.batches import Emitted, emitted
from sql.db import Database
from sql.ids import uuid7
from sql.queries import load
from sql.refunds import CHAIN, GROUP, Partitions

_Q: Final = load("reversals")


@dataclass(frozen=True, slots=True)
class Inquiry:
    """An order to look at; its payment is None while we do not know the order."""

    order_id: str
    asked: int
    payment_id: UUID | None
    user_id: UUID | None


@dataclass(frozen=True, slots=True)
class SeenPayment:
    """An attempt as the gateway shows it; amounts are paise."""

    id: str
    status: str
    amount: int | None
    currency: str | None


@dataclass(frozen=True, slots=True)
class SeenRefund:
    """A refund as the gateway shows it, whoever made it."""

    id: str
    cf_id: str | None
    payment: str | None
    status: str
    amount: int


@dataclass(frozen=True, slots=True)
class SeenDispute:
    """A dispute as the gateway shows it."""

    id: str
    payment: str | None
    type: str
    status: str
    amount: int
    respond_by: datetime | None


@dataclass(frozen=True, slots=True)
class Picture:
    """All that the gateway shows of one order."""

    payments: Sequence[SeenPayment]
    refunds: Sequence[SeenRefund]
    disputes: Sequence[SeenDispute]

    def encode(self) -> str:
        return json.dumps(asdict(self), default=lambda at: at.isoformat())


async def lease_inquiries(db: Database, *, limit: int, lease_s: float) -> list[Inquiry]:
    """Up to `limit` orders to look at, ours for `lease_s`. Errors: Unavailable."""
    return [Inquiry(*row.values()) for row in await db.rows(_Q["lease_inquiries"], limit, lease_s)]


@dataclass(frozen=True, slots=True)
class Inquired:
    """waiting (asked again later) | done, with how many facts were news; and what follows."""

    outcome: str
    news: int
    emitted: Emitted | None


async def record_inquiry(
    db: Database, inquiry: Inquiry, picture: Picture | None, *, shard: int, partitions: Partitions
) -> Inquired:
    """Book what the gateway shows (None: it could not be asked), on the chain refund/<shard>.

    `partitions`: as `sql.refunds.record_refund` with "refunds" for 'policy=FORCED', plus "refunds_unapplied"
    for 'policy=UNAPPLIED' and "refund" of refund.processing for the payment. Errors: Unavailable.
    """
    row = await db.row(
        _Q["record_inquiry"],
        uuid7(),
        shard,
        inquiry.order_id,
        inquiry.asked,
        None if picture is None else picture.encode(),
        json.dumps(dict(partitions)),
    )
    assert row is not None
    follows = None if row["r_batch_no"] is None else emitted(row, CHAIN, shard, GROUP)
    return Inquired(row["r_outcome"], row["r_news"], follows)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Money without a sale. reason: paid_twice | rejected | mismatch; state: open | refunding | refunded."""

    cf_payment_id: str
    reason: str
    amount_paise: int
    state: str
    refund_id: UUID | None


async def get_receipts(db: Database, payment_id: UUID) -> list[Receipt]:
    """A payment's money without a sale."""
    return [Receipt(*row.values()) for row in await db.rows(_Q["get_receipts"], payment_id)]


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute, the forced reversal it became, and the lot it brought back when it was won."""

    dispute_id: str
    type: str
    status: str
    amount_paise: int
    respond_by: datetime | None
    refund_id: UUID | None
    reinstated_lot_id: UUID | None


async def get_disputes(db: Database, payment_id: UUID) -> list[Dispute]:
    """A payment's disputes."""
    return [Dispute(*row.values()) for row in await db.rows(_Q["get_disputes"], payment_id)]


def as_picture(payments: Sequence[Any], refunds: Sequence[Any], disputes: Sequence[Any]) -> Picture:
    """The gateway's entities (gateway.entities) as a picture."""
    return Picture(
        [SeenPayment(p.cf_payment_id, p.status, p.amount_paise, p.currency) for p in payments],
        [SeenRefund(r.refund_id, r.cf_refund_id, r.cf_payment_id, r.status, r.amount_paise) for r in refunds],
        [
            SeenDispute(d.dispute_id, d.cf_payment_id, d.type, d.status, d.amount_paise, d.respond_by)
            for d in disputes
        ],
    )
