"""The inbox of webhooks as operators see it: what the gateway told us and what became of it, without what is in it."""

from datetime import datetime
from uuid import UUID

import msgspec

from sql import lists
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.replies import Reply
from web.shapes import Answer


class ReceivedQuery(PageQuery, frozen=True):
    """A page of the inbox."""


class ReceivedAnswer(Answer, frozen=True):
    """A webhook. `amount_paise` is what it claims; `outcome` null: not handled yet. It was `stale` when it came late."""

    id: UUID
    event_type: str
    version: str
    order_id: str | None
    cf_payment_id: str | None
    refund_id: str | None
    status: str | None
    amount_paise: int | None
    deliveries: int
    stale: bool
    outcome: str | None
    occurred_at: datetime
    received_at: datetime
    published_at: datetime | None
    closed_at: datetime | None


class ReceivedPage(Answer, frozen=True):
    """The newest first."""

    items: list[ReceivedAnswer]
    next: str | None


async def list_received(call: Call, query: ReceivedQuery) -> Reply:
    """GET /v1/webhooks/received."""
    before = after(query, "received", UUID)
    found = await lists.list_received(call.services.db, before=before, limit=query.limit + 1)
    page, following = cut(found, query, "received", lambda webhook: webhook.id)
    items = msgspec.convert(page, list[ReceivedAnswer], from_attributes=True)
    return Reply(ReceivedPage(items=items, next=following))
