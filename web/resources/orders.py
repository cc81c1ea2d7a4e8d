"""Orders: the payment's row first, then the gateway's order, then its session; and trying again what failed."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec
from msgspec import Meta

from domain import gst, gstin
from domain.packs import Pack, UnknownPack, pack_for
from gateway import errors as gateway_errors
from gateway.entities import Order
from gateway.requests import NewOrder as GatewayOrder
from sql import payments, reversals
from sql.ids import uuid7
from sql.payments import Buyer, NewPayment, Payment
from streams.events import Reference
from web import strict
from web.addresses import Address, read_address
from web.auth import Role
from web.calls import Call, made
from web.problems import Problem, key_conflict
from web.replies import Reply
from web.resources.payments import found
from web.services import request_hash
from web.shapes import Answer, Body, Nothing, Phone, Url

ClientIp = Annotated[str, Meta(min_length=2, max_length=45, description="an IPv4 or IPv6 address")]
_OPEN_ORDER = frozenset({"created", "active"})
_RETRIED = frozenset({"created", "active", "failed", "expired"})
_OPEN = "ACTIVE"
_PAID = "PAID"


class NewOrder(Body, frozen=True):
    """POST /v1/payments/orders. The pack's price decides the credits; a caller never names them.

    `client_ip` and `device_id` are the customer's, for fraud detection; a service must say the address, since its own is no
    customer's. A customer's own is where the request comes from.
    """

    user_id: UUID
    wallet_id: UUID
    pack_paise: Annotated[int, Meta(ge=1, le=10_000_000_000)]
    return_url: Url | None = None
    customer_phone: Phone | None = None
    device_id: Reference | None = None
    client_ip: ClientIp | None = None
    metadata: dict[str, Any] | None = None


class OrderAnswer(Answer, frozen=True):
    """An order to be paid at `checkout_url`."""

    payment_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    credits: int
    payment_session_id: str | None
    checkout_url: str | None
    expires_at: datetime | None


async def create_order(call: Call, body: NewOrder) -> Reply:
    """POST /v1/payments/orders. After an unknown outcome the same key goes on where it stopped."""
    if body.client_ip is not None and call.caller.role is Role.CUSTOMER:
        raise Problem(422, "client_ip_is_known", "a customer's address is where the request comes from")
    said = msgspec.structs.asdict(body)
    del said["client_ip"]  # who tries again may have another
    return await _ordered(call, body, said=request_hash("order", said), metadata=_metadata(body))


async def _ordered(call: Call, body: NewOrder, *, said: bytes, metadata: dict[str, object] | None) -> Reply:
    """The order of this key, made or found. `said` is what the same key must repeat."""
    payment, fresh, buyer = await _stored(call, body, said, metadata)
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
    return made(_order_answer(call, payment), new=fresh)


def _order_answer(call: Call, payment: Payment) -> OrderAnswer:
    session = payment.payment_session_id
    return OrderAnswer(
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


async def create_session(call: Call, _: Nothing) -> Reply:
    """POST /v1/payments/{id}/session: the session in which an open order is paid, as the gateway has it now.
    409 order_not_open where it is paid or over.
    """
    payment = await found(call)
    order = await _at_gateway(call, payment)
    if order is None:
        raise Problem(
            409, "order_not_made", "the gateway does not know the order; send the order's request again"
        )
    if order.status != _OPEN or order.payment_session_id is None:
        raise await _not_open(call, payment, order.status)
    return Reply(_order_answer(call, await _opened(call, payment, order)))


async def retry(call: Call, _: Nothing) -> Reply:
    """POST /v1/payments/{id}/retry: pay what failed. 200 with the same order while the gateway keeps it open (an order
    has many attempts), 201 with a new one of the same pack once it is over. 409 payment_not_failed, payment_paid.
    """
    call.key()
    payment = await found(call)
    if payment.status not in _RETRIED:
        raise Problem(409, "payment_not_failed", f"the payment is {payment.status}")
    order = await _at_gateway(call, payment)
    if order is not None and order.status == _PAID:
        raise await _not_open(call, payment, order.status)
    if order is not None and order.status == _OPEN and order.payment_session_id is not None:
        return Reply(_order_answer(call, await _opened(call, payment, order)))
    again = NewOrder(
        user_id=payment.user_id,
        wallet_id=payment.wallet_id,
        pack_paise=payment.amount_paise,
        customer_phone=payment.customer_phone,
        device_id=payment.device_id,
        client_ip=payment.ip,
    )
    reply = await _ordered(
        call, again, said=request_hash("retry", payment.id), metadata={"retry_of": str(payment.id)}
    )
    if reply.status == 201:
        await reversals.count_retry(call.services.db, payment.id)
    return reply


async def _at_gateway(call: Call, payment: Payment) -> Order | None:
    """The order as the gateway has it; None if it was never made. Errors: Problem 502, 503."""
    try:
        return await call.services.gateway.get_order(payment.order_id)
    except gateway_errors.NotFound:
        return None
    except gateway_errors.GatewayError as error:
        raise _no_answer(payment, error) from error


async def _opened(call: Call, payment: Payment, order: Order) -> Payment:
    """The payment with its order's session stored."""
    db = call.services.db
    await payments.order_created(
        db,
        payment.id,
        cf_order_id=order.cf_order_id,
        session_id=order.payment_session_id,
        expires_at=order.expires_at,
    )
    return await payments.get_payment(db, payment.id) or payment


async def _not_open(call: Call, payment: Payment, status: str) -> Problem:
    """409 for an order that takes no payment; one that is paid is verified now."""
    if status != _PAID:
        return Problem(409, "order_not_open", f"the order is {status}", order_status=status)
    await reversals.ask_gateway(call.services.db, payment.id, whole=False)
    return Problem(409, "payment_paid", "the gateway has this order as paid; it is being verified")


async def _stored(
    call: Call, body: NewOrder, said: bytes, metadata: dict[str, object] | None
) -> tuple[Payment, bool, Buyer]:
    """The payment's row, whether it is new, and its buyer. Errors: Problem 409, 422."""
    key = call.key()
    pack = _pack(body.pack_paise)
    buyer = await payments.get_buyer(call.services.db, body.user_id, body.wallet_id)
    if buyer is None:
        raise Problem(422, "wallet_not_of_user", "this user has no such wallet")
    phone = body.customer_phone or buyer.phone
    if phone is None:
        raise Problem(422, "phone_required", "the gateway needs the customer's phone number")
    place = _place(buyer)
    seller = call.services.settings.seller_state
    inter_state = gstin.is_inter_state(supplier_state=seller, supply_state=place)
    payment_id = uuid7()
    created = await payments.create_payment(
        call.services.db,
        NewPayment(
            id=payment_id,
            key=key,
            request_hash=said,
            user_id=body.user_id,
            wallet_id=body.wallet_id,
            order_id=f"cd_{payment_id.hex}",
            pack=pack,
            split=gst.split_inclusive(pack.price_paise, inter_state=inter_state),
            place_of_supply=place,
            customer_phone=phone,
            customer_email=buyer.email,
            device_id=body.device_id,
            ip=_address(call, body),
            metadata=metadata,
        ),
        shard=call.services.chain(str(body.wallet_id)),
        created_partition=call.services.partition("status=created"),
    )
    if created.outcome == "conflict":
        raise key_conflict()
    if created.payment is None:
        raise Problem(422, "wallet_not_of_user", "this user has no such wallet")
    return created.payment, created.outcome == "created", buyer


def _address(call: Call, body: NewOrder) -> Address | None:
    """The customer's address. Errors: Problem 422."""
    if call.caller.role is Role.CUSTOMER:
        return call.services.proxies.client(call.request)
    if body.client_ip is None:
        return None
    address = read_address(body.client_ip)
    if address is None:
        raise Problem(422, "invalid_client_ip", "client_ip is an IPv4 or IPv6 address")
    return address


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
            shard=call.services.chain(str(payment.wallet_id)),
            failed_partition=call.services.partition("status=failed"),
        )
        raise _refused(payment, error.detail) from error
    except gateway_errors.GatewayError as error:
        raise _no_answer(payment, error) from error


def _no_answer(payment: Payment, error: gateway_errors.GatewayError) -> Problem:
    """503 where nothing was sent, 502 where it is not known what became of it."""
    if isinstance(error, gateway_errors.NotSent):
        return Problem(
            503,
            "gateway_busy",
            "nothing was sent; try again with the same Idempotency-Key",
            headers={"Retry-After": str(max(1, round(error.retry_after_s)))},
            payment_id=payment.id,
            order_id=payment.order_id,
        )
    return Problem(
        502,
        "gateway_outcome_unknown",
        "it is not known how the order stands; try again with the same Idempotency-Key",
        headers={"Retry-After": "2"},
        payment_id=payment.id,
        order_id=payment.order_id,
    )


def _refused(payment: Payment, detail: str) -> Problem:
    return Problem(422, "gateway_refused", detail, payment_id=payment.id, order_id=payment.order_id)


def _same(order: Order, payment: Payment) -> Order:
    if (order.amount_paise, order.currency) != (payment.amount_paise, payment.currency):
        raise gateway_errors.ContentMismatch("get_order", f"{payment.order_id} stands for another amount")
    return order
