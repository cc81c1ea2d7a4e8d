"""What an agent gets and what keeps it safe: records in batches, and the claim that says whose they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import msgspec


class Fenced(Exception):
    """Somebody else has claimed this partition since: drop what is in hand. Raised by a batch handler, never
    retried.
    """


class Held(Exception):
    """The topic is stopped for now: the batch waits and is tried again, which is no fault. Raised by a handler."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of one partition, as the database granted it.

    `epoch` rises with every claim and is the only safety against a worker that does not know it was replaced.
    `incarnation` rises when the broker lost or reused offsets. `next_offset` is the first record not yet
    committed; `last_offset` and `last_digest` identify the last one that was, and are None before the first.
    """

    epoch: int
    incarnation: int
    next_offset: int
    last_offset: int | None
    last_digest: bytes | None


class Ownership(Protocol):
    """Who owns which partition and where it stands. Implemented over the database, injected into the app."""

    def join_lock(self) -> AbstractAsyncContextManager[None]:
        """Held while a worker subscribes to all partitions: one worker at a time, else they
        spread unevenly.
        """
        ...

    async def claim(self, topic: str, partitions: Sequence[int], owner: str) -> Mapping[int, Claim]:
        """Take these partitions: raise their epochs, and return where each stands."""
        ...

    async def reincarnate(self, topic: str, partition: int, epoch: int, first_offset: int) -> Claim:
        """The broker's offsets no longer mean what they meant: incarnation + 1, epoch + 1, start at
        `first_offset`.
        """
        ...

    async def restore(self, topic: str, partition: int, claim: Claim) -> None:
        """Load whatever state the partition's agent keeps in memory, before its first record is delivered."""
        ...

    async def positions(self, topic: str) -> Mapping[int, int]:
        """`next_offset` of every partition of `topic` that was ever claimed, whoever owns it.

        With it a worker notices a partition that the broker has left without an owner, and makes it choose
        again.
        """
        ...


@runtime_checkable
class OffsetStore(Protocol):
    """An `Ownership` that can also store offsets by itself, for agents that let Faust acknowledge their
    events.

    Agents that use `run_batches` commit the offset in their own transaction and do not need it.
    """

    async def advance(
        self,
        topic: str,
        partition: int,
        *,
        epoch: int,
        next_offset: int,
        last_offset: int,
        last_digest: bytes,
    ) -> bool:
        """Move the partition to `next_offset` if `epoch` still holds; False if it does not (fenced)."""
        ...


class Record(msgspec.Struct, frozen=True, gc=False):
    """One message of a stream.

    `timestamp_ms` is when the broker stored it. `value` is None for a tombstone, which is not the empty
    value. `malformed` means it is no AMQP 1.0 message; `value` then holds the bytes as they are on the
    stream.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    malformed: bool


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive records of one partition, read under one epoch, to be committed in one transaction.

    The commit is fenced by (`epoch`, `from_offset`) and moves the partition to `to_offset`, storing
    `last_offset` and `last_digest`. Offsets need not be dense: `to_offset` is `last_offset` + 1,
    `from_offset` where the previous batch ended, and a batch is never empty.
    """

    topic: str
    partition: int
    epoch: int
    incarnation: int
    from_offset: int
    to_offset: int
    last_offset: int
    last_digest: bytes
    records: list[Record]


Handler = Callable[[Batch], Awaitable[object]]
"""Commits one batch. Returning means committed; raising `Fenced` drops it; anything else is retried, forever,
unless an `Isolation` says that a record is to blame.
"""


class Isolation(Protocol):
    """What to do about a record that no repetition can get through its handler."""

    def blames(self, error: Exception) -> bool:
        """Whether `error` is the records' or our code's fault; False for what passes by itself."""
        ...

    async def set_aside(self, batch: Batch, error: Exception) -> None:
        """Commit a batch of one record without handling it: it is kept elsewhere, with the error."""
        ...
