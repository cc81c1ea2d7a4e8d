"""The connection that reads: the broker decides who owns a partition, the database's epoch fences, the gate
delivers.

Every partition of every topic is subscribed as a single active consumer. When the broker says active, the
partition is claimed, its state restored, and the answer given, in order per partition; the first chunk is
compared with the last committed record before anything flows. When it says inactive, the batch in hand is
finished or given up.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog
from rstream.constants import OffsetType
from rstream.exceptions import StreamDoesNotExist, StreamNotAvailable

from streams import metrics
from streams.address import Address
from streams.batches import Claim, Ownership
from streams.chunks import Chunk, CorruptChunk
from streams.topics import partition_stream
from streams.transport.claims import Claimer
from streams.transport.credit import CREDIT, Credit
from streams.transport.partition import Partition, Verdict
from streams.wire import Refused, Wire

log = structlog.get_logger(__name__)

GRACE_S = 2.0
"""How long a partition that moves away waits for its batch in hand."""
_MAX_SUBSCRIPTIONS = 255
_BACKOFF_S = (0.05, 2.0)
_REQUEUE_S = 0.3
_ABSENT_S = (0.1, 2.0)
_ABSENT = frozenset({StreamDoesNotExist.code, StreamNotAvailable.code})
_SETTLE_S = 0.05
"""A connection that closes right after it gave a partition back leaves that partition to nobody
(RabbitMQ 4.0).
"""


class Reader:
    """Follows all partitions of some topics for one group.

    `on_data(partition)` is called when an open partition has records waiting, `on_claim(partition)` when a
    new epoch began. Both must not block.
    """

    def __init__(
        self,
        address: Address,
        ownership: Ownership,
        *,
        group: str,
        owner: str,
        connect: Callable[..., Awaitable[Wire]] = Wire.connect,
    ) -> None:
        self.address = address
        self.ownership = ownership
        self.group = group
        self.partitions: dict[tuple[str, int], Partition] = {}
        self.on_data: Callable[[Partition], None] = lambda partition: None
        self.on_claim: Callable[[Partition], None] = lambda partition: None
        self.wire: Wire | None = None
        self.leaving = False
        self._connect_to = connect
        self._owner = owner
        self._claimer = Claimer(ownership, owner)
        self._by_id: dict[int, Partition] = {}
        self._free = list(range(_MAX_SUBSCRIPTIONS, -1, -1))
        self._tasks: set[asyncio.Task[None]] = set()
        self._credit = Credit()
        self._answered_at = 0.0
        self._joining = asyncio.Lock()

    # -- life

    async def start(self) -> None:
        """Connect once, so that what is wrong shows now. Errors: those of `Wire.connect`."""
        await self._connect()

    def follow(self, topics: Mapping[str, int]) -> None:
        """Begin to follow these topics, each with that many partitions."""
        for topic, count in topics.items():
            for number in range(count):
                stream = partition_stream(topic, number)
                self.partitions.setdefault((topic, number), Partition(topic, number, stream))
        if len(self.partitions) > _MAX_SUBSCRIPTIONS:
            raise ValueError(
                f"a worker follows at most {_MAX_SUBSCRIPTIONS} partitions, not {len(self.partitions)}"
            )
        self._spawn(self._join())

    async def leave(self, *, deadline_s: float) -> None:
        """Finish the batches in hand, no longer than the deadline, and drop the connection.

        The broker hands our partitions to others as soon as the socket closes.
        """
        self.leaving = True
        for partition in self.partitions.values():
            partition.active = False
        busy = [
            partition.idle.wait() for partition in self.partitions.values() if not partition.idle.is_set()
        ]
        try:
            async with asyncio.timeout(deadline_s):
                await asyncio.gather(*busy)
        except TimeoutError:
            log.warning("left_with_batches_in_hand", batches=len(busy))
        if time.monotonic() - self._answered_at < _SETTLE_S:
            await asyncio.sleep(_SETTLE_S)
        self._forget()
        wire, self.wire = self.wire, None
        if wire is not None:
            wire.abort()
        self._claimer.stop()
        for task in self._tasks:
            task.cancel()

    async def _connect(self) -> None:
        wire = await self._connect_to(self.address, name=f"{self.group} reader {self._owner}")
        wire.on_chunk = self._on_chunk
        wire.on_consumer_update = self._on_update
        wire.on_stream_gone = self._on_stream_gone
        wire.on_closed = lambda reason: self._on_closed(wire, reason)
        self.wire = self._credit.wire = wire

    def _on_closed(self, wire: Wire, reason: Exception) -> None:
        """The connection is gone: nothing is ours any more. What is in hand is fenced by the next
        owner's epoch.
        """
        if wire is not self.wire or self.leaving:
            return
        log.warning("reader_disconnected", reason=str(reason))
        self._forget()
        for task in self._tasks:
            task.cancel()
        self._spawn(self._reconnect())

    def _forget(self) -> None:
        self._by_id.clear()
        self._free = list(range(_MAX_SUBSCRIPTIONS, -1, -1))
        for partition in self.partitions.values():
            self._close(partition)
            partition.subscription = None
            partition.owed = 0
            partition.updates.clear()
            partition.following = False

    async def _reconnect(self) -> None:
        """After a moment, in which the broker notices that the old connection is gone; else it may wait for
        an answer from it, and leave partitions to nobody.
        """
        await asyncio.sleep(_REQUEUE_S)
        delay = _BACKOFF_S[0]
        while not self.leaving:
            try:
                await self._connect()
            except (OSError, Refused) as error:
                log.warning("reader_reconnect_failed", error=str(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _BACKOFF_S[1])
                continue
            metrics.RECONNECTS.labels("reader").inc()
            self._spawn(self._join())
            return

    # -- membership

    async def _join(self) -> None:
        """Subscribe what is not. The order of registration decides who is active for what, so: one worker at
        a time, every worker in the same order.
        """
        delay, absent_s = _BACKOFF_S[0], _ABSENT_S[0]
        while not self.leaving:
            wire = self.wire
            try:
                absent = 0
                parts: dict[str, set[str]] = {}
                async with self._joining, self.ownership.join_lock():
                    for _, partition in sorted(self.partitions.items()):
                        if partition.subscription is None and wire is self.wire and wire is not None:
                            absent += not await self._subscribe_if_there(wire, partition, parts)
                if absent:
                    await asyncio.sleep(absent_s * random.uniform(0.5, 1.0))
                    absent_s = min(absent_s * 2, _ABSENT_S[1])
                    continue
            except Exception as error:
                if wire is not self.wire or wire is None or not wire.alive:
                    return
                log.warning("join_failed", error=str(error), kind=type(error).__name__)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _BACKOFF_S[1])
            else:
                return

    async def _subscribe_if_there(self, wire: Wire, partition: Partition, parts: dict[str, set[str]]) -> bool:
        """False for a stream that is deleted, or that nobody leads: the others are read, and it too once it is back.

        `parts` is which streams the topics seen so far have. Who asks for a stream that is there and not yet a part of its topic
        ends RabbitMQ 4.0's coordinator for good, and with it every stream.
        """
        topic = partition.topic
        try:
            if topic not in parts:
                parts[topic] = set(await wire.partitions(topic))
            if partition.stream not in parts[topic]:
                log.error("stream_absent", stream=partition.stream, error=f"it is no part of {topic}")
                return False
            await self._subscribe(wire, partition)
        except Refused as error:
            if error.code not in _ABSENT:
                raise
            log.error("stream_absent", stream=partition.stream, error=str(error))
            return False
        return True

    async def _subscribe(self, wire: Wire, partition: Partition) -> None:
        number = self._free.pop()
        partition.subscription, self._by_id[number] = number, partition
        partition.owed = 0
        try:
            await wire.follow(
                partition.stream,
                number,
                credit=CREDIT,
                offset=OffsetType.NEXT,
                group=self.group,
                topic=partition.topic,
            )
        except BaseException:
            if self._by_id.pop(number, None) is not None:
                partition.subscription = None
                self._free.append(number)
            raise

    def requeue(self, partition: Partition, *, after_s: float = _REQUEUE_S, absent_s: float = 0.0) -> None:
        """Give a partition back and queue for it again: the broker never tells a worker that it was fenced.

        `after_s` is how long to wait first, about; `absent_s` how long to stay out of the queue.
        """
        self._close(partition)
        self._spawn(self._requeue(partition, after_s * random.uniform(0.5, 1.5), absent_s))

    async def _requeue(self, partition: Partition, after_s: float, absent_s: float) -> None:
        await asyncio.sleep(after_s)
        wire, number = self.wire, partition.subscription
        if wire is None or number is None or partition.claim is not None:
            return
        partition.subscription = None
        self._by_id.pop(number, None)
        try:
            await wire.request(f"leaving {partition.stream}", wire.unsubscribe(number))
        except (Refused, ConnectionError) as error:
            log.warning("unsubscribe_failed", stream=partition.stream, error=str(error))
        await asyncio.sleep(absent_s)
        if wire is self.wire:
            self._free.insert(0, number)
            await self._join()

    def _on_stream_gone(self, stream: str) -> None:
        """The stream moved to another node or was deleted; its subscription here is no more."""
        for partition in self.partitions.values():
            if partition.stream == stream and partition.subscription is not None:
                log.warning("stream_moved", stream=stream)
                self._close(partition)
                self._by_id.pop(partition.subscription, None)
                self._free.insert(0, partition.subscription)
                partition.subscription = None
                self._spawn(self._join_later())

    async def _join_later(self) -> None:
        await asyncio.sleep(_REQUEUE_S)
        await self._join()

    # -- ownership

    def _on_update(self, subscription: int, active: bool, correlation: int) -> None:
        partition = self._by_id.get(subscription)
        if partition is None:
            if self.wire is not None:
                self.wire.answer_update(correlation, None)
            return
        log.debug("consumer_update", stream=partition.stream, active=active)
        if not active:
            partition.active = False
        partition.updates.append((subscription, active, correlation))
        if not partition.following:
            partition.following = True
            self._spawn(self._answer_updates(partition))

    async def _answer_updates(self, partition: Partition) -> None:
        wire = self.wire
        assert wire is not None
        while partition.updates and wire is self.wire:
            subscription, active, correlation = partition.updates.popleft()
            offset = None
            if active:
                offset = await self._take(partition, subscription)
            else:
                await self._give(partition)
            if wire is self.wire:
                log.debug("consumer_update_answered", stream=partition.stream, active=active, offset=offset)
                wire.answer_update(correlation, offset)
                self._answered_at = time.monotonic()
                self._credit.give_back(partition)
        if wire is self.wire:
            partition.following = False

    async def _take(self, partition: Partition, subscription: int) -> int:
        claim = await self._claimer.claim(partition.topic, partition.number)
        delay = _BACKOFF_S[0]
        while True:
            try:
                await self.ownership.restore(partition.topic, partition.number, claim)
                break
            except Exception:
                log.warning("restore_failed", stream=partition.stream, exc_info=True)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _BACKOFF_S[1])
        if partition.subscription != subscription:
            return claim.next_offset
        self._close(partition)
        offset = partition.start(claim)
        self.on_claim(partition)
        return offset

    async def _give(self, partition: Partition) -> None:
        try:
            async with asyncio.timeout(GRACE_S):
                await partition.idle.wait()
        except TimeoutError:
            log.warning("moved_with_a_batch_in_hand", stream=partition.stream)
        self._close(partition)

    def _close(self, partition: Partition) -> None:
        """Shut the gate and forget the chunks; their credit is returned when the partition is ours again."""
        if partition.open:
            metrics.PARTITIONS_OPEN.labels(partition.topic).dec()
        if partition.halted is not None:
            metrics.PARTITION_HALTED.labels(partition.topic, str(partition.number)).set(0)
        self._credit.forget(partition)

    def fence(self, partition: Partition, epoch: int) -> None:
        """Somebody else has claimed it: stop, and queue up again."""
        metrics.FENCED.labels(partition.topic).inc()
        if partition.epoch == epoch:
            log.warning("fenced", stream=partition.stream, epoch=epoch)
            self.requeue(partition)

    # -- delivery

    def _on_chunk(self, subscription: int, chunk: Chunk) -> None:
        partition = self._by_id.get(subscription)
        if partition is None:
            return
        partition.owed += 1
        if partition.claim is None or partition.halted is not None or not chunk.user:
            self._credit.give_back(partition)
            return
        if not partition.verified and not partition.doubted and not self._verify(partition, chunk):
            self._credit.give_back(partition)
            return
        self._credit.keep(partition, chunk)
        self._credit.give_back(partition)
        if partition.waiting and partition.open:
            self.on_data(partition)
        elif not partition.waiting:
            self.committed(partition, partition.committed)

    def committed(self, partition: Partition, next_offset: int) -> None:
        """Everything before `next_offset` is committed."""
        self._credit.release(partition, next_offset)

    def _verify(self, partition: Partition, chunk: Chunk) -> bool:
        try:
            verdict = partition.examine(chunk)
        except CorruptChunk as error:
            self.corrupt(partition, error)
            return False
        if verdict is Verdict.SAME:
            self._open(partition)
            return True
        if verdict is Verdict.CUT:
            partition.doubted = True
            self._spawn(self._look_back(partition, chunk.first))
            return True
        self.reincarnate(partition, f"{verdict.value}: the broker has {chunk.first}..{chunk.end - 1}")
        return False

    def _open(self, partition: Partition) -> None:
        partition.verified, partition.doubted = True, False
        if partition.open:
            metrics.PARTITIONS_OPEN.labels(partition.topic).inc()

    async def _look_back(self, partition: Partition, came: int) -> None:
        """What is missing before the first record that came: deleted, or never a record? The broker's notes take
        offsets too, and a stream that begins with them has lost nothing.
        """
        claim, wire = partition.claim, self.wire
        if claim is None or wire is None:
            return
        try:
            first = (await wire.stats(partition.stream)).first_chunk_id
        except (OSError, Refused) as error:
            log.warning("look_back_failed", stream=partition.stream, error=str(error))
            self.requeue(partition)
            return
        if partition.claim is not claim:
            return
        if first > claim.next_offset:
            self.halt(partition, came)
        elif claim.last_offset is not None:
            self.reincarnate(partition, f"the last record read is gone: the broker has {first}, then {came}")
        else:
            self._open(partition)
            if partition.waiting and partition.open:
                self.on_data(partition)

    def corrupt(self, partition: Partition, error: CorruptChunk) -> None:
        """A checksum is wrong: read the partition anew."""
        metrics.CORRUPT.labels(partition.topic).inc()
        log.error("corrupt_chunk", stream=partition.stream, error=str(error))
        self.requeue(partition, after_s=2.0)

    def halt(self, partition: Partition, first: int) -> None:
        """Records were deleted before they were read: stop this partition and say so. Nothing is skipped
        silently.

        It opens again once the ownership is moved past the hole (`Ownership.reincarnate`) and claimed anew.
        """
        claim = partition.claim
        assert claim is not None
        partition.halted = f"the next record should be {claim.next_offset}, the first one there is is {first}"
        metrics.PARTITION_HALTED.labels(partition.topic, str(partition.number)).set(1)
        log.error("partition_halted", stream=partition.stream, reason=partition.halted)

    def reincarnate(self, partition: Partition, reason: str) -> None:
        """Offsets no longer mean what they meant: begin a new incarnation at the first record there is."""
        claim = partition.claim
        if claim is None:
            return
        metrics.REINCARNATIONS.labels(partition.topic).inc()
        log.error("offsets_changed", stream=partition.stream, reason=reason, incarnation=claim.incarnation)
        self._close(partition)
        self._spawn(self._reincarnate(partition, claim))

    async def _reincarnate(self, partition: Partition, claim: Claim) -> None:
        wire = self.wire
        if wire is None:
            return
        try:
            first = max(0, (await wire.stats(partition.stream)).first_chunk_id)
            await self.ownership.reincarnate(partition.topic, partition.number, claim.epoch, first)
        except Exception:
            log.warning("reincarnation_failed", stream=partition.stream, exc_info=True)
        self.requeue(partition)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reader_task_failed", exc_info=error)
            if self.wire is not None and not self.leaving:
                self.wire._drop(ConnectionError(f"a task of the reader failed: {error}"))
