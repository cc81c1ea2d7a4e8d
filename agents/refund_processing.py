"""refund.processing

In     RefundDue: a refund was decided, or the gateway's webhook spoke of one of ours
Books  commit_refunds: the refund is due now; agents/refunder.py carries it to the gateway and records its word
Out    nothing from here; from the refunder: notifications.billing, analytics.billing
"""

from typing import Final

from agents.core import Core, fencing
from sql import refunds
from sql.ids import uuid_of
from sql.refunds import DueRefund
from streams.batches import Batch

TOPIC: Final = "refund.processing"


async def handle(core: Core, batch: Batch) -> None:
    """Mark one batch of refunds due with its offset. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    due = [DueRefund(uuid_of(t.event.refund_id), uuid_of(t.event.payment_id), t.offset) for t in intake.taken]
    async with fencing():
        marked = await refunds.commit_refunds(
            core.db, core.head(batch), due, progress=intake.progress, bad=intake.bad
        )
    core.marks.committed(batch, intake)
    await core.publish(marked.emitted)
