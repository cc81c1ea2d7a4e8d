"""Payments as they stand, with every attempt to pay them; and what is on sale."""

from datetime import datetime
from uuid import UUID

import msgspec

from domain.packs import PACKS
from sql import payments
from sql.payments import Payment
from web.calls import Call, Reply
from web.problems import not_found
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


async def as_answer(call: Call, payment: Payment) -> PaymentAnswer:
    """A payment and its attempts, as the API shows them."""
    attempts = await payments.get_attempts(call.services.db, payment.order_id)
    fields = {name: getattr(payment, name) for name in PaymentAnswer.__struct_fields__ if name != "attempts"}
    shown = msgspec.convert(attempts, list[AttemptAnswer], from_attributes=True)
    return PaymentAnswer(**fields, attempts=shown)


async def found(call: Call) -> Payment:
    """The payment that the path names. Errors: Problem 404."""
    payment = await payments.get_payment(call.services.db, call.uuid("id", "payment"))
    if payment is None:
        raise not_found("payment")
    return payment
