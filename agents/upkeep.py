"""What keeps a worker's queues going beside its agents: isolation, breakers, retries, dead letters, delayed events,
what the broker lost, the archive, and the invariants.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import faust

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

OWN_WAY: Final = frozenset({"wallet.debit", "wallet.credit", "payment.processing", "invoice.generate"})
"""Topics whose commit decides parked items by itself, with their own loops."""

Handle = Callable[[Batch], Awaitable[None]]


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
        self.loops: list[Callable[[], Awaitable[None]]] = [
            self.breakers.run,
            lambda: queues.run_retries(core, self.queues),
            letters.run,
            lambda: delays.run(core, shard=shard),
            recovery.run,
            recovery.run_survey,
        ]
        checker = Checker(core.db, DatabaseSettings().database_url, CheckerSettings(), holder=holder)
        self.loops.append(checker.run)
        settings = ArchiveSettings()
        if settings.archive_url:
            archive = Archive.from_environment()
            self.loops.append(Archiver(core, address, archive, settings, holder=holder).run)
