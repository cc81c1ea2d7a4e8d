"""The publisher: what it takes reaches the books, in order and signed, whatever breaks on the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from streams import amqp, messages
from streams.address import Address
from streams.batches import Batch
from streams.events import UsageEvent
from streams.link import Link, Outcome
from streams.messages import Decoded, UsageBatch
from streams.publish import Publisher, PublishError
from streams.spool import SpoolError
from streams.topics import partition_of, partition_stream
from streams.wire import Refused, Wire
from streams.writer import BatchWriter
from tests.conftest import Broker
from tests.streams.conftest import PARTITIONS, Ledger, until
from tests.streams.sqlite_ownership import SqliteOwnership
from tests.streams.test_reader import following

SECRET = b"a secret of the chat service, long enough"
WALLETS = [f"0190b8f2-7d3a-7c11-8a51-{number:012d}" for number in range(40)]


def usage(number: int, **changes: Any) -> UsageEvent:
    said = {"id": f"m-{number}", "wallet_id": WALLETS[number % len(WALLETS)], "feature": "chat.message"}
    return UsageEvent(**{**said, "credits": 1, **changes})


@dataclass
class Core:
    """What the core does with usage: takes each batch of a session once, in order; tells how far it is."""

    covered: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    ids: list[str] = field(default_factory=list)
    batches: int = 0
    repeated: int = 0
    gaps: int = 0
    ignore: int = 0
    silent: bool = False

    async def handle(self, batch: Batch) -> None:
        for record in batch.records:
            self.batches += 1
            assert record.value is not None
            assert messages.verify(record.value, SECRET, record.headers["mac"])
            assert record.headers["publisher"] == "chat"
            assert record.key is not None
            assert partition_of(record.key, PARTITIONS) == batch.partition
            read = messages.decode("wallet.debit", record.value)
            assert isinstance(read, Decoded)
            assert isinstance(read.message, UsageBatch)
            place = (read.message.session, batch.partition)
            if self.ignore:
                self.ignore -= 1
            elif read.message.seq <= self.covered[place]:
                self.repeated += 1
            elif read.message.seq > self.covered[place] + 1:
                self.gaps += 1
            else:
                self.covered[place] += 1
                assert all(
                    partition_of(e.wallet_id, PARTITIONS) == batch.partition for e in read.message.events
                )
                self.ids += [event.id for event in read.message.events]

    async def watermarks(self, session: str) -> Mapping[int, int]:
        if self.silent:
            raise OSError("the database is away")
        return {partition: seq for (of, partition), seq in self.covered.items() if of == session}


@pytest.fixture
async def core(topics: Broker, ownership: SqliteOwnership) -> AsyncIterator[Core]:
    books = Core()

    async def handle(batch: Batch) -> None:
        await ownership.commit(batch)
        await books.handle(batch)

    async with following(topics.url, ownership, handle):
        yield books


def publisher(topics: Broker, core: Core, **options: Any) -> Publisher:
    options = {"poll_s": 0.05, "republish_after_s": 0.4, **options}
    return Publisher(topics.service_url, name="chat", secret=SECRET, watermarks=core.watermarks, **options)


async def test_events_reach_the_books_once_in_order_per_wallet(topics: Broker, core: Core) -> None:
    async with publisher(topics, core) as service:
        for number in range(2000):
            await service.submit(usage(number))
        await service.settled(timeout_s=10)
        assert service.stats.taken == service.stats.confirmed == service.stats.covered == 2000
        assert service.stats.pending == 0
    assert sorted(core.ids) == sorted(f"m-{number}" for number in range(2000))
    of_a_wallet = [int(name[2:]) for name in core.ids if int(name[2:]) % len(WALLETS) == 7]
    assert of_a_wallet == sorted(of_a_wallet)
    assert core.batches < 500


async def test_publishing_returns_when_the_broker_has_stored_the_event(topics: Broker, core: Core) -> None:
    async with publisher(topics, core) as service:
        await asyncio.gather(*(service.publish(usage(number)) for number in range(50)))
        assert service.stats.confirmed == 50
        await service.publish_many(usage(number) for number in range(50, 150))
        assert service.stats.confirmed == 150
        await service.settled(timeout_s=5)
    assert len(core.ids) == 150


async def test_a_batch_that_was_lost_after_its_confirm_is_published_again_with_what_follows(
    topics: Broker, core: Core
) -> None:
    core.ignore = 3
    async with publisher(topics, core) as service:
        for number in range(200):
            await service.publish(usage(number))
        await service.settled(timeout_s=10)
        assert service.stats.batches_republished > 0
    assert core.gaps > 0
    assert sorted(core.ids) == sorted(f"m-{number}" for number in range(200))


async def test_events_survive_lost_connections(topics: Broker, core: Core) -> None:
    async with publisher(topics, core) as service:
        for number in range(3000):
            await service.submit(usage(number))
            if number % 600 == 300:
                await until(lambda: service._link.up)
                assert service._link._wire is not None
                service._link._wire._drop(ConnectionError("pulled out"))
        await service.settled(timeout_s=15)
    assert sorted(core.ids) == sorted(f"m-{number}" for number in range(3000))


async def test_a_full_publisher_waits_and_then_says_why(topics: Broker, core: Core) -> None:
    core.silent = True
    async with publisher(topics, core, max_pending=100, stall_s=0.5) as service:
        for number in range(100):
            await service.submit(usage(number))
        with pytest.raises(PublishError, match="100 events wait for their outcome"):
            await service.submit(usage(100))
        core.silent = False
        await service.publish(usage(101))
        await service.settled(timeout_s=5)
    assert len(core.ids) == 101


async def test_a_user_who_may_not_publish_is_told_so(topics: Broker, core: Core) -> None:
    stranger = Publisher(
        topics.service_url.replace("core_service", "nobody"),
        name="chat",
        secret=SECRET,
        watermarks=core.watermarks,
    )
    with pytest.raises(Refused, match="authentication failed"):
        await stranger.start()
    with pytest.raises(ValueError, match="32 bytes"):
        Publisher(topics.service_url, name="chat", secret=b"short", watermarks=core.watermarks)


async def test_an_event_that_breaks_the_contract_is_refused_before_it_is_sent(
    topics: Broker, core: Core
) -> None:
    async with publisher(topics, core) as service:
        with pytest.raises(ValueError, match=">= 1"):
            await service.publish(usage(1, credits=0))
        with pytest.raises(ValueError, match="4096"):
            await service.publish(usage(1, metadata={"text": "x" * 5000}))
        assert service.stats.taken == 0


CRASHING = """
import asyncio, os, sys
from pathlib import Path
from streams.publish import Publisher
from tests.streams.test_publish import SECRET, usage

async def nothing(session):
    return {}

async def main():
    url, spool, start = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    service = Publisher(url, name="chat", secret=SECRET, watermarks=nothing, spool=spool)
    await service.start()
    if sys.argv[4] == "cut":
        service._link._wire.publish_now = lambda *_: None
    await asyncio.gather(*(service.publish(usage(number)) for number in range(start, start + 100)))
    print("taken", flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_spooled_events_survive_a_crash_before_they_were_sent(
    topics: Broker, core: Core, ledger: Ledger, tmp_path: Path
) -> None:
    spool = tmp_path / "spool.db"
    for start, how in ((0, "cut"), (100, "cut"), (200, "send")):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            CRASHING,
            topics.service_url,
            str(spool),
            str(start),
            how,
            stdout=subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 20)
        assert out == b"taken\n"
        assert process.returncode == -9
    async with publisher(topics, core, spool=spool) as service:
        assert service.stats.taken == 300
        with pytest.raises(SpoolError, match="locked"):
            await publisher(topics, core, spool=spool).start()
        await service.publish(usage(300))
        await service.settled(timeout_s=10)
    assert sorted(core.ids) == sorted(f"m-{number}" for number in range(301))
    assert ledger.count() == core.batches
    async with publisher(topics, core, spool=spool) as service:
        assert service.stats.taken == 0
        await service.publish(usage(301))
        await service.settled(timeout_s=5)
    assert core.ids[-1] == "m-301"
    with pytest.raises(SpoolError, match="of publisher chat"):
        await Publisher(
            topics.service_url, name="voice", secret=SECRET, watermarks=core.watermarks, spool=spool
        ).start()


# -- the relay's writer


@dataclass(frozen=True)
class Message:
    topic: str
    partition: int
    key: str | None
    value: bytes | None
    headers: Mapping[str, str] = field(default_factory=dict)


async def test_the_writer_stores_each_partitions_messages_in_order_and_tells_each_outcome(
    topics: Broker, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    async with BatchWriter(topics.url, name="relay") as writer:
        for start in range(0, 600, 200):
            sent = [
                Message("wallet.debit", n % PARTITIONS, "k", b"%d" % n) for n in range(start, start + 200)
            ]
            assert await writer.publish(sent) == [Outcome.CONFIRMED] * 200
        mixed = [Message("wallet.debit", 0, None, None), Message("wallet.debit", 99, "k", b"x")]
        assert await writer.publish(mixed) == [Outcome.CONFIRMED, Outcome.REFUSED]
        assert await writer.publish([]) == []
    async with following(topics.url, ownership):
        await until(lambda: ledger.count() == 601)
    for number in range(1, PARTITIONS):
        assert ledger.values("wallet.debit", number) == [b"%d" % n for n in range(number, 600, PARTITIONS)]


async def test_the_writer_says_unknown_when_the_broker_is_away(topics: Broker) -> None:
    async with BatchWriter(topics.url, name="relay", wait_s=0.2) as writer:
        first = [Message("wallet.debit", 0, "k", b"x")] * 3
        assert await writer.publish(first) == [Outcome.CONFIRMED] * 3
        link: Link = writer._link
        wire = link._wire
        assert wire is not None
        link._address = replace(link._address, port=1)
        wire._drop(ConnectionError("pulled out"))
        assert await writer.publish(first) == [Outcome.UNKNOWN] * 3


async def test_who_publishes_after_another_counts_from_one_again_and_loses_nothing(topics: Broker) -> None:
    """The broker drops what comes from a name with numbers it has seen, and confirms it: so nobody has a name."""
    address, stream = Address.parse(topics.url), partition_stream("wallet.debit", 0)
    for number in range(2):
        async with Link(address, name="tests") as link:
            ticket = await link.send(stream, [amqp.encode(b"k", b"%d-%d" % (number, n)) for n in range(10)])
            await ticket.settled
            assert ticket.confirmed
    wire = await Wire.connect(address, name="tests")
    assert await wire.ends([stream]) == {stream: 20}
    await wire.close()
