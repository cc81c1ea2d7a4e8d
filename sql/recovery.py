"""What the broker lost and what was done about it; where groups stand and are sent back to; the archive's contents."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("recovery")

Partition = tuple[str, int]
"""A topic and a partition of it."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A time that the broker's log was not what it should be; kinds are in sql/migrations/0021."""

    id: int
    topic: str
    partition: int
    kind: str
    expected_offset: int | None
    found_offset: int | None
    detail: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class IncidentCount:
    """How often, and on how many partitions."""

    kind: str
    n: int
    partitions: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a group stands in a partition; `last_digest` is of the last record it committed."""

    topic: str
    partition: int
    epoch: int
    next_offset: int
    last_digest: bytes | None
    owner: str | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a partition that lies in the archive: offsets [from, to). `life`: see sql/migrations/0021."""

    id: UUID
    topic: str
    partition: int
    life: int
    from_offset: int
    to_offset: int
    n_records: int
    first_at: datetime
    last_at: datetime
    size_bytes: int
    digest: bytes
    last_digest: bytes
    place: str


async def report_incident(
    db: Database, topic: str, partition: int, kind: str, expected: int | None, found: int | None, detail: str
) -> None:
    """Errors: Unavailable."""
    await db.rows(_Q["report_incident"], topic, partition, kind, expected, found, detail)


async def get_incidents(db: Database, *, limit: int, topic: str | None = None) -> list[Incident]:
    """The newest first. Errors: Unavailable."""
    return [Incident(*row.values()) for row in await db.rows(_Q["get_incidents"], topic, limit)]


async def count_incidents(db: Database) -> dict[str, IncidentCount]:
    """By kind. Errors: Unavailable."""
    return {row["kind"]: IncidentCount(*row.values()) for row in await db.rows(_Q["count_incidents"])}


async def now(db: Database) -> datetime:
    """The database's clock. Errors: Unavailable."""
    found: datetime = await db.value(_Q["now"])
    return found


async def mark_streams(
    db: Database, seen: Sequence[tuple[str, int, int, int]], looked_at: datetime
) -> list[Partition]:
    """Remember (topic, partition, first chunk, last chunk) of each, as read after `looked_at`; those that end earlier
    than before. What another worker has seen since `looked_at` stands. Errors: Unavailable.
    """
    columns = (list(column) for column in zip(*seen, strict=True))
    rows = await db.rows(_Q["mark_streams"], *columns, looked_at)
    return [(row["topic"], row["partition"]) for row in rows]


async def republish_partition(
    db: Database, topic: str, partition: int, *, partitions: int, group: str
) -> int:
    """Have the relay publish again what a partition has not applied; how many rows. Errors: Unavailable."""
    return int(await db.value(_Q["republish_partition"], topic, partition, partitions, group))


async def get_unapplied(db: Database, group: str, *, age_s: float) -> list[Partition]:
    """Partitions with a slice published so long ago and not applied. Errors: Unavailable."""
    return [(r["topic"], r["partition"]) for r in await db.rows(_Q["get_unapplied"], group, age_s)]


async def find_unapplied(
    db: Database, group: str, partitions: Sequence[Partition], *, age_s: float
) -> dict[Partition, int]:
    """Of partitions read to their end: slices that never came, to be published again. Errors: Unavailable."""
    topics, numbers = [topic for topic, _ in partitions], [number for _, number in partitions]
    rows = await db.rows(_Q["find_unapplied"], group, topics, numbers, age_s)
    return {(r["topic"], r["partition"]): r["slices"] for r in rows}


async def get_unapplied_inbox(db: Database, *, partitions: int, age_s: float) -> list[Partition]:
    """Partitions of inbox rows published so long ago and without an outcome. Errors: Unavailable."""
    rows = await db.rows(_Q["get_unapplied_inbox"], partitions, age_s)
    return [(row["topic"], row["partition"]) for row in rows]


async def find_unapplied_inbox(
    db: Database, read: Sequence[Partition], *, partitions: int, age_s: float
) -> dict[Partition, int]:
    """Of partitions read to their end: inbox events that never came, to be published again. Errors: Unavailable."""
    topics, numbers = [topic for topic, _ in read], [number for _, number in read]
    rows = await db.rows(_Q["find_unapplied_inbox"], partitions, topics, numbers, age_s)
    return {(r["topic"], r["partition"]): r["events"] for r in rows}


async def get_standings(db: Database, group: str) -> list[Standing]:
    """Every partition that the group ever claimed. Errors: Unavailable."""
    return [Standing(*row.values()) for row in await db.rows(_Q["get_all_positions"], group)]


async def rewind_partition(
    db: Database, topic: str, partition: int, group: str, offset: int, *, actor: str, why: str
) -> bool:
    """Send a group back; False if it stands before `offset` or never claimed the partition. Errors: Unavailable."""
    return bool(await db.value(_Q["rewind_partition"], topic, partition, group, offset, actor, why))


async def get_archived(db: Database, topic: str, partition: int) -> list[Segment]:
    """What lies in the archive, in order. Errors: Unavailable."""
    return [Segment(*row.values()) for row in await db.rows(_Q["get_archived"], topic, partition)]


async def get_archive_ends(db: Database) -> dict[Partition, Segment]:
    """The last segment of each partition that has any. Errors: Unavailable."""
    rows = await db.rows(_Q["get_archive_ends"])
    return {(row["topic"], row["partition"]): Segment(*row.values()) for row in rows}


async def record_archived(db: Database, s: Segment) -> None:
    """A segment lies in its place. Errors: Unavailable."""
    await db.rows(
        _Q["record_archived"], s.id, s.topic, s.partition, s.life, s.from_offset, s.to_offset, s.n_records,
        s.first_at, s.last_at, s.size_bytes, s.digest, s.last_digest, s.place,
    )  # fmt: skip


async def tell_replayed(
    db: Database, topic: str, partition: int, *, segments: int, records: int, actor: str, why: str
) -> None:
    """Somebody published archived records again. Errors: Unavailable."""
    await db.rows(_Q["tell_replayed"], topic, partition, segments, records, actor, why)
