"""A gateway that keeps its books well and talks about them badly: lost answers, late and repeated webhooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec

from gateway.entities import Dispute, Order, Payment, Refund
from gateway.errors import ContentMismatch, NotFound, TimedOut, Unreachable
from gateway.requests import NewRefund
from sql.webhooks import NewWebhook
from tests.simulation.schedule import Fate, Schedule

T = TypeVar("T")


@dataclass
class Account:
    """One order as the gateway has it."""

    order_id: str
    amount_paise: int
    paid: bool = False
    payments: list[Payment] = field(default_factory=list)
    refunds: dict[str, Refund] = field(default_factory=dict)


@dataclass
class SimulatedGateway:
    """The gateway's books, and the webhooks it has still to send."""

    new_id: Callable[[], UUID]
    accounts: dict[str, Account] = field(default_factory=dict)
    webhooks: list[NewWebhook] = field(default_factory=list)

    def create(self, order_id: str, amount_paise: int) -> None:
        """An order; created again, it is the same one."""
        self.accounts.setdefault(order_id, Account(order_id, amount_paise))

    def pay(self, order_id: str, at: datetime, *attempts: str) -> None:
        """The customer tries to pay, once or more often; each attempt becomes news."""
        account = self.accounts[order_id]
        account.paid = True
        for status in attempts:
            payment = Payment(
                cf_payment_id=str(1000 + sum(len(a.payments) for a in self.accounts.values())),
                order_id=order_id,
                status=status,
                amount_paise=account.amount_paise,
                currency="INR",
                completed_at=at,
            )
            account.payments.append(payment)
            self.webhooks.append(self._payment_webhook(payment))

    def decide(self, refund: Refund, status: str, at: datetime) -> None:
        """A pending refund ends; that becomes news."""
        account = self.accounts[refund.order_id]
        account.refunds[refund.refund_id] = msgspec.structs.replace(refund, status=status, processed_at=at)
        self.webhooks.append(
            NewWebhook(
                id=self.new_id(),
                business_key=f"REFUND|{refund.refund_id}|{status}",
                kind="refund",
                event_type="REFUND_STATUS_WEBHOOK",
                version="2025-01-01",
                stale=False,
                body=b"{}",
                status=status,
                order_id=refund.order_id,
                refund_id=refund.refund_id,
                amount_paise=refund.amount_paise,
                currency="INR",
                occurred_at=at,
            )
        )

    @property
    def pending(self) -> list[Refund]:
        """Refunds that have not ended."""
        return [r for a in self.accounts.values() for r in a.refunds.values() if r.status == "PENDING"]

    def again(self, webhook: NewWebhook) -> NewWebhook:
        """The same news, sent anew."""
        return replace(webhook, id=self.new_id())

    def _payment_webhook(self, payment: Payment) -> NewWebhook:
        return NewWebhook(
            id=self.new_id(),
            business_key=f"PAYMENT|{payment.order_id}|{payment.cf_payment_id}|{payment.status}",
            kind="payment",
            event_type=f"PAYMENT_{payment.status}_WEBHOOK",
            version="2025-01-01",
            stale=False,
            body=b"{}",
            status=payment.status,
            order_id=payment.order_id,
            cf_payment_id=payment.cf_payment_id,
            payment_group="upi",
            instrument=f"upi:{payment.order_id}@bank",
            amount_paise=payment.amount_paise,
            currency="INR",
            occurred_at=payment.completed_at,
        )


class Line:
    """One process's way to the gateway: what the agents' own `Gateway` protocols ask for."""

    def __init__(self, gateway: SimulatedGateway, schedule: Schedule, actor: str) -> None:
        self._gateway = gateway
        self._schedule = schedule
        self._actor = actor

    async def get_order(self, order_id: str) -> Order:
        def read() -> Order:
            account = self._account("get_order", order_id)
            return Order(
                order_id=order_id,
                cf_order_id=f"cf-{order_id}",
                status="PAID" if account.paid else "ACTIVE",
                amount_paise=account.amount_paise,
                currency="INR",
            )

        return await self._call("get_order", read)

    async def create_refund(self, order_id: str, new: NewRefund, *, again: bool = False) -> Refund:
        def create() -> Refund:
            refunds = self._account("create_refund", order_id).refunds
            refund = refunds.get(new.refund_id) or Refund(
                refund_id=new.refund_id,
                cf_refund_id=f"cf-{new.refund_id}",
                order_id=order_id,
                status="PENDING",
                amount_paise=new.amount_paise,
                currency=new.currency,
                type="MERCHANT_INITIATED",
            )
            if refund.amount_paise != new.amount_paise:
                raise ContentMismatch("create_refund", new.refund_id)
            return refunds.setdefault(new.refund_id, refund)

        return await self._call("create_refund", create)

    async def get_refund(self, order_id: str, refund_id: str) -> Refund:
        def read() -> Refund:
            refund = self._account("get_refund", order_id).refunds.get(refund_id)
            if refund is None:
                raise NotFound("get_refund", refund_id)
            return refund

        return await self._call("get_refund", read)

    async def get_payments(self, order_id: str) -> tuple[Payment, ...]:
        return await self._call(
            "get_payments", lambda: tuple(self._account("get_payments", order_id).payments)
        )

    async def get_refunds(self, order_id: str) -> tuple[Refund, ...]:
        return await self._call(
            "get_refunds", lambda: tuple(self._account("get_refunds", order_id).refunds.values())
        )

    async def get_disputes(self, order_id: str) -> tuple[Dispute, ...]:
        return await self._call("get_disputes", tuple)

    def _account(self, endpoint: str, order_id: str) -> Account:
        account = self._gateway.accounts.get(order_id)
        if account is None:
            raise NotFound(endpoint, order_id)
        return account

    async def _call(self, endpoint: str, call: Callable[[], T]) -> T:
        async with self._schedule.turn(self._actor, "gateway", endpoint) as fate:
            if fate is Fate.NOT_SENT:
                raise Unreachable(endpoint, "simulated")
            answer = call()
            if fate is not Fate.FINE:
                raise TimedOut(endpoint, "simulated: the answer was lost")
            return answer
