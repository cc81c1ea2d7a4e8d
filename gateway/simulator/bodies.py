"""The entities as the API shows them. Amounts are written with two decimals, from paise, never through a
float.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from domain.money import Paise
from gateway.simulator.records import Attempt, Order, Refund, Settlement, fee_of
from gateway.wire import IST

Body = dict[str, object]


def rupees(amount_paise: Paise) -> msgspec.Raw:
    """An amount as the bytes of a JSON number: 17000 becomes 170.00."""
    sign, magnitude = ("-", -amount_paise) if amount_paise < 0 else ("", amount_paise)
    return msgspec.Raw(f"{sign}{magnitude // 100}.{magnitude % 100:02d}".encode())


def iso(ms: int | None) -> str | None:
    """A time as Cashfree writes it: to the second, in Indian Standard Time."""
    return None if ms is None else datetime.fromtimestamp(ms // 1000, IST).isoformat()


def order_entity(order: Order) -> Body:
    """GET|POST|PATCH /orders."""
    return {
        "cf_order_id": str(order.cf_order_id),
        "created_at": iso(order.created_ms),
        "customer_details": order.customer,
        "entity": "order",
        "order_amount": rupees(order.amount_paise),
        "order_currency": order.currency,
        "order_expiry_time": iso(order.expiry_ms),
        "order_id": order.order_id,
        "order_meta": order.meta,
        "order_note": order.note,
        "order_splits": order.splits,
        "order_status": order.status,
        "order_tags": order.tags,
        "payment_session_id": order.session_id,
        "terminal_data": None,
    }


def payment_entity(order: Order, attempt: Attempt) -> Body:
    """GET /orders/{id}/payments."""
    status = attempt.status
    return {
        "auth_id": None,
        "authorization": None,
        "bank_reference": attempt.bank_reference,
        "cf_payment_id": str(attempt.cf_payment_id),
        "entity": "payment",
        "error_details": error_details(status),
        "international_payment": {"international": False},
        "is_captured": status == "SUCCESS",
        "order_amount": rupees(order.amount_paise),
        "order_currency": order.currency,
        "order_id": order.order_id,
        "payment_amount": rupees(attempt.amount_paise),
        "payment_completion_time": iso(attempt.completed_ms),
        "payment_currency": attempt.currency,
        "payment_gateway_details": gateway_details(order, attempt),
        "payment_group": attempt.group,
        "payment_message": payment_message(status),
        "payment_method": attempt.method,
        "payment_status": status,
        "payment_time": iso(attempt.started_ms),
    }


def payment_message(status: str) -> str | None:
    """The bank's words for a status."""
    return {
        "SUCCESS": "00::Transaction success",
        "FAILED": "01::REJECTED",
        "PENDING": "Transaction pending",
    }.get(status)


def error_details(status: str) -> Body | None:
    """Why an attempt failed."""
    if status != "FAILED":
        return None
    return {
        "error_code": "TRANSACTION_DECLINED",
        "error_description": "the issuer or payment service provider declined the transaction",
        "error_reason": "auth_declined",
        "error_source": "customer",
    }


def gateway_details(order: Order, attempt: Attempt) -> Body:
    """Which processor carried the payment."""
    return {
        "gateway_name": "CASHFREE",
        "gateway_order_id": str(order.cf_order_id),
        "gateway_payment_id": str(attempt.cf_payment_id),
        "gateway_settlement": "CASHFREE",
    }


def refund_entity(refund: Refund) -> Body:
    """POST|GET /orders/{id}/refunds."""
    return {
        "cf_payment_id": str(refund.cf_payment_id),
        "cf_refund_id": str(refund.cf_refund_id),
        "created_at": iso(refund.created_ms),
        "entity": "refund",
        "metadata": None,
        "order_id": refund.order_id,
        "processed_at": iso(refund.processed_ms),
        "refund_amount": rupees(refund.amount_paise),
        "refund_arn": refund.arn,
        "refund_charge": rupees(0),
        "refund_currency": refund.currency,
        "refund_id": refund.refund_id,
        "refund_mode": refund.speed,
        "refund_note": refund.note,
        "refund_splits": [],
        "refund_status": refund.status,
        "refund_type": refund.type,
        "status_description": "Refund processed successfully"
        if refund.status == "SUCCESS"
        else "In Progress",
    }


def order_settlement(order: Order, attempt: Attempt, settlement: Settlement) -> Body:
    """GET /orders/{id}/settlements."""
    fee, tax = fee_of(attempt.amount_paise)
    return {
        "cf_payment_id": str(attempt.cf_payment_id),
        "cf_settlement_id": str(settlement.cf_settlement_id),
        "entity": "settlement",
        "order_amount": rupees(order.amount_paise),
        "order_currency": order.currency,
        "order_id": order.order_id,
        "payment_time": iso(attempt.started_ms),
        "service_charge": rupees(fee),
        "service_tax": rupees(tax),
        "settlement_amount": rupees(attempt.amount_paise - fee - tax),
        "settlement_currency": order.currency,
        "transfer_id": settlement.cf_settlement_id,
        "transfer_time": iso(settlement.settled_ms),
        "transfer_utr": settlement.utr,
    }


def settlement_entity(settlement: Settlement) -> Body:
    """POST /settlements."""
    return {
        "cf_settlement_id": str(settlement.cf_settlement_id),
        "entity": "settlement",
        "adjustment": rupees(settlement.adjustment_paise),
        "amount_settled": rupees(settlement.net_paise),
        "payment_amount": rupees(settlement.gross_paise),
        "payment_from": iso(settlement.from_ms),
        "payment_till": iso(settlement.settled_ms),
        "service_charge": rupees(settlement.fee_paise),
        "service_tax": rupees(settlement.tax_paise),
        "settlement_amount": rupees(settlement.net_paise),
        "settlement_currency": "INR",
        "status": "SUCCESS",
        "transfer_time": iso(settlement.settled_ms),
        "transfer_utr": settlement.utr,
    }


def payment_line(order: Order, attempt: Attempt, settlement: Settlement | None) -> Body:
    """A reconciliation line of a payment."""
    fee, tax = fee_of(attempt.amount_paise)
    return {
        "event_details": _event(
            "PAYMENT",
            str(attempt.cf_payment_id),
            attempt.completed_ms,
            "CREDIT",
            attempt.amount_paise,
            fee,
            tax,
            attempt.currency,
        ),
        "order_details": _order_part(order),
        "customer_details": order.customer,
        "payment_details": {
            "cf_payment_id": str(attempt.cf_payment_id),
            "payment_amount": rupees(attempt.amount_paise),
            "payment_currency": attempt.currency,
            "bank_reference": attempt.bank_reference,
            "payment_time": iso(attempt.started_ms),
            "payment_mode": attempt.group.upper(),
            "payment_service_charge": rupees(fee),
            "payment_service_tax": rupees(tax),
            "status": attempt.status,
        },
        "settlement_details": _settlement_part(settlement),
    }


def refund_line(order: Order, refund: Refund, settlement: Settlement | None) -> Body:
    """A reconciliation line of a refund."""
    return {
        "event_details": _event(
            "REFUND",
            str(refund.cf_refund_id),
            refund.processed_ms,
            "DEBIT",
            refund.amount_paise,
            0,
            0,
            refund.currency,
        ),
        "order_details": _order_part(order),
        "customer_details": order.customer,
        "payment_details": {"cf_payment_id": str(refund.cf_payment_id)},
        "refund_details": {
            "refund_id": refund.refund_id,
            "refund_arn": refund.arn,
            "refund_note": refund.note,
            "refund_processed_at": iso(refund.processed_ms),
        },
        "settlement_details": _settlement_part(settlement),
    }


def _event(
    kind: str, number: str, at_ms: int | None, sale: str, amount: Paise, fee: Paise, tax: Paise, currency: str
) -> Body:
    return {
        "entity": "recon",
        "event_type": kind,
        "event_id": number,
        "event_status": "SUCCESS",
        "event_time": iso(at_ms),
        "event_amount": rupees(amount),
        "event_settlement_amount": rupees(amount - fee - tax),
        "event_service_charge": rupees(fee),
        "event_service_tax": rupees(tax),
        "event_currency": currency,
        "sale_type": sale,
    }


def _order_part(order: Order) -> Body:
    return {
        "order_id": order.order_id,
        "order_amount": rupees(order.amount_paise),
        "order_currency": order.currency,
        "order_tags": order.tags,
    }


def _settlement_part(settlement: Settlement | None) -> Body | None:
    if settlement is None:
        return None
    return {
        "cf_settlement_id": str(settlement.cf_settlement_id),
        "settlement_date": iso(settlement.settled_ms),
        "utr": settlement.utr,
    }
