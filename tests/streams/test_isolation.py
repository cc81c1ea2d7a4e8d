"""A record that its handler cannot take does not hold up its partition."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streams.address import Address
from streams.batches import Batch, Held
from streams.link import Link
from streams.runner import BLAMED_AFTER, Lanes
from streams.transport.reader import Reader
from tests.conftest import Broker
from tests.streams.conftest import PARTITIONS, Ledger, until
from tests.streams.sqlite_ownership import SqliteOwnership
from tests.streams.test_reader import STREAM, TOPIC, numbered, store


class Aside:
    """Blames every ValueError, and commits past the record that raised it."""

    def __init__(self, ownership: SqliteOwnership) -> None:
        self._ownership = ownership
        self.records: list[bytes | None] = []

    def blames(self, error: Exception) -> bool:
        return isinstance(error, ValueError)

    async def set_aside(self, batch: Batch, error: Exception) -> None:
        assert len(batch.records) == 1
        await self._ownership.commit(batch)
        self.records.append(batch.records[0].value)


class Strict:
    """A handler that some values break; `calls` are the sizes of what it was given."""

    def __init__(self, ownership: SqliteOwnership, *poison: bytes) -> None:
        self._ownership = ownership
        self.poison = set(poison)
        self.calls: list[int] = []
        self.held = 0

    async def __call__(self, batch: Batch) -> None:
        self.calls.append(len(batch.records))
        if self.held:
            self.held -= 1
            raise Held
        if any(record.value in self.poison for record in batch.records):
            raise ValueError("this record makes no sense")
        await self._ownership.commit(batch)


@asynccontextmanager
async def isolating(
    url: str, ownership: SqliteOwnership, handler: Strict, aside: Aside
) -> AsyncIterator[Reader]:
    reader = Reader(Address.parse(url), ownership, group="tests", owner="here")
    lanes = Lanes(reader, handler, max_records=64, max_bytes=1 << 20, concurrency=4, isolation=aside)
    reader.on_data = lanes.wake
    await reader.start()
    reader.follow({TOPIC: PARTITIONS})
    try:
        yield reader
    finally:
        await lanes.stop(deadline_s=2)
        await reader.leave(deadline_s=2)


async def test_the_one_record_at_fault_is_found_and_the_others_are_committed_in_order(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    handler, aside = Strict(ownership, b"17", b"60", b"61"), Aside(ownership)
    await store(link, STREAM, *numbered(100))
    async with isolating(topics.url, ownership, handler, aside):
        await until(lambda: ledger.count() == 100)
    assert aside.records == [b"17", b"60", b"61"]
    assert ledger.values(TOPIC, 0) == numbered(100)
    ledger.check()
    assert len(handler.calls) < 60, "halving, not one by one"


async def test_a_record_is_tried_alone_before_it_is_blamed(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    handler, aside = Strict(ownership, b"0"), Aside(ownership)
    await store(link, STREAM, b"0")
    async with isolating(topics.url, ownership, handler, aside):
        await until(lambda: len(handler.calls) == BLAMED_AFTER - 1)
        assert not aside.records
        handler.poison.clear()
        await until(lambda: ledger.count() == 1)
    assert not aside.records


async def test_a_topic_that_is_held_waits_and_is_no_fault(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    handler, aside = Strict(ownership), Aside(ownership)
    handler.held = 3
    await store(link, STREAM, *numbered(5))
    async with isolating(topics.url, ownership, handler, aside):
        await asyncio.sleep(0.2)
        assert ledger.count() == 0
        await until(lambda: ledger.count() == 5)
    assert not aside.records
