"""What every committed batch has in common: its head, its progress, what it could not read, and what it emitted."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from sql.db import Database, Row
from sql.errors import Fenced, RetryTaken, Waiting
from sql.queries import load

_Q: Final = load("offsets")
CHAINS: Final = 64
"""Named chains of each kind. A chain's row is locked until its transaction is on the disk, so calls spread over them
by wallet, workers by name.
"""


@dataclass(frozen=True, slots=True)
class Head:
    """Which records a batch covers, and under which epoch: offsets [from, to), the last record's own offset and digest."""

    topic: str
    partition: int
    group: str
    epoch: int
    from_offset: int
    to_offset: int
    last_offset: int
    last_digest: bytes


@dataclass(frozen=True, slots=True)
class Watermark:
    """A producer's batches applied by this batch: from `expected` (exclusive) to `last`."""

    topic: str
    partition: int
    group: str
    expected: int
    last: int


@dataclass(frozen=True, slots=True)
class SessionRun:
    """Sequence numbers low..high of one publisher's session, all in this batch."""

    publisher: str
    session: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """An event that waits under its key. `payload`: {"event", "publisher", "accepted_at"}; tried after `delay_s`."""

    offset: int
    key: str
    payload: dict[str, Any]
    reason: str
    error: str | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What moves with the offset besides it. `dropped` counts events of slices that had been applied before.

    `parked` are events set aside by this batch; `retry` are (id, attempt) of parked ones that it decides: then
    the offset stays.
    """

    watermarks: Sequence[Watermark] = ()
    sessions: Sequence[SessionRun] = ()
    dropped: int = 0
    parked: Sequence[ParkedEvent] = ()
    retry: Sequence[tuple[int, int]] = ()

    def encode(self) -> str:
        said: dict[str, Any] = {
            "watermarks": [[w.topic, w.partition, w.group, w.expected, w.last] for w in self.watermarks],
            "sessions": [[s.publisher, s.session, s.low, s.high] for s in self.sessions],
            "dropped": self.dropped,
        }
        if self.parked:
            said["parked"] = [[p.offset, p.key, p.payload, p.reason, p.error, p.delay_s] for p in self.parked]
        if self.retry:
            said["retry"] = list(self.retry)
        return json.dumps(said)


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that can never be decided, kept whole with its reason."""

    offset: int
    reason: str
    payload: bytes
    key: str | None = None


def encode_bad(bad: Sequence[Bad]) -> str:
    return json.dumps([[b.offset, b.reason, b.key, base64.b64encode(b.payload).decode()] for b in bad])


@dataclass(frozen=True, slots=True)
class OutSlice:
    """Events (a JSON array as text) that a batch emitted for one destination partition."""

    topic: str
    partition: int
    prev_batch_no: int
    events: str


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a committed batch leaves to be published: in the name of (topic, partition, group)."""

    topic: str
    partition: int
    group: str
    batch_no: int
    incarnation: int
    slices: list[OutSlice] = field(default_factory=list)


def emitted(row: Row, topic: str, partition: int, group: str) -> Emitted:
    """Read r_batch_no, r_incarnation and the parallel o_* arrays that every commit function returns."""
    columns = zip(
        row["o_topic"] or (),
        row["o_partition"] or (),
        row["o_prev"] or (),
        row["o_events"] or (),
        strict=True,
    )
    return Emitted(
        topic, partition, group, row["r_batch_no"], row["r_incarnation"], [OutSlice(*c) for c in columns]
    )


async def commit(db: Database, statement: str, head: Head, *args: Any) -> Row | Emitted:
    """Send one commit; after an unknown outcome the caller simply sends it again.

    Returns the function's row, or, if this very batch turns out to be committed already, what it emitted.
    Errors: Fenced, Unavailable; a key posted meanwhile by somebody else (23505) is sent again once.
    """
    try:
        return await _sent(db, statement, args)
    except asyncpg.PostgresError as error:
        if error.sqlstate == "LG002":
            return await committed(db, head)
        raise translate(error) from error


async def commit_apart(db: Database, statement: str, args: Sequence[Any]) -> Row:
    """Send what commits without a stream's offset: its keys make it once. Errors: as `commit`."""
    try:
        return await _sent(db, statement, args)
    except asyncpg.PostgresError as error:
        raise translate(error) from error


async def _sent(db: Database, statement: str, args: Sequence[Any]) -> Row:
    """The function's row; once more where somebody else posted one of the keys meanwhile (23505)."""
    try:
        row = await db.row(statement, *args)
    except asyncpg.UniqueViolationError:
        row = await db.row(statement, *args)
    assert row is not None
    return row


def translate(error: asyncpg.PostgresError) -> Exception:
    """Our own SQLSTATEs as our own errors; anything else unchanged."""
    match error.sqlstate:
        case "LG001" | "LG003":
            return Fenced(str(error))
        case "LG004":
            return RetryTaken(str(error))
        case "LG005":
            return Waiting(str(error))
    return error


async def committed(db: Database, head: Head) -> Emitted:
    """What the batch that ended at `head.to_offset` emitted. Errors: Fenced if the group has gone past it since."""
    rows = await db.rows(_Q["get_batch_outbox"], head.topic, head.partition, head.group, head.to_offset)
    if not rows:
        raise Fenced(f"{head.topic}/{head.partition} has moved past {head.to_offset}")
    first = rows[0]
    slices = [
        OutSlice(r["dest_topic"], r["dest_partition"], r["prev_batch_no"], r["events"])
        for r in rows
        if r["dest_topic"]
    ]
    return Emitted(head.topic, head.partition, head.group, first["batch_no"], first["incarnation"], slices)
