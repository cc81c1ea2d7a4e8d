"""Fraud reviews: payments that were held, why, and a person's word that lets each go or refuses it, once."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import fraud, lists
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, NoQuery

State = Literal["pending", "released", "rejected"]


class ReviewsQuery(PageQuery, frozen=True):
    """A page of reviews, of one state if that is said."""

    state: State | None = None


class ReviewAnswer(Answer, frozen=True):
    """A payment that was held. `reasons` are the rules it met, `missing` who did not answer in time."""

    payment_id: UUID
    user_id: UUID
    wallet_id: UUID
    amount_paise: int
    credits: int
    payment_status: str
    score: int
    reasons: list[str]
    missing: list[str]
    state: State
    decided_by: str | None
    decided_at: datetime | None
    created_at: datetime


class ReviewsPage(Answer, frozen=True):
    """The newest first."""

    items: list[ReviewAnswer]
    next: str | None


class ReviewVerdict(Body, frozen=True):
    """POST /v1/fraud/reviews/{id}/approve, …/reject; `why` is kept in the audit log."""

    why: Annotated[str, Meta(min_length=1, max_length=2000)]


async def list_reviews(call: Call, query: ReviewsQuery) -> Reply:
    """GET /v1/fraud/reviews."""
    before = after(query, "fraud_reviews", UUID)
    found = await lists.list_reviews(
        call.services.db, state=query.state, before=before, limit=query.limit + 1
    )
    page, following = cut(found, query, "fraud_reviews", lambda review: review.id)
    items = msgspec.convert(page, list[ReviewAnswer], from_attributes=True)
    return Reply(ReviewsPage(items=items, next=following))


async def get_review(call: Call, _: NoQuery) -> Reply:
    """GET /v1/fraud/reviews/{id}: by the payment's id."""
    return Reply(await _shown(call))


async def approve(call: Call, body: ReviewVerdict) -> Reply:
    """POST /v1/fraud/reviews/{id}/approve: the payment is let go, its credits follow within moments."""
    return await _decided(call, "release", body)


async def reject(call: Call, body: ReviewVerdict) -> Reply:
    """POST /v1/fraud/reviews/{id}/reject: it is never credited; its money becomes a receipt that can be returned."""
    return await _decided(call, "reject", body)


async def _decided(call: Call, verdict: Literal["release", "reject"], body: ReviewVerdict) -> Reply:
    """Errors: Problem 404, 409 review_over, payment_not_held."""
    id = call.uuid("id", "review")
    outcome = await fraud.review_payment(
        call.services.db,
        id,
        verdict,
        call.caller.principal,
        shard=call.services.chain(str(id)),
        rejected_partition=call.services.partition("status=rejected"),
        why=body.why,
    )
    match outcome:
        case "unknown":
            raise not_found("review")
        case "not_held":
            raise Problem(409, "payment_not_held", "nobody has to decide about this payment")
        case "conflict":
            raise Problem(409, "review_over", "it was decided otherwise")
    return Reply(await _shown(call))


async def _shown(call: Call) -> ReviewAnswer:
    found = await lists.get_review(call.services.db, call.uuid("id", "review"))
    if found is None:
        raise not_found("review")
    return msgspec.convert(found, ReviewAnswer, from_attributes=True)
