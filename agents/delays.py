"""Delayed events: kept in the database until their time, then emitted to their topic like any other.

In     delayed_events rows whose run_at has come (`sql.queues.delay_event` keeps them, once per source)
Books  released, on the chain delay/<shard>
Out    the event's topic
"""

from typing import Final

from agents.core import Core
from agents.pool import rounds
from sql import queues

POLL_S: Final = 0.5
LIMIT: Final = 500


async def run(core: Core, *, shard: int) -> None:
    """Until cancelled. Two workers never release the same event."""
    await rounds("delayed events", lambda: once(core, shard=shard), limit=LIMIT, pause_s=POLL_S)


async def once(core: Core, *, shard: int) -> int:
    """Emit what is due now; returns how many events. Errors: Unavailable."""
    released, emitted = await queues.release_delayed(core.db, shard=shard, limit=LIMIT)
    if emitted is not None:
        await core.publish(emitted)
    return released
