"""Faults inside PostgreSQL: sessions ended in the middle of a commit, rows that somebody holds, deadlocks."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from bench.faults.kinds import Kind, Scene, fault
from sql.errors import Unavailable
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "nemesis.sql").read_text())
APP: Final = "core_app"


@fault
async def terminate_mid_commit(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Several times in a row, every session that is committing just then; at last all sessions."""
    ended = 0
    async with scene.system.database() as db:
        for _ in range(source.randint(20, 60)):
            ended += int(await db.value(_Q["terminate_committing"], APP))
            await asyncio.sleep(source.uniform(0.005, 0.03))
        if source.random() < 0.3 or not ended:
            ended += int(await db.value(_Q["terminate_all"], APP))
    yield f"{ended} sessions"


@fault
async def hold_rows(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """A session holds the rows of many wallets, or of all offsets of a topic, for seconds."""
    seconds = source.uniform(2.0, 6.0)
    wallets = [wallet for door in scene.load.accounts.by_door.values() for wallet in door]
    topic = source.choice((None, None, "wallet.debit", "analytics.billing"))
    async with scene.system.database() as db:
        if topic is None:
            held = source.sample(wallets, len(wallets) // 2) + scene.load.accounts.canaries
            work = asyncio.ensure_future(db.rows(_Q["hold_wallets"], held, seconds))
        else:
            work = asyncio.ensure_future(db.rows(_Q["hold_offsets"], topic, seconds))
        await work
    yield f"{'half the wallets' if topic is None else topic}, {seconds:.1f} s"


@fault
async def deadlock(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Sessions that lock wallets in the wrong order; PostgreSQL ends one of each circle, theirs or ours."""
    wallets = sorted(
        wallet for door in ("api", "client", "raw") for wallet in scene.load.accounts.by_door[door]
    )
    async with scene.system.database() as db, scene.system.database() as second:
        before = int(await db.value(_Q["deadlocks"]))
        for _ in range(source.randint(3, 5)):
            pairs = [sorted(source.sample(wallets, 2)) for _ in range(4)]
            work = [
                each.value(_Q["lock_backwards"], high, low, source.uniform(0.2, 0.6))
                for each in (db, second)
                for low, high in pairs[:2]
            ]
            answers = await asyncio.gather(*work, return_exceptions=True)
            for answer in answers:
                if isinstance(answer, BaseException) and not isinstance(answer, Unavailable):
                    raise answer
        await asyncio.sleep(1.0)  # statistics are written late
        made = int(await db.value(_Q["deadlocks"])) - before
    yield f"{made} deadlocks"


KINDS: Final = (
    Kind("postgres", "sessions ended mid-commit", terminate_mid_commit, since="injection"),
    Kind("postgres", "rows held", hold_rows),
    Kind("postgres", "deadlocks", deadlock),
)
