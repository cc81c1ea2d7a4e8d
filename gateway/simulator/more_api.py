"""The rest of the merchants' door: subscriptions, payouts, disputes, vendors and splits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from gateway.simulator.api import Answer, Route
from gateway.simulator.book import Rejected
from gateway.simulator.checks import invalid, need_amount, need_object, need_text
from gateway.simulator.disputes import dispute_entity
from gateway.simulator.mandates import ACTIONS, debit_entity, subscription_entity
from gateway.simulator.payouts import transfer_entity
from gateway.simulator.sim import Simulator
from gateway.wire import Json

_VENDOR_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,50}")


def create_plan(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /plans."""
    return {**sim.mandates.create_plan(need_object(body, "body"))}


def get_plan(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /plans/{plan_id}."""
    plan = sim.mandates.plans.get(path["plan_id"])
    if plan is None:
        raise Rejected(404, "plan_not_found", "plan does not exist")
    return {**plan}


def create_subscription(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /subscriptions."""
    return subscription_entity(sim.mandates.create(need_object(body, "body")))


def get_subscription(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /subscriptions/{subscription_id}."""
    return subscription_entity(sim.mandates.get(path["subscription_id"]))


def manage_subscription(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /subscriptions/{subscription_id}/manage."""
    action = need_object(body, "body").get("action")
    if not isinstance(action, str) or action not in ACTIONS:
        raise invalid("action", f"should be one of {', '.join(ACTIONS)}")
    subscription = sim.mandates.get(path["subscription_id"])
    sim.mandates.move(subscription, ACTIONS[action])
    return subscription_entity(subscription)


def charge_subscription(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /subscriptions/pay, for a CHARGE; the customer's AUTH happens on a page, see `control`."""
    node = need_object(body, "body")
    if node.get("payment_type") != "CHARGE":
        raise invalid("payment_type", "should be CHARGE")
    subscription = sim.mandates.get(need_text(node, "subscription_id", re.compile(r".{1,250}")))
    return debit_entity(subscription, sim.mandates.charge(subscription, node))


def get_debits(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /subscriptions/{subscription_id}/payments."""
    subscription = sim.mandates.get(path["subscription_id"])
    return [debit_entity(subscription, debit) for debit in subscription.debits.values()]


def get_debit(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /subscriptions/{subscription_id}/payments/{payment_id}."""
    subscription = sim.mandates.get(path["subscription_id"])
    return debit_entity(subscription, sim.mandates.debit(subscription, path["payment_id"]))


def create_transfer(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /payout/transfers."""
    return transfer_entity(sim.payouts.create(need_object(body, "body")))


def get_transfer(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /payout/transfers?transfer_id= or ?cf_transfer_id=."""
    return transfer_entity(sim.payouts.find(path.get("transfer_id"), path.get("cf_transfer_id")))


def get_dispute(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /disputes/{dispute_id}."""
    return dispute_entity(sim.disputes.get(path["dispute_id"]))


def accept_dispute(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """PUT /disputes/{dispute_id}/accept."""
    dispute = sim.disputes.get(path["dispute_id"])
    sim.disputes.move(dispute, "MERCHANT_ACCEPTED")
    return dispute_entity(dispute)


def get_order_disputes(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /orders/{order_id}/disputes and /payments/{cf_payment_id}/disputes."""
    return [
        dispute_entity(dispute)
        for dispute in sim.disputes.disputes.values()
        if path.get("order_id") == dispute.order.order_id
        or path.get("cf_payment_id") == str(dispute.attempt.cf_payment_id)
    ]


def create_vendor(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /easy-split/vendors."""
    node = need_object(body, "body")
    vendor_id = need_text(node, "vendor_id", _VENDOR_ID)
    if vendor_id in sim.vendors:
        raise Rejected(409, "vendor_already_exists", "vendor with same id is already present")
    sim.vendors[vendor_id] = {**node, "status": node.get("status") or "ACTIVE"}
    return {**sim.vendors[vendor_id]}


def get_vendor(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """GET /easy-split/vendors/{vendor_id}."""
    return {**_vendor(sim, path["vendor_id"])}


def update_vendor(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """PATCH /easy-split/vendors/{vendor_id}."""
    vendor = _vendor(sim, path["vendor_id"])
    vendor.update(need_object(body, "body"))
    vendor["vendor_id"] = path["vendor_id"]
    return {**vendor}


def split_order(sim: Simulator, path: Mapping[str, str], body: Json, lag: bool) -> Answer:
    """POST /easy-split/orders/{order_id}/split: divide a paid order once, after the fact."""
    order = sim.book.order(path["order_id"])
    parts = need_object(body, "body").get("split")
    if not isinstance(parts, list) or not parts:
        raise invalid("split", "should be a list of parts")
    if order.status != "PAID" or order.splits:
        raise Rejected(400, "split_invalid", "only a paid order without a split can be split")
    total = 0
    for part in parts:
        node = need_object(part, "split")
        _vendor(sim, need_text(node, "vendor_id", _VENDOR_ID))
        total += need_amount(node, "amount", 1)
    if total > order.amount_paise:
        raise invalid("split", "adds up to more than the order")
    order.splits = list(parts)
    return {"status": "OK", "message": "Order split was successful"}


def _vendor(sim: Simulator, vendor_id: str) -> dict[str, Json]:
    vendor = sim.vendors.get(vendor_id)
    if vendor is None:
        raise Rejected(404, "vendor_not_found", "vendor does not exist")
    return vendor


ROUTES: Final[tuple[Route, ...]] = (
    ("POST", "/pg/plans", "create_plan", create_plan),
    ("GET", "/pg/plans/{plan_id}", "get_plan", get_plan),
    ("POST", "/pg/subscriptions", "create_subscription", create_subscription),
    ("POST", "/pg/subscriptions/pay", "charge_subscription", charge_subscription),
    ("GET", "/pg/subscriptions/{subscription_id}", "get_subscription", get_subscription),
    ("POST", "/pg/subscriptions/{subscription_id}/manage", "manage_subscription", manage_subscription),
    ("GET", "/pg/subscriptions/{subscription_id}/payments", "get_debit", get_debits),
    ("GET", "/pg/subscriptions/{subscription_id}/payments/{payment_id}", "get_debit", get_debit),
    ("POST", "/payout/transfers", "create_transfer", create_transfer),
    ("GET", "/payout/transfers", "get_transfer", get_transfer),
    ("GET", "/pg/disputes/{dispute_id}", "get_dispute", get_dispute),
    ("PUT", "/pg/disputes/{dispute_id}/accept", "accept_dispute", accept_dispute),
    ("GET", "/pg/orders/{order_id}/disputes", "get_dispute", get_order_disputes),
    ("GET", "/pg/payments/{cf_payment_id}/disputes", "get_dispute", get_order_disputes),
    ("POST", "/pg/easy-split/vendors", "create_vendor", create_vendor),
    ("GET", "/pg/easy-split/vendors/{vendor_id}", "get_vendor", get_vendor),
    ("PATCH", "/pg/easy-split/vendors/{vendor_id}", "update_vendor", update_vendor),
    ("POST", "/pg/easy-split/orders/{order_id}/split", "split_order", split_order),
)
