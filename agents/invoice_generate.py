"""invoice.generate

In     InvoiceDue: a payment was credited
Books  commit_invoices: one tax invoice per payment, numbered without gaps in this partition's own series and frozen,
       all in the offset's transaction; a payment that is not credited yet is parked under its id until it is.
       Rendering is somebody else's work (agents/invoice_render.py): issuing never waits for it
Out    notifications.billing: the user has an invoice
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from agents.core import Core, PostgresOwnership, fencing
from agents.intake import unpark
from agents.pool import rounds
from agents.queues import blames, fail
from domain.invoices import series_of_partition
from sql import errors, invoices, publishers, relay
from sql.ids import uuid_of
from sql.invoices import InvoiceOrder
from sql.relay import Parked
from streams.batches import Batch

TOPIC: Final = "invoice.generate"
POLL_S: Final = 0.25
LIMIT: Final = 200


async def handle(core: Core, terms: Mapping[str, Any], batch: Batch) -> None:
    """Issue one batch of invoices with its offset, then publish what follows. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    due = [(uuid_of(t.event.payment_id), t.event.occurred_at, t.offset) for t in intake.taken]
    async with fencing():
        issued = await invoices.commit_invoices(
            core.db,
            core.head(batch),
            await orders(core, due),
            series=series_of_partition(batch.partition),
            terms=terms,
            progress=intake.progress,
            bad=intake.bad,
        )
    core.marks.committed(batch, intake)
    await core.publish(issued.emitted)


async def orders(core: Core, due: Sequence[tuple[UUID, datetime, int]]) -> list[InvoiceOrder]:
    """Payments to invoice, with the partition that tells each one's user."""
    users = await publishers.users_of_payments(core.db, [payment for payment, _, _ in due]) if due else {}
    return [
        InvoiceOrder(
            payment,
            occurred_at,
            offset,
            core.partition(str(users[payment])) if payment in users else None,
        )
        for payment, occurred_at, offset in due
    ]


async def run_retries(core: Core, ownership: PostgresOwnership, terms: Mapping[str, Any]) -> None:
    """Until cancelled: try parked payments of our partitions when their time has come."""
    await rounds(
        f"retries of {TOPIC}", lambda: retry_once(core, ownership, terms), limit=LIMIT, pause_s=POLL_S
    )


async def retry_once(core: Core, ownership: PostgresOwnership, terms: Mapping[str, Any]) -> int:
    """Try what is due now; returns how many items that was. Errors: Unavailable."""
    epochs = ownership.epochs_of(TOPIC)
    due = await relay.due_retries(core.db, TOPIC, list(epochs), limit=LIMIT)
    for item in due:
        try:
            [order] = await orders(core, [parked(item)])
            issued = await invoices.retry_invoice(
                core.db,
                TOPIC,
                item.partition,
                core.group,
                epoch=epochs[item.partition],
                retry=item.id,
                attempt=item.attempt,
                order=order,
                series=series_of_partition(item.partition),
                terms=terms,
            )
        except (errors.Fenced, errors.RetryTaken):
            continue
        except Exception as error:
            if not blames(error):
                raise
            await fail(core, epochs[item.partition], item, error)
        else:
            await core.publish(issued.emitted)
    for partition in {item.partition for item in due}:
        await core.marks.restore_waiting(TOPIC, partition)
    return len(due)


def parked(item: Parked) -> tuple[UUID, datetime, int]:
    """A parked payment as it came: what the books parked, or an event that could not be handled."""
    if "event" in item.payload:
        event = unpark(TOPIC, item.payload, item.offset).event
        return uuid_of(event.payment_id), event.occurred_at, item.offset
    return (
        uuid_of(item.payload["payment_id"]),
        datetime.fromisoformat(item.payload["occurred_at"]),
        item.offset,
    )
