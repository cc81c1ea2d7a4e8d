"""Faults of what services send: records that nobody can read or that nobody signed, and an event that our bug cannot book."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from bench.faults.kinds import Kind, Scene, fault
from bench.faults.log import Told, Use
from sql.db import Row
from sql.errors import Unavailable
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "nemesis.sql").read_text())
POISON: Final = "poison"
"""The feature that a bug of ours cannot book, while there is this bug."""
DEAD_WITHIN_S: Final = 60.0


@fault
async def unreadable(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Bytes that are no event, and batches with a signature that is nobody's: kept aside, each once."""
    count = source.randint(2, 5)
    await scene.load.rubbish(count)
    yield f"{count} records that nobody can read, {count} that nobody signed"


@fault
async def poison(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """A release with a bug: an event that the database refuses. It dies, the bug is mended, people replay it."""
    await _surely(scene, "bring_the_bug")
    await _surely(scene, "lose_patience")
    use = Use(f"poison-{uuid4()}", "canary", scene.load.accounts.poisoned, POISON, 1)
    scene.load.log.uses[use.id] = use
    event = {"id": use.id, "wallet_id": str(use.wallet_id), "feature": use.feature, "credits": 1}
    while not (await scene.load.web.post("/v1/usage", {"events": [event]})).ok:
        await asyncio.sleep(0.3)
    scene.load.log.tell([use.id], Told.ACKNOWLEDGED)
    deadline = time.monotonic() + DEAD_WITHIN_S
    while not (dead := await _surely(scene, "dead_events")) and time.monotonic() < deadline:
        await asyncio.sleep(0.25)
    try:
        yield f"one event, {'dead' if dead else 'not dead yet'}"
    finally:
        await _surely(scene, "mend_the_bug")
        await _surely(scene, "find_patience")
        while await _surely(scene, "replay_the_dead"):
            await asyncio.sleep(0.25)


async def _surely(scene: Scene, query: str, *args: Any) -> list[Row]:
    """A query of ours, again until the database answers; each may be done twice."""
    while True:
        try:
            async with scene.system.database() as db:
                return await db.rows(_Q[query], *args)
        except Unavailable:
            await asyncio.sleep(0.25)


KINDS: Final = (
    Kind(
        "services",
        "unreadable records",
        unreadable,
        (2.0, 4.0),
        "nothing",
        "messages",
        alerts=("Quarantined",),
    ),
    Kind("services", "poison event", poison, (11.0, 13.0), "nothing", "messages", alerts=("DeadLetters",)),
)
