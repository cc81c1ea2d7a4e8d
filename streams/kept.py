"""What a publisher keeps: its batches per partition, until their outcome is committed."""

from __future__ import annotations

import asyncio
from collections import deque

from streams.topics import partition_stream

TOPIC = "wallet.debit"


class KeptBatch:
    """One batch as it is on the stream, and who waits for it to be stored."""

    __slots__ = ("confirmed", "events", "payload", "seq", "spooled", "waiters")

    def __init__(self, seq: int, payload: bytes, events: int) -> None:
        self.seq = seq
        self.payload = payload
        self.events = events
        self.confirmed = self.spooled = False
        self.waiters: list[asyncio.Future[None]] = []

    def release(self, error: Exception | None = None) -> None:
        """Tell whoever waits: it is stored, or why it never will be."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error) if error else waiter.set_result(None)
        self.waiters.clear()


class KeptPartition:
    """Batches of one partition: one being filled, those to send, and all that are not covered, in order."""

    def __init__(self, number: int, next_seq: int = 1) -> None:
        self.number = number
        self.stream = partition_stream(TOPIC, number)
        self.next_seq = next_seq
        self.events: list[bytes] = []
        self.key = ""
        self.size = 0
        self.waiters: list[asyncio.Future[None]] = []
        self.timer: asyncio.TimerHandle | None = None
        self.unsent: deque[KeptBatch] = deque()
        self.kept: deque[KeptBatch] = deque()
        self.sending = False
        self.moved_at = 0.0
        self.pause_s = 0.0
