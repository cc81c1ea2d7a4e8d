"""notifications.billing

In     BillingNotice: something about a user's money happened
Books  commit_notices: one billing_events row per fact, one notification per channel the user allows. A notice that
       comes again, from whomever, finds its fact and changes nothing; an unknown user's is quarantined
Out    nothing; `mailer` sends what is queued for email, the app lists what is in it
"""

from datetime import UTC
from typing import Final

from agents.core import Core, fencing
from agents.intake import Taken
from sql.ids import uuid_of
from sql.notifications import Notice, commit_notices
from streams.batches import Batch
from streams.events import BillingNotice

TOPIC: Final = "notifications.billing"

ONCE_PER_PAYMENT: Final = frozenset(
    {"credits_added", "payment_failed", "payment_held", "payment_rejected", "invoice_issued"}
)
"""Kinds of which a payment has one: the payment is their identity. Others are told apart by their time too."""


async def handle(core: Core, batch: Batch) -> None:
    """Book one batch of notices with its offset. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    async with fencing():
        committed = await commit_notices(
            core.db,
            core.head(batch),
            [notice(taken) for taken in intake.taken],
            progress=intake.progress,
            bad=intake.bad,
        )
    core.marks.committed(batch, intake)
    await core.publish(committed.emitted)


def notice(taken: Taken) -> Notice:
    """A notice as the database knows it."""
    event: BillingNotice = taken.event
    source, source_id = identity(event)
    return Notice(
        user_id=uuid_of(event.user_id),
        kind=event.kind,
        occurred_at=event.occurred_at,
        payment_id=None if event.payment_id is None else uuid_of(event.payment_id),
        wallet_id=None if event.wallet_id is None else uuid_of(event.wallet_id),
        credits=event.credits,
        amount_paise=event.amount_paise,
        source=source,
        source_id=source_id,
        offset=taken.offset,
    )


def identity(event: BillingNotice) -> tuple[str, str]:
    """(source, source_id): what of its kind a fact is, the same however often and by whomever it is told."""
    if event.payment_id is not None and event.kind in ONCE_PER_PAYMENT:
        return "payment", event.payment_id
    subjects = (("payment", event.payment_id), ("wallet", event.wallet_id), ("user", event.user_id))
    source, subject = next((source, id) for source, id in subjects if id is not None)
    return source, f"{subject}@{event.occurred_at.astimezone(UTC).isoformat()}"
