"""The door of tests and of the demo: pay orders, move clocks, break things, look inside. JSON under
`/sim`.

POST /sim/orders/{id}/pay       {"outcome", "attempts_before", "method", "instrument", "amount_paise",
"offer_paise", "get_lag_s", "webhook": {...}} POST /sim/payments/{cf_payment_id}   {"status", "webhook"}     a pending or
failed attempt moves on POST /sim/refunds/{refund_id}        {"status", "webhook"} POST /sim/settle
send to the bank what succeeded GET|POST /sim/clock[/advance]        {"seconds"} GET|POST|DELETE
/sim/faults          {"endpoint", "kind", "times", "probability", "seconds"} POST /sim/limits
{"create_order": 200, ...}  enforce limits a minute POST /sim/webhooks                   chances for every
webhook that is not planned, see `plan.WebhookChances` POST /sim/refund-policy              {"outcome",
"delay_s", "auto_refund"} POST /sim/orders/load    [{"order_id", "amount_paise", "cf_payment_id",
"upi_id"}, ...]  paid before anybody looked, for load tests GET  /sim/orders?after=&limit=       the truth, for an oracle GET
/sim/orders/{id}, /sim/stats, /sim/deliveries
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import islice
from typing import Literal, TypeVar

import msgspec
from aiohttp import web

from gateway.simulator.book import METHODS, Book, Rejected
from gateway.simulator.faults import Fault
from gateway.simulator.plan import WebhookChances, WebhookPlan
from gateway.simulator.records import Attempt, Order
from gateway.simulator.sim import Simulator

Outcome = Literal["success", "failed", "dropped", "pending"]
STATUS_OF: dict[str, str] = {"success": "SUCCESS", "failed": "FAILED", "dropped": "USER_DROPPED"}
MAX_ATTEMPTS = 20

T = TypeVar("T")


class Pay(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a customer pays. `attempts_before` fail first; `times` 2 pays twice; `late` lets a failure
    succeed after.

    While `get_lag_s` lasts, GET shows the order unpaid although its webhook is out. `amount_paise` pays
    another amount than the order's; `offer_paise` of it is paid by an offer, which the webhook names and
    GET does not.
    """

    outcome: Outcome = "success"
    attempts_before: int = 0
    times: int = 1
    late: bool = False
    method: Literal["upi", "card", "netbanking", "wallet"] = "upi"
    instrument: str | None = None
    amount_paise: int | None = None
    offer_paise: int = 0
    get_lag_s: float = 0.0
    webhook: WebhookPlan | None = None


class PaidOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order that was paid before anybody looked."""

    order_id: str
    amount_paise: int
    cf_payment_id: int
    upi_id: str


class Move(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The next status of a payment or refund."""

    status: str
    webhook: WebhookPlan | None = None


class Advance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much time passes."""

    seconds: float


class RefundPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What becomes of refunds; `auto_refund` returns by itself what was paid a second time."""

    outcome: Literal["SUCCESS", "PENDING", "ONHOLD", "CANCELLED", "FAILED"] = "SUCCESS"
    delay_s: float = 0.2
    auto_refund: bool = False


def pay(book: Book, order: Order, wish: Pay) -> list[Attempt]:
    """Make the attempts that a wish describes, in order. Rejected (400) if the order has ended."""
    if order.status not in ("ACTIVE", "PAID"):
        raise Rejected(400, "order_inactive", f"order is {order.status}")
    if not 0 <= wish.attempts_before <= MAX_ATTEMPTS or not 1 <= wish.times <= MAX_ATTEMPTS:
        raise Rejected(400, "attempts_invalid", f"attempts : from 0 to {MAX_ATTEMPTS}")
    if wish.get_lag_s > 0:
        order.shown_from_ms = book.clock.now_ms() + round(wish.get_lag_s * 1000)
    made = [_attempt(book, order, wish, "FAILED") for _ in range(wish.attempts_before)]
    for _ in range(wish.times):
        if wish.outcome == "success" and wish.late:
            attempt = _attempt(book, order, wish, "FAILED")
            book.resolve(order, attempt, "SUCCESS", wish.webhook)
        else:
            attempt = _attempt(book, order, wish, STATUS_OF.get(wish.outcome))
        made.append(attempt)
    return made


def _attempt(book: Book, order: Order, wish: Pay, status: str | None) -> Attempt:
    attempt = book.start_attempt(order, wish.method, wish.instrument, wish.amount_paise, wish.offer_paise)
    if status is not None:
        book.resolve(order, attempt, status, wish.webhook)
    return attempt


def add_routes(app: web.Application, sim: Simulator) -> None:
    """Every control call, under /sim."""
    control = _Control(sim)
    for method, path, handler in (
        ("POST", "/orders/{order_id}/pay", control.pay),
        ("GET", "/orders/{order_id}", control.order),
        ("GET", "/orders", control.orders),
        ("POST", "/orders/load", control.load),
        ("POST", "/payments/{cf_payment_id}", control.move_payment),
        ("POST", "/refunds/{refund_id}", control.move_refund),
        ("POST", "/settle", control.settle),
        ("GET", "/clock", control.clock),
        ("POST", "/clock/advance", control.advance),
        ("GET", "/faults", control.faults),
        ("POST", "/faults", control.add_fault),
        ("DELETE", "/faults", control.clear_faults),
        ("POST", "/limits", control.limits),
        ("POST", "/webhooks", control.webhooks),
        ("POST", "/refund-policy", control.refund_policy),
        ("GET", "/stats", control.stats),
        ("GET", "/deliveries", control.recent_deliveries),
    ):
        app.router.add_route(method, "/sim" + path, answered(handler))


def answered(
    handler: Callable[[web.Request], Awaitable[object]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler whose answer is encoded, and whose refusals keep their status."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            status, answer = 200, await handler(request)
        except Rejected as rejection:
            status, answer = rejection.status, rejection.answer
        except msgspec.DecodeError as error:
            status, answer = 400, {"message": str(error), "code": "request_failed"}
        return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")

    return handle


async def read_body(request: web.Request, kind: type[T]) -> T:
    """The JSON body as a struct; empty means all defaults."""
    return msgspec.json.decode(await request.read() or b"{}", type=kind)


def _truth(order: Order) -> dict[str, object]:
    return {
        "order_id": order.order_id,
        "status": order.status,
        "amount_paise": order.amount_paise,
        "captured_paise": order.captured_paise,
        "refunded_paise": order.refunded_paise,
        "payment_session_id": order.session_id,
        "attempts": [
            {
                "cf_payment_id": str(attempt.cf_payment_id),
                "status": attempt.status,
                "amount_paise": attempt.amount_paise,
            }
            for attempt in order.attempts
        ],
        "refunds": [
            {"refund_id": refund.refund_id, "status": refund.status, "amount_paise": refund.amount_paise}
            for refund in order.refunds.values()
        ],
    }


class _Control:
    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._book = sim.book

    async def pay(self, request: web.Request) -> object:
        wish = await read_body(request, Pay)
        order = self._book.order(request.match_info["order_id"])
        made = pay(self._book, order, wish)
        return {
            "order_id": order.order_id,
            "order_status": order.status,
            "payments": [{"cf_payment_id": str(a.cf_payment_id), "status": a.status} for a in made],
        }

    async def order(self, request: web.Request) -> object:
        return _truth(self._book.order(request.match_info["order_id"]))

    async def orders(self, request: web.Request) -> object:
        after, limit = request.query.get("after"), int(request.query.get("limit", "1000"))
        ids = iter(self._book.orders)
        if after is not None:
            for order_id in ids:
                if order_id == after:
                    break
        return [_truth(self._book.order(order_id)) for order_id in islice(ids, limit)]

    async def load(self, request: web.Request) -> object:
        found = await read_body(request, list[PaidOrder])
        for order in found:
            self._book.add_paid(order.order_id, order.amount_paise, order.cf_payment_id, order.upi_id)
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        return {"loaded": len(found)}

    async def move_payment(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        number = request.match_info["cf_payment_id"]
        order_id = self._book.payments.get(int(number)) if number.isdigit() and len(number) < 19 else None
        if order_id is None:
            raise Rejected(404, "payment_not_found", "there is no such payment")
        order = self._book.order(order_id)
        attempt = self._book.attempt(order, number)
        self._book.resolve(order, attempt, move.status, move.webhook)
        return _truth(order)

    async def move_refund(self, request: web.Request) -> object:
        move = await read_body(request, Move)
        refund_id = request.match_info["refund_id"]
        order_id = self._book.refund_orders.get(refund_id)
        if order_id is None:
            raise Rejected(404, "refund_not_found", "there is no such refund")
        order = self._book.order(order_id)
        self._book.resolve_refund(order, order.refunds[refund_id], move.status, move.webhook)
        return _truth(order)

    async def settle(self, request: web.Request) -> object:
        settlement = self._book.settle()
        if settlement is None:
            return {"cf_settlement_id": None, "payments": 0, "refunds": 0, "net_paise": 0}
        return {
            "cf_settlement_id": str(settlement.cf_settlement_id),
            "payments": len(settlement.payments),
            "refunds": len(settlement.refunds),
            "net_paise": settlement.net_paise,
        }

    async def clock(self, request: web.Request) -> object:
        return {"now_ms": self._sim.clock.now_ms(), "pending": self._sim.clock.pending}

    async def advance(self, request: web.Request) -> object:
        ran = self._sim.clock.advance((await read_body(request, Advance)).seconds)
        return {"now_ms": self._sim.clock.now_ms(), "ran": ran}

    async def faults(self, request: web.Request) -> object:
        return self._sim.faults.rules

    async def add_fault(self, request: web.Request) -> object:
        self._sim.faults.rules.append(await read_body(request, Fault))
        return self._sim.faults.rules

    async def clear_faults(self, request: web.Request) -> object:
        self._sim.faults.rules.clear()
        self._sim.faults.limits.clear()
        return []

    async def limits(self, request: web.Request) -> object:
        self._sim.faults.limits = await read_body(request, dict[str, int])
        return self._sim.faults.limits

    async def webhooks(self, request: web.Request) -> object:
        self._sim.deliveries.chances = await read_body(request, WebhookChances)
        return self._sim.deliveries.chances

    async def refund_policy(self, request: web.Request) -> object:
        policy = await read_body(request, RefundPolicy)
        self._book.refund_outcome, self._book.refund_delay_s = policy.outcome, policy.delay_s
        self._book.auto_refund = policy.auto_refund
        return policy

    async def stats(self, request: web.Request) -> object:
        deliveries = self._sim.deliveries
        return {
            "orders": len(self._book.orders),
            "payments": len(self._book.payments),
            "methods": list(METHODS),
            "settlements": len(self._book.settlements),
            "calls": dict(self._sim.calls),
            "webhooks": {
                **asdict(deliveries.counts),
                "queued": deliveries.queued,
                "scheduled": self._sim.clock.pending,
            },
        }

    async def recent_deliveries(self, request: web.Request) -> object:
        return list(self._sim.deliveries.recent)
