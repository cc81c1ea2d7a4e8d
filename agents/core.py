"""What every agent works with: the database, the marks of its producers, the way out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from agents.intake import Secrets, Watermarks
from sql import errors, offsets, webhooks
from sql.batches import Emitted, Head
from sql.db import Database
from sql.ids import uuid_of
from streams import messages
from streams.batches import Batch, Claim, Fenced
from streams.telemetry import carriers, tracing
from streams.topics import partition_of


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish, to a known partition."""

    topic: str
    partition: int
    key: str
    value: bytes
    headers: dict[str, str]


class Writer(Protocol):
    """Publishes in order per partition. Returning says nothing certain; the sweeper repairs what was lost."""

    async def publish(self, outgoing: Sequence[Outgoing]) -> None: ...


Restore = Callable[[str, int], Awaitable[None]]


@dataclass(slots=True)
class Core:
    """The agents' surroundings, made once per worker."""

    db: Database
    writer: Writer
    group: str
    partitions: int
    marks: Watermarks = field(init=False)
    secrets: Secrets = field(init=False)

    def __post_init__(self) -> None:
        self.marks = Watermarks(self.db, self.group)
        self.secrets = Secrets(self.db)

    def partition(self, key: str) -> int:
        """The partition of a key, of any topic."""
        return partition_of(key, self.partitions)

    def head(self, batch: Batch) -> Head:
        """The batch as the database knows it."""
        return Head(
            batch.topic,
            batch.partition,
            self.group,
            batch.epoch,
            batch.from_offset,
            batch.to_offset,
            batch.last_offset,
            batch.last_digest,
        )

    async def publish(self, emitted: Emitted) -> None:
        """Send what a committed batch emitted, in order."""
        await self.writer.publish(
            [slice_message(emitted, s.topic, s.partition, s.prev_batch_no, s.events) for s in emitted.slices]
        )

    async def publish_by(self, loop: str, emitted: Emitted) -> None:
        """As `publish`, of a loop that no message brought the payments to: their traces are on their inbox rows."""
        found: dict[str, str] = {}
        if tracing.on():
            ids = {uuid_of(known) for s in emitted.slices for known in carriers.payments_in(s.events)}
            with suppress(errors.Unavailable):
                found = await webhooks.get_payment_traceparents(self.db, list(ids)) if ids else {}
        with carriers.relayed(found, by=loop):
            await self.publish(emitted)


def slice_message(emitted: Emitted, topic: str, partition: int, prev_batch_no: int, events: str) -> Outgoing:
    """A slice of the outbox as a message; its key is only for people, its partition is given."""
    producer = messages.Producer(emitted.topic, emitted.partition, emitted.group)
    value = messages.encode_slice(
        producer,
        incarnation=emitted.incarnation,
        batch_no=emitted.batch_no,
        prev_batch_no=prev_batch_no,
        events_json=events,
    )
    key = f"{emitted.topic}/{emitted.partition}"
    return Outgoing(topic, partition, key, value, carriers.headers_for(events))


@asynccontextmanager
async def fencing() -> AsyncIterator[None]:
    """The database's word for losing a partition, as the streams' own."""
    try:
        yield
    except errors.Fenced as error:
        raise Fenced(str(error)) from error


class PostgresOwnership:
    """`streams.Ownership` over consumer_offsets: the epoch claimed here is the only safety there is."""

    def __init__(self, db: Database, group: str, restore: Sequence[Restore]) -> None:
        self._db = db
        self._group = group
        self._restore = restore
        self.epochs: dict[tuple[str, int], int] = {}
        """The epoch of each partition we last claimed; whoever uses one that is over is fenced."""

    def epochs_of(self, topic: str) -> dict[int, int]:
        """The last claimed epoch of each partition of a topic."""
        return {partition: epoch for (t, partition), epoch in self.epochs.items() if t == topic}

    def join_lock(self) -> AbstractAsyncContextManager[None]:
        return self._db.advisory_lock(f"join:{self._group}")

    async def claim(self, topic: str, partitions: Sequence[int], owner: str) -> dict[int, Claim]:
        rows = await offsets.claim(self._db, topic, self._group, owner, partitions)
        self.epochs |= {(topic, p): row.epoch for p, row in rows.items()}
        return {p: _claim(row) for p, row in rows.items()}

    async def reincarnate(self, topic: str, partition: int, epoch: int, first_offset: int) -> Claim:
        async with fencing():
            row = await offsets.reincarnate(self._db, topic, partition, self._group, epoch, first_offset)
        self.epochs[topic, partition] = row.epoch
        return _claim(row)

    async def positions(self, topic: str) -> dict[int, int]:
        return await offsets.positions(self._db, topic, self._group)

    async def restore(self, topic: str, partition: int, claim: Claim) -> None:
        await self.refresh(topic, partition)

    async def refresh(self, topic: str, partition: int) -> None:
        """Read again what agents keep in memory of a partition: at a claim, and when a commit's fate is unknown."""
        for restore in self._restore:
            await restore(topic, partition)


def _claim(row: offsets.Position) -> Claim:
    return Claim(row.epoch, row.incarnation, row.next_offset, row.last_offset, row.last_digest)
