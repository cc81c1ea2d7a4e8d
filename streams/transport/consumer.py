"""Faust's consumer on RabbitMQ streams.

Faust is told once that it owns every partition; which records reach it is the reader's gate's affair, so a
partition that moves costs no rebalance. Its drain is replaced by one that wakes once per chunk, and for a
topic that is read in batches hands over one event per wake-up instead of one per record.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import structlog
from faust.exceptions import ImproperlyConfigured
from faust.transport import base
from faust.types import TP, ConsumerMessage
from mode import Service

from streams import amqp
from streams.batches import OffsetStore, Ownership
from streams.chunks import CorruptChunk
from streams.topics import partition_stream
from streams.transport.partition import Partition, Stored
from streams.transport.reader import Reader
from streams.transport.watchdog import Watchdog
from streams.wire import Wire

if TYPE_CHECKING:
    from streams.transport import Transport

log = structlog.get_logger(__name__)

LEAVE_DEADLINE_S = 5.0
_PLAIN_RECORDS = 256
_PLAIN_BYTES = 1 << 20


class BatchSignal(ConsumerMessage):
    """Says that a partition of a topic read in batches has records waiting. It carries none itself."""


class Consumer(base.Consumer):
    """See the module. `reader` is who owns what; topics in `batched` are read by `run_batches`."""

    transport: Transport
    consumer_stopped_errors = (ConnectionError,)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        ownership = getattr(self.app, "ownership", None)
        if ownership is None:
            raise ImproperlyConfigured(
                "the app needs an `ownership`: who owns which partition, and where it stands"
            )
        self.ownership: Ownership = ownership
        self.reader = Reader(
            self.transport.address,
            ownership,
            group=self.app.conf.id,
            owner=f"{socket.gethostname()}:{os.getpid()}",
        )
        self.reader.on_data = self._on_data
        self.reader.on_claim = self._on_claim
        self.batched: set[str] = set()
        self.signalled: set[TP] = set()
        self._assigned: set[TP] = set()
        self._ready: dict[TP, Partition] = {}
        self._wake = asyncio.Event()
        self._in_flight: defaultdict[TP, deque[int]] = defaultdict(deque)
        self._left = False

    # -- life

    async def on_start(self) -> None:
        await self.reader.start()

    async def leave(self) -> None:
        """Finish the batches in hand and hand our partitions over; under a deadline, and at once
        if called again.
        """
        if not self._left:
            self._left = True
            await self.reader.leave(deadline_s=LEAVE_DEADLINE_S)

    async def on_stop(self) -> None:
        if not self.batched:
            await super().on_stop()
        await self.leave()

    @Service.task
    async def _watchdog(self) -> None:
        await Watchdog(self.reader).run()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Follow these topics. Errors: ImproperlyConfigured for a topic that does not exist."""
        counts = {topic: await self.transport.partitions_of(topic) for topic in sorted(topics)}
        if self.app.tables.changelog_topics:
            raise ImproperlyConfigured(
                "tables with a changelog are not supported: streams cannot fence a changelog"
            )
        self.reader.follow(counts)
        self._assigned = {TP(topic, number) for topic, count in counts.items() for number in range(count)}
        self.add_future(self._assign())

    async def _assign(self) -> None:
        """Tell Faust that it owns everything."""
        app = self.app
        app.on_rebalance_start()
        await self.on_partitions_revoked(set())
        app.consumer_generation_id = generation = (app.consumer_generation_id or 0) + 1
        await self.on_partitions_assigned(set(self._assigned), generation)

    # -- from the reader to Faust

    def _on_data(self, partition: Partition) -> None:
        self._ready[TP(partition.topic, partition.number)] = partition
        self._wake.set()

    def _on_claim(self, partition: Partition) -> None:
        tp = TP(partition.topic, partition.number)
        self._in_flight[tp].clear()
        self._acked[tp].clear()
        self._acked_index[tp].clear()
        self._committed_offset[tp] = self._read_offset[tp] = partition.committed
        self.signalled.discard(tp)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        super().resume_partitions(tps)
        self._signal_all()

    def resume_flow(self) -> None:
        super().resume_flow()
        self._signal_all()

    def on_buffer_drop(self, tp: TP) -> None:
        super().on_buffer_drop(tp)
        self._signal_all()

    def _signal_all(self) -> None:
        self.signalled.clear()
        for partition in self.reader.partitions.values():
            if partition.open and partition.waiting:
                self._on_data(partition)

    def _may_flow(self, tp: TP) -> bool:
        return bool(self.flow_active) and tp in self._get_active_partitions()

    async def _drain_messages(self, fetcher: Any) -> None:
        """As Faust's own drain, but woken once per chunk, without two tasks per message or flat sleeps."""
        while not (self.should_stop or fetcher.should_stop):
            if not self._ready or not self.flow_active:
                self._wake.clear()
                if not self._ready or not self.flow_active:
                    await self._wake.wait()
                    continue
            for tp, partition in list(self._ready.items()):
                del self._ready[tp]
                if not partition.open or not partition.waiting or not self._may_flow(tp):
                    continue
                if tp.topic in self.batched:
                    await self._signal(tp)
                else:
                    await self._hand_over(tp, partition)
            await asyncio.sleep(0)

    async def _signal(self, tp: TP) -> None:
        if tp not in self.signalled:
            self.signalled.add(tp)
            await self.callback(
                BatchSignal(
                    tp.topic,
                    tp.partition,
                    -1,
                    0.0,
                    0,
                    None,
                    None,
                    None,
                    None,
                    tp=tp,
                    generation_id=self.app.consumer_generation_id,
                )
            )

    async def _hand_over(self, tp: TP, partition: Partition) -> None:
        try:
            stored = partition.read(_PLAIN_RECORDS, _PLAIN_BYTES)
        except CorruptChunk as error:
            self.reader.corrupt(partition, error)
            return
        callback, acks = self.callback, self.app.topics.acks_enabled_for(tp.topic)
        epoch, generation = partition.epoch, self.app.consumer_generation_id
        self.app.monitor.track_tp_end_offset(tp, partition.end)
        in_flight = self._in_flight[tp]
        for item in stored:
            if partition.epoch != epoch or self.app.consumer_generation_id != generation:
                return
            if acks:
                in_flight.append(item.offset)
            await callback(self._to_message(tp, item))
            self._read_offset[tp] = item.offset
        if partition.waiting and tp not in self._buffered_partitions:
            self._on_data(partition)

    def _to_message(self, tp: TP, record: Stored) -> ConsumerMessage:
        key, value, headers, malformed = amqp.decode(record.raw)
        pairs = [(name, text.encode()) for name, text in headers.items()]
        if malformed:
            pairs.append(("malformed", b"1"))
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp_ms / 1000.0,
            1,
            pairs,
            key,
            value,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> Mapping[TP, list[Stored]]:
        """What Faust's own drain asks for; ours does not."""
        found: dict[TP, list[Stored]] = {}
        for tp, partition in list(self._ready.items()):
            if active_partitions is not None and tp not in active_partitions:
                continue
            del self._ready[tp]
            if partition.open and (stored := partition.read(_PLAIN_RECORDS, _PLAIN_BYTES)):
                found[tp] = stored
                self._in_flight[tp].extend(item.offset for item in stored)
            if partition.waiting:
                self._on_data(partition)
        if not found:
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), min(timeout, 0.25))
            except TimeoutError:
                return {}
        return found

    # -- offsets

    def _new_offset(self, tp: TP) -> int | None:
        """The offset after the last of the records acknowledged without a gap, in the order they
        were handed over.
        """
        in_flight, acked = self._in_flight[tp], self._acked_index[tp]
        last = None
        while in_flight and in_flight[0] in acked:
            last = in_flight.popleft()
            acked.discard(last)
        self._acked[tp].clear()
        return None if last is None else last + 1

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        store = self.ownership
        if not isinstance(store, OffsetStore):
            raise ImproperlyConfigured(
                "this ownership cannot store offsets by itself: read the topic with `run_batches`, or give "
                "the app an ownership that is an OffsetStore too"
            )
        moved = True
        for tp, next_offset in offsets.items():
            partition = self.reader.partitions[(tp.topic, tp.partition)]
            epoch, last_digest = partition.epoch, partition.fingerprint(next_offset - 1)
            if epoch is None or last_digest is None:
                continue
            if await store.advance(
                tp.topic,
                tp.partition,
                epoch=epoch,
                next_offset=next_offset,
                last_offset=next_offset - 1,
                last_digest=last_digest,
            ):
                self.reader.committed(partition, next_offset)
            else:
                moved = False
                self.reader.fence(partition, epoch)
        return moved

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Read again, from memory, what is not committed."""
        for (topic, number), partition in self.reader.partitions.items():
            if topic not in self.batched:
                partition.rewind()
                self._in_flight[TP(topic, number)].clear()
                self._acked_index[TP(topic, number)].clear()
        self._signal_all()
        return {tp: self._partition(tp).committed for tp in self._assigned}

    async def _seek(self, partition: TP, offset: int) -> None:
        raise NotImplementedError("the ownership decides where a partition is read from")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        if partitions:
            raise NotImplementedError("the ownership decides where a partition is read from")

    def _partition(self, tp: TP) -> Partition:
        return self.reader.partitions[(tp.topic, tp.partition)]

    async def position(self, tp: TP) -> int | None:
        return self._partition(tp).position

    def assignment(self) -> set[TP]:
        return self._assigned

    def highwater(self, tp: TP) -> int:
        """Offset after the last record that came here."""
        return self._partition(tp).end

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Offset after the last stored record. Errors: ConnectionError, Refused; never a guess."""
        wire = await Wire.connect(self.transport.address, name=f"{self.app.conf.id} highwater")
        try:
            ends = await wire.ends(partition_stream(tp.topic, tp.partition) for tp in partitions)
        finally:
            await wire.close()
        return {tp: ends[partition_stream(tp.topic, tp.partition)] for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """First offset of the first stored chunk. Errors: as `highwaters`."""
        wire = await Wire.connect(self.transport.address, name=f"{self.app.conf.id} earliest")
        try:
            return {
                tp: max(0, (await wire.stats(partition_stream(tp.topic, tp.partition))).first_chunk_id)
                for tp in partitions
            }
        finally:
            await wire.close()

    def topic_partitions(self, topic: str) -> int | None:
        return self.transport.known_partitions.get(topic)

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        await self.transport.create_topic(topic, partitions, replication, **options)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        return partition if partition is not None else self.transport.partition_for(topic, key)
