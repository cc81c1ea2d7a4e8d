"""`run_batches`: what the body of an agent awaits. Batches per partition, in order, several
partitions at a time.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import faust
import structlog
from faust.types import TP

from streams import metrics
from streams.batches import Batch, Fenced, Handler, Held, Isolation
from streams.chunks import CorruptChunk
from streams.transport.consumer import Consumer
from streams.transport.partition import Partition
from streams.transport.reader import Reader

log = structlog.get_logger(__name__)

STOP_DEADLINE_S = 5.0
_BACKOFF_S = (0.05, 5.0)
_LOOK_EVERY_S = 0.1
_HELD_S = 0.5
REST = 16.0
"""How many times as long as its commits take a partition rests."""
_FULL_BYTES = 64 << 10
BLAMED_AFTER = 3
"""How often a record is tried alone before it is set aside."""


async def run_batches(
    app: faust.App,
    stream: Any,
    handler: Handler,
    *,
    max_records: int = 500,
    max_bytes: int = 1_000_000,
    concurrency: int = 4,
    linger_s: float = 0.0,
    rest: float = REST,
    isolation: Isolation | None = None,
) -> None:
    """Read the Faust stream of an agent in batches, until the agent is stopped.

    A batch is what waits when the last one of its partition is committed, so batches grow with the load, up
    to `max_records` and `max_bytes` of messages. At most one batch of a partition and `concurrency` in all
    are in hand. After a batch a partition rests `rest` times as long as its commits take, at most
    `linger_s` from the batch's start, unless a full batch waits: so batches grow before commits fill the
    machine, and a record that comes alone is not delayed.

    `handler(batch)` returns when the batch is committed. Raising `Fenced` drops it and queues for the
    partition anew; any other exception is logged and the same batch is tried again, for ever, with growing
    jittered pauses, and the partition waits. With an `isolation`, an error that it blames on the records
    halves the batch instead, until one record is left; that one is set aside and the others go on. When the
    agent stops, batches in hand are finished first, no longer than a deadline.

    Errors: TypeError if the app does not use this transport; ValueError if another agent reads the topic too.
    """
    consumer = app.consumer
    if not isinstance(consumer, Consumer):
        raise TypeError("run_batches needs an app on rabbitmq-stream://")
    topics = set(stream.channel.topics)
    if topics & consumer.batched:
        raise ValueError(f"two agents read {', '.join(sorted(topics & consumer.batched))}; one must")
    consumer.batched |= topics
    lanes = Lanes(
        consumer.reader,
        handler,
        max_records=max_records,
        max_bytes=max_bytes,
        concurrency=concurrency,
        linger_s=linger_s,
        rest=rest,
        isolation=isolation,
    )
    try:
        async for event in stream.noack().events():
            tp: TP = event.message.tp
            consumer.signalled.discard(tp)
            lanes.wake(consumer.reader.partitions[(tp.topic, tp.partition)])
    finally:
        consumer.batched -= topics
        await lanes.stop(deadline_s=STOP_DEADLINE_S)


class Lanes:
    """Runs one handler over many partitions: fair between them, in order within each."""

    def __init__(
        self,
        reader: Reader,
        handler: Handler,
        *,
        max_records: int,
        max_bytes: int,
        concurrency: int,
        linger_s: float = 0.0,
        rest: float = REST,
        isolation: Isolation | None = None,
    ) -> None:
        self._reader = reader
        self._handler = handler
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._concurrency = concurrency
        self._isolation = isolation
        self._linger_s = linger_s
        self._rest_factor = rest
        self._took: dict[Partition, float] = {}
        self._rested: dict[Partition, float] = {}
        self._resting: dict[Partition, asyncio.TimerHandle] = {}
        self._narrowed: dict[Partition, int] = {}
        self._ready: deque[Partition] = deque()
        self._known: set[Partition] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    def wake(self, partition: Partition) -> None:
        """The partition has records waiting."""
        if self._stopping:
            return
        if partition not in self._known:
            self._known.add(partition)
            self._queue(partition)
        elif partition in self._resting and self._is_full(partition):
            self._resting.pop(partition).cancel()
            self._rise(partition)

    def _queue(self, partition: Partition) -> None:
        """It is the partition's turn as soon as it has rested, or a full batch waits."""
        loop = asyncio.get_running_loop()
        until = self._rested.get(partition, 0.0)
        if until <= loop.time() or partition in self._narrowed or self._is_full(partition):
            self._rise(partition)
        else:
            self._resting[partition] = loop.call_at(until, self._rise, partition)

    def _rise(self, partition: Partition) -> None:
        self._resting.pop(partition, None)
        self._ready.append(partition)
        self._pump()

    def _is_full(self, partition: Partition) -> bool:
        return (
            partition.held_bytes >= min(_FULL_BYTES, self._max_bytes)
            or partition.end - partition.committed >= self._max_records
        )

    async def stop(self, *, deadline_s: float) -> None:
        """Start nothing more; finish what is in hand, no longer than the deadline."""
        self._stopping = True
        for timer in self._resting.values():
            timer.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=deadline_s)
            for task in late:
                task.cancel()

    def _pump(self) -> None:
        while self._ready and len(self._tasks) < self._concurrency and not self._stopping:
            task = asyncio.ensure_future(self._run(self._ready.popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lane_failed", exc_info=error)
        self._pump()

    async def _run(self, partition: Partition) -> None:
        """One batch of one partition; then the next partition's turn."""
        try:
            batch = self._next(partition)
            if batch is not None:
                partition.idle.clear()
                began = asyncio.get_running_loop().time()
                try:
                    await self._commit(partition, batch)
                finally:
                    partition.idle.set()
                    self._rest(partition, began)
        finally:
            if partition.open and partition.waiting and not self._stopping:
                self._queue(partition)
            else:
                self._known.discard(partition)

    def _rest(self, partition: Partition, began: float) -> None:
        took = asyncio.get_running_loop().time() - began
        took = self._took[partition] = (self._took.get(partition, took) + took) / 2
        self._rested[partition] = began + min(self._rest_factor * took, self._linger_s)

    def _next(self, partition: Partition) -> Batch | None:
        try:
            limit = self._narrowed.get(partition, self._max_records)
            return partition.batch(limit, self._max_bytes)
        except CorruptChunk as error:
            self._reader.corrupt(partition, error)
            return None

    async def _commit(self, partition: Partition, batch: Batch) -> None:
        attempt, delay = 0, _BACKOFF_S[0]
        blamed: Exception | None = None
        while True:
            try:
                if blamed is not None and self._isolation is not None:
                    await self._isolation.set_aside(batch, blamed)
                else:
                    await self._handler(batch)
            except Fenced:
                self._reader.fence(partition, batch.epoch)
                return
            except Held:
                if not await self._pause(partition, batch, _HELD_S * random.uniform(0.5, 1.0)):
                    return
            except Exception as error:
                attempt += 1
                metrics.BATCH_FAULTS.labels(batch.topic).inc()
                log.warning(
                    "batch_failed",
                    topic=batch.topic,
                    partition=batch.partition,
                    from_offset=batch.from_offset,
                    records=len(batch.records),
                    attempt=attempt,
                    exc_info=True,
                )
                if self._isolation is not None and self._isolation.blames(error):
                    if len(batch.records) > 1:
                        self._narrowed[partition] = len(batch.records) // 2
                        return
                    if blamed is None and attempt >= BLAMED_AFTER:
                        blamed = error
                if not await self._pause(partition, batch, delay * random.uniform(0.5, 1.0)):
                    return
                delay = min(delay * 2, _BACKOFF_S[1])
            else:
                metrics.RECORDS.labels(batch.topic).inc(len(batch.records))
                self._widen(partition)
                if partition.epoch == batch.epoch:
                    self._reader.committed(partition, batch.to_offset)
                return

    def _widen(self, partition: Partition) -> None:
        """After a success, batches grow back to what they may be."""
        if partition in self._narrowed:
            self._narrowed[partition] *= 2
            if self._narrowed[partition] >= self._max_records:
                del self._narrowed[partition]

    async def _pause(self, partition: Partition, batch: Batch, seconds: float) -> bool:
        """Wait before the next attempt; False if the batch is no longer ours to try."""
        end = asyncio.get_running_loop().time() + seconds
        while not self._stopping and partition.holds(batch.epoch):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return True
            await asyncio.sleep(min(left, _LOOK_EVERY_S))
        return False
