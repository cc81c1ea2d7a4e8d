"""Our Cashfree client: small, verified TLS, explicit timeouts, per-merchant credentials, exact money.

Creating is exactly-once by natural keys: the caller stores `order_id` or `refund_id` before the call, and
after an unknown outcome this client asks for that id before it sends the same request again. It sends no
idempotency keys: sources disagree about them, and a stored 500 may be replayed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import aiohttp
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.budget import Budget, LocalBudget, Rate, RedisBudget, limits_from
from gateway.entities import (
    Dispute,
    Order,
    Page,
    Payment,
    ReconLine,
    Refund,
    Settlement,
    as_object,
    read_dispute,
    read_disputes,
    read_order,
    read_page,
    read_payment,
    read_payments,
    read_refund,
    read_refunds,
    read_settlements,
)
from gateway.ids import id_in_path, order_in_path, same_id
from gateway.once import create_once, read_answer
from gateway.requests import NewOrder, NewRefund, PaymentStart, page_request, read_payment_start
from gateway.settings import GatewaySettings
from gateway.transport import Merchant, Transport
from gateway.wire import Json


@dataclass(frozen=True, slots=True)
class CashfreeClient:
    """Cashfree's API for one merchant. Make one with `open_client`; `for_merchant` shares its connections."""

    transport: Transport

    def for_merchant(self, merchant: Merchant) -> CashfreeClient:
        """The same connections and budget, another account."""
        return CashfreeClient(replace(self.transport, merchant=merchant))

    def patient(self, patience_s: float) -> CashfreeClient:
        """The same client, waiting at most so long for budget before it raises `OverBudget`."""
        return CashfreeClient(self.transport.patient(patience_s))

    async def create_order(self, new: NewOrder, *, again: bool = False) -> Order:
        """Create the order, or find the one that this id already made. `again`: an earlier call with this
        id ended in OutcomeUnknown, so look before sending.

        Errors: ContentMismatch if the id stands for another amount or currency; OutcomeUnknown if it
        cannot be told whether the order exists (call again with the same id).
        """

        async def send() -> Order:
            answer = await self.transport.call("create_order", "POST", "/orders", new.to_wire())
            return read_answer("create_order", lambda: read_order(as_object(answer)))

        return await create_once(
            "create_order",
            new.order_id,
            send,
            lambda: self.get_order(new.order_id),
            lambda order: (order.amount_paise, order.currency) == (new.amount_paise, new.currency),
            again=again,
        )

    async def get_order(self, order_id: str) -> Order:
        """The order as Cashfree has it: the only evidence that it was paid. Errors: NotFound."""
        answer = await self._get("get_order", f"/orders/{order_in_path('get_order', order_id)}")
        order = read_answer("get_order", lambda: read_order(as_object(answer)))
        same_id("get_order", order.order_id, order_id)
        return order

    async def terminate_order(self, order_id: str) -> Order:
        """Ask that nobody can pay the order any more. Setting a state is safe to repeat; a paid order is
        refused.
        """
        path = f"/orders/{order_in_path('terminate_order', order_id)}"
        body = {"order_status": "TERMINATED"}
        answer = await self.transport.call("terminate_order", "PATCH", path, body, repeatable=True)
        return read_answer("terminate_order", lambda: read_order(as_object(answer)))

    async def start_payment(self, payment_session_id: str, method: dict[str, Json]) -> PaymentStart:
        """Begin an attempt on a session without the hosted page, e.g. `{"upi": {"channel": "qrcode"}}`.

        Never repeated: each call is an attempt of its own. After OutcomeUnknown look at `get_payments`.
        """
        body = {"payment_session_id": payment_session_id, "payment_method": method}
        answer = await self.transport.call("start_payment", "POST", "/orders/sessions", body)
        return read_answer("start_payment", lambda: read_payment_start(as_object(answer)))

    async def get_payments(self, order_id: str) -> tuple[Payment, ...]:
        """Every attempt to pay the order. Errors: NotFound if there is no such order."""
        answer = await self._get(
            "get_payments", f"/orders/{order_in_path('get_payments', order_id)}/payments"
        )
        payments = read_answer("get_payments", lambda: read_payments(answer))
        for payment in payments:
            same_id("get_payments", payment.order_id, order_id)
        return payments

    async def get_payment(self, order_id: str, cf_payment_id: str) -> Payment:
        """One attempt. Errors: NotFound."""
        order = order_in_path("get_payment", order_id)
        answer = await self._get(
            "get_payments", f"/orders/{order}/payments/{id_in_path('get_payment', cf_payment_id)}"
        )
        payment = read_answer("get_payment", lambda: read_payment(as_object(answer)))
        same_id("get_payment", payment.cf_payment_id, cf_payment_id)
        return payment

    async def create_refund(self, order_id: str, new: NewRefund, *, again: bool = False) -> Refund:
        """Refund part of a paid order, or find the refund this id already made. Errors as `create_order`."""
        order = order_in_path("create_refund", order_id)

        async def send() -> Refund:
            answer = await self.transport.call(
                "create_refund", "POST", f"/orders/{order}/refunds", new.to_wire()
            )
            return read_answer("create_refund", lambda: read_refund(as_object(answer)))

        return await create_once(
            "create_refund",
            new.refund_id,
            send,
            lambda: self.get_refund(order_id, new.refund_id),
            lambda refund: (refund.amount_paise, refund.currency) == (new.amount_paise, new.currency),
            again=again,
        )

    async def get_refund(self, order_id: str, refund_id: str) -> Refund:
        """One refund by our id. Errors: NotFound."""
        order = order_in_path("get_refund", order_id)
        answer = await self._get(
            "get_refund", f"/orders/{order}/refunds/{id_in_path('get_refund', refund_id)}"
        )
        refund = read_answer("get_refund", lambda: read_refund(as_object(answer)))
        same_id("get_refund", refund.refund_id, refund_id)
        return refund

    async def get_refunds(self, order_id: str) -> tuple[Refund, ...]:
        """Every refund of the order, Cashfree's own included."""
        answer = await self._get("get_refund", f"/orders/{order_in_path('get_refund', order_id)}/refunds")
        return read_answer("get_refund", lambda: read_refunds(answer))

    async def get_order_settlements(self, order_id: str) -> tuple[Settlement, ...]:
        """What of the order was settled to the bank; NotFound or empty before that."""
        path = f"/orders/{order_in_path('get_settlements', order_id)}/settlements"
        answer = await self._get("get_settlements", path)
        return read_answer("get_settlements", lambda: read_settlements(answer))

    async def get_settlements(self, start: datetime, end: datetime) -> tuple[Settlement, ...]:
        """Settlements between two times, at most 1,000."""
        answer = await self._ask("get_settlements", "/settlements", page_request(start, end, None))
        return read_answer("get_settlements", lambda: read_settlements(answer))

    async def recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page:
        """One page of what happened between two times, settlements included."""
        answer = await self._ask("recon", "/recon", page_request(start, end, cursor))
        return read_answer("recon", lambda: read_page(answer))

    async def settlement_recon(self, start: datetime, end: datetime, cursor: str | None = None) -> Page:
        """One page of the lines that make up the settlements between two times."""
        answer = await self._ask("settlement_recon", "/settlement/recon", page_request(start, end, cursor))
        return read_answer("settlement_recon", lambda: read_page(answer))

    async def settled_lines(self, start: datetime, end: datetime) -> AsyncIterator[ReconLine]:
        """All lines of `settlement_recon`, page after page."""
        cursor: str | None = None
        while True:
            page = await self.settlement_recon(start, end, cursor)
            for line in page.lines:
                yield line
            if page.cursor is None or page.cursor == cursor or not page.lines:
                return
            cursor = page.cursor

    async def get_disputes(self, order_id: str) -> tuple[Dispute, ...]:
        """Every dispute about the order's payments."""
        path = f"/orders/{order_in_path('get_disputes', order_id)}/disputes"
        answer = await self._get("get_disputes", path)
        return read_answer("get_disputes", lambda: read_disputes(answer))

    async def get_dispute(self, dispute_id: str) -> Dispute:
        """One dispute. Errors: NotFound."""
        answer = await self._get("get_disputes", f"/disputes/{id_in_path('get_disputes', dispute_id)}")
        return read_answer("get_disputes", lambda: read_dispute(as_object(answer)))

    async def accept_dispute(self, dispute_id: str) -> Dispute:
        """Give the money up. Accepting twice is refused by Cashfree and changes nothing."""
        path = f"/disputes/{id_in_path('accept_dispute', dispute_id)}/accept"
        answer = await self.transport.call("accept_dispute", "PUT", path)
        return read_answer("accept_dispute", lambda: read_dispute(as_object(answer)))

    async def _get(self, endpoint: str, path: str) -> Json:
        return await self.transport.call(endpoint, "GET", path)

    async def _ask(self, endpoint: str, path: str, body: object) -> Json:
        """A POST that only reads."""
        return await self.transport.call(endpoint, "POST", path, body, repeatable=True)


@asynccontextmanager
async def open_client(settings: GatewaySettings) -> AsyncIterator[CashfreeClient]:
    """A client with its connections and budget, closed on leaving."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=settings.ssl_context(), limit=settings.cashfree_connections
                ),
                timeout=aiohttp.ClientTimeout(
                    total=settings.cashfree_timeout_s, sock_connect=settings.cashfree_connect_timeout_s
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        )
        budget = await _open_budget(settings, stack)
        merchant = Merchant(settings.cashfree_client_id, settings.cashfree_client_secret.get_secret_value())
        transport = Transport(
            http, settings.cashfree_base_url, merchant, budget, settings.cashfree_patience_s
        )
        yield CashfreeClient(transport)


async def _open_budget(settings: GatewaySettings, stack: AsyncExitStack) -> Budget:
    limit_of = limits_from(settings.cashfree_limits_per_minute)
    if settings.redis_url is None:
        return LocalBudget(lambda endpoint: Rate.per_minute(limit_of(endpoint)))
    redis = Redis.from_url(
        settings.redis_url.get_secret_value(), max_connections=32, retry=Retry(NoBackoff(), 0)
    )
    stack.push_async_callback(redis.aclose)
    return await stack.enter_async_context(
        RedisBudget(redis, limit_of, processes=settings.cashfree_processes)
    )
