"""A publisher's batches on disk, so that they survive its crash: one SQLite file, written before
anything is sent.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (publisher TEXT NOT NULL, session TEXT NOT NULL, partitions INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS marks (partition INTEGER PRIMARY KEY, next_seq INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS batches (partition INTEGER, seq INTEGER, events INTEGER NOT NULL, payload BLOB NOT
NULL,
  PRIMARY KEY (partition, seq));
"""

T = TypeVar("T")


class SpoolError(Exception):
    """The spool cannot be used: it is another publisher's, in use, or damaged."""


class Spooled(NamedTuple):
    """One batch as it will be on the stream."""

    partition: int
    seq: int
    events: int
    payload: bytes


class Spool:
    """Owned by one publisher process at a time. Every method is durable when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._db: sqlite3.Connection | None = None

    async def open(self, publisher: str, partitions: int) -> tuple[str, dict[int, int], list[Spooled]]:
        """Session, next sequence number per partition, and the batches not yet covered. Errors:
        SpoolError.
        """
        try:
            return await self._run(lambda: self._open(publisher, partitions))
        except sqlite3.Error as error:
            raise SpoolError(f"the spool {self._path.name} cannot be used: {error}") from error

    async def add(self, batches: Iterable[Spooled]) -> None:
        """Keep batches, and move their partitions' sequence numbers. Errors: SpoolError."""
        rows = list(batches)

        def work() -> None:
            db = self._open_db()
            with db:
                db.executemany("INSERT INTO batches VALUES (?, ?, ?, ?)", rows)
                db.executemany(
                    "INSERT OR REPLACE INTO marks VALUES (?, ?)",
                    [(row.partition, row.seq + 1) for row in rows],
                )

        try:
            await self._run(work)
        except sqlite3.Error as error:
            raise SpoolError(f"the spool {self._path.name} takes no more: {error}") from error

    async def forget(self, partition: int, covered: int) -> None:
        """Drop the batches of a partition up to and with `covered`."""

        def work() -> None:
            db = self._open_db()
            with db:
                db.execute("DELETE FROM batches WHERE partition = ? AND seq <= ?", (partition, covered))

        await self._run(work)

    async def close(self) -> None:
        def work() -> None:
            if self._db is not None:
                self._db.close()

        await self._run(work)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _open_db(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _open(self, publisher: str, partitions: int) -> tuple[str, dict[int, int], list[Spooled]]:
        db = self._db = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        with db:
            db.executescript(_SCHEMA)
            row = db.execute("SELECT publisher, session, partitions FROM meta").fetchone()
            if row is None:
                row = (publisher, str(uuid.uuid4()), partitions)
                db.execute("INSERT INTO meta VALUES (?, ?, ?)", row)
        if (row[0], row[2]) != (publisher, partitions):
            raise SpoolError(
                f"the spool {self._path.name} is of publisher {row[0]} with {row[2]} partitions, "
                f"not of {publisher} with {partitions}"
            )
        marks = dict(db.execute("SELECT partition, next_seq FROM marks"))
        rows = db.execute("SELECT partition, seq, events, payload FROM batches ORDER BY partition, seq")
        return row[1], marks, [Spooled(*found) for found in rows]
