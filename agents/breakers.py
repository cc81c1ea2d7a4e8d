"""A breaker per topic: one of which too much fails is stopped, so that a bad release fills no graveyard.

closed      records flow; this worker counts what it had to set aside within the last minute
open        more than 1 % of at least five were: nothing flows, in any worker, for a pause that doubles
half_open   the pause is over and one worker tries one batch: it closes the breaker, or opens it again
"""

import asyncio
import time
from collections import deque
from typing import Final

import structlog
from prometheus_client import Gauge

from sql import errors, queues
from sql.db import Database
from sql.queues import Breaker
from streams.batches import Held

log = structlog.get_logger("agents.breakers")

WINDOW_S: Final = 60.0
SHARE: Final = 0.01
LEAST_FAILURES: Final = 5
PAUSE_S: Final = (30.0, 600.0)
TRIAL_S: Final = 30.0
POLL_S: Final = 1.0
OPEN = Gauge("core_breaker_open", "1 while a topic is stopped because too much of it failed", ["topic"])


class Breakers:
    """What this worker knows of the breakers, which all workers share. `holder` tells it from the others."""

    def __init__(self, db: Database, holder: str, *, pause_s: tuple[float, float] = PAUSE_S) -> None:
        self._db = db
        self._holder = holder
        self._pause_s = pause_s
        self._known: dict[str, Breaker] = {}
        self._trials: set[str] = set()
        self._counts: dict[str, deque[tuple[float, int, int]]] = {}

    async def run(self) -> None:
        """Until cancelled: learn what other workers and people did."""
        while True:
            try:
                await self.refresh()
            except errors.Unavailable as error:
                log.warning("breakers wait for the database", error=str(error))
            await asyncio.sleep(POLL_S)

    async def refresh(self) -> None:
        """Read every breaker. Errors: Unavailable."""
        self._known = await queues.get_breakers(self._db)
        for topic, breaker in self._known.items():
            OPEN.labels(topic).set(breaker.state != "closed")

    def flows(self, topic: str) -> bool:
        """Whether a topic is not stopped, as far as we know."""
        return topic not in self._known or self._known[topic].state == "closed"

    async def admit(self, topic: str) -> bool:
        """Let a batch be handled; True if it is a stopped topic's trial. Errors: Held if not now, Unavailable."""
        if topic in self._trials:
            raise Held
        if self.flows(topic):
            return False
        if not self._known[topic].may_try or not await queues.try_breaker(
            self._db, topic, self._holder, lease_s=TRIAL_S
        ):
            raise Held
        log.warning("trying a stopped topic", topic=topic)
        self._trials.add(topic)
        return True

    def abandon(self, topic: str) -> None:
        """The trial ended without a verdict; it may be made again."""
        self._trials.discard(topic)

    async def passed(self, topic: str, records: int) -> None:
        """A batch was committed. Errors: Unavailable."""
        self._count(topic, records, 0)
        if topic in self._trials:
            self._trials.discard(topic)
            await queues.close_breaker(self._db, topic, holder=self._holder)
            self._counts.pop(topic, None)
            log.warning("a stopped topic goes on", topic=topic)
            await self.refresh()

    async def failed(self, topic: str, error: str, *, failures: int = 1) -> None:
        """Records were set aside, or a trial failed; perhaps that is too much. Errors: Unavailable."""
        self._count(topic, failures, failures)
        records = sum(n for _, n, _ in self._counts[topic])
        failing = sum(n for _, _, n in self._counts[topic])
        if topic in self._trials or (failing >= LEAST_FAILURES and failing > SHARE * records):
            self._trials.discard(topic)
            await queues.trip_breaker(
                self._db,
                topic,
                records=records,
                failures=failing,
                error=error,
                pause_s=self._pause_s[0],
                cap_s=self._pause_s[1],
            )
            log.error("a topic is stopped", topic=topic, failures=failing, records=records, error=error)
            await self.refresh()

    def _count(self, topic: str, records: int, failures: int) -> None:
        counts = self._counts.setdefault(topic, deque())
        now = time.monotonic()
        if counts and now - counts[-1][0] < 1.0:
            at, n, bad = counts.pop()
            counts.append((at, n + records, bad + failures))
        else:
            counts.append((now, records, failures))
        while counts[0][0] < now - WINDOW_S:
            counts.popleft()
