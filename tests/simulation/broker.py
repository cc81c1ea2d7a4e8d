"""A broker that behaves as RabbitMQ's streams were measured to, and no better.

A stream is chunks of messages at rising offsets, which are not dense: the broker's own bookkeeping takes
some. Retention drops whole chunks from the front and says nothing. A crash may cut confirmed chunks from the
end, whose offsets the next messages then take. One consumer of a group is active per stream; who it is, is
the broker's choice, and it tells the loser and the winner one after the other, or, when a connection broke,
the winner alone.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

from rstream.constants import OffsetType

from streams.chunks import Chunk, parse_deliver
from streams.wire import Stats

_DELIVER = struct.Struct(">4sBbbHIqQQIIII")


def chunk_of(first: int, timestamp_ms: int, messages: Sequence[bytes], *, user: bool = True) -> Chunk:
    """A chunk as it is delivered."""
    body = b"".join(struct.pack(">I", len(message)) + message for message in messages)
    count = len(messages)
    head = _DELIVER.pack(
        b"\0\x08\0\1", 0, 0x50, 0 if user else 1, count, count, timestamp_ms, 1, first, zlib.crc32(body),
        len(body), 0, 0,
    )  # fmt: skip
    return parse_deliver(head + body)[1]


@dataclass
class Log:
    """One stream. `stored` is every message it ever took, whatever became of it."""

    name: str
    chunks: list[Chunk] = field(default_factory=list)
    end: int = 0
    stored: list[bytes] = field(default_factory=list)

    def append(self, messages: Sequence[bytes], timestamp_ms: int) -> None:
        """Store messages as one chunk."""
        self.chunks.append(chunk_of(self.end, timestamp_ms, messages))
        self.end += len(messages)
        self.stored += messages

    def keep_books(self, timestamp_ms: int) -> None:
        """The broker notes something for itself: an offset that no consumer will ever see."""
        self.chunks.append(chunk_of(self.end, timestamp_ms, [b""], user=False))
        self.end += 1

    def cut(self, chunks: int) -> int:
        """Lose the last chunks; returns how many messages. Their offsets are free again."""
        lost = self.chunks[len(self.chunks) - chunks :]
        del self.chunks[len(self.chunks) - chunks :]
        if lost:
            self.end = lost[0].first
        return sum(chunk.entries for chunk in lost if chunk.user)

    def expire(self, chunks: int) -> None:
        """Retention drops the first chunks."""
        del self.chunks[:chunks]

    def at(self, offset: int) -> Chunk | None:
        """The chunk a consumer at `offset` gets next."""
        return next((chunk for chunk in self.chunks if chunk.end > offset and chunk.user), None)

    @property
    def stats(self) -> Stats:
        """As the broker's StreamStats."""
        if not self.chunks:
            return Stats(-1, -1)
        return Stats(self.chunks[0].first, self.chunks[-1].first)


@dataclass(eq=False)
class Member:
    """One subscription of a group."""

    wire: SimulatedWire
    number: int
    credit: int


@dataclass
class Group:
    """The consumers of one stream. `position` is where the active one reads; None until it has answered."""

    log: Log
    members: list[Member] = field(default_factory=list)
    active: Member | None = None
    position: int | None = None
    asked: tuple[int, Member, bool] | None = None
    wanted: Member | None = None

    @property
    def deliverable(self) -> bool:
        """Whether a chunk could be sent now."""
        if self.active is None or self.position is None or self.active.credit <= 0:
            return False
        return self.log.at(self.position) is not None

    def deliver(self) -> None:
        """Send the next chunk to the active consumer."""
        assert self.active is not None
        assert self.position is not None
        chunk = self.log.at(self.position)
        assert chunk is not None
        self.position = chunk.end
        self.active.credit -= 1
        self.active.wire.tell("on_chunk", self.active.number, chunk)


class SimulatedBroker:
    """All streams and all groups. Nothing happens by itself: the run decides when a chunk is delivered."""

    def __init__(self, streams: Sequence[str], rng: random.Random) -> None:
        self.logs = {name: Log(name) for name in streams}
        self.groups = {name: Group(log) for name, log in self.logs.items()}
        self.wires: list[SimulatedWire] = []
        self.up = True
        self._rng = rng
        self._correlations = 0

    async def connect(self, address: object, *, name: str) -> SimulatedWire:
        """A connection. Errors: ConnectionError while the broker is down."""
        if not self.up:
            raise ConnectionError("the broker is down")
        wire = SimulatedWire(self, name)
        self.wires.append(wire)
        return wire

    def drop(self, wire: SimulatedWire, *, tell: bool = True) -> None:
        """The connection breaks. Its client notices if `tell`; a dead or frozen one does not."""
        if wire not in self.wires:
            return
        self.wires.remove(wire)
        wire.alive = False
        for group in self.groups.values():
            for member in [m for m in group.members if m.wire is wire]:
                self._leave(group, member)
        if tell:
            wire.tell("on_closed", ConnectionError("the connection was lost"))

    def crash(self) -> None:
        """The node dies: every connection breaks, and nothing of a group is remembered."""
        self.up = False
        for group in self.groups.values():
            group.members.clear()
            group.active = group.asked = group.wanted = group.position = None
        for wire in list(self.wires):
            self.drop(wire)

    def delete(self, stream: str) -> None:
        """Somebody deletes a stream and makes it again, empty: its consumers are told that theirs is gone."""
        log, group = self.logs[stream], self.groups[stream]
        log.chunks.clear()
        log.end = 0
        members = list(group.members)
        group.members.clear()
        group.active = group.asked = group.wanted = group.position = None
        for member in members:
            member.wire.tell("on_stream_gone", stream)

    def begin_anew(self, timestamp_ms: int) -> None:
        """Every stream holds all it was ever sent, at new offsets."""
        for log in self.logs.values():
            log.chunks.clear()
            log.end = 0
            stored, log.stored = log.stored, []
            for at in range(0, len(stored), 50):
                log.append(stored[at : at + 50], timestamp_ms)

    # -- groups

    def subscribe(self, wire: SimulatedWire, stream: str, number: int, credit: int) -> None:
        """A consumer joins; the first one becomes active."""
        group = self.groups[stream]
        group.members.append(Member(wire, number, credit))
        if group.active is None and group.asked is None:
            self._ask(group, group.members[-1], active=True)

    def unsubscribe(self, wire: SimulatedWire, number: int) -> None:
        """A consumer leaves; another one becomes active."""
        for group in self.groups.values():
            for member in [m for m in group.members if m.wire is wire and m.number == number]:
                self._leave(group, member)

    def move(self, group: Group) -> bool:
        """Another consumer becomes active, after the present one has let go. False if there is none."""
        others = [member for member in group.members if member is not group.active]
        if group.active is None or group.asked is not None or not others:
            return False
        group.wanted = self._rng.choice(others)
        self._ask(group, group.active, active=False)
        group.position = None
        return True

    def answer(self, wire: SimulatedWire, correlation: int, offset: int | None) -> None:
        """A consumer has answered what it was told."""
        for group in self.groups.values():
            if group.asked is not None and group.asked[0] == correlation:
                _, member, active = group.asked
                group.asked = None
                if not active:
                    group.active = None
                    self._elect(group)
                else:
                    group.active = member
                    group.position = None if offset is None else min(offset, group.log.end)
                return

    def credit(self, wire: SimulatedWire, number: int, chunks: int) -> None:
        """A consumer may be sent more."""
        for group in self.groups.values():
            for member in group.members:
                if member.wire is wire and member.number == number:
                    member.credit += chunks

    def _ask(self, group: Group, member: Member, *, active: bool) -> None:
        self._correlations += 1
        group.asked = (self._correlations, member, active)
        member.wire.tell("on_consumer_update", member.number, active, self._correlations)

    def _leave(self, group: Group, member: Member) -> None:
        group.members.remove(member)
        if group.wanted is member:
            group.wanted = None
        if group.asked is not None and group.asked[1] is member:
            group.asked = None
        elif group.active is not member:
            return
        group.active = group.position = None
        if group.asked is None:
            self._elect(group)

    def _elect(self, group: Group) -> None:
        chosen, group.wanted = group.wanted, None
        if chosen is None and group.members:
            chosen = self._rng.choice(group.members)
        if chosen is not None:
            self._ask(group, chosen, active=True)


class SimulatedWire:
    """One connection, as the reader uses `streams.wire.Wire`."""

    def __init__(self, broker: SimulatedBroker, name: str) -> None:
        self._broker = broker
        self.name = name
        self.alive = True
        self.broken: list[Exception] = []
        """Why our own code gave this connection up: a bug, unless nobody looks."""
        self.on_chunk: Callable[[int, Chunk], None]
        self.on_consumer_update: Callable[[int, bool, int], None]
        self.on_stream_gone: Callable[[str], None]
        self.on_closed: Callable[[Exception], None]
        self._process = copy_context()

    def tell(self, callback: str, *args: Any) -> None:
        """Call the client back, in its own process."""
        self._process.copy().run(getattr(self, callback), *args)

    async def follow(
        self, stream: str, number: int, *, credit: int, offset: OffsetType, group: str, topic: str
    ) -> None:
        self._check()
        self._broker.subscribe(self, stream, number, credit)

    async def unsubscribe(self, number: int) -> None:
        self._check()
        self._broker.unsubscribe(self, number)

    async def request(self, what: str, asked: Awaitable[Any]) -> Any:
        return await asked

    async def partitions(self, topic: str) -> list[str]:
        self._check()
        return [stream for stream in self._broker.logs if stream.rpartition("-")[0] == topic]

    async def stats(self, stream: str) -> Stats:
        self._check()
        return self._broker.logs[stream].stats

    def credit_now(self, subscription: int, chunks: int) -> None:
        if self.alive:
            self._broker.credit(self, subscription, chunks)

    def answer_update(self, correlation: int, offset: int | None) -> None:
        if self.alive:
            self._broker.answer(self, correlation, offset)

    def abort(self) -> None:
        self._broker.drop(self, tell=False)

    def _drop(self, reason: Exception) -> None:
        self.broken.append(reason)
        self._broker.drop(self)

    def _check(self) -> None:
        if not self.alive:
            raise ConnectionError("not connected")
