"""Webhook bodies in the versions Cashfree has sent: ids are numbers before 2025, text since."""

from __future__ import annotations

import msgspec

from gateway.simulator.bodies import Body, error_details, gateway_details, iso, payment_message, rupees
from gateway.simulator.plan import Version, WebhookPlan
from gateway.simulator.records import Attempt, Order, Refund, Settlement

Subject = Attempt | Refund | Settlement


def webhook_body(
    event_type: str, order: Order, subject: Subject, version: Version, plan: WebhookPlan, now_ms: int
) -> bytes:
    """The exact bytes to sign and send."""
    if isinstance(subject, Attempt):
        data = _payment(order, subject, version, plan)
    elif isinstance(subject, Refund):
        data = _refund(subject, version, plan)
    else:
        data = {"settlement": _settlement(subject, version)}
    if plan.unknown_field:
        data["something_new"] = {"since": version, "values": [1, 2.50, None]}
    return msgspec.json.encode({"data": data, "event_time": iso(now_ms), "type": event_type})


def _id(number: int, version: Version, plan: WebhookPlan) -> int | str:
    as_text = plan.ids == "text" if plan.ids else version == "2025-01-01"
    return str(number) if as_text else number


def _payment(order: Order, attempt: Attempt, version: Version, plan: WebhookPlan) -> Body:
    amount = attempt.amount_paise if plan.amount_paise is None else plan.amount_paise
    payment: Body = {
        "cf_payment_id": _id(attempt.cf_payment_id, version, plan),
        "payment_status": "SOMETHING_NEW" if plan.unknown_status else attempt.status,
        "payment_amount": rupees(amount),
        "payment_currency": attempt.currency,
        "payment_message": payment_message(attempt.status),
        "payment_time": iso(attempt.started_ms),
        "bank_reference": attempt.bank_reference,
        "auth_id": None,
        "payment_method": attempt.method,
        "payment_group": attempt.group,
    }
    if version == "2025-01-01":
        payment["international_payment"] = {"international": False}
        payment["payment_surcharge"] = {
            "payment_surcharge_service_charge": rupees(0),
            "payment_surcharge_service_tax": rupees(0),
        }
    data: Body = {
        "order": {
            "order_id": order.order_id,
            "order_amount": rupees(order.amount_paise),
            "order_currency": order.currency,
            "order_tags": order.tags,
        },
        "payment": payment,
        "customer_details": {
            key: order.customer.get(key)
            for key in ("customer_name", "customer_id", "customer_email", "customer_phone")
        },
        "payment_gateway_details": gateway_details(order, attempt),
        "payment_offers": [_offer(attempt)] if attempt.offer_paise else None,
    }
    if attempt.status == "FAILED":
        data["error_details"] = error_details("FAILED")
    return data


def _offer(attempt: Attempt) -> Body:
    redeemed = attempt.status == "SUCCESS"
    return {
        "offer_id": f"offer_{attempt.offer_paise}",
        "offer_type": "DISCOUNT",
        "offer_meta": {"offer_title": "Money off", "offer_code": f"OFF{attempt.offer_paise}"},
        "offer_redemption": {
            "redemption_status": "SUCCESS" if redeemed else "FAILED",
            "discount_amount": rupees(attempt.offer_paise),
        },
    }


def _refund(refund: Refund, version: Version, plan: WebhookPlan) -> Body:
    automatic = refund.type != "MERCHANT_INITIATED"
    body: Body = {
        "cf_refund_id": _id(refund.cf_refund_id, version, plan),
        "cf_payment_id": _id(refund.cf_payment_id, version, plan),
        "order_id": refund.order_id,
        "refund_amount": rupees(refund.amount_paise if plan.amount_paise is None else plan.amount_paise),
        "refund_currency": refund.currency,
        "refund_type": refund.type,
        "refund_arn": refund.arn,
        "refund_status": "SOMETHING_NEW" if plan.unknown_status else refund.status,
        "status_description": "Refund processed successfully"
        if refund.status == "SUCCESS"
        else "In Progress",
        "created_at": iso(refund.created_ms),
        "processed_at": iso(refund.processed_ms),
        "refund_splits": None,
    }
    if automatic:
        body["event"] = "AUTO-REFUND"
        body["refund_reason"] = "Multiple payments were performed against same order."
        return {"auto_refund": body}
    body["refund_id"] = refund.refund_id
    body["refund_note"] = refund.note
    body["entity"] = "Refund" if version == "2022-09-01" else "refund"
    return {"refund": body}


def _settlement(settlement: Settlement, version: Version) -> Body:
    return {
        "settlement_id": settlement.cf_settlement_id,
        "status": "SUCCESS",
        "utr": settlement.utr,
        "payment_amount": rupees(settlement.gross_paise),
        "service_charge": rupees(settlement.fee_paise),
        "service_tax": rupees(settlement.tax_paise),
        "adjustment": rupees(settlement.adjustment_paise),
        "settlement_amount": rupees(settlement.net_paise),
        "amount_settled": rupees(settlement.net_paise),
        "settlement_type": "STANDARD",
        "payment_from": iso(settlement.from_ms),
        "payment_till": iso(settlement.settled_ms),
        "settlement_initiated_on": iso(settlement.settled_ms),
        "settled_on": iso(settlement.settled_ms),
        "settlement_charge": rupees(0),
        "settlement_tax": rupees(0),
        "reason": None,
    }
