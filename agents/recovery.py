"""What was lost between us and the broker, found and mended.

In     our halted partitions; every stream's beginning and end (StreamStats); slices that nobody has applied
Books  stream_incidents: each detection, so that what was broken can be compared with what was noticed; new incarnations
Out    through the relay: what a partition has not applied is published again, from the outbox and the inboxes
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog
from prometheus_client import Counter

from agents.core import Core, PostgresOwnership
from sql import errors, queues, recovery
from streams.address import Address
from streams.batches import Fenced
from streams.repair import Halt, find_halts, let_go, resume
from streams.topics import TOPICS, partition_stream
from streams.transport.reader import Reader
from streams.wire import Refused, Wire

log = structlog.get_logger("agents.recovery")

POLL_S: Final = 1.0
SURVEY_S: Final = 2.0
LEASE_S: Final = 10.0
AGE_S: Final = 5.0
"""How long a published slice may take to be applied by a partition that has nothing else to read."""
INBOX_AGE_S: Final = 8.0
"""The same of an inbox row, which is closed a moment after its outcome."""
INCIDENTS = Counter(
    "stream_incidents_total", "Times the broker's log was not what it should be", ["topic", "kind"]
)


class Recovery:
    """One per worker. What belongs to no partition is done by one worker at a time."""

    def __init__(
        self,
        core: Core,
        ownership: PostgresOwnership,
        address: Address,
        *,
        holder: str,
        reader: Callable[[], Reader | None],
    ) -> None:
        """`reader` gives the worker's own, once it runs."""
        self._core = core
        self._ownership = ownership
        self._address = address
        self._holder = holder
        self._reader = reader
        self._wire: Wire | None = None

    async def run(self) -> None:
        """Until cancelled: our own partitions."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.mend()
            except (errors.DatabaseError, OSError, Refused, Fenced) as error:
                log.warning("mending waits", error=str(error))

    async def mend(self) -> None:
        """Open halted partitions again, let go of moved ones. Errors: Unavailable, Fenced, OSError, Refused."""
        reader = self._reader()
        if reader is None or reader.leaving:
            return
        for halt in await find_halts(reader):
            await self._repair(halt)
            await resume(reader, halt, self._ownership.reincarnate)
        standings = await recovery.get_standings(self._core.db, self._core.group)
        let_go(reader, {(s.topic, s.partition): s.epoch for s in standings})

    async def _repair(self, halt: Halt) -> None:
        db = self._core.db
        detail = f"{halt.first - halt.expected} offsets were deleted before they were read"
        await recovery.report_incident(
            db, halt.topic, halt.partition, "truncated", halt.expected, halt.first, detail
        )
        INCIDENTS.labels(halt.topic, "truncated").inc()
        again = await recovery.republish_partition(
            db, halt.topic, halt.partition, partitions=self._core.partitions, group=self._core.group
        )
        log.error(
            "records were deleted unread; published again",
            topic=halt.topic,
            partition=halt.partition,
            rows=again,
        )

    async def run_survey(self) -> None:
        """Until cancelled: all streams, by one worker at a time."""
        while True:
            await asyncio.sleep(SURVEY_S)
            try:
                if await queues.take_duty(self._core.db, "survey", self._holder, lease_s=LEASE_S):
                    await self.survey()
            except (errors.DatabaseError, OSError, Refused) as error:
                log.warning("the survey waits", error=str(error))

    async def survey(self) -> None:
        """Look at every stream once. Errors: Unavailable, OSError, Refused."""
        if self._wire is None or not self._wire.alive:
            self._wire = await Wire.connect(self._address, name=f"survey {self._holder}")
        looked_at = await recovery.now(self._core.db)
        seen = []
        for topic in TOPICS:
            for number in range(self._core.partitions):
                try:
                    stats = await self._wire.stats(partition_stream(topic, number))
                except Refused as error:
                    log.error("a stream does not answer", topic=topic, partition=number, error=str(error))
                    continue
                seen.append((topic, number, stats.first_chunk_id, stats.committed_chunk_id))
        for topic, number in await recovery.mark_streams(self._core.db, seen, looked_at) if seen else ():
            INCIDENTS.labels(topic, "tail_lost").inc()
            log.error("a stream lost its tail", topic=topic, partition=number)
        slices = await recovery.get_unapplied(self._core.db, self._core.group, age_s=AGE_S)
        inbox = await recovery.get_unapplied_inbox(
            self._core.db, partitions=self._core.partitions, age_s=INBOX_AGE_S
        )
        answered = {(topic, number) for topic, number, _, _ in seen}
        await self._find_lost({*slices, *inbox} & answered)

    async def _find_lost(self, suspects: Iterable[recovery.Partition]) -> None:
        """Of partitions with old slices or inbox rows that nobody applied, those read to their end have lost them."""
        streams = {partition_stream(topic, number): (topic, number) for topic, number in suspects}
        if not streams:
            return
        probe = await Wire.connect(self._address, name=f"ends {self._holder}")
        try:
            ends = await probe.ends(streams)
        finally:
            await probe.close()
        at = {
            (s.topic, s.partition): s.next_offset
            for s in await recovery.get_standings(self._core.db, self._core.group)
        }
        read = [key for stream, key in streams.items() if at.get(key, 0) >= ends[stream]]
        if read:
            lost = await recovery.find_unapplied(self._core.db, self._core.group, read, age_s=AGE_S)
            lost |= await recovery.find_unapplied_inbox(
                self._core.db, read, partitions=self._core.partitions, age_s=INBOX_AGE_S
            )
            for (topic, number), rows in lost.items():
                INCIDENTS.labels(topic, "unapplied").inc()
                log.error("lost on the way; published again", topic=topic, partition=number, rows=rows)
