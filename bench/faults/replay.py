"""Every stream read once more from its first record, by the group that has read it: no row of what it booked may change."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.faults import books
from bench.faults.stack import GROUP, System
from sql.db import Database
from sql.errors import Unavailable
from sql.queries import parse
from streams.topics import TOPICS
from streams.wire import Refused

_Q: Final = parse((Path(__file__).parent / "replay.sql").read_text())
_REWIND: Final = "rewind_partition"
TABLES: Final = tuple(name for name in _Q if name != _REWIND)
QUIET_S: Final = 1.0


async def drained(
    system: System, db: Database, *, deadline_s: float, tell: Callable[[str], None]
) -> list[str]:
    """Wait until every record is consumed and nothing is on its way; what is left at the deadline, in words."""
    end = time.monotonic() + deadline_s
    told_at = time.monotonic()
    quiet_since: float | None = None
    left = ["nothing was asked yet"]
    while time.monotonic() < end:
        try:
            left = await _left(system, db)
        except (Unavailable, OSError, Refused) as error:
            left = [str(error)]
        now = time.monotonic()
        if left and now - told_at > 5.0:
            told_at = now
            tell(f"  on its way: {', '.join(left[:3])}")
        quiet_since = None if left else quiet_since or now
        if quiet_since is not None and now - quiet_since >= QUIET_S:
            return []
        await asyncio.sleep(0.25)
    return left


async def _left(system: System, db: Database) -> list[str]:
    if left := await books.open_work(db):
        return left
    stand = await books.positions(db)
    return [
        f"{topic}-{partition}: {end - stand[topic, partition]['next_offset']} records"
        for (topic, partition), end in (await books.ends(system, patience_s=0.0)).items()
        if (topic, partition) in stand and stand[topic, partition]["next_offset"] < end
    ]


async def rows(db: Database) -> Counter[tuple[str, str]]:
    """Table and digest of every row that a replay must leave alone."""
    found: Counter[tuple[str, str]] = Counter()
    for table in TABLES:
        found.update((table, row["digest"]) for row in await db.rows(_Q[table]))
    return found


async def rewind(system: System, db: Database) -> int:
    """With the workers stopped, put every partition back to the first record there is; returns how many."""
    stand = [place for place in await books.positions(db) if place[0] in TOPICS]
    first = await books.firsts(system, stand)
    for topic, partition in stand:
        if not await db.value(_Q[_REWIND], topic, partition, GROUP, first[topic, partition]):
            raise RuntimeError(f"{topic}-{partition} could not be rewound")
    return len(stand)


async def replay(
    system: System, db: Database, *, deadline_s: float, tell: Callable[[str], None]
) -> tuple[Counter[str], list[str]]:
    """Do it; changed rows by table (changed in place counts twice: the old and the new), and what was not consumed in time."""
    await system.stop_workers()
    before = await rows(db)
    await rewind(system, db)
    await system.start_workers()
    await asyncio.sleep(2.0)
    left = await drained(system, db, deadline_s=deadline_s, tell=tell)
    after = await rows(db)
    changed = (before - after) + (after - before)
    tables: Counter[str] = Counter()
    for (table, _), count in changed.items():
        tables[table] += count
    return tables, left
