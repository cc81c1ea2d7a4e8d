"""The timer of fraud.detection: a payment does not wait for ever for an entity whose partition stands still.

In     verified payments of which an entity has not answered for 2 s; for 5 minutes, if that alone would hold them
Books  decide_overdue on the chain fraud/<shard>: the same one decision; what is missing counts against it
Out    wallet.credit (CreditCommand) for a payment let pass; analytics.billing and notifications.billing: payments held
"""

from itertools import count
from typing import Final

import structlog

from agents.core import Core
from agents.pool import rounds
from sql import fraud

log = structlog.get_logger("agents.fraud_timer")

POLL_S: Final = 0.5
AGE_S: Final = 2.0
HOLD_S: Final = 300.0
"""A payment is not held for a standstill of ours before that: its counts come as soon as it ends, and a person need not look."""
LIMIT: Final = 500
PURGE_EVERY: Final = 1200
PURGE_LIMIT: Final = 1000


async def run(core: Core, *, shard: int) -> None:
    """Until cancelled. One per worker; two never decide the same payment."""
    turns = count(1)

    async def turn() -> int:
        found, _ = await once(core, shard=shard)
        if found < LIMIT and next(turns) % PURGE_EVERY == 0:
            await fraud.purge_windows(core.db, limit=PURGE_LIMIT)
        return found

    await rounds("fraud timer", turn, limit=LIMIT, pause_s=POLL_S)


async def once(core: Core, *, shard: int, age_s: float = AGE_S, hold_s: float = HOLD_S) -> tuple[int, int]:
    """Decide what is overdue now; returns how many checks were found, and how many payments decided. Errors: Unavailable."""
    found, decided, emitted = await fraud.decide_overdue(
        core.db,
        shard=shard,
        limit=LIMIT,
        age_s=age_s,
        hold_s=hold_s,
        held_partition=core.partition("status=held"),
        partitions=core.partitions,
    )
    if emitted is not None:
        log.warning("decided without all counts", payments=decided)
        await core.publish_by("fraud timer", emitted)
    return found, decided
