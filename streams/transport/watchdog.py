"""Finds what the broker does not tell a consumer, and has the partition read anew.

a lost tail         after a claim no chunk comes, because the stream ends before the last committed record
a silent partition  records are stored beyond what came, and none comes
"""

from __future__ import annotations

import asyncio
import time

import structlog

from streams import metrics
from streams.transport.partition import Partition
from streams.transport.reader import Reader
from streams.wire import Refused, Wire

log = structlog.get_logger(__name__)

UNVERIFIED_S = 1.0
SILENT_S = 5.0
ORPHAN_S = 3.0
_EVERY_S = 0.5
_ORPHAN_WINDOW_S = 3.0
_ORPHAN_ABSENT_S = 1.2


class Watchdog:
    """Looks at the open but quiet partitions of a reader, for ever."""

    def __init__(
        self, reader: Reader, *, unverified_s: float = UNVERIFIED_S, silent_s: float = SILENT_S
    ) -> None:
        self._reader = reader
        self._unverified_s = unverified_s
        self._silent_s = silent_s
        self._seen: dict[tuple[str, int], tuple[int, float]] = {}

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self.look()
                await self.look_for_orphans()
            except (OSError, Refused) as error:
                log.warning("watchdog_failed", error=str(error))

    async def look(self) -> None:
        """Look once. Errors: ConnectionError or Refused when the broker does not answer."""
        suspects = await self._suspects()
        if not suspects:
            return
        probe = await Wire.connect(self._reader.address, name=f"{self._reader.group} watchdog")
        try:
            ends = await probe.ends(partition.stream for partition, _ in suspects)
        finally:
            await probe.close()
        for partition, epoch in suspects:
            if partition.epoch == epoch and self._quiet(partition):
                self._judge(partition, ends[partition.stream])

    async def _suspects(self) -> list[tuple[Partition, int]]:
        wire, found = self._reader.wire, list[tuple[Partition, int]]()
        for partition in list(self._reader.partitions.values()):
            epoch = partition.epoch
            if wire is None or epoch is None or not self._quiet(partition):
                continue
            if not partition.verified:
                if partition.position > 0:
                    found.append((partition, epoch))
                    continue
                expected = 0
            else:
                expected = max(partition.end, partition.committed)
            if (await wire.stats(partition.stream)).committed_chunk_id >= expected:
                found.append((partition, epoch))
            elif partition.epoch == epoch:
                partition.since = time.monotonic()
        return found

    def _quiet(self, partition: Partition) -> bool:
        patience = self._silent_s if partition.verified or partition.position == 0 else self._unverified_s
        return (
            partition.active
            and partition.halted is None
            and not partition.waiting
            and partition.idle.is_set()
            and time.monotonic() - partition.since > patience
        )

    def _judge(self, partition: Partition, end: int) -> None:
        claim = partition.claim
        assert claim is not None
        if not partition.verified and end < claim.next_offset:
            self._reader.reincarnate(partition, f"the stream ends at {end}, {claim.next_offset} was next")
        elif end > max(partition.end, claim.next_offset if not partition.verified else partition.committed):
            metrics.STUCK.labels(partition.topic).inc()
            log.error("partition_silent", stream=partition.stream, end=end, came=partition.end)
            self._reader.requeue(partition)
        else:
            partition.since = time.monotonic()

    async def look_for_orphans(self) -> None:
        """Leave the queues of partitions that nobody reads, so that the broker chooses an owner anew.

        The broker does so once the queue is empty, so all workers leave it in the same second of the clock.
        Errors: as `look`.
        """
        wire, ownership = self._reader.wire, self._reader.ownership
        if wire is None:
            return
        idle: dict[str, list[Partition]] = {}
        for partition in self._reader.partitions.values():
            if partition.subscription is not None and partition.claim is None and not partition.following:
                idle.setdefault(partition.topic, []).append(partition)
        for topic, partitions in idle.items():
            try:
                positions = await ownership.positions(topic)
            except Exception:
                log.warning("positions_unavailable", topic=topic, exc_info=True)
                continue
            for partition in partitions:
                await self._look_for_orphan(wire, partition, positions.get(partition.number, 0))

    async def _look_for_orphan(self, wire: Wire, partition: Partition, position: int) -> None:
        key, now = (partition.topic, partition.number), time.monotonic()
        seen, since = self._seen.get(key, (-1, now))
        if seen != position or (await wire.stats(partition.stream)).committed_chunk_id < position:
            self._seen[key] = (position, now)
        elif now - since > ORPHAN_S and time.time() % _ORPHAN_WINDOW_S < _ORPHAN_ABSENT_S / 2:
            self._seen[key] = (position, now)
            if partition.claim is None and not partition.following:
                metrics.STUCK.labels(partition.topic).inc()
                log.error("partition_orphaned", stream=partition.stream, next_offset=position)
                self._reader.requeue(partition, after_s=0.0, absent_s=_ORPHAN_ABSENT_S)
