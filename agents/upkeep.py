"""What keeps a worker's queues going beside its agents: isolation, breakers, retries, dead letters, delayed events,
what the broker lost, the archive, and the invariants.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import faust
import structlog
from prometheus_client import Counter

from agents import delays, queues
from agents.archiver import Archive, Archiver, ArchiveSettings
from agents.breakers import Breakers
from agents.checker import Checker, CheckerSettings
from agents.core import Core, PostgresOwnership
from agents.dead_letters import DeadLetters
from agents.queues import Queue
from agents.recovery import Recovery
from sql.db import DatabaseSettings
from streams.address import Address
from streams.batches import Batch
from streams.repair import reader_of

log = structlog.get_logger("agents.upkeep")

OWN_WAY: Final = frozenset({"wallet.debit", "wallet.credit", "payment.processing", "invoice.generate"})
"""Topics whose commit decides parked items by itself, with their own loops."""

RESTART_S: Final = 5.0
FAULTS = Counter("core_upkeep_faults_total", "Times a background duty failed and was begun anew")

Handle = Callable[[Batch], Awaitable[None]]
Loop = Callable[[], Awaitable[None]]


class Upkeep:
    """Made once per worker, around its handlers. `loops` run until cancelled."""

    def __init__(
        self,
        core: Core,
        ownership: PostgresOwnership,
        handlers: Mapping[str, Handle],
        *,
        address: Address,
        holder: str,
        shard: int,
        app: faust.App,
    ) -> None:
        self.breakers = Breakers(core.db, holder)
        self.queues = {
            topic: Queue(core, ownership, topic, handle, self.breakers, own_retries=topic not in OWN_WAY)
            for topic, handle in handlers.items()
        }
        letters = DeadLetters(core.db, address, holder=holder)
        recovery = Recovery(core, ownership, address, holder=holder, reader=lambda: reader_of(app))
        loops: list[Loop] = [
            self.breakers.run,
            lambda: queues.run_retries(core, self.queues),
            letters.run,
            lambda: delays.run(core, shard=shard),
            recovery.run,
            recovery.run_survey,
        ]
        checker = Checker(core.db, DatabaseSettings().database_url, CheckerSettings(), holder=holder)
        loops.append(checker.run)
        settings = ArchiveSettings()
        if settings.archive_url:
            archive = Archive.from_environment()
            loops.append(Archiver(core, address, archive, settings, holder=holder).run)
        self.loops = [kept(loop) for loop in loops]


def kept(loop: Loop) -> Loop:
    """A duty whose failure ends neither the worker nor the duty: it is told, and begun anew after a pause."""

    async def run() -> None:
        while True:
            try:
                await loop()
            except Exception:
                FAULTS.inc()
                log.exception("a background duty failed", duty=getattr(loop, "__qualname__", repr(loop)))
            await asyncio.sleep(RESTART_S)

    return run
