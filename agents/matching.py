"""Whether what was paid is what we sold, by the gateway's own list of attempts: which of them paid the order, and
with which offer. `domain.payments.mismatch_of` is the rule; here the gateway's words become its arguments.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from domain.payments import Mismatch, mismatch_of
from gateway.entities import Order, Payment
from sql.verifications import Evidence, Lease

CURRENCY: Final = "INR"
PATIENCE: Final = 5
"""So many answers (the schedule makes it an hour and more) an amount that is too low waits for the webhook that may
name its offer: the gateway sends it again for half an hour."""
_LAST: Final = datetime.max.replace(tzinfo=UTC)


def settled_by_order(lease: Lease, order: Order) -> bool:
    """Whether GET order is enough: it says not paid, or another amount or currency than ours, or all that we
    were told besides is one success of the whole amount.
    """
    return (
        not order.paid
        or lease.whole
        or (order.amount_paise, order.currency) != (lease.amount_paise, CURRENCY)
    )


def evidence_of(lease: Lease, order: Order, attempts: Sequence[Payment]) -> Evidence | None:
    """The attempt that paid a PAID order of our amount, with what it paid and whether that matches.

    Of several successes it is one that matches, rather the one we were told of, rather the earliest; the others
    are money without a sale. None: nothing matches, but a webhook that explains it may still come.
    """
    succeeded = sorted(
        (attempt for attempt in attempts if attempt.status == "SUCCESS"),
        key=lambda a: (a.cf_payment_id != lease.cf_payment_id, a.completed_at or a.started_at or _LAST),
    )
    judged = [_judge(lease, order, attempt, len(succeeded)) for attempt in succeeded]
    for evidence in judged:
        if evidence.mismatch is None:
            return evidence
    if lease.attempt < PATIENCE and all(_unexplained(lease, order, evidence) for evidence in judged):
        return None
    return judged[0] if judged else Evidence(None, 0, None, Mismatch.PAID_AMOUNT, 0)


def _judge(lease: Lease, order: Order, attempt: Payment, successes: int) -> Evidence:
    offer = (lease.offers or {}).get(attempt.cf_payment_id)
    if attempt.offer_id is not None and attempt.discount_paise is not None:
        offer = (attempt.offer_id, attempt.discount_paise)
    paid_paise = attempt.amount_paise or 0
    if paid_paise == order.amount_paise:
        offer = None  # who paid everything was given nothing
    mismatch = mismatch_of(
        expected_paise=lease.amount_paise,
        expected_currency=CURRENCY,
        order_paise=order.amount_paise,
        currency=attempt.currency or order.currency,
        paid_paise=paid_paise,
        offer_paise=offer[1] if offer else 0,
    )
    return Evidence(attempt.cf_payment_id, paid_paise, offer, mismatch, successes)


def _unexplained(lease: Lease, order: Order, evidence: Evidence) -> bool:
    """Too little was paid, and the attempt's own webhook, which would name the offer, has not come yet."""
    return (
        evidence.mismatch is Mismatch.PAID_AMOUNT
        and evidence.paid_paise < order.amount_paise
        and evidence.cf_payment_id not in (lease.offers or {})
    )
