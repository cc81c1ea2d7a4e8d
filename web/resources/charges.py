"""What usage was charged to a wallet, by feature and period: what a customer's usage page is made of."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from sql import lists
from streams.events import Feature, Time
from web.calls import Call
from web.paging import PageQuery, Seq, after, cut
from web.problems import Problem
from web.replies import Reply
from web.shapes import Answer


class ChargesQuery(PageQuery, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """A page of a wallet's charges recorded in [from, to), of one feature if that is said."""

    wallet_id: UUID
    feature: Feature | None = None
    start: Time | None = None
    end: Time | None = None


class ChargeAnswer(Answer, frozen=True):
    """A charge. `credits` is its effect on the balance, so below zero; `event_id` is the service's own."""

    transaction_id: UUID
    event_id: str
    feature: str | None
    community_id: UUID | None
    credits: int
    balance_credits: int
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime


class ChargesPage(Answer, frozen=True):
    """The newest first."""

    items: list[ChargeAnswer]
    next: str | None


async def list_usage(call: Call, query: ChargesQuery) -> Reply:
    """GET /v1/usage: what was charged to a wallet. What is refused or under way is not here: ask for the event itself."""
    if query.start is not None and query.end is not None and query.start >= query.end:
        raise Problem(400, "invalid_range", "from comes before to")
    found = await lists.list_usage(
        call.services.db,
        query.wallet_id,
        feature=query.feature,
        start=query.start,
        end=query.end,
        before=after(query, "usage", Seq),
        limit=query.limit + 1,
    )
    page, following = cut(found, query, "usage", lambda charge: charge.seq)
    items = msgspec.convert(page, list[ChargeAnswer], from_attributes=True)
    return Reply(ChargesPage(items=items, next=following))
