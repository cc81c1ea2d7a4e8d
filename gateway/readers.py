"""How each family of webhooks is read into the same named parts. `webhooks.parse` picks the reader by
event type.

An id that the business key needs is required; everything else may be absent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

import msgspec

from domain.money import Paise
from gateway.wire import Malformed, Object, child, children, instant, paise, prose, text

Kind = Literal[
    "payment",
    "refund",
    "auto_refund",
    "dispute",
    "settlement",
    "vendor_settlement",
    "subscription",
    "subscription_payment",
    "subscription_refund",
    "payout",
    "test",
    "unknown",
]


class Claims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a webhook says. Ids are text, amounts are paise as claimed, times are UTC.

    `entity_id` is the id of what changed: a payment's `cf_payment_id`, a refund's `refund_id`, a dispute's
    `dispute_id`, and so on. `order_amount_paise` may exceed `amount_paise` (an offer).
    """

    entity_id: str
    status: str
    order_id: str | None = None
    cf_payment_id: str | None = None
    refund_id: str | None = None
    cf_refund_id: str | None = None
    amount_paise: Paise | None = None
    order_amount_paise: Paise | None = None
    currency: str | None = None
    payment_group: str | None = None
    instrument: str | None = None
    payment_method: dict[str, str] = msgspec.field(default_factory=dict)
    message: str | None = None
    error_code: str | None = None
    error_reason: str | None = None
    bank_reference: str | None = None
    customer_id: str | None = None
    customer_email: str | None = None
    customer_phone: str | None = None
    offer_id: str | None = None
    discount_paise: Paise | None = None
    related_id: str | None = None
    happened_at: datetime | None = None


class Parts(Claims, frozen=True, kw_only=True):
    """What a reader finds; `revision` tells apart facts that share id and status (a dispute updated
    twice).
    """

    revision: str | None = None


Reader = Callable[[str, Object], Parts]


def required(node: Object, *keys: str) -> str:
    """The first of these ids that is present. Errors: Malformed (`no_id`) if none is."""
    for key in keys:
        found = text(node, key)
        if found is not None:
            return found
    raise Malformed("no_id", f"none of {', '.join(keys)} is given")


def status_of(node: Object, key: str) -> str:
    """The status as it came, known or not. Errors: Malformed (`no_status`) if absent."""
    found = text(node, key)
    if found is None:
        raise Malformed("no_status", f"{key} is not given")
    return found


def method_of(node: Object) -> tuple[dict[str, str], str | None]:
    """The payment method flattened (`kind`, `channel`, ...) and a name for the instrument, if one can be
    told.

    Instruments: `upi:<id>`, `card:<instrument id or masked number>`, `account:<masked number>`,
    `app:<provider>:<phone>`.
    """
    for kind, details in child(node, "payment_method").items():
        if not isinstance(details, dict):
            continue
        method = {"kind": kind}
        for key, value in details.items():
            found = prose({key: str(value) if isinstance(value, int) else value}, key)
            if found is not None:
                method[key] = found
        return method, _instrument(kind, details)
    return {}, None


def _instrument(kind: str, details: Object) -> str | None:
    if kind == "upi":
        handle = text(details, "upi_id")
        return f"upi:{handle.lower()}" if handle else None
    if kind in ("card", "card_emi"):
        number = text(details, "instrument_id") or text(details, "card_number")
        return f"card:{number}" if number else None
    if kind == "app":
        phone = text(details, "phone")
        return f"app:{text(details, 'provider')}:{phone}" if phone else None
    account = text(details, "account_number") or text(details, "netbanking_account_number")
    return f"account:{account}" if account else None


def redeemed(node: Object) -> tuple[str | None, Paise | None]:
    """The offer that took something off a payment, and what was taken off (by all of them, if it was several).

    Cashback comes later and out of another pocket: it takes nothing off.
    """
    taken = [
        (offer_id, discount)
        for offer in children(node, "payment_offers")
        if text(redemption := child(offer, "offer_redemption"), "redemption_status") == "SUCCESS"
        and (offer_id := text(offer, "offer_id")) is not None
        and (discount := paise(redemption, "discount_amount") or 0) > 0
    ]
    return (taken[0][0], sum(discount for _, discount in taken)) if taken else (None, None)


def read_payment(event_type: str, data: Object) -> Parts:
    """PAYMENT_SUCCESS_WEBHOOK, PAYMENT_FAILED_WEBHOOK, PAYMENT_USER_DROPPED_WEBHOOK and whatever follows
    them.
    """
    payment, order, customer = child(data, "payment"), child(data, "order"), child(data, "customer_details")
    method, instrument = method_of(payment)
    errors = child(data, "error_details")
    offer_id, discount_paise = redeemed(data)
    payment_id = required(payment, "cf_payment_id")
    return Parts(
        entity_id=payment_id,
        status=status_of(payment, "payment_status"),
        order_id=required(order, "order_id"),
        cf_payment_id=payment_id,
        amount_paise=paise(payment, "payment_amount"),
        order_amount_paise=paise(order, "order_amount"),
        currency=text(payment, "payment_currency") or text(order, "order_currency"),
        payment_group=text(payment, "payment_group"),
        instrument=instrument,
        payment_method=method,
        message=prose(payment, "payment_message"),
        error_code=text(errors, "error_code"),
        error_reason=prose(errors, "error_reason"),
        bank_reference=text(payment, "bank_reference"),
        customer_id=text(customer, "customer_id"),
        customer_email=text(customer, "customer_email"),
        customer_phone=text(customer, "customer_phone"),
        offer_id=offer_id,
        discount_paise=discount_paise,
        happened_at=instant(payment, "payment_time"),
    )


def read_refund(event_type: str, data: Object) -> Parts:
    """REFUND_STATUS_WEBHOOK and AUTO_REFUND_STATUS_WEBHOOK (which has no `refund_id` of ours)."""
    refund = child(data, "refund") or child(data, "auto_refund")
    return Parts(
        entity_id=required(refund, "refund_id", "cf_refund_id"),
        status=status_of(refund, "refund_status"),
        order_id=text(refund, "order_id"),
        cf_payment_id=text(refund, "cf_payment_id"),
        refund_id=text(refund, "refund_id"),
        cf_refund_id=text(refund, "cf_refund_id"),
        amount_paise=paise(refund, "refund_amount"),
        currency=text(refund, "refund_currency"),
        message=prose(refund, "status_description"),
        error_reason=prose(refund, "refund_reason"),
        bank_reference=text(refund, "refund_arn"),
        happened_at=instant(refund, "processed_at") or instant(refund, "created_at"),
    )


def read_dispute(event_type: str, data: Object) -> Parts:
    """DISPUTE_CREATED, DISPUTE_UPDATED, DISPUTE_CLOSED. An update may change type or deadline and keep
    the status.
    """
    dispute, order, customer = (
        child(data, "dispute"),
        child(data, "order_details"),
        child(data, "customer_details"),
    )
    return Parts(
        entity_id=required(dispute, "dispute_id"),
        status=status_of(dispute, "dispute_status"),
        revision=text(dispute, "updated_at") if event_type == "DISPUTE_UPDATED" else None,
        order_id=text(order, "order_id"),
        cf_payment_id=text(order, "cf_payment_id"),
        amount_paise=paise(dispute, "dispute_amount"),
        order_amount_paise=paise(order, "order_amount"),
        currency=text(dispute, "dispute_amount_currency") or text(order, "order_currency"),
        message=prose(dispute, "cf_dispute_remarks"),
        error_code=text(dispute, "reason_code"),
        error_reason=prose(dispute, "reason_description"),
        customer_email=text(customer, "customer_email"),
        customer_phone=text(customer, "customer_phone"),
        happened_at=instant(dispute, "updated_at"),
    )


def read_settlement(event_type: str, data: Object) -> Parts:
    """SETTLEMENT_* (ours) and VENDOR_SETTLEMENT_* (a partner's; `related_id` is the vendor)."""
    settlement = child(data, "settlement")
    return Parts(
        entity_id=required(settlement, "settlement_id"),
        status=status_of(settlement, "status"),
        amount_paise=paise(settlement, "settlement_amount"),
        order_amount_paise=paise(settlement, "payment_amount")
        or paise(settlement, "vendor_transaction_amount"),
        message=prose(settlement, "reason"),
        bank_reference=text(settlement, "utr"),
        related_id=text(settlement, "vendor_id"),
        happened_at=instant(settlement, "settled_on") or instant(settlement, "settlement_initiated_on"),
    )


def read_subscription_payment(event_type: str, data: Object) -> Parts:
    """SUBSCRIPTION_PAYMENT_* and the notices and executions of a debit. `related_id` is the subscription."""
    authorisation = child(data, "authorization_details")
    method, instrument = method_of(authorisation)
    details = child(data, "failure_details") or child(data, "notification_failure_details")
    retries = text(data, "retry_attempts")
    return Parts(
        entity_id=required(data, "execution_id", "notification_id", "cf_payment_id", "payment_id"),
        status=text(data, "execution_status")
        or text(data, "notification_status")
        or status_of(data, "payment_status"),
        revision=retries if retries not in (None, "0") else None,
        order_id=text(data, "payment_id"),
        cf_payment_id=text(data, "cf_payment_id"),
        amount_paise=paise(data, "payment_amount"),
        currency=text(data, "payment_currency"),
        payment_group=text(authorisation, "payment_group"),
        instrument=instrument,
        payment_method=method,
        error_code=text(details, "failure_error_code"),
        error_reason=prose(details, "failure_reason"),
        related_id=text(data, "subscription_id"),
        happened_at=instant(data, "payment_initiated_date"),
    )


def read_subscription_refund(event_type: str, data: Object) -> Parts:
    """SUBSCRIPTION_REFUND_STATUS."""
    return Parts(
        entity_id=required(data, "refund_id", "cf_refund_id"),
        status=status_of(data, "refund_status"),
        order_id=text(data, "payment_id"),
        cf_payment_id=text(data, "cf_payment_id"),
        refund_id=text(data, "refund_id"),
        cf_refund_id=text(data, "cf_refund_id"),
        amount_paise=paise(data, "refund_amount"),
        message=prose(data, "refund_note"),
    )


def read_subscription(event_type: str, data: Object) -> Parts:
    """SUBSCRIPTION_STATUS_CHANGED and its kin. A status may come back, so `parse` adds the event's time
    to the key.
    """
    details, customer = child(data, "subscription_details"), child(data, "customer_details")
    method, instrument = method_of(child(data, "authorization_details"))
    return Parts(
        entity_id=required(details, "subscription_id", "cf_subscription_id"),
        status=status_of(details, "subscription_status"),
        instrument=instrument,
        payment_method=method,
        amount_paise=paise(child(data, "plan_details"), "plan_max_amount"),
        currency=text(child(data, "plan_details"), "plan_currency"),
        customer_email=text(customer, "customer_email"),
        customer_phone=text(customer, "customer_phone"),
        related_id=text(details, "cf_subscription_id"),
    )


def read_payout(event_type: str, data: Object) -> Parts:
    """TRANSFER_* of Payouts. SUCCESS has stages, so the status code is part of the key."""
    return Parts(
        entity_id=required(data, "transfer_id", "cf_transfer_id"),
        status=status_of(data, "status"),
        revision=text(data, "status_code"),
        amount_paise=paise(data, "transfer_amount"),
        message=prose(data, "status_description"),
        error_code=text(data, "status_code"),
        bank_reference=text(data, "transfer_utr"),
        related_id=text(data, "cf_transfer_id"),
    )


def read_unknown(raw_body: bytes, data: Object) -> Parts:
    """A type nobody has told us about: kept by the digest of its bytes, with the order if one is named."""
    order = child(data, "order") or child(data, "order_details")
    payment = child(data, "payment")
    return Parts(
        entity_id=hashlib.sha256(raw_body).hexdigest()[:32],
        status="UNKNOWN",
        order_id=text(order, "order_id"),
        cf_payment_id=text(payment, "cf_payment_id"),
    )


READERS: Final[tuple[tuple[str, Kind, Reader], ...]] = (
    ("PAYMENT_SUCCESS", "payment", read_payment),
    ("PAYMENT_FAILED", "payment", read_payment),
    ("PAYMENT_USER_DROPPED", "payment", read_payment),
    ("PAYMENT_PENDING", "payment", read_payment),
    ("PAYMENT_FLAGGED", "payment", read_payment),
    ("PAYMENT_CANCELLED", "payment", read_payment),
    ("REFUND_STATUS", "refund", read_refund),
    ("AUTO_REFUND", "auto_refund", read_refund),
    ("DISPUTE_", "dispute", read_dispute),
    ("VENDOR_SETTLEMENT", "vendor_settlement", read_settlement),
    ("SETTLEMENT_", "settlement", read_settlement),
    ("SUBSCRIPTION_PAYMENT", "subscription_payment", read_subscription_payment),
    ("SUBSCRIPTION_CONTROLLED", "subscription_payment", read_subscription_payment),
    ("SUBSCRIPTION_REFUND", "subscription_refund", read_subscription_refund),
    ("SUBSCRIPTION_", "subscription", read_subscription),
    ("TRANSFER_", "payout", read_payout),
)
"""Event types by prefix, most particular first."""
