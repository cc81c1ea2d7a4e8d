"""An ownership for tests that several processes share: offsets, epochs and committed records in
one SQLite file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

from streams.batches import Batch, Claim, Fenced

SCHEMA = """
CREATE TABLE IF NOT EXISTS offsets (
  topic TEXT, partition INTEGER, epoch INTEGER, incarnation INTEGER, next_offset INTEGER, last_offset INTEGER,
  last_digest BLOB, owner TEXT, PRIMARY KEY (topic, partition));
CREATE TABLE IF NOT EXISTS commits (
  id INTEGER PRIMARY KEY, topic TEXT, partition INTEGER, epoch INTEGER, incarnation INTEGER, from_offset
  INTEGER, to_offset INTEGER, owner TEXT, at REAL);
CREATE TABLE IF NOT EXISTS records (topic TEXT, partition INTEGER, incarnation INTEGER, offset INTEGER, value
BLOB); CREATE TABLE IF NOT EXISTS claims (topic TEXT, partition INTEGER, epoch INTEGER, owner TEXT, at REAL);
"""


class SqliteOwnership:
    """Implements `Ownership` and `OffsetStore`; `commit` is what a batch handler calls."""

    def __init__(self, path: Path, owner: str = "test") -> None:
        self.path, self.owner = path, owner
        self.db = sqlite3.connect(path, timeout=20, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=OFF")
        self.db.executescript(SCHEMA)
        self.restored: list[tuple[str, int, int]] = []

    def close(self) -> None:
        self.db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    @contextlib.asynccontextmanager
    async def join_lock(self) -> AsyncIterator[None]:
        file = os.open(f"{self.path}.join", os.O_CREAT | os.O_RDWR)
        try:
            await asyncio.to_thread(fcntl.flock, file, fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    async def claim(self, topic: str, partitions: Sequence[int], owner: str) -> Mapping[int, Claim]:
        found = {}
        with self.transaction():
            for partition in partitions:
                self.db.execute(
                    "INSERT INTO offsets VALUES (?, ?, 0, 1, 0, NULL, NULL, NULL) ON CONFLICT DO NOTHING",
                    (topic, partition),
                )
                row = self.db.execute(
                    "UPDATE offsets SET epoch = epoch + 1, owner = ? WHERE topic = ? AND partition = ? "
                    "RETURNING epoch, incarnation, next_offset, last_offset, last_digest",
                    (self.owner, topic, partition),
                ).fetchone()
                found[partition] = Claim(*row)
                self.db.execute(
                    "INSERT INTO claims VALUES (?, ?, ?, ?, ?)",
                    (topic, partition, row[0], self.owner, time.time()),
                )
        return found

    async def reincarnate(self, topic: str, partition: int, epoch: int, first_offset: int) -> Claim:
        with self.transaction():
            row = self.db.execute(
                "UPDATE offsets SET epoch = epoch + 1, incarnation = incarnation + 1, next_offset = ?, "
                "last_offset = NULL, last_digest = NULL WHERE topic = ? AND partition = ? AND epoch = ? "
                "RETURNING epoch, incarnation, next_offset, last_offset, last_digest",
                (first_offset, topic, partition, epoch),
            ).fetchone()
        if row is None:
            raise Fenced(f"{topic}-{partition}")
        return Claim(*row)

    async def restore(self, topic: str, partition: int, claim: Claim) -> None:
        self.restored.append((topic, partition, claim.epoch))

    async def positions(self, topic: str) -> Mapping[int, int]:
        return dict(self.db.execute("SELECT partition, next_offset FROM offsets WHERE topic = ?", (topic,)))

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
        with self.transaction():
            return (
                self.db.execute(
                    "UPDATE offsets SET next_offset = ?, last_offset = ?, last_digest = ? "
                    "WHERE topic = ? AND partition = ? AND epoch = ? AND next_offset < ?",
                    (next_offset, last_offset, last_digest, topic, partition, epoch, next_offset),
                ).rowcount
                == 1
            )

    async def commit(self, batch: Batch) -> None:
        """Store the batch's records with its offset, in one transaction. Raises Fenced."""
        with self.transaction():
            moved = self.db.execute(
                "UPDATE offsets SET next_offset = ?, last_offset = ?, last_digest = ? "
                "WHERE topic = ? AND partition = ? AND epoch = ? AND next_offset = ?",
                (
                    batch.to_offset,
                    batch.last_offset,
                    batch.last_digest,
                    batch.topic,
                    batch.partition,
                    batch.epoch,
                    batch.from_offset,
                ),
            ).rowcount
            if not moved:
                raise Fenced(f"{batch.topic}-{batch.partition} epoch {batch.epoch}")
            self.db.executemany(
                "INSERT INTO records VALUES (?, ?, ?, ?, ?)",
                [
                    (batch.topic, batch.partition, batch.incarnation, record.offset, record.value)
                    for record in batch.records
                ],
            )
            self.db.execute(
                "INSERT INTO commits VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    batch.topic,
                    batch.partition,
                    batch.epoch,
                    batch.incarnation,
                    batch.from_offset,
                    batch.to_offset,
                    self.owner,
                    time.time(),
                ),
            )
