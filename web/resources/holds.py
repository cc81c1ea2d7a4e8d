"""Holds: credits set aside, then spent or given back."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from sql import accounts, lists
from sql.accounts import Hold
from sql.ledger import Decision
from streams.events import Credits, Feature, Reference, Time
from web.calls import Call
from web.ledger_calls import decide, posted
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, NoQuery, Nothing


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


class HoldsQuery(PageQuery, frozen=True, kw_only=True):
    """A page of a wallet's holds, of one state if that is said."""

    wallet_id: UUID
    state: Literal["held", "captured", "released"] | None = None


class HoldsPage(Answer, frozen=True):
    """The newest first."""

    items: list[HoldAnswer]
    next: str | None


async def create_hold(call: Call, body: NewHold) -> Reply:
    """POST /v1/holds: 402 if the wallet has too few available credits."""
    expires_at = None if body.expires_at is None else body.expires_at.isoformat()
    decision = await decide(
        call,
        "hold",
        body.wallet_id,
        body.credits,
        said=(body.reason, expires_at),
        source="hold",
        analytics_key="",
        extra={"reason": body.reason, "expires_at": expires_at},
    )
    return posted(decision, body.wallet_id, body.credits, hold_id=decision.transaction_id)


async def get_hold(call: Call, _: NoQuery) -> Reply:
    """GET /v1/holds/{id}."""
    return Reply(msgspec.convert(await _hold(call), HoldAnswer, from_attributes=True))


async def list_holds(call: Call, query: HoldsQuery) -> Reply:
    """GET /v1/holds: those of a wallet."""
    found = await lists.list_holds(
        call.services.db,
        query.wallet_id,
        state=query.state,
        before=after(query, "holds", UUID),
        limit=query.limit + 1,
    )
    page, following = cut(found, query, "holds", lambda hold: hold.id)
    items = msgspec.convert(page, list[HoldAnswer], from_attributes=True)
    return Reply(HoldsPage(items=items, next=following))


async def capture(call: Call, body: Capture) -> Reply:
    """POST /v1/holds/{id}/capture: spend up to what is held; the rest goes back to available."""
    hold = await _own_hold(call)
    key = f"community={body.community_id or '-'},feature={body.feature or '-'}"
    decision = await decide(
        call,
        "capture",
        hold.wallet_id,
        body.credits,
        said=(hold.id, body.feature, body.community_id),
        source="hold",
        analytics_key=key,
        feature=body.feature,
        community_id=body.community_id,
        extra={"hold_id": str(hold.id)},
    )
    return _done(decision, hold, body.credits)


async def release(call: Call, _: Nothing) -> Reply:
    """POST /v1/holds/{id}/release: all of it goes back to available."""
    hold = await _own_hold(call)
    decision = await decide(
        call,
        "release",
        hold.wallet_id,
        hold.credits,
        said=(hold.id,),
        source="hold",
        analytics_key="",
        extra={"hold_id": str(hold.id)},
    )
    return _done(decision, hold, hold.credits)


def _done(decision: Decision, hold: Hold, credits: int) -> Reply:
    reply = posted(decision, hold.wallet_id, credits, hold_id=hold.id)
    return Reply(reply.body, 200, reply.headers)


async def _own_hold(call: Call) -> Hold:
    """A hold that a caller may end: the one of a refund is the refund's."""
    hold = await _hold(call)
    if hold.lot_id is not None:
        raise Problem(409, "hold_of_a_refund", "this hold belongs to a refund, which ends it")
    return hold


async def _hold(call: Call) -> Hold:
    hold = await accounts.get_hold(call.services.db, call.uuid("id", "hold"))
    if hold is None:
        raise not_found("hold")
    return hold
