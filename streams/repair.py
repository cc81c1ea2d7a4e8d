"""Partitions that stand still although they are ours: halted before a hole, or moved by a person.

halted   records were deleted before they were read: whoever knows what they were publishes them again, then the
         partition goes on in a new incarnation at the first record there is
moved    the database has a higher epoch than ours (a rewind): we let go and claim anew, which an idle partition
         would never learn by itself
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import faust
import structlog

from streams.transport.consumer import Consumer
from streams.transport.reader import Reader

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Halt:
    """A hole: `expected` is the next offset of the group, `first` the first one that the stream has."""

    topic: str
    partition: int
    epoch: int
    expected: int
    first: int


def reader_of(app: faust.App) -> Reader | None:
    """The reader of a running app on this transport; None before it starts and for another transport."""
    consumer = getattr(app, "_consumer", None)
    return consumer.reader if isinstance(consumer, Consumer) else None


async def find_halts(reader: Reader) -> list[Halt]:
    """Our partitions that stand before a hole. Errors: Refused, ConnectionError."""
    found: list[Halt] = []
    for partition in list(reader.partitions.values()):
        claim, wire = partition.claim, reader.wire
        if partition.halted is not None and claim is not None and wire is not None:
            first = max(0, (await wire.stats(partition.stream)).first_chunk_id)
            found.append(Halt(partition.topic, partition.number, claim.epoch, claim.next_offset, first))
    return found


async def resume(
    reader: Reader, halt: Halt, reincarnate: Callable[[str, int, int, int], Awaitable[object]]
) -> None:
    """Begin a new incarnation behind the hole and claim it anew. Errors: those of `reincarnate`."""
    await reincarnate(halt.topic, halt.partition, halt.epoch, halt.first)
    partition = reader.partitions[halt.topic, halt.partition]
    if partition.epoch == halt.epoch:
        reader.requeue(partition)


def let_go(reader: Reader, epochs: Mapping[tuple[str, int], int]) -> list[tuple[str, int]]:
    """Give up partitions of which the database knows a higher epoch; which those were."""
    gone = []
    for key, partition in reader.partitions.items():
        epoch = partition.epoch
        if epoch is not None and epochs.get(key, 0) > epoch:
            log.warning("moved", stream=partition.stream, epoch=epoch, now=epochs[key])
            reader.fence(partition, epoch)
            gone.append(key)
    return gone
