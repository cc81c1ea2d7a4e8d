"""What waits to be published, and parked items whose time has come."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sql.batches import OutSlice
from sql.db import Database
from sql.offsets import Producer
from sql.queries import load

_Q: Final = load("relay")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A usage event that the API accepted; `occurred_at` is clamped already."""

    id: UUID
    principal: str
    event_id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    community_id: UUID | None
    metadata: dict[str, Any] | None
    occurred_at: datetime
    traceparent: str | None


async def take_usage(db: Database, *, limit: int, stale_s: float) -> list[UsageRow]:
    """Usage to publish now: new rows, and rows published `stale_s` ago that have no outcome yet."""
    rows = await db.rows(_Q["take_usage"], limit, stale_s)
    return [
        UsageRow(*(json.loads(v) if k == "metadata" and v is not None else v for k, v in row.items()))
        for row in rows
    ]


async def close_usage(db: Database, *, limit: int) -> int:
    """Close usage whose outcome is committed; how many."""
    return int(await db.value(_Q["close_usage"], limit))


@dataclass(frozen=True, slots=True)
class Unsent:
    """A stored slice that must be published (again)."""

    producer: Producer
    batch_no: int
    incarnation: int
    slice: OutSlice


async def sweep_outbox(db: Database, group: str, *, limit: int, stale_s: float) -> list[Unsent]:
    """Slices nobody has published, or that were published `stale_s` ago and not applied; in order per destination."""
    return [
        Unsent(
            Producer(r["producer_topic"], r["producer_partition"], r["producer_group"]),
            r["batch_no"],
            r["incarnation"],
            OutSlice(r["dest_topic"], r["dest_partition"], r["prev_batch_no"], r["events"]),
        )
        for r in await db.rows(_Q["sweep_outbox"], group, limit, stale_s)
    ]


@dataclass(frozen=True, slots=True)
class Parked:
    """The lowest unfinished item of its key. `decide`: its time is up, it is decided as things stand."""

    id: int
    partition: int
    attempt: int
    decide: bool
    offset: int
    payload: dict[str, Any]


async def due_retries(db: Database, topic: str, partitions: Sequence[int], *, limit: int) -> list[Parked]:
    """Parked items of these partitions that may be tried now: the lowest of each key."""
    return await _parked(db, "due_retries", topic, partitions, limit)


async def due_retry_runs(db: Database, topic: str, partitions: Sequence[int], *, limit: int) -> list[Parked]:
    """Of each key whose lowest item may be tried now, all its items in order."""
    return await _parked(db, "due_retry_runs", topic, partitions, limit)


async def _parked(
    db: Database, query: str, topic: str, partitions: Sequence[int], limit: int
) -> list[Parked]:
    rows = await db.rows(_Q[query], topic, list(partitions), limit)
    return [
        Parked(
            r["id"], r["partition"], r["attempt"], r["decide"], r["source_offset"], json.loads(r["payload"])
        )
        for r in rows
    ]
