"""settlements.processing

In     SettlementDue: the gateway's webhook says that it has transferred money to our bank
Books  commit_settlements: the settlement's header, and the reconciliation due now instead of next night;
       agents/reconciler.py fetches its lines, posts each once beside the gateway's cursor, and compares
Out    nothing: people read the cases
"""

from typing import Final

from agents.core import Core, fencing
from sql import reconciliation
from sql.ids import uuid_of
from sql.reconciliation import DueSettlement
from streams.batches import Batch

TOPIC: Final = "settlements.processing"


async def handle(core: Core, batch: Batch) -> None:
    """Make one batch of settlements due with its offset. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    due = [DueSettlement(t.event.settlement_id, uuid_of(t.event.inbox_id), t.offset) for t in intake.taken]
    async with fencing():
        marked = await reconciliation.commit_settlements(
            core.db, core.head(batch), due, progress=intake.progress, bad=intake.bad
        )
    core.marks.committed(batch, intake)
    await core.publish(marked)
