"""Disputes about payments: opened by a bank, answered or accepted by the merchant, won or lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from domain.money import Paise
from gateway.simulator.bodies import Body, iso, rupees
from gateway.simulator.book import Book, Rejected
from gateway.simulator.mandates import AnnounceData
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import Attempt, Order

TYPES: Final = ("DISPUTE", "CHARGEBACK", "RETRIEVAL", "PRE_ARBITRATION", "ARBITRATION")
CLOSED: Final = frozenset({"MERCHANT_WON", "MERCHANT_LOST", "MERCHANT_ACCEPTED", "INSUFFICIENT_EVIDENCE"})
OPEN: Final = frozenset({"CREATED", "DOCS_RECEIVED", "UNDER_REVIEW"})
_RESPOND_MS: Final = 3 * 86_400_000


@dataclass(slots=True)
class Dispute:
    """One dispute; `state` is the part of Cashfree's status after the type."""

    dispute_id: int
    type: str
    order: Order
    attempt: Attempt
    amount_paise: Paise
    created_ms: int
    updated_ms: int
    state: str = "CREATED"

    @property
    def status(self) -> str:
        """As Cashfree writes it, for example CHARGEBACK_CREATED."""
        return f"{self.type}_{self.state}"


class Disputes:
    """All disputes against the merchant."""

    def __init__(self, book: Book, announce: AnnounceData) -> None:
        self.disputes: dict[int, Dispute] = {}
        self._book = book
        self._announce = announce

    def open(self, order: Order, kind: str, amount_paise: Paise | None, plan: WebhookPlan | None) -> Dispute:
        """A bank disputes the order's payment. Rejected (400) if it was never paid or less was paid."""
        attempt = order.paid_by
        if attempt is None or kind not in TYPES:
            raise Rejected(400, "dispute_invalid", "only a successful payment can be disputed")
        amount = attempt.amount_paise if amount_paise is None else amount_paise
        if not 0 < amount <= attempt.amount_paise:
            raise Rejected(400, "dispute_amount_invalid", "a dispute is about no more than was paid")
        now_ms = self._book.clock.now_ms()
        dispute = Dispute(self._book.new_id(), kind, order, attempt, amount, now_ms, now_ms)
        self.disputes[dispute.dispute_id] = dispute
        self._announce("DISPUTE_CREATED", order.order_id, webhook_data(dispute), plan)
        return dispute

    def move(self, dispute: Dispute, state: str, plan: WebhookPlan | None = None) -> None:
        """Go on, or end. Rejected (400) once it is closed."""
        if dispute.state in CLOSED or state not in OPEN | CLOSED or state == "CREATED":
            raise Rejected(
                400, "transition_invalid", f"a dispute does not go from {dispute.state} to {state}"
            )
        dispute.state = state
        dispute.updated_ms = self._book.clock.now_ms()
        event = "DISPUTE_CLOSED" if state in CLOSED else "DISPUTE_UPDATED"
        self._announce(event, dispute.order.order_id, webhook_data(dispute), plan)

    def get(self, dispute_id: str) -> Dispute:
        """One dispute. Rejected (404) if unknown."""
        for number, dispute in self.disputes.items():
            if str(number) == dispute_id:
                return dispute
        raise Rejected(404, "dispute_not_found", "dispute does not exist")


def dispute_entity(dispute: Dispute) -> Body:
    """GET /disputes/{id}."""
    closed = dispute.state in CLOSED
    return {
        "dispute_id": dispute.dispute_id,
        "dispute_type": dispute.type,
        "reason_code": "1401",
        "reason_description": "Fraud Transaction",
        "dispute_amount": rupees(dispute.amount_paise),
        "dispute_amount_currency": dispute.attempt.currency,
        "created_at": iso(dispute.created_ms),
        "updated_at": iso(dispute.updated_ms),
        "respond_by": iso(dispute.created_ms + _RESPOND_MS),
        "resolved_at": iso(dispute.updated_ms) if closed else None,
        "dispute_status": dispute.status,
        "cf_dispute_remarks": "Simulated",
        "order_details": {
            "order_id": dispute.order.order_id,
            "order_amount": rupees(dispute.order.amount_paise),
            "order_currency": dispute.order.currency,
            "cf_payment_id": str(dispute.attempt.cf_payment_id),
            "payment_amount": rupees(dispute.attempt.amount_paise),
            "payment_currency": dispute.attempt.currency,
        },
        "customer_details": {
            key: dispute.order.customer.get(key)
            for key in ("customer_name", "customer_phone", "customer_email")
        },
    }


def webhook_data(dispute: Dispute) -> Body:
    """The data of DISPUTE_* webhooks."""
    entity = dispute_entity(dispute)
    order, customer = entity.pop("order_details"), entity.pop("customer_details")
    return {
        "dispute": {**entity, "dispute_id": str(dispute.dispute_id)},
        "order_details": order,
        "customer_details": customer,
    }
