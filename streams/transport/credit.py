"""Credit: how many chunks the broker may send, so that memory stays bounded and no partition ever starves.

A chunk's credit is owed from when it came until it is returned; it is returned at once while there is room,
else as records are committed, and only while the partition is ours: RabbitMQ takes credit for an inactive
consumer, but calls it an error. Credit that is never returned freezes a partition in silence.
"""

from __future__ import annotations

from streams.chunks import Chunk
from streams.transport.partition import Partition
from streams.wire import Wire

CREDIT = 6
"""Chunks the broker may have under way per partition."""
PARTITION_BYTES = 1 << 20
"""Beyond this much kept for a partition, credit is returned only as records are committed."""
TOTAL_BYTES = 128 << 20
"""Beyond this much kept in all, likewise."""


class Credit:
    """Counts what is kept over all partitions of one connection."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self._total_bytes = 0

    def keep(self, partition: Partition, chunk: Chunk) -> None:
        """A chunk came and is kept."""
        partition.add(chunk)
        self._total_bytes += chunk.size

    def release(self, partition: Partition, next_offset: int) -> None:
        """Everything before `next_offset` is committed."""
        before = partition.held_bytes
        partition.advance(next_offset)
        self._total_bytes -= before - partition.held_bytes
        self.give_back(partition)

    def forget(self, partition: Partition) -> None:
        """The partition's chunks are dropped; their credit is returned when it is ours again."""
        self._total_bytes -= partition.held_bytes
        partition.stop()

    def give_back(self, partition: Partition) -> None:
        """Return what is owed, if there is room and the partition is ours."""
        if not partition.owed or self.wire is None or partition.subscription is None:
            return
        if not partition.active or partition.halted is not None:
            return
        room = partition.held_bytes < PARTITION_BYTES and self._total_bytes < TOTAL_BYTES
        if room or partition.held_bytes == 0:
            self.wire.credit_now(partition.subscription, partition.owed)
            partition.owed = 0
