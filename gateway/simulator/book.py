"""The merchant's account at the simulated Cashfree: every rule about orders, attempts, refunds and
settlements.

No I/O: a change is announced to `announce` and whoever listens makes a webhook of it. A rule that is
broken by the caller raises `Rejected` with Cashfree's words for it.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from domain.money import Paise
from gateway.simulator.clock import SimClock
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import (
    ATTEMPT_MOVES,
    ORDER_MOVES,
    REFUND_MOVES,
    Attempt,
    Order,
    Refund,
    Settlement,
)
from gateway.wire import Json

Announce = Callable[[str, Order, Attempt | Refund | Settlement, WebhookPlan | None], None]

METHODS: Final[dict[str, tuple[str, dict[str, dict[str, Json]]]]] = {
    "upi": ("upi", {"upi": {"channel": "collect", "upi_id": "customer@upi"}}),
    "card": (
        "credit_card",
        {
            "card": {
                "channel": "link",
                "card_number": "XXXXXXXXXXXX1111",
                "card_network": "visa",
                "card_type": "credit_card",
            }
        },
    ),
    "netbanking": (
        "net_banking",
        {
            "netbanking": {
                "channel": "link",
                "netbanking_bank_code": "3333",
                "netbanking_bank_name": "Test Bank",
            }
        },
    ),
    "wallet": ("wallet", {"app": {"channel": "link", "provider": "phonepe", "phone": "9999999999"}}),
}

EVENT_OF: Final = {
    "SUCCESS": "PAYMENT_SUCCESS_WEBHOOK",
    "FAILED": "PAYMENT_FAILED_WEBHOOK",
    "USER_DROPPED": "PAYMENT_USER_DROPPED_WEBHOOK",
}


class Rejected(Exception):
    """A request that breaks a rule, with the answer Cashfree gives."""

    def __init__(self, status: int, code: str, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status = status
        self.answer: dict[str, Json] = {"message": message, "code": code, "type": kind}


class Book:
    """All orders of one merchant, in memory; the oldest beyond `keep` are forgotten."""

    def __init__(self, clock: SimClock, *, seed: int, keep: int = 100_000) -> None:
        self.clock = clock
        self.random = random.Random(seed)
        self.announce: Announce = lambda event, order, what, plan: None
        self.orders: dict[str, Order] = {}
        self.sessions: dict[str, str] = {}
        self.payments: dict[int, str] = {}
        self.refund_orders: dict[str, str] = {}
        self.settlements: dict[int, Settlement] = {}
        self.refund_outcome = "SUCCESS"
        self.refund_delay_s = 0.2
        self.auto_refund = False
        self._keep = keep
        self._next_id = clock.now_ms() * 1000

    def new_id(self) -> int:
        """A number of sixteen digits that no earlier run has given either."""
        self._next_id += 1
        return self._next_id

    def create_order(
        self,
        *,
        order_id: str | None,
        amount_paise: Paise,
        currency: str,
        customer: dict[str, Json],
        meta: dict[str, Json],
        tags: dict[str, Json] | None,
        note: str | None,
        splits: list[Json],
        expiry_ms: int | None,
    ) -> Order:
        """A new active order. Rejected (409) if the id is taken."""
        cf_order_id = self.new_id()
        chosen = order_id or f"order_{cf_order_id}"
        if chosen in self.orders:
            raise Rejected(409, "order_already_exists", "order with same id is already present")
        now_ms = self.clock.now_ms()
        order = Order(
            order_id=chosen,
            cf_order_id=cf_order_id,
            session_id="session_" + base64.urlsafe_b64encode(self.random.randbytes(63)).decode(),
            amount_paise=amount_paise,
            currency=currency,
            customer=customer,
            meta=meta,
            tags=tags,
            note=note,
            splits=splits,
            created_ms=now_ms,
            expiry_ms=expiry_ms or now_ms + 30 * 86_400_000,
        )
        self.orders[chosen] = order
        self.sessions[order.session_id] = chosen
        if len(self.orders) > self._keep:
            self._forget(self.orders[next(iter(self.orders))])
        return order

    def add_paid(self, order_id: str, amount_paise: Paise, cf_payment_id: int, upi_id: str) -> None:
        """An order that was paid some time ago, of which nobody is told: what a load test finds. It counts
        towards no limit and is never forgotten.
        """
        cf_order_id, now_ms = self.new_id(), self.clock.now_ms()
        method: dict[str, dict[str, Json]] = {"upi": {"channel": "collect", "upi_id": upi_id}}
        attempt = Attempt(
            cf_payment_id,
            order_id,
            amount_paise,
            "INR",
            "upi",
            method,
            now_ms,
            "SUCCESS",
            now_ms,
            str(cf_payment_id),
        )
        order = Order(
            order_id, cf_order_id, f"session_{cf_order_id}", amount_paise, "INR", {}, {}, None, None, [],
            now_ms, now_ms + 30 * 86_400_000, "PAID", attempts=[attempt],
        )  # fmt: skip
        self.orders[order_id] = order
        self.sessions[order.session_id] = order_id
        self.payments[cf_payment_id] = order_id
        self._keep += 1

    def order(self, order_id: str) -> Order:
        """The order, expired if its time is over. Rejected (404) if unknown."""
        order = self.orders.get(order_id)
        if order is None:
            raise Rejected(404, "order_not_found", "Order Reference Id does not exist")
        if order.status == "ACTIVE" and order.expiry_ms <= self.clock.now_ms():
            order.status = "EXPIRED"
        return order

    def order_of_session(self, session_id: str) -> Order:
        """The order a checkout session is for. Rejected (404) if unknown."""
        order_id = self.sessions.get(session_id)
        if order_id is None:
            raise Rejected(404, "payment_session_id_invalid", "payment_session_id is not valid")
        return self.order(order_id)

    def terminate(self, order_id: str) -> Order:
        """No further attempts; Rejected (400) once the order is paid or expired."""
        order = self.order(order_id)
        if order.status == "TERMINATED":
            return order
        if "TERMINATED" not in ORDER_MOVES[order.status]:
            raise Rejected(400, "order_status_invalid", f"order is {order.status} and cannot be terminated")
        pending = any(attempt.status == "PENDING" for attempt in order.attempts)
        order.status = "TERMINATION_REQUESTED" if pending and order.status == "ACTIVE" else "TERMINATED"
        return order

    def start_attempt(
        self,
        order: Order,
        method: str,
        instrument: str | None,
        amount_paise: Paise | None = None,
        offer_paise: Paise = 0,
    ) -> Attempt:
        """A new attempt, pending. Late and second payments are possible, as in life: only ended orders
        refuse. `offer_paise` of the amount is paid by an offer.
        """
        amount_paise = order.amount_paise if amount_paise is None else amount_paise
        if not 0 <= offer_paise < amount_paise:
            raise Rejected(400, "offer_invalid", "an offer pays a part of the amount")
        group, template = METHODS[method]
        details = {kind: dict(fields) for kind, fields in template.items()}
        if instrument is not None:
            for fields in details.values():
                key = {"upi": "upi_id", "card": "card_number", "wallet": "phone"}.get(
                    method, "netbanking_bank_name"
                )
                fields[key] = instrument
        attempt = Attempt(
            cf_payment_id=self.new_id(),
            order_id=order.order_id,
            amount_paise=amount_paise - offer_paise,
            offer_paise=offer_paise,
            currency=order.currency,
            group=group,
            method=details,
            started_ms=self.clock.now_ms(),
            status="PENDING",
        )
        order.attempts.append(attempt)
        self.payments[attempt.cf_payment_id] = order.order_id
        return attempt

    def resolve(self, order: Order, attempt: Attempt, status: str, plan: WebhookPlan | None = None) -> None:
        """Move an attempt, and with a first success its order. Rejected (400) for a move that cannot
        happen.
        """
        if status not in ATTEMPT_MOVES[attempt.status]:
            raise Rejected(
                400, "transition_invalid", f"a payment does not go from {attempt.status} to {status}"
            )
        attempt.status = status
        attempt.completed_ms = self.clock.now_ms()
        if status == "SUCCESS":
            attempt.bank_reference = str(self.random.randrange(10**11, 10**12))
            if "PAID" in ORDER_MOVES[order.status]:
                order.status = "PAID"
            elif self.auto_refund:
                self._refund_automatically(order, attempt)
        event = EVENT_OF.get(status)
        if event is not None:
            self.announce(event, order, attempt, plan)

    def attempt(self, order: Order, cf_payment_id: str) -> Attempt:
        """One attempt of an order. Rejected (404) if unknown."""
        for attempt in order.attempts:
            if str(attempt.cf_payment_id) == cf_payment_id:
                return attempt
        raise Rejected(404, "payment_not_found", "payment is not found for the order")

    def refund(
        self, order_id: str, *, refund_id: str, amount_paise: Paise, note: str | None, speed: str
    ) -> Refund:
        """A pending refund that the clock will finish. Rejected: 409 id taken, 400 unpaid or more than is
        left.
        """
        order = self.order(order_id)
        if refund_id in order.refunds:
            raise Rejected(409, "refund_already_exists", "refund with same id is already present")
        attempt = order.paid_by
        if attempt is None:
            raise Rejected(400, "order_not_paid", "refund cannot be made for an order that is not paid")
        if amount_paise > order.captured_paise - order.refunded_paise:
            raise Rejected(
                400, "refund_amount_invalid", "refund_amount : is more than the amount left to refund"
            )
        refund = self._new_refund(order, attempt, refund_id, amount_paise, "MERCHANT_INITIATED")
        refund.note, refund.speed = note, speed
        outcome = self.refund_outcome
        if outcome != "PENDING":
            self.clock.call_later(self.refund_delay_s, lambda: self._finish(order, refund, outcome))
        return refund

    def resolve_refund(
        self, order: Order, refund: Refund, status: str, plan: WebhookPlan | None = None
    ) -> None:
        """Move a refund. Rejected (400) for a move that cannot happen."""
        if status not in REFUND_MOVES[refund.status]:
            raise Rejected(
                400, "transition_invalid", f"a refund does not go from {refund.status} to {status}"
            )
        refund.status = status
        if status == "SUCCESS":
            refund.processed_ms = self.clock.now_ms()
            refund.arn = str(self.random.randrange(10**11, 10**12))
        automatic = refund.type != "MERCHANT_INITIATED"
        self.announce(
            "AUTO_REFUND_STATUS_WEBHOOK" if automatic else "REFUND_STATUS_WEBHOOK", order, refund, plan
        )

    def settle(self) -> Settlement | None:
        """Send to the bank all that succeeded and was not sent yet; None if there is nothing."""
        payments = [a for a in self._attempts() if a.status == "SUCCESS" and a.settlement_id is None]
        refunds = [
            refund
            for order in self.orders.values()
            for refund in order.refunds.values()
            if refund.status == "SUCCESS" and refund.settlement_id is None
        ]
        if not payments and not refunds:
            return None
        now_ms = self.clock.now_ms()
        number = self.new_id()
        started = min([a.completed_ms or now_ms for a in payments], default=now_ms)
        settlement = Settlement(number, f"UTR{number}", now_ms, started, payments, refunds)
        self.settlements[number] = settlement
        for attempt in payments:
            attempt.settlement_id = number
        for refund in refunds:
            refund.settlement_id = number
        anchor = self.orders[(payments or refunds)[0].order_id]
        self.announce("SETTLEMENT_SUCCESS", anchor, settlement, None)
        return settlement

    def _attempts(self) -> Iterable[Attempt]:
        for order in self.orders.values():
            yield from order.attempts

    def _finish(self, order: Order, refund: Refund, status: str) -> None:
        if status in REFUND_MOVES[refund.status]:
            self.resolve_refund(order, refund, status)

    def _refund_automatically(self, order: Order, attempt: Attempt) -> None:
        refund = self._new_refund(
            order, attempt, f"auto_{attempt.cf_payment_id}", attempt.amount_paise, "PAYMENT_AUTO_REFUND"
        )
        self.clock.call_later(self.refund_delay_s, lambda: self._finish(order, refund, "SUCCESS"))

    def _new_refund(self, order: Order, attempt: Attempt, refund_id: str, amount: Paise, kind: str) -> Refund:
        refund = Refund(
            refund_id=refund_id,
            cf_refund_id=self.new_id(),
            cf_payment_id=attempt.cf_payment_id,
            order_id=order.order_id,
            amount_paise=amount,
            currency=order.currency,
            created_ms=self.clock.now_ms(),
            type=kind,
        )
        order.refunds[refund_id] = refund
        self.refund_orders[refund_id] = order.order_id
        return refund

    def take_up(self, order: Order) -> None:
        """An order that an earlier process made; refunds that are under way go on."""
        self.orders[order.order_id] = order
        self.sessions[order.session_id] = order.order_id
        for attempt in order.attempts:
            self.payments[attempt.cf_payment_id] = order.order_id
        for refund in order.refunds.values():
            self.refund_orders[refund.refund_id] = order.order_id
            if refund.status == "PENDING" and self.refund_outcome != "PENDING":
                self.clock.call_later(
                    self.refund_delay_s, partial(self._finish, order, refund, self.refund_outcome)
                )

    def _forget(self, order: Order) -> None:
        del self.orders[order.order_id]
        del self.sessions[order.session_id]
        for attempt in order.attempts:
            del self.payments[attempt.cf_payment_id]
        for refund_id in order.refunds:
            self.refund_orders.pop(refund_id, None)
