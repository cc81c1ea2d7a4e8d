"""The months of the ledger's two largest tables, made ahead of time.

In     the calendar
Books  partitions of ledger_entries and lot_consumptions for this month and the next three
Out    nothing; what is written before its month is there goes to <table>_other, and nothing waits
"""

import asyncio
from typing import Final

import structlog

from sql import errors, ledger
from sql.db import Database

log = structlog.get_logger("agents.months")

AHEAD: Final = 3
LOOK_S: Final = 6 * 3600.0
AGAIN_S: Final = 60.0


async def run(db: Database) -> None:
    """Until cancelled. Every worker does it: the database makes each month once."""
    while True:
        pause_s = LOOK_S
        try:
            await once(db)
        except errors.Unavailable as error:  # also where a reader would have had to be waited for
            log.warning("making months waits", error=str(error))
            pause_s = AGAIN_S
        await asyncio.sleep(pause_s)


async def once(db: Database) -> int:
    """Make what is missing; returns how many partitions. Errors: Unavailable."""
    made = await ledger.make_months(db, AHEAD)
    if made:
        log.info("months made", partitions=made)
    return made
