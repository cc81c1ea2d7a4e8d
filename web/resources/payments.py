"""Payments as they stand, with every attempt to pay them; and what is on sale."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from domain.packs import PACKS
from sql import accounts, lists, payments
from sql.payments import Attempt, Payment
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, NoQuery


class PackAnswer(Answer, frozen=True):
    """A pack on sale; the price includes GST."""

    pack_paise: int
    credits: int
    base_credits: int
    bonus_credits: int


class Packs(Answer, frozen=True):
    """All packs on sale."""

    items: list[PackAnswer]


class AttemptAnswer(Answer, frozen=True):
    """One attempt to pay an order; `status` is the gateway's word."""

    cf_payment_id: str
    status: str
    payment_group: str | None
    amount_paise: int | None
    occurred_at: datetime


class PaymentAnswer(Answer, frozen=True):
    """A payment. status: created, active, failed, expired, verified, held, rejected, credited, mismatch,
    refunded. `offer_paise` of the amount was paid by an offer.
    """

    id: UUID
    user_id: UUID
    wallet_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    credits: int
    base_credits: int
    bonus_credits: int
    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int
    place_of_supply: str
    payment_session_id: str | None
    payment_group: str | None
    failure: str | None
    fraud_score: int | None
    refund_paise: int
    offer_paise: int
    created_at: datetime
    expires_at: datetime | None
    verified_at: datetime | None
    credited_at: datetime | None
    failed_at: datetime | None
    attempts: list[AttemptAnswer]


class PaymentsQuery(PageQuery, frozen=True):
    """A page of payments: a user's, a wallet's, or all. `status` asks for one of those two as well."""

    user_id: UUID | None = None
    wallet_id: UUID | None = None
    status: (
        Literal[
            "created",
            "active",
            "failed",
            "expired",
            "verified",
            "held",
            "rejected",
            "credited",
            "mismatch",
            "refunded",
        ]
        | None
    ) = None


class PaymentsPage(Answer, frozen=True):
    """The newest first."""

    items: list[PaymentAnswer]
    next: str | None


async def list_packs(call: Call, _: NoQuery) -> Reply:
    """GET /v1/packs."""
    packs = [
        PackAnswer(pack_paise=p.price_paise, credits=p.credits, base_credits=p.base, bonus_credits=p.bonus)
        for p in PACKS
    ]
    return Reply(Packs(items=packs))


async def get_payment(call: Call, _: NoQuery) -> Reply:
    """GET /v1/payments/{id}, with every attempt to pay it."""
    return Reply(await as_answer(call, await found(call)))


async def list_payments(call: Call, query: PaymentsQuery) -> Reply:
    """GET /v1/payments."""
    db, user_id = call.services.db, query.user_id
    if query.status is not None and user_id is None and query.wallet_id is None:
        raise Problem(400, "filter_required", "status is asked for together with user_id or wallet_id")
    before = after(query, "payments", tuple[datetime, UUID])
    if query.wallet_id is not None:
        wallet = await accounts.get_wallet(db, query.wallet_id)
        if wallet is None or user_id not in (None, wallet.owner_id):
            return Reply(PaymentsPage(items=[], next=None))
        user_id = wallet.owner_id
    rows = await lists.list_payments(
        db,
        user_id=user_id,
        wallet_id=query.wallet_id,
        status=query.status,
        before=before,
        limit=query.limit + 1,
    )
    page, following = cut(rows, query, "payments", lambda payment: (payment.created_at, payment.id))
    attempts = await lists.list_attempts(db, [payment.order_id for payment in page])
    items = [_shown(payment, attempts.get(payment.order_id, [])) for payment in page]
    return Reply(PaymentsPage(items=items, next=following))


async def as_answer(call: Call, payment: Payment) -> PaymentAnswer:
    """A payment and its attempts, as the API shows them."""
    return _shown(payment, await payments.get_attempts(call.services.db, payment.order_id))


def _shown(payment: Payment, attempts: Sequence[Attempt]) -> PaymentAnswer:
    fields = {name: getattr(payment, name) for name in PaymentAnswer.__struct_fields__ if name != "attempts"}
    shown = msgspec.convert(attempts, list[AttemptAnswer], from_attributes=True)
    return PaymentAnswer(**fields, attempts=shown)


async def found(call: Call) -> Payment:
    """The payment that the path names. Errors: Problem 404."""
    payment = await payments.get_payment(call.services.db, call.uuid("id", "payment"))
    if payment is None:
        raise not_found("payment")
    return payment
