"""Four partitions per topic, a shared ownership in SQLite, and worker processes that are really killed."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streams import amqp
from streams.address import Address
from streams.link import Link
from streams.topics import declare, partition_stream
from tests.conftest import Broker
from tests.streams.sqlite_ownership import SqliteOwnership

PARTITIONS = 4
WORKER = Path(__file__).parent / "worker.py"


async def until(true: Callable[[], Any], *, within_s: float = 30.0, every_s: float = 0.02) -> float:
    """Wait until `true()` is; returns how long it took. Fails the test when it takes too long."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < within_s, "it did not happen in time"
        await asyncio.sleep(every_s)
    return time.monotonic() - began


class Stall:
    """Measures how long this machine itself stood still: the most that a short sleep overslept.

    Deadlines of a second are meant for a machine that runs us at all, so what it withheld is added to them.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Stall:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            self.longest_s = max(self.longest_s, time.monotonic() - began - 0.01)


@pytest.fixture
async def topics(broker: Broker) -> Broker:
    """The broker with all topics declared."""
    await declare(broker.admin_url, PARTITIONS)
    return broker


@pytest.fixture
async def link(topics: Broker) -> AsyncIterator[Link]:
    """A connection that may publish to every topic."""
    async with Link(Address.parse(topics.url), name="test") as opened:
        yield opened


@pytest.fixture
def ownership(tmp_path: Path) -> Iterator[SqliteOwnership]:
    opened = SqliteOwnership(tmp_path / "ownership.db")
    yield opened
    opened.close()


@dataclass
class Fleet:
    """Worker processes over one broker and one ownership."""

    url: str
    path: Path
    topics: str = "wallet.debit"
    script: Path = WORKER
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, *extra: str) -> subprocess.Popen[bytes]:
        log = (self.path.parent / f"{name}.log").open("ab")
        with log:
            process = subprocess.Popen(
                [sys.executable, str(self.script), self.url, str(self.path), self.topics, name, *extra],
                stdout=log,
                stderr=log,
            )
        self.processes[name] = process
        return process

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> float:
        """Send a signal; returns when."""
        at = time.time()
        os.kill(self.processes[name].pid, number)
        return at

    def log(self, name: str) -> str:
        return (self.path.parent / f"{name}.log").read_text()

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)


@dataclass
class Ledger:
    """What was committed, as SQL over the ownership's file."""

    path: Path

    def rows(self, sql: str, *arguments: object) -> list[tuple[Any, ...]]:
        if not self.path.exists():
            return []
        db = sqlite3.connect(self.path, timeout=20)
        try:
            return db.execute(sql, arguments).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
        finally:
            db.close()

    def count(self) -> int:
        rows = self.rows("SELECT count(*) FROM records")
        return int(rows[0][0]) if rows else 0

    def owners(self, topic: str = "wallet.debit") -> dict[int, str]:
        return dict(self.rows("SELECT partition, owner FROM offsets WHERE topic = ?", topic))

    def first_commit(self, owner: str, after: float, partition: int) -> float | None:
        (row,) = self.rows(
            "SELECT min(at) FROM commits WHERE owner = ? AND at > ? AND partition = ?",
            owner,
            after,
            partition,
        )
        return None if row[0] is None else float(row[0])

    def longest_pause(self, partition: int, begin: float, end: float) -> float:
        """Longest time between commits of one partition within a period."""
        rows = self.rows(
            "SELECT at FROM commits WHERE partition = ? AND at BETWEEN ? AND ?", partition, begin, end
        )
        times: list[float] = [begin, *sorted(row[0] for row in rows), end]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def check(self) -> None:
        """No gap and no overlap: each partition's commits join end to end, each record was committed once."""
        for topic, partition in self.rows("SELECT DISTINCT topic, partition FROM commits"):
            spans = self.rows(
                "SELECT from_offset, to_offset FROM commits WHERE topic = ? AND partition = ? ORDER BY id",
                topic,
                partition,
            )
            for (_, end), (begin, _) in itertools.pairwise(spans):
                assert end == begin, f"{topic}-{partition}: {end} then {begin}"
        twice = self.rows(
            "SELECT topic, partition, offset FROM records GROUP BY topic, partition, incarnation, offset "
            "HAVING count(*) > 1"
        )
        assert twice == []

    def values(self, topic: str, partition: int) -> list[bytes]:
        return [
            row[0]
            for row in self.rows(
                "SELECT value FROM records WHERE topic = ? AND partition = ? ORDER BY rowid", topic, partition
            )
        ]


@pytest.fixture
def ledger(ownership: SqliteOwnership) -> Ledger:
    return Ledger(ownership.path)


@pytest.fixture
def fleet(topics: Broker, ownership: SqliteOwnership) -> Iterator[Fleet]:
    started = Fleet(topics.url, ownership.path)
    yield started
    started.stop()


class Feed:
    """Publishes numbered records to every partition of some topics, at a steady rate, until stopped.

    `sent[stream]` are the values that were confirmed, in order; a value whose confirm was lost is sent again.
    """

    def __init__(self, url: str, topics: tuple[str, ...], per_s: int) -> None:
        self._url = url
        self._streams = [partition_stream(topic, number) for topic in topics for number in range(PARTITIONS)]
        self._per_s = per_s
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.sent: dict[str, list[bytes]] = {stream: [] for stream in self._streams}

    async def __aenter__(self) -> Feed:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> int:
        """Stop, and return how many were stored."""
        self._stopping.set()
        assert self._task is not None
        await self._task
        return sum(map(len, self.sent.values()))

    async def _run(self) -> None:
        tick, number = 0.02, 0
        size = max(1, int(self._per_s * tick / len(self._streams)))
        async with Link(Address.parse(self._url), name="feed") as link:
            while not self._stopping.is_set():
                began = time.monotonic()
                for stream in self._streams:
                    values = [f"{stream}:{number + index}".encode() for index in range(size)]
                    payloads = [amqp.encode(b"key", value) for value in values]
                    while True:
                        ticket = await link.send(stream, payloads)
                        await ticket.settled
                        if ticket.confirmed:
                            break
                    self.sent[stream] += values
                number += size
                await asyncio.sleep(max(0.0, tick - (time.monotonic() - began)))


@pytest.fixture
def feed(topics: Broker) -> Callable[..., Feed]:
    """`async with feed(per_s=..., topics=(...)) as running`."""

    def make(*, per_s: int = 4000, names: tuple[str, ...] = ("wallet.debit",)) -> Feed:
        return Feed(topics.url, names, per_s)

    return make
