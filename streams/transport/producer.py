"""Faust's producer on RabbitMQ streams: at least once, in order per partition, bounded.

A message whose confirm is lost is sent again after the reconnect, before anything newer of its partition, a
limited number of times; a message the broker refuses fails its future.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from faust.exceptions import ProducerSendError
from faust.transport import base
from faust.types import TP, HeadersArg, RecordMetadata

from streams import amqp
from streams.link import Link, Outcome, Ticket
from streams.topics import partition_stream

if TYPE_CHECKING:
    from streams.transport import Transport

MAX_IN_FLIGHT = 20_000
MAX_ATTEMPTS = 10
_MAX_BATCH = 2_000


class _Item(NamedTuple):
    payload: bytes
    future: asyncio.Future[RecordMetadata]
    timestamp: float
    attempts: int


class _Lane:
    """One partition's messages, in order: those to send again, then the new ones."""

    def __init__(self, tp: TP) -> None:
        self.tp = tp
        self.again: deque[_Item] = deque()
        self.fresh: deque[_Item] = deque()
        self.sending = False
        self.taken = self.settled = 0


class Producer(base.Producer):
    """See the module."""

    transport: Transport
    _link: Link | None = None

    def __post_init__(self) -> None:
        self._lanes: dict[TP, _Lane] = {}
        self._in_flight = 0
        self._progress = asyncio.Event()

    async def on_start(self) -> None:
        self.buffer.max_messages = 5_000
        await super().on_start()
        self._link = Link(self.transport.address, name=f"{self.app.conf.id} producer")
        await self._link.start()

    async def on_stop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.stop()
        for lane in self._lanes.values():
            self._fail(lane, [*lane.again, *lane.fresh], ConnectionError("the producer stopped"))
            lane.again.clear()
            lane.fresh.clear()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: HeadersArg | None,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        """Queue one message; the result resolves when it is stored. Confirms carry no offset, so
        it says -1.
        """
        if topic not in self.transport.known_partitions:
            await self.transport.partitions_of(topic)
        if partition is None:
            partition = self.transport.partition_for(topic, key)
        while self._in_flight >= MAX_IN_FLIGHT:
            self._progress.clear()
            await self._progress.wait()
        tp = TP(topic, partition)
        lane = self._lanes.get(tp)
        if lane is None:
            lane = self._lanes[tp] = _Lane(tp)
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        payload = amqp.encode(key, value, _texts(headers))
        lane.fresh.append(_Item(payload, future, timestamp or time.time(), 0))
        lane.taken += 1
        self._in_flight += 1
        self._pump(lane)
        return future

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        return await (await self.send(*args, **kwargs))

    def _pump(self, lane: _Lane) -> None:
        if not lane.sending and (lane.again or lane.fresh):
            lane.sending = True
            self.add_future(self._send(lane))

    async def _send(self, lane: _Lane) -> None:
        if self.linger_ms:
            await asyncio.sleep(self.linger_ms / 1000)
        stream = partition_stream(*lane.tp)
        try:
            while (lane.again or lane.fresh) and self._link is not None:
                source = lane.again or lane.fresh
                items = [source.popleft() for _ in range(min(len(source), _MAX_BATCH))]
                try:
                    ticket = await self._link.send(stream, [item.payload for item in items])
                except Exception as error:
                    self._fail(lane, items, error)
                    continue
                ticket.settled.add_done_callback(partial(self._settle, lane, ticket, items))
        finally:
            lane.sending = False
            self._pump(lane)

    def _settle(self, lane: _Lane, ticket: Ticket, items: list[_Item], _: object) -> None:
        for item, outcome in zip(items, ticket.outcomes(), strict=True):
            if outcome is Outcome.UNKNOWN and item.attempts + 1 < MAX_ATTEMPTS and self._link is not None:
                lane.again.append(item._replace(attempts=item.attempts + 1))
                continue
            self._done(lane)
            if item.future.done():
                continue
            if outcome is Outcome.CONFIRMED:
                tp = lane.tp
                item.future.set_result(RecordMetadata(tp.topic, tp.partition, tp, -1, item.timestamp, 0))
            else:
                item.future.set_exception(ProducerSendError(f"{ticket.stream}: {outcome.value}"))
        self._pump(lane)

    def _fail(self, lane: _Lane, items: Iterable[_Item], error: Exception) -> None:
        for item in items:
            self._done(lane)
            if not item.future.done():
                item.future.set_exception(ProducerSendError(str(error)))

    def _done(self, lane: _Lane) -> None:
        lane.settled += 1
        self._in_flight -= 1
        self._progress.set()

    async def flush(self) -> None:
        """Wait until all that was sent before has an outcome. What is sent meanwhile does not prolong it."""
        if self.buffer.size:
            await self.buffer.flush()
        goals = [(lane, lane.taken) for lane in self._lanes.values()]
        for lane, goal in goals:
            while lane.settled < goal and self._link is not None:
                self._progress.clear()
                await self._progress.wait()

    async def create_topic(self, topic: str, partitions: int, replication: int, **options: Any) -> None:
        await self.transport.create_topic(topic, partitions, replication, **options)

    def key_partition(self, topic: str, key: bytes) -> TP:
        return TP(topic, self.transport.partition_for(topic, key))

    def supports_headers(self) -> bool:
        return True


def _texts(headers: HeadersArg | None) -> dict[str, str] | None:
    if not headers:
        return None
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return {name: text.decode() if isinstance(text, bytes) else str(text) for name, text in pairs}
