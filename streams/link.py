"""Publishing with confirms: one connection, unnamed publishers, and an outcome for every message.

Publishers are unnamed because the broker's own deduplication drops confirmed messages when ids go backwards.
A message whose confirm did not come is `unknown`: it may or may not be stored, and whoever cares publishes
it again. Nothing is resent here; `Ticket`s of one stream settle in the order they were sent when the
connection is lost.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections import deque
from collections.abc import Coroutine, Sequence

import structlog

from streams.address import Address
from streams.wire import ENTRY_OVERHEAD, FRAME_MAX, PUBLISH_OVERHEAD, Refused, Wire

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = FRAME_MAX - PUBLISH_OVERHEAD - ENTRY_OVERHEAD
_MAX_PUBLISHERS = 255
_MAX_FRAME_MESSAGES = 20_000
_BACKOFF_S = (0.05, 2.0)
_PASSING_CODES = frozenset({6, 15})
"""Not available, internal error: what a broker answers while a stream's leader is being found."""
_UNAVAILABLE_S = 0.1
_TAKEN = 17
"""A precondition failed: the publisher's number is taken on this connection."""
_MAX_DOUBTFUL = 32


class Outcome(enum.Enum):
    """What became of a message: stored, perhaps stored, or refused by the broker."""

    CONFIRMED = "confirmed"
    UNKNOWN = "unknown"
    REFUSED = "refused"


class Ticket:
    """Messages sent to one stream together. Await `settled`, then ask for each message's outcome."""

    __slots__ = ("count", "first_id", "lost", "refused", "remaining", "sent_at", "settled", "stream")

    def __init__(self, stream: str, first_id: int, count: int) -> None:
        self.stream = stream
        self.first_id = first_id
        self.count = self.remaining = count
        self.sent_at = time.monotonic()
        self.lost = False
        self.refused: dict[int, int] = {}
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def confirmed(self) -> bool:
        """Whether every message is stored."""
        return self.settled.done() and not self.lost and not self.refused

    def outcomes(self) -> list[Outcome]:
        """One outcome per message, in order. A lost ticket is unknown as a whole, which is always safe."""
        if self.lost:
            return [Outcome.UNKNOWN] * self.count
        found = [Outcome.CONFIRMED] * self.count
        for index in self.refused:
            found[index] = Outcome.REFUSED
        return found

    def _settle(self, count: int) -> None:
        self.remaining -= count
        if self.remaining <= 0 and not self.settled.done():
            self.settled.set_result(None)

    def _lose(self) -> None:
        if not self.settled.done():
            self.lost = True
            self.settled.set_result(None)


class _Publisher:
    __slots__ = ("id", "next_id", "stream", "tickets", "used_at")

    def __init__(self, number: int, stream: str) -> None:
        self.id = number
        self.stream = stream
        self.next_id = 1
        self.used_at = 0.0
        self.tickets: deque[Ticket] = deque()

    def settle(self, first: int, count: int) -> None:
        """Messages `first`..`first` + `count` - 1 are stored."""
        end = first + count
        for ticket in self.tickets:
            if ticket.first_id >= end:
                break
            overlap = min(end, ticket.first_id + ticket.count) - max(first, ticket.first_id)
            if overlap > 0:
                ticket._settle(overlap)
        while self.tickets and self.tickets[0].settled.done():
            self.tickets.popleft()

    def refuse(self, number: int, code: int) -> None:
        for ticket in self.tickets:
            if ticket.first_id <= number < ticket.first_id + ticket.count:
                ticket.refused[number - ticket.first_id] = code
                ticket._settle(1)
                break
        self.settle(number, 0)

    def lose(self) -> None:
        while self.tickets:
            self.tickets.popleft()._lose()


class Link:
    """`async with Link(address, name=...) as link: ticket = await link.send(stream, messages)`.

    At most `max_unconfirmed` messages wait for their confirm; beyond, `send` waits. A connection whose
    oldest confirm is `confirm_timeout_s` late is given up and built anew.
    """

    def __init__(
        self, address: Address, *, name: str, max_unconfirmed: int = 50_000, confirm_timeout_s: float = 10.0
    ) -> None:
        self._address = address
        self._name = name
        self._max_unconfirmed = max_unconfirmed
        self._confirm_timeout_s = confirm_timeout_s
        self._wire: Wire | None = None
        self._up = asyncio.Event()
        self._publishers: dict[str, _Publisher] = {}
        self._by_id: dict[int, _Publisher] = {}
        self._doubtful: set[int] = set()
        self._declaring = asyncio.Lock()
        self._unconfirmed = 0
        self._stopping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._room_waiters: deque[asyncio.Future[None]] = deque()
        self.reconnects = 0

    async def __aenter__(self) -> Link:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect once, so that what is wrong shows now. Errors: those of `Wire.connect`."""
        await self._connect()
        self._spawn(self._watch())

    async def stop(self, *, deadline_s: float = 2.0) -> None:
        """Wait for confirms under way, no longer than the deadline, and leave."""
        try:
            async with asyncio.timeout(deadline_s):
                await self.flush()
        except TimeoutError:
            log.warning("confirms_abandoned", link=self._name, unconfirmed=self._unconfirmed)
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()
        self._lose_all()
        self._up.set()  # whoever waits for a connection learns that there will be none

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._wire is not None

    @property
    def unconfirmed(self) -> int:
        """Messages sent that have no outcome yet."""
        return self._unconfirmed

    async def send(self, stream: str, messages: Sequence[bytes], *, wait_s: float = 30.0) -> Ticket:
        """Publish to one stream, in order; returns when the messages are on their way.

        Senders to one stream must take turns themselves. Errors: ConnectionError after `wait_s` without a
        connection or room (nothing was sent); Refused if the stream is not there or not ours to write;
        ValueError for a message of more than `MAX_MESSAGE_BYTES`.
        """
        for message in messages:
            if len(message) > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message of {len(message)} bytes; the most is {MAX_MESSAGE_BYTES}")
        if (
            not self._up.is_set()
            or self._unconfirmed >= self._max_unconfirmed
            or stream not in self._publishers
        ):
            try:
                async with asyncio.timeout(wait_s):
                    await self._ready(stream)
            except TimeoutError:
                raise ConnectionError(f"could not publish to {stream} within {wait_s:g} s") from None
        wire, publisher = self._wire, self._publishers[stream]
        assert wire is not None
        ticket = Ticket(stream, publisher.next_id, len(messages))
        publisher.next_id += len(messages)
        publisher.tickets.append(ticket)
        publisher.used_at = ticket.sent_at
        self._unconfirmed += len(messages)
        self._write(wire, publisher, ticket.first_id, messages)
        try:
            await wire.drain()
        except OSError as error:
            wire._drop(error)
        return ticket

    async def flush(self) -> None:
        """Wait until everything sent so far has an outcome; what is sent meanwhile does not prolong it."""
        for ticket in [ticket for publisher in self._publishers.values() for ticket in publisher.tickets]:
            await asyncio.shield(ticket.settled)

    # -- inside

    def _write(self, wire: Wire, publisher: _Publisher, first_id: int, messages: Sequence[bytes]) -> None:
        start, size, limit = 0, 0, wire.frame_max - PUBLISH_OVERHEAD
        for index, message in enumerate(messages):
            needed = len(message) + ENTRY_OVERHEAD
            if index > start and (size + needed > limit or index - start >= _MAX_FRAME_MESSAGES):
                wire.publish_now(publisher.id, first_id + start, messages[start:index])
                start, size = index, 0
            size += needed
        wire.publish_now(publisher.id, first_id + start, messages[start:])

    async def _ready(self, stream: str) -> None:
        while True:
            await self._up.wait()
            if self._stopping:
                raise ConnectionError("the link is closed")
            if self._unconfirmed >= self._max_unconfirmed:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._room_waiters.append(waiter)
                await waiter
                continue
            if stream in self._publishers:
                return
            async with self._declaring:
                wire = self._wire
                if wire is None or not self._up.is_set():
                    continue
                if stream not in self._publishers:
                    await self._declare(wire, stream)

    async def _declare(self, wire: Wire, stream: str) -> None:
        number = await self._free_number(wire)
        # Whoever waits may give up before the broker answers. It then takes the number all the same, so that on
        # this connection nobody else may have it.
        doubtful = self._doubtful
        doubtful.add(number)
        try:
            await wire.request(f"publishing to {stream}", wire.declare_publisher(stream, None, number))
        except ConnectionError:
            return
        except Refused as error:
            if error.code == _TAKEN:
                return
            doubtful.discard(number)
            if error.code not in _PASSING_CODES:
                raise
            await asyncio.sleep(_UNAVAILABLE_S)
            return
        doubtful.discard(number)
        if wire is self._wire:
            publisher = _Publisher(number, stream)
            self._publishers[stream] = self._by_id[number] = publisher

    async def _free_number(self, wire: Wire) -> int:
        if len(self._doubtful) > _MAX_DOUBTFUL:
            wire._drop(ConnectionError(f"{len(self._doubtful)} declarations were never answered"))
        taken = self._by_id.keys() | self._doubtful
        if len(taken) < _MAX_PUBLISHERS:
            return next(number for number in range(_MAX_PUBLISHERS) if number not in taken)
        while True:
            idle = [publisher for publisher in self._by_id.values() if not publisher.tickets]
            if idle:
                oldest = min(idle, key=lambda publisher: publisher.used_at)
                del self._publishers[oldest.stream], self._by_id[oldest.id]
                await wire.request("leaving a stream", wire.delete_publisher(oldest.id))
                return oldest.id
            await asyncio.sleep(0.01)

    async def _connect(self) -> None:
        wire = await Wire.connect(self._address, name=self._name)
        wire.on_confirm = self._on_confirm
        wire.on_publish_error = self._on_publish_error
        wire.on_stream_gone = self._on_stream_gone
        wire.on_closed = lambda reason: self._on_closed(wire, reason)
        self._wire = wire
        self._up.set()

    def _on_confirm(self, number: int, ids: Sequence[int]) -> None:
        publisher = self._by_id.get(number)
        if publisher is None:
            return
        self._unconfirmed -= len(ids)
        if ids[-1] - ids[0] == len(ids) - 1:
            publisher.settle(ids[0], len(ids))
        else:
            ordered = sorted(ids)
            start = 0
            for index in range(1, len(ordered) + 1):
                if index == len(ordered) or ordered[index] != ordered[index - 1] + 1:
                    publisher.settle(ordered[start], index - start)
                    start = index
        self._make_room()

    def _on_publish_error(self, number: int, errors: list[tuple[int, int]]) -> None:
        publisher = self._by_id.get(number)
        if publisher is None:
            return
        self._unconfirmed -= len(errors)
        for message_id, code in errors:
            publisher.refuse(message_id, code)
        self._make_room()

    def _on_stream_gone(self, stream: str) -> None:
        publisher = self._publishers.pop(stream, None)
        if publisher is not None:
            del self._by_id[publisher.id]
            self._unconfirmed -= sum(ticket.remaining for ticket in publisher.tickets)
            publisher.lose()
            self._make_room()

    def _on_closed(self, wire: Wire, reason: Exception) -> None:
        if wire is not self._wire:
            return
        log.warning(
            "publisher_disconnected", link=self._name, reason=str(reason), unconfirmed=self._unconfirmed
        )
        self._wire = None
        self._lose_all()
        if not self._stopping:
            self._spawn(self._reconnect())

    def _lose_all(self) -> None:
        self._up.clear()
        lost, self._publishers, self._by_id = list(self._publishers.values()), {}, {}
        self._doubtful = set()
        self._unconfirmed = 0
        for publisher in lost:
            publisher.lose()
        self._make_room()

    def _make_room(self) -> None:
        while self._room_waiters and self._unconfirmed < self._max_unconfirmed:
            waiter = self._room_waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    async def _reconnect(self) -> None:
        delay = _BACKOFF_S[0]
        while not self._stopping:
            try:
                await self._connect()
            except (OSError, Refused) as error:
                log.warning("publisher_reconnect_failed", link=self._name, error=str(error))
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _BACKOFF_S[1])
            else:
                self.reconnects += 1
                return

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._confirm_timeout_s / 4))
            heads = [publisher.tickets[0].sent_at for publisher in self._by_id.values() if publisher.tickets]
            if heads and time.monotonic() - min(heads) > self._confirm_timeout_s and self._wire is not None:
                self._wire._drop(ConnectionError(f"no confirm for {self._confirm_timeout_s:g} s"))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
