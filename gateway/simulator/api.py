"""The door merchants use: what each call of Cashfree's API does. `doorman.py` guards it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from gateway.simulator import bodies, checks
from gateway.simulator.book import Rejected
from gateway.simulator.records import Attempt, Order, Refund
from gateway.simulator.sim import Simulator
from gateway.wire import Json

Answer = bodies.Body | list[bodies.Body]
Call = Callable[[Simulator, Mapping[str, str], Json, bool], Answer]
Route = tuple[str, str, str, Call]
"""Method, path, the endpoint's name in limits and faults, and what it does."""


def create_order(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /orders."""
    asked = checks.order_request(body, sim.clock.now_ms())
    order = sim.book.create_order(
        order_id=asked.order_id,
        amount_paise=asked.amount_paise,
        currency=asked.currency,
        customer=asked.customer,
        meta=asked.meta,
        tags=asked.tags,
        note=asked.note,
        splits=asked.splits,
        expiry_ms=asked.expiry_ms,
    )
    return bodies.order_entity(order)


def get_order(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}; while it lags, as it was before it was paid (or created)."""
    order = sim.book.order(path["order_id"])
    entity = bodies.order_entity(order)
    if _hidden(sim, order, lag):
        if not order.attempts:
            raise Rejected(404, "order_not_found", "Order Reference Id does not exist")
        entity["order_status"] = "ACTIVE"
    return entity


def terminate_order(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """PATCH /orders/{order_id}: TERMINATED is all that can be asked for."""
    if checks.need_object(body, "body").get("order_status") != "TERMINATED":
        raise checks.invalid("order_status", "should be TERMINATED")
    return bodies.order_entity(sim.book.terminate(path["order_id"]))


def get_payments(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/payments, newest first."""
    order = sim.book.order(path["order_id"])
    if _hidden(sim, order, lag):
        return []
    return [bodies.payment_entity(order, attempt) for attempt in reversed(order.attempts)]


def get_payment(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/payments/{cf_payment_id}."""
    order = sim.book.order(path["order_id"])
    return bodies.payment_entity(order, sim.book.attempt(order, path["cf_payment_id"]))


def start_payment(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /orders/sessions: a pending attempt, and where the customer goes on with it."""
    node = checks.need_object(body, "body")
    session = node.get("payment_session_id")
    order = sim.book.order_of_session(session if isinstance(session, str) else "")
    wanted = checks.need_object(node.get("payment_method"), "payment_method")
    known = {"upi": "upi", "card": "card", "netbanking": "netbanking", "app": "wallet"}
    kind = next((key for key in known if isinstance(wanted.get(key), dict)), None)
    if kind is None:
        raise checks.invalid("payment_method", "is not one this simulator offers")
    if order.status != "ACTIVE":
        raise Rejected(400, "order_inactive", f"order is {order.status}")
    attempt = sim.book.start_attempt(order, known[kind], None)
    details = checks.need_object(wanted[kind], f"payment_method.{kind}")
    channel = details.get("channel")
    if isinstance(channel, str):
        attempt.method[kind]["channel"] = channel
    url = f"{sim.config.public_url}/checkout/{order.session_id}?attempt={attempt.cf_payment_id}"
    return {
        "action": "custom" if channel == "qrcode" else "link",
        "cf_payment_id": str(attempt.cf_payment_id),
        "channel": channel if channel in ("link", "collect", "qrcode", "post") else "link",
        "data": {"url": url, "payload": {}, "content_type": None, "method": None},
        "payment_amount": bodies.rupees(attempt.amount_paise),
        "payment_method": kind,
    }


def create_refund(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /orders/{order_id}/refunds."""
    asked = checks.refund_request(body)
    refund = sim.book.refund(
        path["order_id"],
        refund_id=asked.refund_id,
        amount_paise=asked.amount_paise,
        note=asked.note,
        speed=asked.speed,
    )
    return bodies.refund_entity(refund)


def get_refunds(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/refunds."""
    return [bodies.refund_entity(refund) for refund in sim.book.order(path["order_id"]).refunds.values()]


def get_refund(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/refunds/{refund_id}."""
    refund = sim.book.order(path["order_id"]).refunds.get(path["refund_id"])
    if refund is None or lag:
        raise Rejected(404, "refund_not_found", "refund does not exist")
    return bodies.refund_entity(refund)


def get_order_settlement(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/settlements."""
    order = sim.book.order(path["order_id"])
    attempt = order.paid_by
    if attempt is None or attempt.settlement_id is None:
        raise Rejected(404, "settlement_not_found", "the order is not settled yet")
    return bodies.order_settlement(order, attempt, sim.book.settlements[attempt.settlement_id])


def get_settlements(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /settlements: a page; one entity (as the OpenAPI text has it) when one id is asked for."""
    asked = checks.page_request(body)
    found = [
        settlement
        for settlement in sim.book.settlements.values()
        if settlement.cf_settlement_id > asked.after
        and _within(settlement.settled_ms, asked)
        and (not asked.settlement_ids or str(settlement.cf_settlement_id) in asked.settlement_ids)
        and (not asked.utrs or settlement.utr in asked.utrs)
    ]
    shown = found[: asked.limit]
    if len(asked.settlement_ids) == 1 and len(shown) == 1:
        return bodies.settlement_entity(shown[0])
    more = str(shown[-1].cf_settlement_id) if len(found) > len(shown) else None
    return {
        "cursor": more,
        "limit": len(shown),
        "data": [bodies.settlement_entity(settlement) for settlement in shown],
    }


def recon(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /recon: every payment and refund of a time, settled or not."""
    return _lines(sim, checks.page_request(body), settled_only=False)


def settlement_recon(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /settlement/recon: what the settlements of a time consist of."""
    return _lines(sim, checks.page_request(body), settled_only=True)


def _lines(sim: Simulator, asked: checks.PageRequest, *, settled_only: bool) -> Answer:
    settlements = sim.book.settlements
    lines: list[tuple[int, bodies.Body]] = []
    for order in sim.book.orders.values():
        items: list[Attempt | Refund] = [*order.attempts, *order.refunds.values()]
        for item in items:
            settlement = settlements.get(item.settlement_id or 0)
            number = item.cf_payment_id if isinstance(item, Attempt) else item.cf_refund_id
            done_ms = item.completed_ms if isinstance(item, Attempt) else item.processed_ms
            at_ms = settlement.settled_ms if settled_only and settlement else done_ms
            if item.status != "SUCCESS" or at_ms is None or number <= asked.after:
                continue
            if (settled_only and settlement is None) or not _within(at_ms, asked):
                continue
            if asked.settlement_ids and str(item.settlement_id) not in asked.settlement_ids:
                continue
            if asked.utrs and (settlement is None or settlement.utr not in asked.utrs):
                continue
            line = (
                bodies.payment_line(order, item, settlement)
                if isinstance(item, Attempt)
                else bodies.refund_line(order, item, settlement)
            )
            lines.append((number, line))
    lines.sort(key=lambda line: line[0])
    shown = lines[: asked.limit]
    more = str(shown[-1][0]) if len(lines) > len(shown) else None
    return {"cursor": more, "limit": len(shown), "data": [line for _, line in shown]}


def _within(at_ms: int, asked: checks.PageRequest) -> bool:
    return (asked.start_ms or 0) <= at_ms and (asked.end_ms is None or at_ms <= asked.end_ms + 999)


def _hidden(sim: Simulator, order: Order, lag: bool) -> bool:
    return lag or sim.clock.now_ms() < order.shown_from_ms


ROUTES: Final[tuple[Route, ...]] = (
    ("POST", "/pg/orders", "create_order", create_order),
    ("POST", "/pg/orders/sessions", "start_payment", start_payment),
    ("GET", "/pg/orders/{order_id}", "get_order", get_order),
    ("PATCH", "/pg/orders/{order_id}", "terminate_order", terminate_order),
    ("GET", "/pg/orders/{order_id}/payments", "get_payments", get_payments),
    ("GET", "/pg/orders/{order_id}/payments/{cf_payment_id}", "get_payments", get_payment),
    ("POST", "/pg/orders/{order_id}/refunds", "create_refund", create_refund),
    ("GET", "/pg/orders/{order_id}/refunds", "get_refund", get_refunds),
    ("GET", "/pg/orders/{order_id}/refunds/{refund_id}", "get_refund", get_refund),
    ("GET", "/pg/orders/{order_id}/settlements", "get_settlements", get_order_settlement),
    ("POST", "/pg/settlements", "get_settlements", get_settlements),
    ("POST", "/pg/recon", "recon", recon),
    ("POST", "/pg/settlement/recon", "settlement_recon", settlement_recon),
)
