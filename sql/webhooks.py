"""The inbox of webhooks: stored before the gateway hears 200, published until webhook.processing decided."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, cast
from uuid import UUID

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database
from sql.heads import head_arguments
from sql.queries import load

_Q: Final = load("webhooks")

MAX_ID: Final = 128
"""Longest id, type or key part that the events on the streams carry."""
MAX_STATUS: Final = 64


@dataclass(frozen=True, slots=True)
class NewWebhook:
    """One verified webhook. `id` is a UUIDv7, `body` the signed bytes, amounts are paise as claimed.

    `occurred_at` is clamped to [-24 h, +5 min] of now as it is stored. `kind` is the gateway's family of
    events: payment, refund, auto_refund, dispute, settlement, ..., unknown.
    """

    id: UUID
    business_key: str
    kind: str
    event_type: str
    version: str
    stale: bool
    body: bytes
    status: str | None = None
    order_id: str | None = None
    cf_payment_id: str | None = None
    refund_id: str | None = None
    payment_group: str | None = None
    payment_method: Mapping[str, str] | None = None
    instrument: str | None = None
    amount_paise: int | None = None
    offer_id: str | None = None
    discount_paise: int | None = None
    currency: str | None = None
    occurred_at: datetime | None = None
    source_ip: IPv4Address | IPv6Address | None = None
    traceparent: str | None = None

    @property
    def fits(self) -> bool:
        """Whether its ids are of a length that a real order, payment or refund has."""
        ids = (self.order_id, self.cf_payment_id, self.refund_id, self.event_type)
        return all(len(text or "") <= MAX_ID for text in ids)


Receipt = Literal["new", "replay"]


async def insert_webhooks(db: Database, webhooks: Sequence[NewWebhook]) -> list[Receipt]:
    """Store webhooks; on return they are committed. One with an impossible id is kept whole as
    kind 'unknown'.

    Send it again after an unknown outcome: it then answers replay. Errors: Unavailable.
    """
    if not webhooks:
        return []
    answer = await db.value(
        _Q["insert_webhooks"],
        [w.id for w in webhooks],
        [w.business_key for w in webhooks],
        [w.kind if w.fits else "unknown" for w in webhooks],
        [w.event_type[:MAX_ID] or "-" for w in webhooks],
        [(w.order_id or None) if w.fits else None for w in webhooks],
        [(w.cf_payment_id or None) if w.fits else None for w in webhooks],
        [(w.refund_id or None) if w.fits else None for w in webhooks],
        [(w.status or "")[:MAX_STATUS] or None for w in webhooks],
        [(w.payment_group or "")[:MAX_STATUS] or None for w in webhooks],
        [None if w.payment_method is None else json.dumps(dict(w.payment_method)) for w in webhooks],
        [w.instrument for w in webhooks],
        [w.amount_paise for w in webhooks],
        [(w.offer_id or "")[:MAX_ID] or None for w in webhooks],
        [w.discount_paise if w.offer_id else None for w in webhooks],
        [w.currency for w in webhooks],
        [w.occurred_at for w in webhooks],
        [w.version[:MAX_STATUS] or "-" for w in webhooks],
        [w.stale for w in webhooks],
        [w.source_ip for w in webhooks],
        [w.body for w in webhooks],
        [w.traceparent for w in webhooks],
    )
    return cast(list[Receipt], answer)


@dataclass(frozen=True, slots=True)
class TakenWebhook:
    """An inbox row to publish; `received_at` is when it was stored."""

    id: UUID
    event_type: str
    order_id: str | None
    cashfree_payment_id: str | None
    refund_id: str | None
    status: str | None
    version: str
    received_at: datetime
    traceparent: str | None


async def take_webhooks(db: Database, *, limit: int, stale_s: float) -> list[TakenWebhook]:
    """Webhooks to publish now: new ones, and those published `stale_s` ago that have no outcome yet."""
    return [TakenWebhook(*row.values()) for row in await db.rows(_Q["take_webhooks"], limit, stale_s)]


async def get_traceparents(db: Database, order_ids: Sequence[str]) -> dict[str, str]:
    """The W3C traceparent of each of these orders that is traced. Errors: Unavailable."""
    rows = await db.rows(_Q["get_traceparents"], list(order_ids))
    return {r["order_id"]: r["traceparent"] for r in rows}


async def get_payment_traceparents(db: Database, payment_ids: Sequence[UUID]) -> dict[str, str]:
    """The same by payment id. Errors: Unavailable."""
    rows = await db.rows(_Q["get_payment_traceparents"], list(payment_ids))
    return {str(r["id"]): r["traceparent"] for r in rows}


@dataclass(frozen=True, slots=True)
class Shown:
    """A traced payment whose credit the dashboards' windows contain."""

    payment_id: UUID
    credited_at: datetime
    traceparent: str


async def get_shown(db: Database, group: str, since: datetime) -> list[Shown]:
    """Those whose webhook came since. Errors: Unavailable."""
    return [Shown(*row.values()) for row in await db.rows(_Q["get_shown"], since, group)]


async def get_refunds(db: Database, refund_ids: Sequence[str]) -> dict[str, UUID]:
    """The payment of each of these refunds that is ours."""
    return {r["refund_id"]: r["payment_id"] for r in await db.rows(_Q["get_refunds"], list(refund_ids))}


Signal = Literal["success", "failed", "dropped", "other"]


@dataclass(frozen=True, slots=True)
class WebhookToClose:
    """An inbox row as a stream named it: its order, what its status means, where what follows goes.

    `order_id` is the row's own id where it has no order. `refund_partition` is None for a refund not ours.
    """

    inbox_id: UUID
    order_id: str
    signal: Signal
    payment_partition: int
    refund_partition: int | None
    offset: int


@dataclass(frozen=True, slots=True)
class Closed:
    """A batch of webhooks that is decided. `outcomes` is None if it was found committed already.

    signalled | refund | settled | noted | ignored close a row; exists: it was closed before; unknown_inbox | forged:
    the event does not speak of a row of ours, and is quarantined.
    """

    outcomes: list[str] | None
    emitted: Emitted


async def commit_webhooks(
    db: Database,
    head: Head,
    webhooks: Sequence[WebhookToClose],
    *,
    partitions: int,
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Closed:
    """Close inbox rows and move the offset, in one transaction; topics have so many partitions. Errors: Fenced, Unavailable."""
    answer = await commit(
        db,
        _Q["commit_webhooks"],
        head,
        *head_arguments(head, progress, bad),
        [w.inbox_id for w in webhooks],
        [w.order_id for w in webhooks],
        [w.signal for w in webhooks],
        [w.payment_partition for w in webhooks],
        [w.refund_partition for w in webhooks],
        [w.offset for w in webhooks],
        partitions,
    )
    if isinstance(answer, Emitted):
        return Closed(None, answer)
    return Closed(answer["r_outcome"] or [], emitted(answer, head.topic, head.partition, head.group))
