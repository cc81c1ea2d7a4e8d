"""One partition as this worker sees it: whether it is ours, what of it lies here, and what the broker may
still send.

Records flow only while the gate is open: the broker says active, the epoch is claimed, and the record at the
last committed offset was seen to be the one that was committed. Chunks are kept from the first uncommitted
record on, so that going back needs no broker. Every chunk's credit is returned exactly once, whatever
becomes of the chunk.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from typing import NamedTuple

from streams import amqp
from streams.batches import Batch, Claim, Record
from streams.chunks import Chunk, Unreadable, digest


class Verdict(enum.Enum):
    """What the first chunk after a claim says about the offsets."""

    SAME = "the log is the one that was read before"
    OTHER = "offsets were lost or reused"
    CUT = "before the first record here there is a hole: records deleted unread, or the broker's own notes"


class Stored(NamedTuple):
    """One message as it lies in the log."""

    offset: int
    timestamp_ms: int
    raw: bytes


class Partition:
    """State of one partition. All of it is touched from the event loop only."""

    def __init__(self, topic: str, number: int, stream: str) -> None:
        self.topic, self.number, self.stream = topic, number, stream
        self.subscription: int | None = None
        self.updates: deque[tuple[int, bool, int]] = deque()
        self.following = False
        self.claim: Claim | None = None
        self.verified = False
        self.active = False
        self.halted: str | None = None
        self.doubted = False
        self.since = 0.0
        self.end = 0
        self.owed = 0
        self.held_bytes = 0
        self.position = self.committed = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._chunks: deque[Chunk] = deque()
        self._reading = 0
        self._messages: list[bytes] | None = None

    # -- the gate

    @property
    def open(self) -> bool:
        """Whether records may flow."""
        return self.active and self.verified and self.claim is not None and self.halted is None

    @property
    def epoch(self) -> int | None:
        return None if self.claim is None else self.claim.epoch

    def holds(self, epoch: int) -> bool:
        """Whether `epoch` is still ours and the broker has not taken the partition back."""
        return self.active and self.claim is not None and self.claim.epoch == epoch

    def start(self, claim: Claim) -> int:
        """Begin under a new claim, still closed; returns the offset to read from."""
        self.claim, self.active, self.verified, self.halted, self.doubted = claim, True, False, None, False
        self.position = self.committed = claim.next_offset
        self.since = time.monotonic()
        self.end = 0
        return claim.next_offset if claim.last_offset is None else claim.last_offset

    def stop(self) -> None:
        """Nothing here is ours any more. Chunks are dropped; their credit stays owed."""
        self.claim, self.active, self.verified, self.halted, self.doubted = None, False, False, None, False
        self.drop()

    def examine(self, chunk: Chunk) -> Verdict:
        """Judge the first chunk that came after a claim. Errors: CorruptChunk."""
        claim = self.claim
        assert claim is not None
        if claim.last_offset is None or claim.last_digest is None:
            if chunk.first > claim.next_offset:
                return Verdict.CUT
            return Verdict.SAME if chunk.end > claim.next_offset else Verdict.OTHER
        if chunk.first > claim.next_offset:
            return Verdict.CUT
        if not chunk.first <= claim.last_offset < chunk.end:
            return Verdict.OTHER
        raw = chunk.messages()[claim.last_offset - chunk.first]
        return Verdict.SAME if digest(chunk.timestamp_ms, raw) == claim.last_digest else Verdict.OTHER

    # -- the records

    def add(self, chunk: Chunk) -> None:
        """Keep a delivered chunk; its credit is owed."""
        self._chunks.append(chunk)
        self.held_bytes += chunk.size
        self.end = chunk.end
        self.since = time.monotonic()

    @property
    def waiting(self) -> bool:
        """Whether there are records to hand over."""
        return bool(self._chunks) and self._chunks[-1].end > self.position

    def read(self, max_records: int, max_bytes: int) -> list[Stored]:
        """The next messages, at least one if any waits, and no more than the limits. Errors: CorruptChunk."""
        return [
            Stored(offset, stamp, raw)
            for first, stamp, messages in self._next(max_records, max_bytes)
            for offset, raw in enumerate(messages, first)
        ]

    def _next(self, max_records: int, max_bytes: int) -> list[tuple[int, int, list[bytes]]]:
        """As `read`, in runs: first offset, when the broker stored them, the messages."""
        found: list[tuple[int, int, list[bytes]]] = []
        while self._reading < len(self._chunks) and max_records > 0 and max_bytes > 0:
            chunk = self._chunks[self._reading]
            if chunk.end <= self.position:
                self._reading, self._messages = self._reading + 1, None
                continue
            if self._messages is None:
                self._messages = chunk.messages()
            begin = max(0, self.position - chunk.first)
            run = self._messages[begin : begin + max_records]
            size = sum(map(len, run))
            if size > max_bytes:
                run = _within(run, max_bytes, at_least=0 if found else 1)
                if not run:
                    break
            found.append((chunk.first + begin, chunk.timestamp_ms, run))
            self.position = chunk.first + begin + len(run)
            max_records -= len(run)
            max_bytes -= size
        return found

    def batch(self, max_records: int, max_bytes: int) -> Batch | None:
        """The next batch to commit, or None if nothing waits or the gate is closed. Errors: CorruptChunk."""
        if not self.open or not self.waiting:
            return None
        claim = self.claim
        assert claim is not None
        self.position = self.committed
        if self._reading:
            self.rewind()
        runs = self._next(max_records, max_bytes)
        if not runs:
            return None
        first, stamp, messages = runs[-1]
        last_offset = first + len(messages) - 1
        return Batch(
            topic=self.topic,
            partition=self.number,
            epoch=claim.epoch,
            incarnation=claim.incarnation,
            from_offset=self.committed,
            to_offset=last_offset + 1,
            last_offset=last_offset,
            last_digest=digest(stamp, messages[-1]),
            records=[record for run in runs for record in to_records(*run)],
        )

    def rewind(self) -> None:
        """Read again from the first uncommitted record."""
        self.position = self.committed
        self._reading, self._messages = 0, None

    def advance(self, next_offset: int) -> None:
        """Everything before `next_offset` is committed: forget it."""
        self.committed = max(self.committed, next_offset)
        while self._chunks and self._chunks[0].end <= self.committed:
            self.held_bytes -= self._chunks.popleft().size
            if self._reading:
                self._reading -= 1
            else:
                self._messages = None

    def fingerprint(self, offset: int) -> bytes | None:
        """Digest of the kept record at `offset`."""
        for chunk in self._chunks:
            if chunk.first <= offset < chunk.end:
                return digest(chunk.timestamp_ms, chunk.messages()[offset - chunk.first])
        return None

    def drop(self) -> None:
        """Forget all chunks."""
        self._chunks.clear()
        self.held_bytes = 0
        self._reading, self._messages = 0, None


def _within(messages: list[bytes], max_bytes: int, *, at_least: int) -> list[bytes]:
    """The first of `messages` that fit."""
    for index, raw in enumerate(messages):
        max_bytes -= len(raw)
        if max_bytes < 0 and index >= at_least:
            return messages[:index]
    return messages


def to_records(first: int, timestamp_ms: int, messages: list[bytes]) -> list[Record]:
    """Stored messages as agents see them; message i has offset `first` + i."""
    decode = amqp.decode
    return [
        Record(offset, timestamp_ms, *decode(raw))
        if type(raw) is bytes
        else _unreadable(offset, timestamp_ms, raw)
        for offset, raw in enumerate(messages, first)
    ]


def _unreadable(offset: int, timestamp_ms: int, raw: bytes) -> Record:
    why = raw.why if isinstance(raw, Unreadable) else ""
    return Record(offset, timestamp_ms, None, bytes(raw), {"error": why}, True)
