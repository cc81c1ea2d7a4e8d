"""Payments: the row first, then the gateway's order, then its session; and how a payment stands."""

from ipaddress import ip_address

import msgspec

from domain import gst, gstin
from domain.packs import PACKS, Pack, UnknownPack, pack_for
from gateway import errors as gateway_errors
from gateway.entities import Order
from gateway.requests import NewOrder as GatewayOrder
from sql import payments
from sql.ids import uuid7
from sql.payments import Buyer, NewPayment, Payment
from web import strict
from web.calls import Call, Reply
from web.problems import Problem, key_conflict, not_found
from web.services import request_hash
from web.shapes import AttemptAnswer, NewOrder, NoQuery, OrderAnswer, PackAnswer, Packs, PaymentAnswer

_OPEN_ORDER = frozenset({"created", "active"})


async def list_packs(call: Call, _: NoQuery) -> Reply:
    """GET /v1/packs."""
    packs = [
        PackAnswer(pack_paise=p.price_paise, credits=p.credits, base_credits=p.base, bonus_credits=p.bonus)
        for p in PACKS
    ]
    return Reply(Packs(items=packs))


async def create_order(call: Call, body: NewOrder) -> Reply:
    """POST /v1/payments/orders. After an unknown outcome the same key goes on where it stopped."""
    payment, fresh, buyer = await _stored(call, body)
    if payment.status == "failed" and payment.payment_session_id is None and payment.failure:
        raise Problem(
            422, "gateway_refused", payment.failure, payment_id=payment.id, order_id=payment.order_id
        )
    if payment.payment_session_id is None and payment.status in _OPEN_ORDER:
        order = await _order(call, body, payment, buyer, fresh=fresh)
        await payments.order_created(
            call.services.db,
            payment.id,
            cf_order_id=order.cf_order_id,
            session_id=order.payment_session_id,
            expires_at=order.expires_at,
        )
        payment = await payments.get_payment(call.services.db, payment.id) or payment
    session = payment.payment_session_id
    answer = OrderAnswer(
        payment_id=payment.id,
        order_id=payment.order_id,
        status=payment.status,
        amount_paise=payment.amount_paise,
        currency=payment.currency,
        credits=payment.credits,
        payment_session_id=session,
        checkout_url=call.services.gateway_settings.checkout_url(session) if session else None,
        expires_at=payment.expires_at,
    )
    return Reply(answer, 201 if fresh else 200)


async def _stored(call: Call, body: NewOrder) -> tuple[Payment, bool, Buyer]:
    """The payment's row, whether it is new, and its buyer. Errors: Problem 409, 422."""
    key, metadata = call.key(), _metadata(body)
    pack = _pack(body.pack_paise)
    buyer = await payments.get_buyer(call.services.db, body.user_id, body.wallet_id)
    if buyer is None:
        raise Problem(422, "unknown_wallet", "this user has no such wallet")
    phone = body.customer_phone or buyer.phone
    if phone is None:
        raise Problem(422, "phone_required", "the gateway needs the customer's phone number")
    place = _place(buyer)
    seller = call.services.settings.seller_state_code
    inter_state = gstin.is_inter_state(supplier_state=seller, supply_state=place)
    payment_id = uuid7()
    created = await payments.create_payment(
        call.services.db,
        NewPayment(
            id=payment_id,
            key=key,
            request_hash=request_hash("order", msgspec.structs.asdict(body)),
            user_id=body.user_id,
            wallet_id=body.wallet_id,
            order_id=f"cd_{payment_id.hex}",
            pack=pack,
            split=gst.split_inclusive(pack.price_paise, inter_state=inter_state),
            place_of_supply=place,
            customer_phone=phone,
            customer_email=buyer.email,
            device_id=body.device_id,
            ip=ip_address(call.request.remote) if call.request.remote else None,
            metadata=metadata,
        ),
        shard=call.services.partition(str(body.wallet_id)),
        created_partition=call.services.partition("status=created"),
    )
    if created.outcome == "conflict":
        raise key_conflict()
    if created.payment is None:
        raise Problem(422, "unknown_wallet", "this user has no such wallet")
    return created.payment, created.outcome == "created", buyer


def _pack(pack_paise: int) -> Pack:
    try:
        return pack_for(pack_paise)
    except UnknownPack as error:
        raise Problem(422, "unknown_pack", f"{error}; see GET /v1/packs") from error


def _place(buyer: Buyer) -> str:
    try:
        return gstin.place_of_supply(gstin=buyer.gstin, customer_state=buyer.state_code)
    except (gstin.BadGstin, gstin.NoPlaceOfSupply) as error:
        raise Problem(422, "place_of_supply_unknown", str(error)) from error


def _metadata(body: NewOrder) -> dict[str, object] | None:
    try:
        strict.check_metadata(body.metadata)
    except strict.Malformed as error:
        raise Problem(422, error.code, error.detail) from error
    return body.metadata


async def _order(call: Call, body: NewOrder, payment: Payment, buyer: Buyer, *, fresh: bool) -> Order:
    """The gateway's order for our row: looked for first if an earlier call may have made it.

    Errors: Problem 422 refused for good; 503 not sent, 502 unknown: the row stays, the same key resumes.
    """
    gateway = call.services.gateway
    wish = GatewayOrder(
        order_id=payment.order_id,
        amount_paise=payment.amount_paise,
        currency=payment.currency,
        customer_id=str(payment.user_id),
        customer_phone=payment.customer_phone or "",
        customer_email=payment.customer_email,
        customer_name=buyer.name,
        return_url=body.return_url,
    )
    try:
        if not fresh:
            try:
                return _same(await gateway.get_order(payment.order_id), payment)
            except gateway_errors.NotFound:
                pass
        return await gateway.create_order(wish)
    except (gateway_errors.BadRequest, gateway_errors.ContentMismatch) as error:
        await payments.fail_order(
            call.services.db,
            payment.id,
            error.detail,
            shard=call.services.partition(str(payment.wallet_id)),
            failed_partition=call.services.partition("status=failed"),
        )
        raise _refused(payment, error.detail) from error
    except gateway_errors.NotSent as error:
        wait_s = max(1, round(error.retry_after_s))
        raise Problem(
            503,
            "gateway_busy",
            "the order was not sent; try again with the same Idempotency-Key",
            headers={"Retry-After": str(wait_s)},
            payment_id=payment.id,
            order_id=payment.order_id,
        ) from error
    except gateway_errors.GatewayError as error:
        raise Problem(
            502,
            "gateway_outcome_unknown",
            "it is not known whether the order exists; try again with the same Idempotency-Key",
            headers={"Retry-After": "2"},
            payment_id=payment.id,
            order_id=payment.order_id,
        ) from error


def _refused(payment: Payment, detail: str) -> Problem:
    return Problem(422, "gateway_refused", detail, payment_id=payment.id, order_id=payment.order_id)


def _same(order: Order, payment: Payment) -> Order:
    if (order.amount_paise, order.currency) != (payment.amount_paise, payment.currency):
        raise gateway_errors.ContentMismatch("get_order", f"{payment.order_id} stands for another amount")
    return order


async def get_payment(call: Call, _: NoQuery) -> Reply:
    """GET /v1/payments/{id}, with every attempt to pay it."""
    payment = await payments.get_payment(call.services.db, call.uuid("id", "payment"))
    if payment is None:
        raise not_found("payment")
    attempts = await payments.get_attempts(call.services.db, payment.order_id)
    fields = {name: getattr(payment, name) for name in PaymentAnswer.__struct_fields__ if name != "attempts"}
    shown = msgspec.convert(attempts, list[AttemptAnswer], from_attributes=True)
    return Reply(PaymentAnswer(**fields, attempts=shown))
