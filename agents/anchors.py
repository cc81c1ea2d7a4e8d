"""The anchor of the audit log: once a day the heads of its chains go to the log of this process, which others keep.

In     audit_chains
Books  audit_anchors: heads that have moved since the last time
Out    one log line per head. Whoever cuts the end off a chain in the database cannot cut it off there: `./dev audit verify`
       takes a file of such lines
"""

import asyncio
from typing import Final

import structlog

from sql import audit, errors, queues
from sql.db import Database

log = structlog.get_logger("agents.anchors")

EVERY_S: Final = 86_400.0
LOOK_S: Final = 300.0


async def run(db: Database, *, holder: str) -> None:
    """Until cancelled. One worker at a time does it."""
    while True:
        try:
            if await queues.take_duty(db, "anchor", holder, lease_s=2 * LOOK_S):
                await once(db)
        except errors.Unavailable as error:
            log.warning("anchoring waits for the database", error=str(error))
        await asyncio.sleep(LOOK_S)


async def once(db: Database) -> int:
    """Anchor if a day has gone by; returns how many heads. Errors: Unavailable."""
    age_s = await audit.anchor_age_s(db)
    if age_s is not None and age_s < EVERY_S:
        return 0
    anchors = await audit.anchor(db)
    for anchor in anchors:
        log.info(
            "audit anchor",
            chain=anchor.chain,
            seq=anchor.seq,
            link=anchor.link,
            at=anchor.created_at.isoformat(),
        )
    return len(anchors)
