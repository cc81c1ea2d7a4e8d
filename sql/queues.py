"""Parked events of every topic, dead letters, and the duties that one worker at a time has."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg
from uuid_utils.compat import uuid7

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted, translate
from sql.db import Database, Row
from sql.heads import head_arguments
from sql.offsets import Position
from sql.queries import load

_Q: Final = load("queues")


@dataclass(frozen=True, slots=True)
class DueEvent:
    """The lowest unfinished event of its key, whose time has come. `payload`: see `ParkedEvent`."""

    id: int
    partition: int
    attempt: int
    offset: int
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failed:
    """What a failed attempt left: 'due' again, or 'dead'."""

    state: str
    topic: str
    key: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A parked item as it lies in the database. `state`: due | done | dead | purged."""

    id: int
    topic: str
    partition: int
    incarnation: int
    offset: int
    key: str
    payload: dict[str, Any]
    state: str
    attempt: int
    reason: str
    error: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Deed:
    """What somebody did to a dead letter, and why."""

    actor: str
    action: str
    why: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class QueueCount:
    """Parked items of a topic: waiting, of those due now, dead; the age of the oldest waiting one in seconds."""

    topic: str
    waiting: int
    due: int
    dead: int
    oldest_s: float


async def park_batch(db: Database, head: Head, progress: Progress, bad: Sequence[Bad] = ()) -> Emitted:
    """Commit past records; their events are in `progress.parked` or `bad`. Errors: Fenced, Unavailable."""
    answer = await commit(db, _Q["park_batch"], head, *head_arguments(head, progress, bad))
    return answer if isinstance(answer, Emitted) else emitted(answer, head.topic, head.partition, head.group)


async def waiting_keys(db: Database, topic: str, partition: int) -> set[str]:
    """Keys of a partition whose later events must wait. Errors: Unavailable."""
    return {row["key"] for row in await db.rows(_Q["waiting_keys"], topic, partition)}


async def due_events(db: Database, topic: str, partitions: Sequence[int], *, limit: int) -> list[DueEvent]:
    """Parked events of these partitions that may be tried now. Errors: Unavailable."""
    return [
        DueEvent(r["id"], r["partition"], r["attempt"], r["source_offset"], json.loads(r["payload"]))
        for r in await db.rows(_Q["due_events"], topic, list(partitions), limit)
    ]


async def get_due_topics(db: Database) -> set[str]:
    """Topics with a parked event whose time has come. Errors: Unavailable."""
    return {row["topic"] for row in await db.rows(_Q["get_due_topics"])}


async def get_position(db: Database, topic: str, partition: int, group: str) -> Position | None:
    """Where a partition stands, and under which epoch. Errors: Unavailable."""
    row = await db.row(_Q["get_position"], topic, partition, group)
    return None if row is None else Position(*row.values())


async def fail_retry(
    db: Database, group: str, epoch: int, retry: int, attempt: int, error: str
) -> Failed | None:
    """An attempt failed: longer pause, or dead. None if it was decided meanwhile. Errors: Fenced, Unavailable."""
    try:
        row = await db.row(_Q["fail_retry"], group, epoch, retry, attempt, error.replace("\x00", ""))
    except asyncpg.PostgresError as fault:
        raise translate(fault) from fault
    return Failed(*row.values()) if row is not None and row["r_state"] is not None else None


async def get_dead_letters(
    db: Database, *, limit: int, before: int | None = None, topic: str | None = None, state: str | None = None
) -> list[DeadLetter]:
    """Dead (and purged) items, the newest first. Errors: Unavailable."""
    return [_letter(r) for r in await db.rows(_Q["get_dead_letters"], before, topic, state, limit)]


async def get_dead_letter(db: Database, id: int) -> DeadLetter | None:
    """One item, whatever became of it. Errors: Unavailable."""
    row = await db.row(_Q["get_dead_letter"], id)
    return None if row is None else _letter(row)


async def get_story(db: Database, id: int) -> list[Deed]:
    """What people did to an item. Errors: Unavailable."""
    return [Deed(*row.values()) for row in await db.rows(_Q["get_dead_letter_story"], id)]


async def get_dead_ids(db: Database, topic: str, *, limit: int) -> list[int]:
    """The oldest dead items of a topic. Errors: Unavailable."""
    return [row["id"] for row in await db.rows(_Q["get_dead_ids"], topic, limit)]


async def replay_dead(db: Database, ids: Sequence[int], *, actor: str, why: str) -> list[int]:
    """Try dead items again, from the first attempt; those that were dead. Errors: Unavailable."""
    return sorted(row["id"] for row in await db.rows(_Q["replay_dead"], list(ids), actor, why))


async def purge_dead(db: Database, ids: Sequence[int], *, actor: str, why: str) -> list[int]:
    """Give dead items up; those that were. A purchase that is not credited stays. Errors: Unavailable."""
    return sorted(row["id"] for row in await db.rows(_Q["purge_dead"], list(ids), actor, why))


async def get_unmirrored(db: Database, *, limit: int) -> list[DeadLetter]:
    """Dead items without a copy on a stream. Errors: Unavailable."""
    return [_letter(row) for row in await db.rows(_Q["get_unmirrored"], limit)]


async def mark_mirrored(db: Database, ids: Sequence[int]) -> None:
    """These have a copy. Errors: Unavailable."""
    await db.rows(_Q["mark_mirrored"], list(ids))


async def count_queues(db: Database) -> list[QueueCount]:
    """Per topic that has any parked item. Errors: Unavailable."""
    return [QueueCount(*row.values()) for row in await db.rows(_Q["count_queues"])]


async def delay_event(
    db: Database, source: str, topic: str, partition: int, event: bytes, run_at: datetime
) -> bool:
    """Have an event (JSON) emitted at `run_at`, once per `source`; False if that source has one. Errors: Unavailable."""
    return bool(await db.value(_Q["delay_event"], source, topic, partition, event.decode(), run_at))


async def cancel_delayed(db: Database, source: str) -> bool:
    """Whether there was one that had not been emitted yet. Errors: Unavailable."""
    return bool(await db.value(_Q["cancel_delayed"], source))


async def release_delayed(db: Database, *, shard: int, limit: int) -> tuple[int, Emitted | None]:
    """Emit what is due; how many, and what to publish. Errors: Unavailable."""
    row = await db.row(_Q["release_delayed"], uuid7(), shard, limit)
    assert row is not None
    released = int(row["r_released"])
    return released, emitted(row, "delay", shard, "core") if released else None


async def take_duty(db: Database, duty: str, holder: str, *, lease_s: float) -> bool:
    """Whether `holder` has the duty for the next `lease_s`. Errors: Unavailable."""
    return bool(await db.value(_Q["take_duty"], duty, holder, lease_s))


@dataclass(frozen=True, slots=True)
class Breaker:
    """A topic's breaker. `state`: closed | open | half_open; `may_try`: its pause is over."""

    topic: str
    state: str
    records: int
    failures: int
    error: str | None
    trips: int
    pause_s: float
    opened_at: datetime | None
    retry_at: datetime | None
    may_try: bool


async def get_breakers(db: Database) -> dict[str, Breaker]:
    """Every topic's. Errors: Unavailable."""
    return {row["topic"]: Breaker(*row.values()) for row in await db.rows(_Q["get_breakers"])}


async def trip_breaker(
    db: Database, topic: str, *, records: int, failures: int, error: str, pause_s: float, cap_s: float
) -> None:
    """Stop a topic. Errors: Unavailable."""
    await db.rows(_Q["trip_breaker"], topic, records, failures, error.replace("\x00", ""), pause_s, cap_s)


async def try_breaker(db: Database, topic: str, holder: str, *, lease_s: float) -> bool:
    """Whether `holder` may try the stopped topic now. Errors: Unavailable."""
    return bool(await db.value(_Q["try_breaker"], topic, holder, lease_s))


async def close_breaker(
    db: Database, topic: str, *, holder: str | None = None, actor: str = "", why: str = ""
) -> bool:
    """Go on with a topic: after the trial of `holder`, or because `actor` says so. Errors: Unavailable."""
    return bool(await db.value(_Q["close_breaker"], topic, holder, actor, why))


def _letter(row: Row) -> DeadLetter:
    return DeadLetter(*(json.loads(v) if k == "payload" else v for k, v in row.items()))
