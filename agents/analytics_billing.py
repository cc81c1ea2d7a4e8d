"""analytics.billing

In     Delta: what one committed batch adds to a metric's minute, per dimension
Books  commit_windows: the 1 m, 1 h and 1 d (IST) windows, in the transaction that moves the offset
Out    nothing; dashboards read the windows
"""

from typing import Final

from agents.core import Core, fencing
from sql.windows import commit_windows
from streams.batches import Batch
from tables.billing import fold

TOPIC: Final = "analytics.billing"


async def handle(core: Core, batch: Batch) -> None:
    """Fold one batch of deltas with its offset. Errors: Fenced, Unavailable."""
    intake = await core.marks.take_in(batch)
    deltas = fold(taken.event for taken in intake.taken)
    async with fencing():
        await commit_windows(
            core.db,
            core.head(batch),
            deltas,
            records=len(intake.taken),
            progress=intake.progress,
            bad=intake.bad,
        )
    core.marks.committed(batch, intake)
