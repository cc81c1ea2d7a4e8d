"""wallet.debit

In     UsageBatch: usage events of services (signed, straight from their client) and of the API's inbox (signed by the relay)
Books  commit_batch: the wallet, its transaction, the lots it burned, the ledger's legs; or a stored refusal
Out    analytics.billing: credits spent and revenue recognised, per feature, community and minute
"""

import hashlib
from typing import Final

import msgspec

from agents.core import Core, fencing
from agents.intake import CORE, Taken
from domain.times import clamp_occurred_at
from sql import ledger
from sql.batches import Bad
from sql.ids import uuid7, uuid_of
from sql.ledger import LedgerCommand
from streams.batches import Batch
from streams.events import UsageEvent

TOPIC: Final = "wallet.debit"
_encode: Final = msgspec.json.Encoder(order="sorted").encode


async def handle(core: Core, batch: Batch) -> None:
    """Commit one batch of debits with its offset, then publish what follows. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch, core.secrets)
    commands: list[LedgerCommand] = []
    for taken in intake.taken:
        if is_forged(taken):
            intake.bad.append(
                Bad(taken.offset, "forged: only the core speaks for others", _encode(taken.event))
            )
        else:
            commands.append(command(core, taken))
    async with fencing():
        committed = await ledger.commit_batch(
            core.db,
            core.head(batch),
            commands,
            progress=intake.progress,
            bad=intake.bad,
            expired_partition=core.partition(""),
        )
    core.marks.committed(batch, intake)
    await core.publish(committed.emitted)


def is_forged(taken: Taken) -> bool:
    """Whether a service claims to charge in another's name."""
    return taken.event.principal is not None and taken.publisher != CORE


def command(core: Core, taken: Taken) -> LedgerCommand:
    """A usage event as a spend. Its key is scoped to whoever is charging; its time was clamped by the API, or is here."""
    event: UsageEvent = taken.event
    relayed = taken.publisher == CORE
    principal = event.principal if relayed else taken.publisher
    occurred_at = (
        event.occurred_at
        if relayed and event.occurred_at
        else clamp_occurred_at(event.occurred_at, taken.accepted_at)
    )
    return LedgerCommand(
        id=uuid7(),
        wallet_id=uuid_of(event.wallet_id),
        kind="spend",
        credits=event.credits,
        key=f"{principal}:{event.id}",
        request_hash=request_hash(event),
        occurred_at=occurred_at,
        source="usage",
        source_id=event.id,
        analytics_partition=core.partition(f"community={event.community_id or '-'},feature={event.feature}"),
        feature=event.feature,
        community_id=uuid_of(event.community_id) if event.community_id else None,
        metadata=None if event.metadata is None else _encode(event.metadata).decode(),
        publisher=None if relayed else taken.publisher,
        offset=taken.offset,
    )


def request_hash(event: UsageEvent) -> bytes:
    """16 bytes over what the same id must repeat: everything but when it happened and who relayed it."""
    said = (event.wallet_id, event.feature, event.credits, event.quantity, event.community_id, event.metadata)
    return hashlib.blake2b(_encode(said), digest_size=16).digest()
