"""fraud.detection

In     FraudSignal: a verified payment as one of its entities (user, device, ip, instrument) sees it
Books  commit_fraud: the entity's windows, its counts for the payment; the last ones bring the decision
Out    wallet.credit (CreditCommand) for a payment let pass; analytics.billing and notifications.billing: payments held
"""

from typing import Final

import structlog

from agents.core import Core, fencing
from agents.intake import Taken
from sql import fraud
from sql.fraud import StaleWindows, VelocitySignal
from sql.ids import uuid_of
from streams.batches import Batch
from streams.events import FraudSignal
from tables.fraud import TOPIC as TOPIC
from tables.fraud import FraudWindows

log = structlog.get_logger("agents.fraud_detection")

TRIES: Final = 3


async def handle(core: Core, windows: FraudWindows, batch: Batch) -> None:
    """Fold one batch with its offset, decide what it completes, publish.

    Errors: Fenced, StaleWindows, Unavailable.
    """
    intake = await core.marks.take_in(batch)
    signals = [signal(taken) for taken in intake.taken]
    for attempt in range(TRIES):
        folded = await windows.fold(batch.partition, signals, trusting=attempt == 0)
        try:
            async with fencing():
                judged = await fraud.commit_fraud(
                    core.db,
                    core.head(batch),
                    signals,
                    folded.counts,
                    folded.rows,
                    held_partition=core.partition("status=held"),
                    partitions=core.partitions,
                    progress=intake.progress,
                    bad=intake.bad,
                )
        except StaleWindows as error:
            log.warning("folding again", partition=batch.partition, why=str(error))
            if attempt == TRIES - 1:
                raise
            continue
        if judged.outcomes is None:
            windows.forget(batch.partition, folded)
        else:
            windows.committed(batch.partition, folded, batch.last_offset)
        break
    core.marks.committed(batch, intake)
    await core.publish(judged.emitted)


def signal(taken: Taken) -> VelocitySignal:
    """An event as the tables and the database take it."""
    event: FraudSignal = taken.event
    return VelocitySignal(
        uuid_of(event.payment_id),
        event.entity_kind,
        event.entity,
        event.amount_paise,
        event.occurred_at,
        taken.offset,
    )
