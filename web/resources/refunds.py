"""Refunds as the API asks for them and shows them; the money moves in the workers."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import lists, payments, refunds
from sql.ids import uuid7
from sql.refunds import Refund
from streams.events import Reference
from web.auth import Scope
from web.calls import Call, made
from web.paging import PageQuery, after, cut
from web.problems import Problem, key_conflict, not_found
from web.replies import Reply
from web.resources.payments import found
from web.services import request_hash
from web.shapes import Answer, Body, NoQuery

Status = Literal[
    "requested",
    "due",
    "pending",
    "review",
    "payout_requested",
    "payout_approved",
    "done",
    "failed",
    "cancelled",
    "rejected",
    "reversed",
]


class NewRefund(Body, frozen=True):
    """POST /v1/payments/{id}/refunds. RETIER is the staff's."""

    amount_paise: Annotated[int, Meta(ge=1, le=10_000_000_000)]
    policy: Literal["PRO_RATA", "RETIER"] = "PRO_RATA"
    reason: Reference | None = None


class RefundAnswer(Answer, frozen=True):
    """A refund. status: requested, due, pending, review, payout_requested, payout_approved, done, failed,
    cancelled, rejected, reversed. `credits` are set aside for it, or reversed once it is done.
    """

    id: UUID
    refund_id: str
    payment_id: UUID
    wallet_id: UUID
    amount_paise: int
    policy: str
    status: str
    credits: int
    reason: str | None
    failure: str | None
    created_at: datetime
    finished_at: datetime | None


class Refunds(Answer, frozen=True):
    """All refunds of a payment, the oldest first."""

    items: list[RefundAnswer]


class RefundsQuery(PageQuery, frozen=True):
    """A page of refunds: a user's, a payment's, or all; of one status if that is said."""

    user_id: UUID | None = None
    payment_id: UUID | None = None
    status: Status | None = None


class RefundsPage(Answer, frozen=True):
    """The newest first."""

    items: list[RefundAnswer]
    next: str | None


class PayoutVerdict(Body, frozen=True):
    """POST /v1/refunds/{id}/payout: about a refund that is too old for the gateway."""

    verdict: Literal["approve", "decline", "paid"]
    reference: Reference | None = None


_REFUSED = {
    "not_refundable": "this payment was never credited, or has gone back already",
    "insufficient_refundable": "more than may still be refunded of this payment",
    "refund_too_small": "so small an amount takes no credit back",
}


async def above_limit(call: Call, body: NewRefund) -> str | None:
    """A refund above the limit needs a second person."""
    _refuse_retier(call, body)
    payment = await found(call)
    if body.amount_paise <= call.services.settings.approval_refund_paise:
        return None
    return f"refund {body.amount_paise} paise of payment {payment.id}, {body.policy}"


async def pays_out(call: Call, body: PayoutVerdict) -> str | None:
    """Money that leaves by payout needs a second person; saying no does not."""
    refund = await _found(call)
    if body.verdict == "decline":
        return None
    return f"payout of refund {refund.id}, {refund.amount_paise} paise: {body.verdict}"


def _refuse_retier(call: Call, body: NewRefund) -> None:
    if body.policy == "RETIER" and Scope.REFUNDS_STAFF not in call.caller.scopes:
        raise Problem(403, "forbidden", f"the scope {Scope.REFUNDS_STAFF} is needed for RETIER")


async def create_refund(call: Call, body: NewRefund) -> Reply:
    """POST /v1/payments/{id}/refunds: 201 with its credits held; 422 insufficient_refundable and the like."""
    _refuse_retier(call, body)
    db, key = call.services.db, call.key()
    payment = await found(call)
    asked = await refunds.request_refund(
        db,
        refunds.NewRefund(
            id=uuid7(),
            payment_id=payment.id,
            amount_paise=body.amount_paise,
            policy=body.policy,
            requested_by=call.caller.principal,
            key=key,
            request_hash=request_hash("refund", payment.id, body.amount_paise, body.policy, body.reason),
            reason=body.reason,
        ),
        shard=call.services.chain(str(payment.wallet_id)),
        partitions={
            "refund": call.services.partition(str(payment.id)),
            "notify": call.services.partition(str(payment.user_id)),
            "expired": call.services.partition(""),
        },
    )
    if asked.outcome == "conflict" or asked.refund is None:
        raise key_conflict()
    if asked.reason is not None:
        raise Problem(
            422,
            asked.reason,
            _REFUSED.get(asked.reason, ""),
            refundable_paise=await refunds.get_refundable(db, payment.id) or 0,
        )
    return made(shown(asked.refund), new=asked.outcome == "created")


async def list_all(call: Call, query: RefundsQuery) -> Reply:
    """GET /v1/refunds."""
    found = await lists.list_refunds(
        call.services.db,
        user_id=query.user_id,
        payment_id=query.payment_id,
        status=query.status,
        before=after(query, "refunds", UUID),
        limit=query.limit + 1,
    )
    page, following = cut(found, query, "refunds", lambda refund: refund.id)
    return Reply(RefundsPage(items=[shown(refund) for refund in page], next=following))


async def list_refunds(call: Call, _: NoQuery) -> Reply:
    """GET /v1/payments/{id}/refunds: those asked for, and those that return what was paid too much."""
    db, payment_id = call.services.db, call.uuid("id", "payment")
    known = await refunds.get_payment_refunds(db, payment_id)
    if not known and await payments.get_payment(db, payment_id) is None:
        raise not_found("payment")
    return Reply(Refunds(items=[shown(refund) for refund in known]))


async def get_refund(call: Call, _: NoQuery) -> Reply:
    """GET /v1/refunds/{id}."""
    return Reply(shown(await _found(call)))


async def decide_payout(call: Call, body: PayoutVerdict) -> Reply:
    """POST /v1/refunds/{id}/payout: staff. 409 where the verdict does not fit how the refund stands."""
    refund = await _found(call)
    status = await refunds.decide_payout(
        call.services.db,
        refund.id,
        body.verdict,
        call.caller.principal,
        detail=body.reference,
        shard=call.services.chain(str(refund.wallet_id)),
        partitions={
            "refunds": call.services.partition(f"policy={refund.policy}"),
            "refunded": call.services.partition("status=refunded"),
            "expired": call.services.partition(""),
            "notify": call.services.partition(str(refund.user_id)),
        },
    )
    if status != {"approve": "payout_approved", "decline": "rejected", "paid": "done"}[body.verdict]:
        raise Problem(409, "refund_not_there", f"the refund is {status}")
    return Reply(shown(await _found(call)))


async def _found(call: Call) -> Refund:
    refund = await refunds.get_refund(call.services.db, call.uuid("id", "refund"))
    if refund is None:
        raise not_found("refund")
    return refund


def shown(refund: Refund) -> RefundAnswer:
    """A refund as the API shows it."""
    return msgspec.convert(refund, RefundAnswer, from_attributes=True)
