"""What Cashfree answers, typed. Ids are text, amounts are paise, times are UTC, statuses are kept as they
came.

The `*_STATUSES` sets hold the values known today; another value is stored and reconciled, never a crash.
Each `read_*` takes a decoded answer and raises `wire.Malformed` where a field that money depends on is
missing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from domain.money import Paise
from gateway.readers import method_of, redeemed
from gateway.wire import Json, Malformed, Object, child, flag, instant, paise, prose, text

ORDER_STATUSES: Final = frozenset({"ACTIVE", "PAID", "EXPIRED", "TERMINATED", "TERMINATION_REQUESTED"})
PAYMENT_STATUSES: Final = frozenset(
    {"SUCCESS", "NOT_ATTEMPTED", "FAILED", "USER_DROPPED", "VOID", "CANCELLED", "PENDING", "FLAGGED"}
)
REFUND_STATUSES: Final = frozenset({"SUCCESS", "PENDING", "CANCELLED", "ONHOLD", "FAILED"})


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """An order. `status == "PAID"` with equal amount and currency is the only evidence a credit is given
    on.
    """

    order_id: str
    cf_order_id: str
    status: str
    amount_paise: Paise
    currency: str
    payment_session_id: str | None = None
    customer_id: str | None = None
    customer_phone: str | None = None
    customer_email: str | None = None
    created_at: datetime | None = None
    expires_at: datetime | None = None
    tags: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def paid(self) -> bool:
        """Cashfree says the order's whole amount is paid."""
        return self.status == "PAID"


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt to pay an order. Only SUCCESS is final: a failed attempt may still succeed later.

    `discount_paise` of the order's amount was paid by the offer `offer_id`, where the answer names one.
    """

    cf_payment_id: str
    order_id: str
    status: str
    amount_paise: Paise | None = None
    offer_id: str | None = None
    discount_paise: Paise | None = None
    currency: str | None = None
    order_amount_paise: Paise | None = None
    captured: bool | None = None
    group: str | None = None
    method: dict[str, str] = msgspec.field(default_factory=dict)
    instrument: str | None = None
    message: str | None = None
    error_code: str | None = None
    error_reason: str | None = None
    bank_reference: str | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None


class Refund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund. `type` tells ours (`MERCHANT_INITIATED`) from Cashfree's own (`PAYMENT_AUTO_REFUND`, ...)."""

    refund_id: str
    cf_refund_id: str | None
    order_id: str
    status: str
    amount_paise: Paise
    currency: str
    cf_payment_id: str | None = None
    type: str | None = None
    arn: str | None = None
    description: str | None = None
    created_at: datetime | None = None
    processed_at: datetime | None = None


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """Money on its way to the bank: of one payment (`order_id` set) or of a whole settlement."""

    cf_settlement_id: str | None = None
    order_id: str | None = None
    cf_payment_id: str | None = None
    order_amount_paise: Paise | None = None
    settlement_amount_paise: Paise | None = None
    service_charge_paise: Paise | None = None
    service_tax_paise: Paise | None = None
    currency: str | None = None
    status: str | None = None
    utr: str | None = None
    settled_at: datetime | None = None


class ReconLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a reconciliation: a payment, refund, dispute or adjustment inside a settlement.

    `sale_type` is CREDIT or DEBIT; amounts are positive and take their sign from it.
    """

    event_type: str
    event_id: str | None = None
    event_status: str | None = None
    sale_type: str | None = None
    amount_paise: Paise | None = None
    settlement_amount_paise: Paise | None = None
    service_charge_paise: Paise | None = None
    service_tax_paise: Paise | None = None
    currency: str | None = None
    order_id: str | None = None
    cf_payment_id: str | None = None
    refund_id: str | None = None
    cf_settlement_id: str | None = None
    utr: str | None = None
    happened_at: datetime | None = None


class Dispute(msgspec.Struct, frozen=True, kw_only=True):
    """A bank's dispute about a payment; `status` is type and state in one, for example CHARGEBACK_CREATED."""

    dispute_id: str
    type: str
    status: str
    amount_paise: Paise
    order_id: str | None = None
    cf_payment_id: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    respond_by: datetime | None = None
    resolved_at: datetime | None = None


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some reconciliation lines and the cursor for the next ones; None when there are no more."""

    lines: tuple[ReconLine, ...]
    cursor: str | None


def as_object(answer: Json) -> Object:
    """The answer as an object. Errors: Malformed (`not_an_object`)."""
    if not isinstance(answer, dict):
        raise Malformed("not_an_object", "the answer is not a JSON object")
    return answer


def as_list(answer: Json) -> list[Object]:
    """The answer as a list of objects; a page's `data`, or one object, is accepted too.

    Errors: Malformed (`not_a_list`). An element that is not an object is an error too: nothing is left
    out of a list.
    """
    items: Json = answer
    if isinstance(answer, dict):
        items = answer.get("data", [answer])
    if not isinstance(items, list):
        raise Malformed("not_a_list", "the answer is not a list")
    return [as_object(item) for item in items]


def read_order(node: Object) -> Order:
    """GET|POST|PATCH /orders."""
    customer = child(node, "customer_details")
    tags = child(node, "order_tags")
    return Order(
        order_id=needed(node, "order_id"),
        cf_order_id=needed(node, "cf_order_id"),
        status=needed(node, "order_status"),
        amount_paise=amount(node, "order_amount"),
        currency=needed(node, "order_currency"),
        payment_session_id=_session(node),
        customer_id=text(customer, "customer_id"),
        customer_phone=text(customer, "customer_phone"),
        customer_email=text(customer, "customer_email"),
        created_at=instant(node, "created_at"),
        expires_at=instant(node, "order_expiry_time"),
        tags={key: value for key in tags if (value := prose(tags, key)) is not None},
    )


def read_payment(node: Object) -> Payment:
    """GET /orders/{id}/payments[/{cf_payment_id}]."""
    method, instrument = method_of(node)
    errors = child(node, "error_details")
    offer_id, discount_paise = redeemed(node)
    return Payment(
        cf_payment_id=needed(node, "cf_payment_id"),
        order_id=needed(node, "order_id"),
        status=needed(node, "payment_status"),
        amount_paise=paise(node, "payment_amount"),
        offer_id=offer_id,
        discount_paise=discount_paise,
        currency=text(node, "payment_currency"),
        order_amount_paise=paise(node, "order_amount"),
        captured=flag(node, "is_captured"),
        group=text(node, "payment_group"),
        method=method,
        instrument=instrument,
        message=prose(node, "payment_message"),
        error_code=text(errors, "error_code"),
        error_reason=prose(errors, "error_reason"),
        bank_reference=text(node, "bank_reference"),
        started_at=instant(node, "payment_time"),
        completed_at=instant(node, "payment_completion_time"),
    )


def read_refund(node: Object) -> Refund:
    """POST|GET /orders/{id}/refunds[/{refund_id}]."""
    return Refund(
        refund_id=needed(node, "refund_id"),
        cf_refund_id=text(node, "cf_refund_id"),
        order_id=needed(node, "order_id"),
        status=needed(node, "refund_status"),
        amount_paise=amount(node, "refund_amount"),
        currency=needed(node, "refund_currency"),
        cf_payment_id=text(node, "cf_payment_id"),
        type=text(node, "refund_type"),
        arn=text(node, "refund_arn"),
        description=prose(node, "status_description"),
        created_at=instant(node, "created_at"),
        processed_at=instant(node, "processed_at"),
    )


def read_settlement(node: Object) -> Settlement:
    """POST /settlements and GET /orders/{id}/settlements."""
    return Settlement(
        cf_settlement_id=text(node, "cf_settlement_id") or text(node, "settlement_id"),
        order_id=text(node, "order_id"),
        cf_payment_id=text(node, "cf_payment_id"),
        order_amount_paise=_either(paise(node, "order_amount"), paise(node, "payment_amount")),
        settlement_amount_paise=_either(paise(node, "settlement_amount"), paise(node, "amount_settled")),
        service_charge_paise=paise(node, "service_charge"),
        service_tax_paise=paise(node, "service_tax"),
        currency=text(node, "settlement_currency") or text(node, "order_currency"),
        status=text(node, "status"),
        utr=text(node, "transfer_utr") or text(node, "settlement_utr") or text(node, "utr"),
        settled_at=instant(node, "transfer_time") or instant(node, "settlement_date"),
    )


def read_dispute(node: Object) -> Dispute:
    """GET /disputes/{id}."""
    order = child(node, "order_details")
    return Dispute(
        dispute_id=needed(node, "dispute_id"),
        type=needed(node, "dispute_type"),
        status=needed(node, "dispute_status"),
        amount_paise=amount(node, "dispute_amount"),
        order_id=text(order, "order_id"),
        cf_payment_id=text(order, "cf_payment_id"),
        reason_code=text(node, "reason_code"),
        reason=prose(node, "reason_description"),
        respond_by=instant(node, "respond_by"),
        resolved_at=instant(node, "resolved_at"),
    )


def read_disputes(answer: Json) -> tuple[Dispute, ...]:
    """All disputes of an order or payment."""
    return tuple(read_dispute(node) for node in as_list(answer))


def read_page(answer: Json) -> Page:
    """POST /recon (flat lines in one source, nested in another) and POST /settlement/recon (nested)."""
    node = as_object(answer)
    return Page(lines=tuple(_read_line(line) for line in as_list(node.get("data", []))), cursor=_cursor(node))


def _read_line(line: Object) -> ReconLine:
    event = child(line, "event_details") or line
    order = child(line, "order_details") or line
    payment = child(line, "payment_details") or line
    refund = child(line, "refund_details") or line
    settlement = child(line, "settlement_details") or line
    return ReconLine(
        event_type=needed(event, "event_type"),
        event_id=text(event, "event_id"),
        event_status=text(event, "event_status"),
        sale_type=text(event, "sale_type"),
        amount_paise=paise(event, "event_amount"),
        settlement_amount_paise=paise(event, "event_settlement_amount"),
        service_charge_paise=_either(
            paise(event, "event_service_charge"), paise(payment, "payment_service_charge")
        ),
        service_tax_paise=_either(paise(event, "event_service_tax"), paise(payment, "payment_service_tax")),
        currency=text(event, "event_currency"),
        order_id=text(order, "order_id"),
        cf_payment_id=text(payment, "cf_payment_id"),
        refund_id=text(refund, "refund_id"),
        cf_settlement_id=text(settlement, "cf_settlement_id"),
        utr=text(settlement, "utr") or text(settlement, "settlement_utr"),
        happened_at=instant(event, "event_time"),
    )


def needed(node: Object, key: str) -> str:
    """Text that must be there. Errors: Malformed (`missing`)."""
    found = text(node, key)
    if found is None:
        raise Malformed("missing", f"the answer has no {key}")
    return found


def amount(node: Object, key: str) -> Paise:
    """An amount that must be there. Errors: Malformed (`missing`, `bad_amount`)."""
    found = paise(node, key)
    if found is None:
        raise Malformed("missing", f"the answer has no {key}")
    return found


def _either(first: Paise | None, second: Paise | None) -> Paise | None:
    return second if first is None else first


def _session(node: Object) -> str | None:
    """A session id is longer than an id: no limit of ours applies."""
    value = node.get("payment_session_id")
    return value if isinstance(value, str) and value else None


def _cursor(node: Object) -> str | None:
    value = node.get("cursor")
    return value if isinstance(value, str) and value else None


def read_settlements(answer: Json) -> tuple[Settlement, ...]:
    """Settlements as one object, a list, or a page: sources disagree, so all are read."""
    return tuple(read_settlement(node) for node in as_list(answer))


def read_payments(answer: Json) -> tuple[Payment, ...]:
    """All attempts of an order, in the order given."""
    return tuple(read_payment(node) for node in as_list(answer))


def read_refunds(answer: Json) -> tuple[Refund, ...]:
    """All refunds of an order."""
    return tuple(read_refund(node) for node in as_list(answer))
