"""webhook.processing

In     Inbox: signed webhooks that lie in payment_webhooks, published by the relay until they are closed
Books  commit_webhooks: the inbox row closed with its outcome; the row decides, the message only names it
Out    payment.processing (PaymentSignal) for a payment's news, refund.processing (RefundDue) for our refund,
       settlements.processing (SettlementDue) for money that went to our bank
"""

from collections.abc import Mapping
from typing import Final
from uuid import UUID

from agents.core import Core, fencing
from agents.intake import Taken
from sql import webhooks
from sql.ids import uuid_of
from sql.webhooks import Signal, WebhookToClose
from streams.batches import Batch
from streams.events import WebhookReceived

TOPIC: Final = "webhook.processing"

SIGNALS: Final[Mapping[str, Signal]] = {"SUCCESS": "success", "FAILED": "failed", "USER_DROPPED": "dropped"}
"""What the gateway's words for a payment mean to us; any other is kept and moves nothing."""


async def handle(core: Core, batch: Batch) -> None:
    """Close one batch of webhooks with its offset, then publish what follows. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    refund_ids = [taken.event.refund_id for taken in intake.taken if taken.event.refund_id is not None]
    refunds = await webhooks.get_refunds(core.db, refund_ids) if refund_ids else {}
    async with fencing():
        closed = await webhooks.commit_webhooks(
            core.db,
            core.head(batch),
            [to_close(core, taken, refunds) for taken in intake.taken],
            partitions=core.partitions,
            progress=intake.progress,
            bad=intake.bad,
        )
    core.marks.committed(batch, intake)
    await core.publish(closed.emitted)


def to_close(core: Core, taken: Taken, refunds: Mapping[str, UUID]) -> WebhookToClose:
    """The inbox row that an event names, and where what follows would go."""
    event: WebhookReceived = taken.event
    refunded = None if event.refund_id is None else refunds.get(event.refund_id)
    return WebhookToClose(
        inbox_id=uuid_of(event.inbox_id),
        order_id=event.order_id,
        signal=SIGNALS.get(event.status or "", "other"),
        payment_partition=core.partition(event.order_id),
        refund_partition=None if refunded is None else core.partition(str(refunded)),
        offset=taken.offset,
    )
