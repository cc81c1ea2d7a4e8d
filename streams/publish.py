"""What a service imports to charge for usage: `Publisher`.

    async with Publisher(url, name="chat", secret=secret, watermarks=watermarks) as publisher:
        await publisher.publish(UsageEvent(id="m-1", wallet_id=wallet, feature="chat.message", credits=1))

Events are grouped per partition into signed batches, numbered without a gap per session and partition. A
batch is kept until the core says, by its watermark, that its outcome is committed, and published again, with
all that follow it, when that takes too long: so a lost confirm, a lost tail of the broker's log or a broker
restart loses nothing.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from streams import amqp, messages
from streams.address import Address
from streams.events import UsageEvent
from streams.kept import TOPIC, KeptBatch, KeptPartition
from streams.link import Link, Outcome, Ticket
from streams.spool import Spool, Spooled
from streams.topics import partition_of, settled
from streams.wire import Refused, Wire

log = structlog.get_logger(__name__)

Watermarks = Callable[[str], Awaitable[Mapping[int, int]]]
"""Given the session: per partition, the sequence number up to which every batch has its outcome committed."""

_BATCH_BYTES = 200_000
_MAX_REPUBLISH_PAUSE_S = 60.0
_ACCESS_REFUSED = 16


class PublishError(Exception):
    """The broker will not take events from this publisher, or has taken none for too long; the
    text says which.
    """


@dataclass(slots=True)
class Stats:
    """Events so far: taken from the caller, stored by the broker, and with an outcome; batches
    sent more than once.
    """

    taken: int = 0
    confirmed: int = 0
    covered: int = 0
    batches_republished: int = 0

    @property
    def pending(self) -> int:
        """Events kept because their outcome is not known to be committed."""
        return self.taken - self.covered


class Publisher:
    """See the module. One per process and name is enough; it may be used by many tasks.

    `max_pending` events are kept at most; beyond, publishing waits, and fails with PublishError after
    `stall_s`. With a `spool`, a file of this process alone, events taken survive a crash. `secret` is the
    publisher's, at least 32 bytes; `name` is what the core knows it by.
    """

    def __init__(
        self,
        url: str | Address,
        *,
        name: str,
        secret: bytes,
        watermarks: Watermarks,
        ca_file: Path | str | None = None,
        spool: Path | None = None,
        linger_s: float = 0.005,
        max_batch: int = 500,
        max_pending: int = 100_000,
        republish_after_s: float = 5.0,
        poll_s: float = 0.5,
        stall_s: float = 60.0,
    ) -> None:
        if len(secret) < 32:
            raise ValueError("the publisher's secret has less than 32 bytes")
        self._address = url if isinstance(url, Address) else Address.parse(url, ca_file=ca_file)
        self._name, self._secret, self._watermarks = name, secret, watermarks
        self._spool = Spool(spool) if spool is not None else None
        self._linger_s, self._max_batch, self._max_pending = linger_s, max_batch, max_pending
        self._republish_after_s, self._poll_s, self._stall_s = republish_after_s, poll_s, stall_s
        self._link = Link(self._address, name=f"publisher {name}")
        self._partitions: list[KeptPartition] = []
        self._room = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: PublishError | None = None
        self.session = str(uuid.uuid4())
        self.stats = Stats()

    # -- life

    async def __aenter__(self) -> Publisher:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect, and take up what a spool has kept. Errors: those of `Wire.connect`;
        PublishError; SpoolError.
        """
        wire = await Wire.connect(self._address, name=f"publisher {self._name}")
        try:
            count = await settled(wire, TOPIC)
        finally:
            await wire.close()
        if not count:
            raise PublishError(f"{self._address} has no topic {TOPIC}, or not for user {self._address.user}")
        self._partitions = [KeptPartition(number) for number in range(count)]
        if self._spool is not None:
            await self._resume(self._spool)
        await self._link.start()
        self._spawn(self._follow_watermarks())
        for partition in self._partitions:
            self._pump(partition)

    async def _resume(self, spool: Spool) -> None:
        self.session, marks, kept = await spool.open(self._name, len(self._partitions))
        for number, next_seq in marks.items():
            self._partitions[number].next_seq = next_seq
        for spooled in kept:
            batch = KeptBatch(spooled.seq, spooled.payload, spooled.events)
            batch.spooled = True
            self._partitions[spooled.partition].kept.append(batch)
            self._partitions[spooled.partition].unsent.append(batch)
            self.stats.taken += batch.events

    async def stop(self, *, deadline_s: float = 5.0) -> None:
        """Send what was taken, no longer than the deadline, and leave. Without a spool, what is not stored
        is lost, and the log says how much.
        """
        try:
            async with asyncio.timeout(deadline_s):
                await self.flush()
        except (TimeoutError, PublishError) as error:
            log.error("events_not_stored", publisher=self._name, error=str(error), pending=self.stats.pending)
        for task in self._tasks:
            task.cancel()
        await self._link.stop()
        if self._spool is not None:
            await self._spool.close()

    # -- what callers use

    async def publish(self, event: UsageEvent) -> None:
        """Take an event; returns when the broker has stored it, or the spool.

        Errors: ValueError for an event that breaks the contract; PublishError.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await self._take(event, waiter)
        await waiter

    async def publish_many(self, events: Iterable[UsageEvent]) -> None:
        """As `publish`, for many events: returns when all are stored."""
        waiters: list[asyncio.Future[None]] = []
        for event in events:
            waiters.append(asyncio.get_running_loop().create_future())
            await self._take(event, waiters[-1])
        await asyncio.gather(*waiters)

    async def submit(self, event: UsageEvent) -> None:
        """Take an event and return at once if there is room; `flush` tells when it is stored.
        Errors: as `publish`.
        """
        await self._take(event, None)

    async def flush(self) -> None:
        """Wait until everything taken so far is stored by the broker. Errors: PublishError."""
        for partition in self._partitions:
            self._seal(partition)
        if self._refused is not None:
            raise self._refused
        waiters = []
        for partition in self._partitions:
            for batch in partition.kept:
                if not batch.confirmed:
                    waiters.append(asyncio.get_running_loop().create_future())
                    batch.waiters.append(waiters[-1])
        await asyncio.gather(*waiters)

    async def settled(self, *, timeout_s: float) -> None:
        """Wait until everything taken so far has its outcome committed. Errors: TimeoutError;
        PublishError.
        """
        async with asyncio.timeout(timeout_s):
            await self.flush()
            goal = self.stats.taken
            while self.stats.covered < goal:
                self._room.clear()
                await self._room.wait()

    # -- inside

    async def _take(self, event: UsageEvent, waiter: asyncio.Future[None] | None) -> None:
        raw = messages.encode_usage(event)
        if self.stats.pending >= self._max_pending:
            await self._wait_for_room()
        if self._refused is not None:
            raise self._refused
        partition = self._partitions[partition_of(event.key, len(self._partitions))]
        if partition.events and partition.size + len(raw) > _BATCH_BYTES:
            self._seal(partition)
        if not partition.events:
            partition.key = event.key
            partition.timer = asyncio.get_running_loop().call_later(self._linger_s, self._seal, partition)
        partition.events.append(raw)
        partition.size += len(raw)
        self.stats.taken += 1
        if waiter is not None:
            partition.waiters.append(waiter)
        if len(partition.events) >= self._max_batch:
            self._seal(partition)

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(self._stall_s):
                while self.stats.pending >= self._max_pending and self._refused is None:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise PublishError(
                f"{self.stats.pending} events wait for their outcome, none was decided in {self._stall_s:g} s"
            ) from None

    def _seal(self, partition: KeptPartition) -> None:
        """Close the batch being filled: number it, sign it, queue it."""
        if partition.timer is not None:
            partition.timer.cancel()
            partition.timer = None
        if not partition.events:
            return
        value = messages.encode_usage_batch(self.session, partition.next_seq, partition.events)
        headers = {"publisher": self._name, "mac": messages.sign(value, self._secret), messages.KEPT: "1"}
        payload = amqp.encode(partition.key.encode(), value, headers)
        batch = KeptBatch(partition.next_seq, payload, len(partition.events))
        batch.waiters, partition.waiters = partition.waiters, []
        partition.next_seq += 1
        partition.events, partition.size = [], 0
        if not partition.kept:
            partition.moved_at = asyncio.get_running_loop().time()
            partition.pause_s = self._republish_after_s
        partition.kept.append(batch)
        partition.unsent.append(batch)
        if self._refused is not None:
            batch.release(self._refused)
        self._pump(partition)

    def _pump(self, partition: KeptPartition) -> None:
        if partition.unsent and not partition.sending:
            partition.sending = True
            self._spawn(self._send(partition))

    async def _send(self, partition: KeptPartition) -> None:
        """Send what is to be sent, in order: to the spool first."""
        pause_s = 0.05
        try:
            while partition.unsent and self._refused is None:
                group = list(partition.unsent)
                partition.unsent.clear()
                if self._spool is not None:
                    await self._keep(self._spool, partition, group)
                try:
                    ticket = await self._link.send(partition.stream, [batch.payload for batch in group])
                except (ConnectionError, Refused) as error:
                    self._back_to(partition, group[0].seq)
                    if isinstance(error, Refused) and error.code == _ACCESS_REFUSED:
                        self._refuse(PublishError(str(error)))
                        return
                    log.warning("publish_failed", stream=partition.stream, error=str(error))
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(2 * pause_s, 2.0)
                else:
                    ticket.settled.add_done_callback(partial(self._confirm, partition, ticket, group))
        finally:
            partition.sending = False

    async def _keep(self, spool: Spool, partition: KeptPartition, group: list[KeptBatch]) -> None:
        fresh = [batch for batch in group if not batch.spooled]
        if fresh:
            await spool.add(
                Spooled(partition.number, batch.seq, batch.events, batch.payload) for batch in fresh
            )
            for batch in fresh:
                batch.spooled = True
                batch.release()

    def _confirm(self, partition: KeptPartition, ticket: Ticket, group: list[KeptBatch], _: object) -> None:
        for batch, outcome in zip(group, ticket.outcomes(), strict=True):
            if outcome is not Outcome.CONFIRMED:
                self._back_to(partition, batch.seq)
                self._pump(partition)
                return
            if not batch.confirmed:
                batch.confirmed = True
                self.stats.confirmed += batch.events
            batch.release()

    def _back_to(self, partition: KeptPartition, seq: int) -> None:
        """Send again from `seq` on, in order."""
        first = min(seq, partition.unsent[0].seq) if partition.unsent else seq
        again = [batch for batch in partition.kept if batch.seq >= first]
        self.stats.batches_republished += len(again) - len(partition.unsent)
        partition.unsent = deque(again)

    def _refuse(self, error: PublishError) -> None:
        self._refused = error
        log.error("publisher_refused", publisher=self._name, error=str(error))
        for partition in self._partitions:
            for batch in partition.kept:
                batch.release(error)
        self._room.set()

    async def _follow_watermarks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._poll_s)
            if not any(partition.kept for partition in self._partitions):
                continue
            try:
                covered = await self._watermarks(self.session)
            except Exception:
                log.warning("watermarks_unavailable", publisher=self._name, exc_info=True)
                continue
            for partition in self._partitions:
                await self._cover(partition, covered.get(partition.number, 0))
                late = loop.time() - partition.moved_at > partition.pause_s
                if partition.kept and late and not partition.unsent and self._link.up:
                    partition.moved_at = loop.time()
                    partition.pause_s = min(2 * partition.pause_s, _MAX_REPUBLISH_PAUSE_S)
                    self._back_to(partition, partition.kept[0].seq)
                    self._pump(partition)

    async def _cover(self, partition: KeptPartition, covered: int) -> None:
        """Everything up to `covered` has its outcome: forget it."""
        if not partition.kept or partition.kept[0].seq > covered:
            return
        if self._spool is not None:
            await self._spool.forget(partition.number, covered)
        while partition.kept and partition.kept[0].seq <= covered:
            batch = partition.kept.popleft()
            if partition.unsent and partition.unsent[0] is batch:
                partition.unsent.popleft()
            if not batch.confirmed:
                self.stats.confirmed += batch.events
            batch.confirmed = True
            batch.release()
            self.stats.covered += batch.events
        partition.moved_at = asyncio.get_running_loop().time()
        partition.pause_s = self._republish_after_s
        self._room.set()

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refuse(PublishError(f"the publisher stopped: {error}"))
