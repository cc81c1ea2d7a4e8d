"""payment.processing

In     PaymentSignal: the gateway says something about an attempt to pay an order
Books  commit_signals: the attempt's status, and for a success a due verification (agents/verifier.py);
       news of an order that we do not know is parked under its id until the order's row appears
Out    analytics.billing: payments that failed; notifications.billing: to whom
"""

from typing import Any, Final

from agents.core import Core, PostgresOwnership, fencing
from agents.intake import Taken, unpark
from agents.pool import rounds
from agents.queues import blames, fail
from sql import errors, relay, signals
from sql.ids import uuid_of
from sql.signals import AttemptSignal
from streams.batches import Batch
from streams.events import PaymentSignal

TOPIC: Final = "payment.processing"
POLL_S: Final = 0.25
LIMIT: Final = 200


async def handle(core: Core, batch: Batch) -> None:
    """Book one batch of signals with its offset, then publish what follows. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    async with fencing():
        heard = await signals.commit_signals(
            core.db,
            core.head(batch),
            [signal(taken) for taken in intake.taken],
            failed_partition=core.partition("status=failed"),
            partitions=core.partitions,
            progress=intake.progress,
            bad=intake.bad,
        )
    core.marks.committed(batch, intake)
    await core.publish(heard.emitted)


def signal(taken: Taken) -> AttemptSignal:
    """An event as the database takes it; the rest is read from the inbox row that it names."""
    event: PaymentSignal = taken.event
    return AttemptSignal(event.order_id, uuid_of(event.inbox_id), event.kind, taken.offset)


async def run_retries(core: Core, ownership: PostgresOwnership) -> None:
    """Until cancelled: try parked signals of our partitions when their time has come."""
    await rounds(f"retries of {TOPIC}", lambda: retry_once(core, ownership), limit=LIMIT, pause_s=POLL_S)


async def retry_once(core: Core, ownership: PostgresOwnership) -> int:
    """Try what is due now; returns how many items that was. Errors: Unavailable."""
    epochs = ownership.epochs_of(TOPIC)
    due = await relay.due_retries(core.db, TOPIC, list(epochs), limit=LIMIT)
    for item in due:
        try:
            heard = await signals.retry_signal(
                core.db,
                TOPIC,
                item.partition,
                core.group,
                epoch=epochs[item.partition],
                retry=item.id,
                attempt=item.attempt,
                signal=parked(item.payload, item.offset),
                failed_partition=core.partition("status=failed"),
                partitions=core.partitions,
            )
        except (errors.Fenced, errors.RetryTaken):
            continue
        except Exception as error:
            if not blames(error):
                raise
            await fail(core, epochs[item.partition], item, error)
        else:
            await core.publish(heard.emitted)
    for partition in {item.partition for item in due}:
        await core.marks.restore_waiting(TOPIC, partition)
    return len(due)


def parked(payload: dict[str, Any], offset: int) -> AttemptSignal:
    """A parked signal as it came: what the ledger parked, or an event that could not be handled."""
    if "event" in payload:
        return signal(unpark(TOPIC, payload, offset))
    return AttemptSignal(payload["order_id"], uuid_of(payload["inbox_id"]), payload["kind"], offset)
