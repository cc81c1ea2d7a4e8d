"""wallet.credit

In     CreditCommand: a verified payment that fraud.detection let pass; GrantCommand: free credits
Books  commit_batch: one lot, the ledger's legs in both assets, the payment credited. What the event says is no authority:
       a purchase is posted only against its payments row, verified, not held, of equal credits; anything else is parked
Out    invoice.generate, notifications.billing, analytics.billing
"""

import hashlib
from collections.abc import Mapping
from typing import Final
from uuid import UUID

from agents.core import Core, fencing
from agents.intake import Taken
from sql import ledger, publishers
from sql.ids import uuid7, uuid_of
from sql.ledger import LedgerCommand
from streams.batches import Batch
from streams.events import CreditCommand, GrantCommand

TOPIC: Final = "wallet.credit"


async def handle(core: Core, batch: Batch) -> None:
    """Commit one batch of credits with its offset, then publish what follows. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    paid = [uuid_of(t.event.payment_id) for t in intake.taken if isinstance(t.event, CreditCommand)]
    users = await publishers.users_of_payments(core.db, paid) if paid else {}
    async with fencing():
        committed = await ledger.commit_batch(
            core.db,
            core.head(batch),
            [command(core, taken, users) for taken in intake.taken],
            progress=intake.progress,
            bad=intake.bad,
            expired_partition=core.partition(""),
        )
    core.marks.committed(batch, intake)
    await core.publish(committed.emitted)


def command(core: Core, taken: Taken, users: Mapping[UUID, UUID]) -> LedgerCommand:
    """A credit as a command of the core's own."""
    event: CreditCommand | GrantCommand = taken.event
    said = f"{event.wallet_id}|{event.credits}"
    if isinstance(event, GrantCommand):
        return LedgerCommand(
            id=uuid7(),
            wallet_id=uuid_of(event.wallet_id),
            kind="grant",
            credits=event.credits,
            key=f"core:grant/{event.id}",
            request_hash=hashlib.blake2b(said.encode(), digest_size=16).digest(),
            occurred_at=event.occurred_at,
            source=event.reason,
            source_id=event.id,
            analytics_partition=core.partition("source=grant"),
            offset=taken.offset,
            extra={
                "priority": event.priority,
                "expires_at": None if event.expires_at is None else event.expires_at.isoformat(),
            },
        )
    payment = uuid_of(event.payment_id)
    return LedgerCommand(
        id=uuid7(),
        wallet_id=uuid_of(event.wallet_id),
        kind="purchase",
        credits=event.credits,
        key=f"core:purchase/{event.payment_id}",
        request_hash=hashlib.blake2b(said.encode(), digest_size=16).digest(),
        occurred_at=event.occurred_at,
        source="payment",
        source_id=event.payment_id,
        analytics_partition=core.partition("source=purchase"),
        offset=taken.offset,
        extra={
            "payment_id": event.payment_id,
            "invoice_partition": core.partition(event.payment_id),
            "notify_partition": core.partition(str(users.get(payment, payment))),
            "status_partition": core.partition("status=credited"),
        },
    )
