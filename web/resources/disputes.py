"""Disputes: what banks say about payments, what it took, and what was won back."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import reversals
from web.calls import Call
from web.paging import PageQuery, Plain, after, cut
from web.problems import not_found
from web.replies import Reply
from web.shapes import Answer, NoQuery


class DisputesQuery(PageQuery, frozen=True):
    """A page of disputes; the rest filters. `status` is the gateway's word."""

    payment_id: UUID | None = None
    status: Annotated[str, Meta(pattern="^[A-Z_]{1,64}$")] | None = None


class DisputeAnswer(Answer, frozen=True):
    """A dispute as last told. `refund_id`: the forced reversal that it became; `reinstated_lot_id`: what came back
    when it was won.
    """

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


class DisputesPage(Answer, frozen=True):
    """The newest first. `next` is the cursor of the following page; null: this was the last one."""

    items: list[DisputeAnswer]
    next: str | None


async def list_disputes(call: Call, query: DisputesQuery) -> Reply:
    """GET /v1/disputes."""
    last = after(query, "disputes", Plain)
    found = await reversals.get_disputes(
        call.services.db, query.payment_id, status=query.status, after=last, limit=query.limit + 1
    )
    page, following = cut(found, query, "disputes", lambda dispute: dispute.dispute_id)
    items = msgspec.convert(page, list[DisputeAnswer], from_attributes=True)
    return Reply(DisputesPage(items=items, next=following))


async def get_dispute(call: Call, _: NoQuery) -> Reply:
    """GET /v1/disputes/{id}."""
    found = await reversals.get_dispute(call.services.db, call.request.match_info["id"])
    if found is None:
        raise not_found("dispute")
    return Reply(msgspec.convert(found, DisputeAnswer, from_attributes=True))
