"""Ownership of partitions and how far each producer has been applied."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sql.batches import OutSlice
from sql.db import Database
from sql.errors import Fenced
from sql.queries import load

_Q: Final = load("offsets")


@dataclass(frozen=True, slots=True)
class Position:
    """A claimed partition: its new epoch and where to resume."""

    epoch: int
    incarnation: int
    next_offset: int
    last_offset: int | None
    last_digest: bytes | None


@dataclass(frozen=True, slots=True)
class Producer:
    """Who emitted a slice: a partition of a group, or a named chain."""

    topic: str
    partition: int
    group: str


async def claim(
    db: Database, topic: str, group: str, owner: str, partitions: Sequence[int]
) -> dict[int, Position]:
    """Take partitions over under higher epochs. Errors: Unavailable."""
    rows = await db.rows(_Q["claim_partitions"], topic, group, owner, list(partitions))
    return {
        r["partition"]: Position(
            r["epoch"], r["incarnation"], r["next_offset"], r["last_offset"], r["last_digest"]
        )
        for r in rows
    }


async def reincarnate(
    db: Database, topic: str, partition: int, group: str, epoch: int, first_offset: int
) -> Position:
    """Begin a new incarnation at the broker's first offset. Errors: Fenced, Unavailable."""
    row = await db.row(_Q["reincarnate_partition"], topic, partition, group, epoch, first_offset)
    if row is None:
        raise Fenced(f"{topic}/{partition} was claimed meanwhile")
    return Position(row["epoch"], row["incarnation"], row["next_offset"], None, None)


async def watermarks(db: Database, topic: str, partition: int, group: str) -> dict[Producer, int]:
    """The last batch of each producer that this partition has applied."""
    rows = await db.rows(_Q["get_watermarks"], topic, partition, group)
    return {
        Producer(r["producer_topic"], r["producer_partition"], r["producer_group"]): r["last_batch_no"]
        for r in rows
    }


@dataclass(frozen=True, slots=True)
class StoredSlice:
    """A slice as the outbox keeps it."""

    batch_no: int
    slice: OutSlice


async def missing_slices(
    db: Database, topic: str, partition: int, producer: Producer, *, after: int, up_to: int
) -> list[StoredSlice]:
    """What `producer` emitted for this destination with after < batch_no <= up_to, in order."""
    rows = await db.rows(
        _Q["get_missing_slices"],
        topic,
        partition,
        producer.topic,
        producer.partition,
        producer.group,
        after,
        up_to,
    )
    return [
        StoredSlice(r["batch_no"], OutSlice(topic, partition, r["prev_batch_no"], r["events"])) for r in rows
    ]


async def positions(db: Database, topic: str, group: str) -> dict[int, int]:
    """`next_offset` of every partition of `topic` that was ever claimed, whoever owns it."""
    return {row["partition"]: row["next_offset"] for row in await db.rows(_Q["get_positions"], topic, group)}
