"""The archiver: what a partition's group has committed is copied to files, before retention deletes it.

In     every stream, from where the archive ends to where the group stands, as stored (read by itself, as no group)
Books  archive_segments: which offsets, when they were stored, the file's SHA-256 and its last record's digest
Out    ARCHIVE_URL, a folder: <topic>/<partition>/<life>-<from offset>.gz

A file is written whole before its row; a row is never changed. When a stream's offsets begin anew (the record at the
archive's end is another one now, or is not there any more), the archive begins a new life of that partition. `replay_segments`
publishes archived records again, at the end of their partition: their consumer has seen them, so they change nothing,
and where it has not, they are news.
"""

import asyncio
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Counter, Gauge
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from uuid_utils.compat import uuid7

from agents.core import Core
from sql import errors, queues, recovery
from sql.db import Database
from sql.recovery import Segment, Standing
from streams.address import Address
from streams.archive import BadArchive, Packed, pack, unpack
from streams.chunks import CorruptChunk, digest
from streams.dead import chunks_of
from streams.link import Link
from streams.topics import TOPICS, partition_stream
from streams.transport.partition import Stored
from streams.wire import Refused, Wire

log = structlog.get_logger("agents.archiver")

LEASE_S: Final = 60.0
CATCH_UP_S: Final = 5.0
IDLE_READ_S: Final = 2.0
ARCHIVED = Counter("core_archived_records_total", "Records copied to the archive", ["topic"])
BEHIND = Gauge("core_archive_behind_records", "Committed records that are not in the archive yet", ["topic"])


class ArchiveSettings(BaseSettings):
    """`archive_url`: `file:FOLDER`; empty: nothing is archived. A segment is closed at its size, or its age."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    archive_url: str = Field(default="file:.local/archive", pattern=r"^(file:.+)?$")
    archive_segment_records: int = Field(default=50_000, ge=1)
    archive_segment_bytes: int = Field(default=16_000_000, ge=1)
    archive_every_s: float = Field(
        default=60.0, gt=0, description="pause between rounds; a round closes what is there"
    )


class Archive:
    """Files by their place, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def from_environment(cls) -> "Archive":
        """The one of ARCHIVE_URL."""
        return cls(Path(ArchiveSettings().archive_url.removeprefix("file:")))

    def write(self, place: str, data: bytes) -> None:
        """Whole or not at all, and on the disk when this returns. Errors: OSError."""
        target = self._folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        half = target.with_suffix(".part")
        with half.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        half.replace(target)

    def read(self, place: str) -> bytes:
        """Errors: OSError."""
        return (self._folder / place).read_bytes()


class Archiver:
    """One worker at a time does it."""

    def __init__(
        self, core: Core, address: Address, archive: Archive, settings: ArchiveSettings, *, holder: str
    ) -> None:
        self._core = core
        self._address = address
        self._archive = archive
        self._settings = settings
        self._holder = holder

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._settings.archive_every_s)
            try:
                if await self._mine():
                    await self.round()
            except (errors.DatabaseError, OSError, TimeoutError, Refused, CorruptChunk) as error:
                log.warning("archiving waits", error=str(error))

    async def _mine(self) -> bool:
        return await queues.take_duty(self._core.db, "archive", self._holder, lease_s=LEASE_S)

    async def round(self) -> int:
        """Archive what every partition has committed since; how many records. Errors: Unavailable, OSError, Refused."""
        db, copied = self._core.db, 0
        ends = await recovery.get_archive_ends(db)
        for at in await recovery.get_standings(db, self._core.group):
            if at.topic in TOPICS and await self._mine():
                copied += await self.partition(at, ends.get((at.topic, at.partition)))
        return copied

    async def partition(self, at: Standing, last: Segment | None) -> int:
        """Archive one partition up to where its group stands; how many records. Errors: as `round`."""
        topic, number, committed = at.topic, at.partition, at.next_offset
        stream, copied = partition_stream(topic, number), 0
        if last is not None and committed == last.to_offset and at.last_digest in (None, last.last_digest):
            return 0
        life = 1 if last is None else last.life
        start = 0 if last is None else last.to_offset
        wire = await Wire.connect(self._address, name=f"archiver {self._holder}")
        try:
            stats = await wire.stats(stream)
            if last is not None and not await self._continues(stream, last, stats.committed_chunk_id):
                life, start = life + 1, max(0, stats.first_chunk_id)
                log.error("a stream began anew; so does its archive", stream=stream, life=life)
            if stats.committed_chunk_id < 0 or start >= committed:
                return 0
            BEHIND.labels(topic).set(committed - start)
            pending: list[Stored] = []
            size = 0
            async with asyncio.timeout(LEASE_S / 2):
                async for chunk in chunks_of(wire, stream, start):
                    for offset, raw in enumerate(chunk.messages(), chunk.first):
                        if start <= offset < committed:
                            pending.append(Stored(offset, chunk.timestamp_ms, bytes(raw)))
                            size += len(raw)
                    done = chunk.end >= committed or chunk.first >= stats.committed_chunk_id
                    if pending and (done or self._full(pending, size)):
                        copied += await self._keep(topic, number, pack(topic, number, life, pending), life)
                        pending, size = [], 0
                    if done:
                        break
        except TimeoutError:
            log.warning("the archive goes on later", stream=stream, copied=copied)
        finally:
            await wire.close()
        return copied

    def _full(self, pending: list[Stored], size: int) -> bool:
        return (
            len(pending) >= self._settings.archive_segment_records
            or size >= self._settings.archive_segment_bytes
        )

    async def _continues(self, stream: str, last: Segment, last_chunk: int) -> bool:
        """Whether the record that the archive ends with is still that record (or was deleted by retention)."""
        wire = await Wire.connect(self._address, name=f"archiver {self._holder}")
        try:
            first = (await wire.stats(stream)).first_chunk_id
            if first > last.to_offset - 1:
                return last_chunk >= last.to_offset - 1
            async with asyncio.timeout(IDLE_READ_S):
                async for chunk in chunks_of(wire, stream, last.to_offset - 1):
                    if chunk.first <= last.to_offset - 1 < chunk.end:
                        raw = chunk.messages()[last.to_offset - 1 - chunk.first]
                        return digest(chunk.timestamp_ms, raw) == last.last_digest
                    return False
        except TimeoutError:
            return False  # the stream ends before it
        finally:
            await wire.close()
        return False

    async def _keep(self, topic: str, number: int, packed: Packed, life: int) -> int:
        place = f"{topic}/{number}/{life}-{packed.from_offset:020}.gz"
        await asyncio.to_thread(self._archive.write, place, packed.data)
        segment = Segment(
            uuid7(),
            topic,
            number,
            life,
            packed.from_offset,
            packed.to_offset,
            packed.n_records,
            datetime.fromtimestamp(packed.first_ms / 1000, UTC),
            datetime.fromtimestamp(packed.last_ms / 1000, UTC),
            len(packed.data),
            hashlib.sha256(packed.data).digest(),
            packed.last_digest,
            place,
        )
        await recovery.record_archived(self._core.db, segment)
        ARCHIVED.labels(topic).inc(packed.n_records)
        return packed.n_records


def read_segment(archive: Archive, segment: Segment) -> list[Stored]:
    """The records of a segment, checked against its row. Errors: OSError, BadArchive."""
    data = archive.read(segment.place)
    if hashlib.sha256(data).digest() != segment.digest:
        raise BadArchive(f"{segment.place} is not what was archived")
    records = unpack(data)
    if (records[0].offset, records[-1].offset + 1, len(records)) != (
        segment.from_offset,
        segment.to_offset,
        segment.n_records,
    ):
        raise BadArchive(f"{segment.place} holds other records than its row says")
    return records


async def replay_segments(
    db: Database,
    archive: Archive,
    address: Address,
    topic: str,
    partition: int,
    *,
    since: datetime | None = None,
    actor: str,
    why: str,
) -> tuple[int, int]:
    """Publish a partition's archived records again, in order; how many segments and records.

    Errors: OSError, BadArchive, Refused, Unavailable; ConnectionError if the broker did not take all of them.
    """
    segments = [
        s for s in await recovery.get_archived(db, topic, partition) if since is None or s.last_at >= since
    ]
    stream, published = partition_stream(topic, partition), 0
    async with Link(address, name=f"replay of {stream}") as link:
        for segment in segments:
            records = await asyncio.to_thread(read_segment, archive, segment)
            raws = [
                record.raw
                for record in records
                if since is None or record.timestamp_ms >= since.timestamp() * 1000
            ]
            ticket = await link.send(stream, raws)
            await ticket.settled
            if not ticket.confirmed:
                raise ConnectionError(f"{stream}: not all of {segment.place} was stored; replay it again")
            published += len(raws)
    await recovery.tell_replayed(
        db, topic, partition, segments=len(segments), records=published, actor=actor, why=why
    )
    return len(segments), published
