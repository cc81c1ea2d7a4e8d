"""From a batch of stream records to events: decoded, deduplicated, without gaps.

Slices carry their producer's batch numbers. A slice at or below the last one applied is dropped; one whose
predecessor is missing makes us read what is missing from the producer's outbox first. So a message that was
republished, reordered or lost between two agents changes nothing.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec
import structlog
from msgspec import Struct

from sql import offsets, publishers, queues, recovery
from sql.batches import Bad, ParkedEvent, Progress, SessionRun, Watermark
from sql.db import Database
from sql.offsets import Producer
from streams import messages
from streams.batches import Batch, Fenced, Record
from streams.messages import BadEvent, Inbox, Slice, UsageBatch

log = structlog.get_logger("agents.intake")

CORE: Final = "core"
"""The publisher name of the core's own relay."""
_NOBODY: Final = "00000000-0000-7000-8000-000000000000"


class MissingSlices(Exception):
    """A producer's slices are neither on the stream nor in its outbox: the partition waits and alerts."""


class Taken(Struct, frozen=True):
    """One event to apply. `accepted_at` is the broker's time of its message; `publisher` whoever signed it, if anyone."""

    event: Any
    offset: int
    accepted_at: datetime
    publisher: str | None = None


@dataclass(slots=True)
class Intake:
    """What one batch brings: events in order, what moves with the offset, and what nobody can read."""

    taken: list[Taken] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    marks: dict[Producer, int] = field(default_factory=dict)
    before: dict[Producer, int] = field(default_factory=dict)
    runs: list[SessionRun] = field(default_factory=list)
    sessions: dict[tuple[str, str], int] = field(default_factory=dict)
    """Per publisher and session that keeps what it publishes, the last batch in turn."""
    dropped: int = 0
    parked: list[ParkedEvent] = field(default_factory=list)
    retry: Sequence[tuple[int, int]] = ()

    @property
    def progress(self) -> Progress:
        """The watermarks and sessions to move in the batch's transaction."""
        moved = [
            Watermark(p.topic, p.partition, p.group, self.before.get(p, 0), last)
            for p, last in self.marks.items()
            if last != self.before.get(p, 0)
        ]
        return Progress(moved, self.runs, self.dropped, self.parked, self.retry)


@dataclass(frozen=True, slots=True)
class Turn(Batch):
    """Parked events decided in their partition's turn: no records, and the offset stays. `retry`: (id, attempt) of each."""

    taken: list[Taken]
    retry: list[tuple[int, int]]


def park(taken: Taken, reason: str, *, error: str | None = None, delay_s: float = 0.0) -> ParkedEvent:
    """An event as it waits under its key."""
    payload = {
        "event": json.loads(msgspec.json.encode(taken.event)),
        "publisher": taken.publisher,
        "accepted_at": taken.accepted_at.isoformat(),
    }
    return ParkedEvent(taken.offset, taken.event.key, payload, reason, error, delay_s)


def unpark(topic: str, payload: dict[str, Any], offset: int) -> Taken:
    """A parked event as it came. Errors: ValueError if the contract has changed so that it cannot be read."""
    event = msgspec.json.encode(payload["event"])
    if topic == "wallet.debit":
        message = messages.encode_usage_batch(_NOBODY, 1, [event])
    elif topic == "webhook.processing":
        message = msgspec.json.encode({"type": "inbox", "v": 1, "events": [msgspec.Raw(event)]})
    else:
        producer = messages.Producer("parked", 0, "core")
        message = messages.encode_slice(
            producer, incarnation=1, batch_no=1, prev_batch_no=0, events_json=b"[" + event + b"]"
        )
    decoded = messages.decode(topic, message)
    if isinstance(decoded, BadEvent) or decoded.bad:
        raise ValueError(decoded.reason if isinstance(decoded, BadEvent) else decoded.bad[0].reason)
    accepted_at = datetime.fromisoformat(payload["accepted_at"])
    return Taken(decoded.message.events[0], offset, accepted_at, payload["publisher"])


class Watermarks:
    """Per consuming partition, the last batch applied of each producer: restored at each claim, moved after each commit."""

    def __init__(self, db: Database, group: str) -> None:
        self._db = db
        self._group = group
        self._marks: dict[tuple[str, int], dict[Producer, int]] = {}
        self._sessions: dict[tuple[str, int], dict[tuple[str, str], int]] = {}
        self._told: set[tuple[object, ...]] = set()
        self.waiting: dict[tuple[str, int], set[str]] = {}
        """Per partition, the keys that have a parked event: what comes for them is parked behind it."""

    async def restore(self, topic: str, partition: int) -> None:
        """Read the partition's watermarks and waiting keys, before its first record is delivered."""
        self._marks[topic, partition] = await offsets.watermarks(self._db, topic, partition, self._group)
        self._sessions.pop((topic, partition), None)
        await self.restore_waiting(topic, partition)

    async def restore_waiting(self, topic: str, partition: int) -> None:
        """Read which keys wait. Errors: Unavailable."""
        self.waiting[topic, partition] = await queues.waiting_keys(self._db, topic, partition)

    def of(self, topic: str, partition: int) -> dict[Producer, int]:
        """The last batch applied of each producer."""
        return dict(self._marks.get((topic, partition), {}))

    def committed(self, batch: Batch, intake: Intake) -> None:
        """The batch is committed: what it applied is what comes after."""
        self._marks[batch.topic, batch.partition] = intake.marks
        self._sessions[batch.topic, batch.partition] = intake.sessions

    async def take_in(self, batch: Batch, secrets: "Secrets | None" = None) -> Intake:
        """Read a batch. `secrets` only where services publish. Errors: MissingSlices, Unavailable."""
        before = self._marks.get((batch.topic, batch.partition), {})
        intake = Intake(marks=dict(before), before=before)
        intake.sessions = dict(self._sessions.get((batch.topic, batch.partition), {}))
        if isinstance(batch, Turn):
            intake.taken, intake.retry = list(batch.taken), batch.retry
            return intake
        for record in batch.records:
            await self._take_record(batch, record, intake, secrets)
        intake.runs = _joined(intake.runs)
        if waiting := self.waiting.get((batch.topic, batch.partition)):
            behind = [taken for taken in intake.taken if taken.event.key in waiting]
            intake.parked = [park(taken, "behind_parked") for taken in behind]
            intake.taken = [taken for taken in intake.taken if taken.event.key not in waiting]
        return intake

    async def _take_record(
        self, batch: Batch, record: Record, intake: Intake, secrets: "Secrets | None"
    ) -> None:
        decoded = messages.decode(batch.topic, None if record.malformed else record.value)
        if isinstance(decoded, BadEvent):
            reason = (
                "malformed: not an AMQP 1.0 message" if record.malformed else f"malformed: {decoded.reason}"
            )
            intake.bad.append(Bad(record.offset, reason, record.value or b""))
            return
        message = decoded.message
        accepted_at = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        match message:
            case Slice():
                await self._take_slice(batch, record.offset, message, accepted_at, intake)
            case Inbox():
                intake.taken += [Taken(event, record.offset, accepted_at) for event in message.events]
            case UsageBatch():
                publisher = record.headers.get("publisher", "")
                secret = await secrets.of(publisher) if secrets is not None else None
                if secret is None or not messages.verify(
                    record.value or b"", secret, record.headers.get("mac")
                ):
                    intake.bad.append(
                        Bad(record.offset, "forged: no known publisher signed this", record.value or b"")
                    )
                    return
                if messages.KEPT in record.headers and not await self._in_turn(
                    batch, publisher, message, intake
                ):
                    return
                intake.bad += [
                    Bad(record.offset, f"malformed: {bad.reason}", bad.payload) for bad in decoded.bad
                ]
                intake.taken += [
                    Taken(event, record.offset, accepted_at, publisher) for event in message.events
                ]
                if publisher != CORE:
                    intake.runs.append(SessionRun(publisher, message.session, message.seq, message.seq))

    async def _in_turn(self, batch: Batch, publisher: str, message: UsageBatch, intake: Intake) -> bool:
        """False for a batch whose predecessor the broker lost: its publisher keeps both and sends them again, in order."""
        key = (publisher, message.session)
        last = intake.sessions.get(key)
        if last is None:
            found = await publishers.watermarks(self._db, publisher, message.session, batch.topic)
            last = found.get(batch.partition, 0)
        intake.sessions[key] = last
        if message.seq > last + 1:
            await self._tell_gap(batch, key, last + 1, message.seq)
            return False
        intake.sessions[key] = max(last, message.seq)
        return True

    async def _take_slice(
        self, batch: Batch, offset: int, message: Slice[Any], accepted_at: datetime, intake: Intake
    ) -> None:
        producer = Producer(message.producer.topic, message.producer.partition, message.producer.group)
        last = intake.marks.get(producer, 0)
        if message.batch_no <= last:
            intake.dropped += len(message.events)
            return
        if message.prev_batch_no > last:
            for stored in await self._missing(batch, producer, last, message.prev_batch_no):
                intake.taken += [Taken(event, offset, accepted_at) for event in stored]
        intake.taken += [Taken(event, offset, accepted_at) for event in message.events]
        intake.marks[producer] = message.batch_no

    async def _missing(self, batch: Batch, producer: Producer, last: int, up_to: int) -> list[list[Any]]:
        """The events of the slices between two batches, from the producer's outbox."""
        rows = await offsets.missing_slices(
            self._db, batch.topic, batch.partition, producer, after=last, up_to=up_to
        )
        before = last
        found: list[list[Any]] = []
        for row in rows:
            if row.slice.prev_batch_no != last:
                break
            envelope = messages.encode_slice(
                messages.Producer(producer.topic, producer.partition, producer.group),
                incarnation=1,
                batch_no=row.batch_no,
                prev_batch_no=row.slice.prev_batch_no,
                events_json=row.slice.events,
            )
            decoded = messages.decode(batch.topic, envelope)
            if isinstance(decoded, BadEvent):
                raise MissingSlices(
                    f"{batch.topic}/{batch.partition}: stored slice {row.batch_no}: {decoded.reason}"
                )
            found.append(list(cast(Slice[Any], decoded.message).events))
            last = row.batch_no
        if last != up_to:
            applied = await offsets.watermarks(self._db, batch.topic, batch.partition, self._group)
            if applied.get(producer, 0) > before:
                # This batch was committed, its answer was lost, and what it applied is swept: claim anew, and read on.
                raise Fenced(f"{batch.topic}/{batch.partition}: slices of {producer} were applied meanwhile")
            await self._report(batch, "slices_missing", last, up_to, f"of {producer}: nowhere")
            raise MissingSlices(
                f"{batch.topic}/{batch.partition} of {producer}: {last} to {up_to} are nowhere"
            )
        await self._report(batch, "gap_filled", rows[0].batch_no, up_to, f"of {producer}: from its outbox")
        log.warning(
            "repaired a gap",
            topic=batch.topic,
            partition=batch.partition,
            producer=producer.topic,
            up_to=up_to,
        )
        return found

    async def _tell_gap(self, batch: Batch, key: tuple[str, str], expected: int, found: int) -> None:
        """An incident, once for each batch that is missing. The numbers are those of the publisher's session."""
        told = (batch.topic, batch.partition, key, expected)
        if told in self._told:
            return
        self._told.add(told)
        detail = f"of publisher {key[0]}: left to it"
        log.warning(
            "out_of_turn", topic=batch.topic, partition=batch.partition, publisher=key[0], expected=expected
        )
        await recovery.report_incident(
            self._db, batch.topic, batch.partition, "out_of_turn", expected, found, detail
        )

    async def _report(self, batch: Batch, kind: str, expected: int, found: int, detail: str) -> None:
        """An incident, told once however often the batch is tried. `expected` and `found` are batch numbers."""
        told = (batch.topic, batch.partition, kind, expected, found, detail)
        if told not in self._told:
            self._told.add(told)
            await recovery.report_incident(
                self._db, batch.topic, batch.partition, kind, expected, found, detail
            )


def _joined(runs: Sequence[SessionRun]) -> list[SessionRun]:
    """Runs of consecutive sequence numbers, per session."""
    joined: list[SessionRun] = []
    for run in sorted(set(runs), key=lambda r: (r.publisher, r.session, r.low)):
        last = joined[-1] if joined else None
        if last and (last.publisher, last.session, last.high + 1) == (run.publisher, run.session, run.low):
            joined[-1] = SessionRun(last.publisher, last.session, last.low, run.high)
        else:
            joined.append(run)
    return joined


class Secrets:
    """Publishers' signing secrets; an unknown name makes us look again, at most once a `refresh_s`."""

    def __init__(self, db: Database, *, refresh_s: float = 2.0) -> None:
        self._db = db
        self._refresh_s = refresh_s
        self._known: dict[str, bytes] = {}
        self._read_at = float("-inf")

    async def of(self, name: str) -> bytes | None:
        """The secret of an enabled publisher. Errors: Unavailable."""
        now = asyncio.get_running_loop().time()
        if name not in self._known and now - self._read_at >= self._refresh_s:
            self._known = await publishers.secrets(self._db)
            self._read_at = now
        return self._known.get(name)
