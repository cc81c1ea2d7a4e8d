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
    payment_id: UUID
    reason: str
    amount_paise: int
    state: str
    refund_id: UUID | None
    created_at: datetime
    updated_at: datetime


async def get_receipts(
    db: Database,
    payment_id: UUID | None = None,
    *,
    state: str | None = None,
    after: str | None = None,
    limit: int = 200,
) -> list[Receipt]:
    """Money without a sale, the newest first; `after` is the cf_payment_id of a page's last one."""
    rows = await db.rows(_Q["get_receipts"], payment_id, state, after, limit)
    return [Receipt(*row.values()) for row in rows]


async def get_receipt(db: Database, cf_payment_id: str) -> Receipt | None:
    """One receipt by the gateway's id of the payment."""
    row = await db.row(_Q["get_receipt"], cf_payment_id)
    return None if row is None else Receipt(*row.values())


@dataclass(frozen=True, slots=True)
class Dispute:
    """A dispute, the forced reversal it became, and the lot it brought back when it was won."""

    dispute_id: str
    payment_id: UUID
    cf_payment_id: str | None
    type: str
    status: str
    amount_paise: int
    respond_by: datetime | None
    refund_id: UUID | None
    reinstated_lot_id: UUID | None
    created_at: datetime
    updated_at: datetime


async def get_disputes(
    db: Database,
    payment_id: UUID | None = None,
    *,
    status: str | None = None,
    after: str | None = None,
    limit: int = 200,
) -> list[Dispute]:
    """Disputes, the newest first; `after` is the id of a page's last one."""
    rows = await db.rows(_Q["get_disputes"], payment_id, status, after, limit)
    return [Dispute(*row.values()) for row in rows]


async def get_dispute(db: Database, dispute_id: str) -> Dispute | None:
    """One dispute by the gateway's id."""
    row = await db.row(_Q["get_dispute"], dispute_id)
    return None if row is None else Dispute(*row.values())


async def ask_gateway(db: Database, payment_id: UUID, *, whole: bool) -> bool:
    """Have a payment asked about now; `whole`: its refunds, receipts and disputes, too. False: unknown.
    Errors: Unavailable.
    """
    return bool(await db.value(_Q["ask_gateway"], payment_id, whole) == "asked")


async def is_answered(db: Database, payment_id: UUID) -> bool:
    """Whether what was last asked about a payment has been answered, or could not be. Errors: Unavailable."""
    return bool(await db.value(_Q["is_answered"], payment_id))


async def count_retry(db: Database, payment_id: UUID) -> None:
    """The buyer tries again with another order. Errors: Unavailable."""
    await db.value(_Q["count_retry"], payment_id)


async def request_invoice(db: Database, payment_id: UUID, *, shard: int, invoice_partition: int) -> str:
    """Have a late invoice issued: asked | exists | not_credited | unknown. Errors: Unavailable.

    `invoice_partition` is that of invoice.generate for the payment; the relay publishes what follows.
    """
    return str(await db.value(_Q["request_invoice"], uuid7(), shard, payment_id, invoice_partition))


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
