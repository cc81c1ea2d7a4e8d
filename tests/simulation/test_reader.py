"""The reader against a broker whose offsets are not dense: what the simulation found, as small as it gets."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest

from streams.batches import Claim
from streams.chunks import digest
from streams.transport.partition import Partition
from streams.transport.reader import Reader
from streams.wire import Wire
from tests.simulation.broker import Log, SimulatedBroker
from tests.simulation.worker import ADDRESS

TOPIC, STREAM = "wallet.debit", "wallet.debit-0"


class Owner:
    """Grants every claim of one partition at `claim`."""

    def __init__(self) -> None:
        self.claim_now = Claim(1, 1, 0, None, None)

    def join_lock(self) -> AbstractAsyncContextManager[None]:
        return contextlib.nullcontext()

    async def claim(self, topic: str, partitions: Sequence[int], owner: str) -> dict[int, Claim]:
        return dict.fromkeys(partitions, self.claim_now)

    async def reincarnate(self, topic: str, partition: int, epoch: int, first_offset: int) -> Claim:
        self.claim_now = Claim(epoch + 1, self.claim_now.incarnation + 1, first_offset, None, None)
        return self.claim_now

    async def restore(self, topic: str, partition: int, claim: Claim) -> None:
        return None

    async def positions(self, topic: str) -> dict[int, int]:
        return {}


class Desk:
    """A reader of one partition, and the broker's side of it."""

    def __init__(self) -> None:
        self.broker = SimulatedBroker([STREAM], random.Random(0))
        self.owner = Owner()
        connect = cast(Callable[..., Wire], self.broker.connect)
        self.reader = Reader(ADDRESS, self.owner, group="g", owner="o", connect=connect)  # type: ignore[arg-type]

    @property
    def log(self) -> Log:
        return self.broker.logs[STREAM]

    @property
    def partition(self) -> Partition:
        return self.reader.partitions[TOPIC, 0]

    async def deliver(self) -> None:
        """Everything there is, once the reader has answered."""
        async with asyncio.timeout(5):
            while not self.broker.groups[STREAM].deliverable:
                await asyncio.sleep(0.001)
        while self.broker.groups[STREAM].deliverable:
            self.broker.groups[STREAM].deliver()
        await asyncio.sleep(0.01)


@asynccontextmanager
async def following(desk: Desk) -> AsyncIterator[Partition]:
    await desk.reader.start()
    desk.reader.follow({TOPIC: 1})
    await desk.deliver()
    try:
        yield desk.partition
    finally:
        await desk.reader.leave(deadline_s=0)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def test_a_stream_that_begins_with_the_brokers_own_notes_has_lost_nothing(desk: Desk) -> None:
    desk.log.keep_books(1)
    desk.log.append([b"a", b"b"], 2)
    desk.log.append([b"c"], 3)
    async with following(desk) as partition:
        assert partition.open
        batch = partition.batch(10, 1000)
        assert batch is not None
        assert [record.offset for record in batch.records] == [1, 2, 3]


async def test_after_retention_a_new_incarnation_may_begin_at_the_brokers_own_notes(desk: Desk) -> None:
    desk.log.append([b"a"], 1)
    desk.log.keep_books(2)
    desk.log.append([b"b"], 3)
    desk.log.expire(1)
    desk.owner.claim_now = Claim(2, 2, desk.log.stats.first_chunk_id, None, None)
    async with following(desk) as partition:
        assert partition.open
        assert partition.halted is None


async def test_a_stream_that_begins_after_what_is_next_halts(desk: Desk) -> None:
    desk.log.append([b"a"], 1)
    desk.log.append([b"b"], 2)
    desk.log.expire(1)
    async with following(desk) as partition:
        assert partition.halted is not None
        assert partition.batch(10, 1000) is None


async def test_a_record_that_took_the_offset_of_a_lost_one_begins_a_new_incarnation(desk: Desk) -> None:
    desk.log.append([b"a", b"another"], 1)
    desk.owner.claim_now = Claim(2, 1, 2, 1, digest(1, b"b"))
    async with following(desk) as partition:
        assert not partition.verified
        assert desk.owner.claim_now.incarnation == 2


async def test_the_record_that_was_read_last_is_known_again(desk: Desk) -> None:
    desk.log.append([b"a", b"b"], 1)
    desk.owner.claim_now = Claim(2, 1, 2, 1, digest(1, b"b"))
    async with following(desk) as partition:
        assert partition.open
        assert desk.owner.claim_now.incarnation == 1
