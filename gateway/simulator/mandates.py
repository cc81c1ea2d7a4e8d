"""Plans, subscriptions and their debits: the customer authorises once, then the merchant asks for each debit.

A debit is announced to the customer at once and happens on its schedule date, a day later at the earliest.
No I/O; `announce` makes webhooks. Rules that are broken raise `Rejected`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from domain.money import Paise
from gateway.simulator.bodies import Body, iso, rupees
from gateway.simulator.book import Book, Rejected
from gateway.simulator.checks import (
    invalid,
    need_amount,
    need_instant,
    need_object,
    need_text,
    optional_text,
)
from gateway.simulator.plan import WebhookPlan
from gateway.wire import Json, Object

AnnounceData = Callable[[str, str, Body, WebhookPlan | None], None]

SUBSCRIPTION_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "INITIALIZED": frozenset({"BANK_APPROVAL_PENDING", "ACTIVE", "CANCELLED", "EXPIRED"}),
    "BANK_APPROVAL_PENDING": frozenset({"INITIALIZED", "ACTIVE", "CANCELLED"}),
    "ACTIVE": frozenset(
        {"ON_HOLD", "PAUSED", "CUSTOMER_PAUSED", "CANCELLED", "CUSTOMER_CANCELLED", "COMPLETED", "EXPIRED"}
    ),
    "ON_HOLD": frozenset({"ACTIVE", "CANCELLED", "CUSTOMER_CANCELLED", "EXPIRED"}),
    "PAUSED": frozenset({"ACTIVE", "CANCELLED", "CUSTOMER_CANCELLED", "EXPIRED"}),
    "CUSTOMER_PAUSED": frozenset({"ACTIVE", "CANCELLED", "CUSTOMER_CANCELLED", "EXPIRED"}),
    "CANCELLED": frozenset(),
    "CUSTOMER_CANCELLED": frozenset(),
    "COMPLETED": frozenset(),
    "EXPIRED": frozenset(),
}
DEBIT_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "INITIALIZED": frozenset({"PENDING", "SUCCESS", "FAILED", "CANCELLED"}),
    "PENDING": frozenset({"SUCCESS", "FAILED"}),
    "FAILED": frozenset({"SUCCESS"}),
    "SUCCESS": frozenset(),
    "CANCELLED": frozenset(),
}
ACTIONS: Final = {"CANCEL": "CANCELLED", "PAUSE": "PAUSED", "ACTIVATE": "ACTIVE"}
NOTICE_S: Final = 86_400
AUTH_PAISE: Final = 100

_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,250}")
_PHONE: Final = re.compile(r"\+?[0-9]{10,15}")


@dataclass(slots=True)
class Debit:
    """One payment under a mandate: the authorisation itself (AUTH) or a debit (CHARGE)."""

    payment_id: str
    cf_payment_id: int
    type: str
    amount_paise: Paise
    started_ms: int
    due_ms: int | None
    remarks: str | None
    status: str = "INITIALIZED"
    retries: int = 0


@dataclass(slots=True)
class Subscription:
    """A mandate: who, under which plan, and what was debited."""

    subscription_id: str
    cf_subscription_id: int
    session_id: str
    plan: dict[str, Json]
    max_paise: Paise
    customer: dict[str, Json]
    expiry_ms: int
    meta: dict[str, Json]
    note: str | None
    status: str = "INITIALIZED"
    authorised_ms: int | None = None
    debits: dict[str, Debit] = field(default_factory=dict)


class Mandates:
    """All plans and subscriptions of the merchant."""

    def __init__(self, book: Book, announce: AnnounceData) -> None:
        self.plans: dict[str, dict[str, Json]] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.charge_outcome = "SUCCESS"
        self._book = book
        self._announce = announce

    def create_plan(self, node: Object) -> dict[str, Json]:
        """POST /plans. Rejected: 409 id taken, 400 malformed."""
        plan_id = need_text(node, "plan_id", _ID)
        if node.get("plan_type") not in ("PERIODIC", "ON_DEMAND"):
            raise invalid("plan_type", "should be PERIODIC or ON_DEMAND")
        optional_text(node, "plan_name", 1, 100)
        need_amount(node, "plan_max_amount", AUTH_PAISE)
        if plan_id in self.plans:
            raise Rejected(409, "plan_already_exists", "plan with same id is already present")
        self.plans[plan_id] = {
            **node,
            "plan_currency": node.get("plan_currency") or "INR",
            "plan_status": "ACTIVE",
        }
        return self.plans[plan_id]

    def create(self, node: Object) -> Subscription:
        """POST /subscriptions with a known or an inline plan. Rejected: 409 id taken, 400 malformed, 404
        no plan.
        """
        subscription_id = need_text(node, "subscription_id", _ID)
        customer = dict(need_object(node.get("customer_details"), "customer_details"))
        need_text(customer, "customer_phone", _PHONE)
        wanted = need_object(node.get("plan_details"), "plan_details")
        plan_id = wanted.get("plan_id")
        plan = self.plans.get(plan_id) if isinstance(plan_id, str) else None
        if plan is None:
            if "plan_max_amount" not in wanted:
                raise Rejected(404, "plan_not_found", "plan does not exist")
            plan = dict(wanted)
        if subscription_id in self.subscriptions:
            raise Rejected(409, "subscription_already_exists", "subscription with same id is already present")
        expiry = node.get("subscription_expiry_time")
        now_ms = self._book.clock.now_ms()
        number = self._book.new_id()
        subscription = Subscription(
            subscription_id=subscription_id,
            cf_subscription_id=number,
            session_id=f"sub_session_{number}_{self._book.random.getrandbits(64):016x}",
            plan=plan,
            max_paise=need_amount(plan, "plan_max_amount", AUTH_PAISE),
            customer=customer,
            expiry_ms=now_ms + 365 * 86_400_000
            if expiry is None
            else round(need_instant(expiry, "subscription_expiry_time").timestamp() * 1000),
            meta=dict(need_object(node.get("subscription_meta") or {}, "subscription_meta")),
            note=optional_text(node, "subscription_note", 1, 200),
        )
        self.subscriptions[subscription_id] = subscription
        return subscription

    def get(self, subscription_id: str) -> Subscription:
        """One subscription, expired if its time is over. Rejected (404) if unknown."""
        found = self.subscriptions.get(subscription_id)
        if found is None:
            raise Rejected(404, "subscription_not_found", "subscription does not exist")
        if found.expiry_ms <= self._book.clock.now_ms() and "EXPIRED" in SUBSCRIPTION_MOVES[found.status]:
            found.status = "EXPIRED"
        return found

    def move(self, subscription: Subscription, status: str, plan: WebhookPlan | None = None) -> None:
        """Change a subscription's status and say so. Rejected (400) for a move that cannot happen."""
        if status not in SUBSCRIPTION_MOVES[subscription.status]:
            raise Rejected(
                400, "subscription_status_invalid", f"{subscription.status} does not become {status}"
            )
        subscription.status = status
        about = subscription.subscription_id
        self._announce("SUBSCRIPTION_STATUS_CHANGED", about, self._status_body(subscription), plan)

    def authorise(self, subscription: Subscription, outcome: str, plan: WebhookPlan | None = None) -> Debit:
        """The customer answers the request for a mandate: SUCCESS makes it active."""
        number = self._book.new_id()
        now_ms = self._book.clock.now_ms()
        debit = Debit(f"auth_{number}", number, "AUTH", AUTH_PAISE, now_ms, None, "authorisation")
        subscription.debits[debit.payment_id] = debit
        if outcome == "SUCCESS":
            subscription.authorised_ms = now_ms
            self.move(subscription, "ACTIVE", plan)
        self.resolve(subscription, debit, outcome, plan)
        return debit

    def charge(self, subscription: Subscription, node: Object) -> Debit:
        """Ask for a debit. Rejected (400) if inactive, over the plan's maximum, or due in less than a day."""
        payment_id = need_text(node, "payment_id", _ID)
        amount_paise = need_amount(node, "payment_amount", AUTH_PAISE)
        if payment_id in subscription.debits:
            raise Rejected(409, "payment_already_exists", "payment with same id is already present")
        if subscription.status != "ACTIVE":
            raise Rejected(400, "subscription_inactive", f"subscription is {subscription.status}")
        if amount_paise > subscription.max_paise:
            raise invalid("payment_amount", "is more than the plan's maximum")
        now_ms = self._book.clock.now_ms()
        due_ms = round(
            need_instant(node.get("payment_schedule_date"), "payment_schedule_date").timestamp() * 1000
        )
        if due_ms < now_ms + NOTICE_S * 1000:
            raise invalid("payment_schedule_date", "should be at least 24 hours from now")
        debit = Debit(
            payment_id,
            self._book.new_id(),
            "CHARGE",
            amount_paise,
            now_ms,
            due_ms,
            optional_text(node, "payment_remarks", 1, 200),
        )
        subscription.debits[payment_id] = debit
        self._say(subscription, debit, "SUBSCRIPTION_PAYMENT_NOTIFICATION_INITIATED", None)
        self._book.clock.call_later((due_ms - now_ms) / 1000, lambda: self._execute(subscription, debit))
        return debit

    def resolve(
        self, subscription: Subscription, debit: Debit, status: str, plan: WebhookPlan | None = None
    ) -> None:
        """Move a debit and say so. Rejected (400) for a move that cannot happen."""
        if status not in DEBIT_MOVES[debit.status]:
            raise Rejected(400, "transition_invalid", f"a debit does not go from {debit.status} to {status}")
        debit.status = status
        event = {
            "SUCCESS": "SUBSCRIPTION_PAYMENT_SUCCESS",
            "FAILED": "SUBSCRIPTION_PAYMENT_FAILED",
            "CANCELLED": "SUBSCRIPTION_PAYMENT_CANCELLED",
        }.get(status)
        if event is not None:
            self._say(subscription, debit, event, plan)

    def debit(self, subscription: Subscription, payment_id: str) -> Debit:
        """One debit. Rejected (404) if unknown."""
        found = subscription.debits.get(payment_id)
        if found is None:
            raise Rejected(404, "payment_not_found", "subscription payment does not exist")
        return found

    def _execute(self, subscription: Subscription, debit: Debit) -> None:
        if debit.status != "INITIALIZED":
            return
        active = self.get(subscription.subscription_id).status == "ACTIVE"
        outcome = self.charge_outcome if active else "CANCELLED"
        if outcome != "INITIALIZED":
            self.resolve(subscription, debit, outcome)

    def _say(self, subscription: Subscription, debit: Debit, event: str, plan: WebhookPlan | None) -> None:
        self._announce(event, subscription.subscription_id, debit_entity(subscription, debit), plan)

    def _status_body(self, subscription: Subscription) -> Body:
        return {
            "subscription_details": {
                "cf_subscription_id": str(subscription.cf_subscription_id),
                "subscription_id": subscription.subscription_id,
                "subscription_status": subscription.status,
                "subscription_expiry_time": iso(subscription.expiry_ms),
                "next_schedule_date": None,
            },
            "customer_details": subscription.customer,
            "plan_details": {
                "plan_id": subscription.plan.get("plan_id"),
                "plan_type": subscription.plan.get("plan_type"),
                "plan_max_amount": rupees(subscription.max_paise),
                "plan_currency": "INR",
            },
            "authorization_details": _authorisation(subscription),
        }


def subscription_entity(subscription: Subscription) -> Body:
    """GET|POST /subscriptions."""
    return {
        "authorisation_details": _authorisation(subscription),
        "cf_subscription_id": str(subscription.cf_subscription_id),
        "customer_details": subscription.customer,
        "plan_details": subscription.plan,
        "subscription_expiry_time": iso(subscription.expiry_ms),
        "subscription_id": subscription.subscription_id,
        "subscription_meta": subscription.meta,
        "subscription_note": subscription.note,
        "subscription_session_id": subscription.session_id,
        "subscription_status": subscription.status,
    }


def debit_entity(subscription: Subscription, debit: Debit) -> Body:
    """GET /subscriptions/{id}/payments and the webhooks about them."""
    return {
        "authorization_details": _authorisation(subscription),
        "cf_order_id": str(debit.cf_payment_id),
        "cf_payment_id": str(debit.cf_payment_id),
        "cf_subscription_id": str(subscription.cf_subscription_id),
        "cf_txn_id": str(debit.cf_payment_id),
        "failure_details": {"failure_reason": "Insufficient funds" if debit.status == "FAILED" else None},
        "payment_amount": rupees(debit.amount_paise),
        "payment_currency": "INR",
        "payment_id": debit.payment_id,
        "payment_initiated_date": iso(debit.started_ms),
        "payment_remarks": debit.remarks,
        "payment_schedule_date": iso(debit.due_ms),
        "payment_status": debit.status,
        "payment_type": debit.type,
        "retry_attempts": debit.retries,
        "subscription_id": subscription.subscription_id,
    }


def _authorisation(subscription: Subscription) -> Body:
    return {
        "authorization_amount": rupees(AUTH_PAISE),
        "authorization_amount_refund": True,
        "authorization_reference": str(subscription.cf_subscription_id),
        "authorization_status": "ACTIVE" if subscription.authorised_ms else "INITIALIZED",
        "authorization_time": iso(subscription.authorised_ms),
        "payment_group": "upi",
        "payment_method": {"upi": {"channel": "link", "upi_id": "customer@upi"}},
    }
