"""What the simulated merchant account holds, and which state may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from domain.money import Paise, div_half_up
from gateway.wire import Json

ORDER_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "ACTIVE": frozenset({"PAID", "EXPIRED", "TERMINATED", "TERMINATION_REQUESTED"}),
    "TERMINATION_REQUESTED": frozenset({"TERMINATED", "PAID"}),
    "EXPIRED": frozenset({"PAID"}),
    "TERMINATED": frozenset(),
    "PAID": frozenset(),
}
"""An attempt that began before the order expired may still pay it."""

ATTEMPT_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "NOT_ATTEMPTED": frozenset({"PENDING", "SUCCESS", "FAILED", "USER_DROPPED", "CANCELLED"}),
    "PENDING": frozenset({"SUCCESS", "FAILED", "USER_DROPPED", "CANCELLED", "FLAGGED"}),
    "FLAGGED": frozenset({"SUCCESS", "FAILED"}),
    "FAILED": frozenset({"SUCCESS"}),
    "USER_DROPPED": frozenset({"SUCCESS", "FAILED"}),
    "CANCELLED": frozenset(),
    "VOID": frozenset(),
    "SUCCESS": frozenset({"VOID"}),
}
"""Only success is final: a bank may confirm late what was reported as failed."""

REFUND_MOVES: Final[Mapping[str, frozenset[str]]] = {
    "PENDING": frozenset({"SUCCESS", "ONHOLD", "CANCELLED", "FAILED"}),
    "ONHOLD": frozenset({"PENDING", "SUCCESS", "CANCELLED", "FAILED"}),
    "SUCCESS": frozenset(),
    "CANCELLED": frozenset(),
    "FAILED": frozenset(),
}

FEE_BP: Final = 195
TAX_ON_FEE_BP: Final = 1800


def fee_of(amount_paise: Paise) -> tuple[Paise, Paise]:
    """Cashfree's charge on a payment and the GST on that charge."""
    fee = div_half_up(amount_paise * FEE_BP, 10_000)
    return fee, div_half_up(fee * TAX_ON_FEE_BP, 10_000)


@dataclass(slots=True)
class Attempt:
    """One try at paying an order."""

    cf_payment_id: int
    order_id: str
    amount_paise: Paise
    currency: str
    group: str
    method: dict[str, dict[str, Json]]
    started_ms: int
    status: str = "NOT_ATTEMPTED"
    completed_ms: int | None = None
    bank_reference: str | None = None
    settlement_id: int | None = None
    offer_paise: Paise = 0
    """Of the order's amount, what an offer of the merchant's pays: nobody is charged that."""


@dataclass(slots=True)
class Refund:
    """Money on its way back."""

    refund_id: str
    cf_refund_id: int
    cf_payment_id: int
    order_id: str
    amount_paise: Paise
    currency: str
    created_ms: int
    note: str | None = None
    speed: str = "STANDARD"
    type: str = "MERCHANT_INITIATED"
    status: str = "PENDING"
    processed_ms: int | None = None
    arn: str | None = None
    settlement_id: int | None = None


@dataclass(slots=True)
class Order:
    """What the merchant asked to be paid. Before `shown_from_ms` the API shows the order as it was at
    first.
    """

    order_id: str
    cf_order_id: int
    session_id: str
    amount_paise: Paise
    currency: str
    customer: dict[str, Json]
    meta: dict[str, Json]
    tags: dict[str, Json] | None
    note: str | None
    splits: list[Json]
    created_ms: int
    expiry_ms: int
    status: str = "ACTIVE"
    shown_from_ms: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    refunds: dict[str, Refund] = field(default_factory=dict)

    @property
    def paid_by(self) -> Attempt | None:
        """The attempt that paid the order: the first that succeeded."""
        succeeded = (attempt for attempt in self.attempts if attempt.status == "SUCCESS")
        return min(succeeded, key=lambda attempt: attempt.completed_ms or 0, default=None)

    @property
    def captured_paise(self) -> Paise:
        """All that was taken from the customer; more than the amount if the order was paid twice."""
        return sum(attempt.amount_paise for attempt in self.attempts if attempt.status == "SUCCESS")

    @property
    def refunded_paise(self) -> Paise:
        """What went back or is about to."""
        return sum(
            refund.amount_paise
            for refund in self.refunds.values()
            if refund.status in ("PENDING", "ONHOLD", "SUCCESS")
        )


@dataclass(slots=True)
class Settlement:
    """A transfer to the merchant's bank: the payments in it less fees, less the refunds."""

    cf_settlement_id: int
    utr: str
    settled_ms: int
    from_ms: int
    payments: list[Attempt] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)

    @property
    def gross_paise(self) -> Paise:
        """The payments before anything is taken off."""
        return sum(attempt.amount_paise for attempt in self.payments)

    @property
    def fee_paise(self) -> Paise:
        """All service charges."""
        return sum(fee_of(attempt.amount_paise)[0] for attempt in self.payments)

    @property
    def tax_paise(self) -> Paise:
        """GST on the service charges."""
        return sum(fee_of(attempt.amount_paise)[1] for attempt in self.payments)

    @property
    def adjustment_paise(self) -> Paise:
        """What refunds take off: zero or negative."""
        return -sum(refund.amount_paise for refund in self.refunds)

    @property
    def net_paise(self) -> Paise:
        """What reaches the bank."""
        return self.gross_paise - self.fee_paise - self.tax_paise + self.adjustment_paise
