"""Subscriptions: the customer authorises a mandate once, then we ask for each debit, a day ahead at the
earliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from domain.money import Paise, paise_to_rupees
from gateway.entities import amount, as_list, as_object, needed
from gateway.ids import id_in_path, same_id
from gateway.once import create_once, read_answer
from gateway.transport import Transport
from gateway.wire import Object, child, instant, paise, prose, text

Action = Literal["CANCEL", "PAUSE", "ACTIVATE"]


class NewSubscription(msgspec.Struct, frozen=True, kw_only=True):
    """A mandate to ask for: up to `max_paise` a debit, on demand. Store `subscription_id` before the call."""

    subscription_id: str
    max_paise: Paise
    customer_email: str
    customer_phone: str
    expires_at: datetime
    return_url: str
    plan_name: str = "On demand"
    customer_name: str | None = None


class NewDebit(msgspec.Struct, frozen=True, kw_only=True):
    """A debit to ask for. Store `payment_id` before the call; `due_at` is at least 24 hours away."""

    payment_id: str
    amount_paise: Paise
    due_at: datetime
    remarks: str | None = None


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A mandate. Debits are possible while it is ACTIVE; `session_id` opens the page where it is
    authorised.
    """

    subscription_id: str
    cf_subscription_id: str
    status: str
    session_id: str | None = None
    max_paise: Paise | None = None
    expires_at: datetime | None = None


class Debit(msgspec.Struct, frozen=True, kw_only=True):
    """One payment under a mandate: its authorisation (AUTH) or a debit (CHARGE)."""

    payment_id: str
    cf_payment_id: str | None
    status: str
    amount_paise: Paise
    type: str | None = None
    due_at: datetime | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class MandateClient:
    """Cashfree's subscriptions for one merchant, over the same transport as `client.CashfreeClient`."""

    transport: Transport

    async def create(self, new: NewSubscription, *, again: bool = False) -> Subscription:
        """Ask for a mandate, or find the one this id already made. Errors: see `once.create_once`."""
        plan = {
            "plan_name": new.plan_name,
            "plan_type": "ON_DEMAND",
            "plan_currency": "INR",
            "plan_max_amount": paise_to_rupees(new.max_paise),
        }
        customer = {"customer_email": new.customer_email, "customer_phone": new.customer_phone}
        if new.customer_name is not None:
            customer["customer_name"] = new.customer_name
        body = {
            "subscription_id": new.subscription_id,
            "customer_details": customer,
            "plan_details": plan,
            "subscription_expiry_time": new.expires_at.astimezone(UTC).isoformat(),
            "subscription_meta": {"return_url": new.return_url},
        }

        async def send() -> Subscription:
            answer = await self.transport.call("create_subscription", "POST", "/subscriptions", body)
            return read_answer("create_subscription", lambda: _subscription(as_object(answer)))

        return await create_once(
            "create_subscription",
            new.subscription_id,
            send,
            lambda: self.get(new.subscription_id),
            lambda found: found.max_paise == new.max_paise,
            again=again,
        )

    async def get(self, subscription_id: str) -> Subscription:
        """The mandate as Cashfree has it. Errors: NotFound."""
        path = f"/subscriptions/{id_in_path('get_subscription', subscription_id)}"
        answer = await self.transport.call("get_subscription", "GET", path)
        found = read_answer("get_subscription", lambda: _subscription(as_object(answer)))
        same_id("get_subscription", found.subscription_id, subscription_id)
        return found

    async def manage(self, subscription_id: str, action: Action) -> Subscription:
        """Cancel, pause or activate. After OutcomeUnknown look at `get`."""
        path = f"/subscriptions/{id_in_path('manage_subscription', subscription_id)}/manage"
        body = {"subscription_id": subscription_id, "action": action}
        answer = await self.transport.call("manage_subscription", "POST", path, body)
        return read_answer("manage_subscription", lambda: _subscription(as_object(answer)))

    async def charge(self, subscription_id: str, new: NewDebit, *, again: bool = False) -> Debit:
        """Ask for a debit, or find the one this id already made. Errors: see `once.create_once`."""
        body = {
            "subscription_id": subscription_id,
            "payment_id": new.payment_id,
            "payment_type": "CHARGE",
            "payment_amount": paise_to_rupees(new.amount_paise),
            "payment_schedule_date": new.due_at.astimezone(UTC).isoformat(),
        }
        if new.remarks is not None:
            body["payment_remarks"] = new.remarks

        async def send() -> Debit:
            answer = await self.transport.call("charge_subscription", "POST", "/subscriptions/pay", body)
            return read_answer("charge_subscription", lambda: _debit(as_object(answer)))

        return await create_once(
            "charge_subscription",
            new.payment_id,
            send,
            lambda: self.get_debit(subscription_id, new.payment_id),
            lambda found: found.amount_paise == new.amount_paise,
            again=again,
        )

    async def get_debit(self, subscription_id: str, payment_id: str) -> Debit:
        """One debit. Errors: NotFound."""
        path = f"{self._payments(subscription_id)}/{id_in_path('get_debit', payment_id)}"
        answer = await self.transport.call("get_debit", "GET", path)
        found = read_answer("get_debit", lambda: _debit(as_object(answer)))
        same_id("get_debit", found.payment_id, payment_id)
        return found

    async def get_debits(self, subscription_id: str) -> tuple[Debit, ...]:
        """Every payment under the mandate, the authorisation included."""
        answer = await self.transport.call("get_debit", "GET", self._payments(subscription_id))
        return read_answer("get_debit", lambda: tuple(_debit(node) for node in as_list(answer)))

    def _payments(self, subscription_id: str) -> str:
        return f"/subscriptions/{id_in_path('get_debit', subscription_id)}/payments"


def _subscription(node: Object) -> Subscription:
    session = node.get("subscription_session_id")
    return Subscription(
        subscription_id=needed(node, "subscription_id"),
        cf_subscription_id=needed(node, "cf_subscription_id"),
        status=needed(node, "subscription_status"),
        session_id=session if isinstance(session, str) else None,
        max_paise=paise(child(node, "plan_details"), "plan_max_amount"),
        expires_at=instant(node, "subscription_expiry_time"),
    )


def _debit(node: Object) -> Debit:
    return Debit(
        payment_id=needed(node, "payment_id"),
        cf_payment_id=text(node, "cf_payment_id"),
        status=needed(node, "payment_status"),
        amount_paise=amount(node, "payment_amount"),
        type=text(node, "payment_type"),
        due_at=instant(node, "payment_schedule_date"),
        failure=prose(child(node, "failure_details"), "failure_reason"),
    )
