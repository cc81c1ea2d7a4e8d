"""The reader: what flows when, what is committed once, and what happens when the broker's log is
not what it was.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from rstream.exceptions import StreamNotAvailable

from deploy.broker import Management
from streams import amqp
from streams.address import Address
from streams.batches import Batch, Fenced, Record
from streams.link import Link
from streams.runner import Lanes
from streams.topics import Topic, declare, partition_stream
from streams.transport import reader as reading
from streams.transport.credit import CREDIT, PARTITION_BYTES
from streams.transport.reader import Reader
from streams.transport.watchdog import Watchdog
from streams.wire import Refused, Wire
from tests.conftest import Broker
from tests.streams.conftest import PARTITIONS, Feed, Ledger, until
from tests.streams.sqlite_ownership import SqliteOwnership

TOPIC, STREAM = "wallet.debit", "wallet.debit-0"
Handle = Callable[[Batch], Awaitable[object]]


@asynccontextmanager
async def following(
    url: str,
    ownership: SqliteOwnership,
    handle: Handle | None = None,
    *,
    partitions: int = PARTITIONS,
    silent_s: float = 5.0,
    max_records: int = 500,
    ca_file: Path | None = None,
) -> AsyncIterator[Reader]:
    """A reader with its lanes and watchdog, in this process."""
    reader = Reader(Address.parse(url, ca_file=ca_file), ownership, group="tests", owner="here")
    lanes = Lanes(
        reader, handle or ownership.commit, max_records=max_records, max_bytes=1 << 20, concurrency=4
    )
    reader.on_data = lanes.wake
    await reader.start()
    reader.follow({TOPIC: partitions})
    watch = asyncio.create_task(Watchdog(reader, unverified_s=0.5, silent_s=silent_s).run())
    try:
        yield reader
    finally:
        watch.cancel()
        await lanes.stop(deadline_s=2)
        await reader.leave(deadline_s=2)


async def store(link: Link, stream: str, *values: bytes) -> None:
    ticket = await link.send(stream, [amqp.encode(b"k", value) for value in values])
    await ticket.settled
    assert ticket.confirmed


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + count)]


def reached(ledger: Ledger, goal: int) -> bool:
    return ledger.count() == goal


def open_partitions(reader: Reader) -> int:
    return sum(partition.open for partition in reader.partitions.values())


async def test_records_arrive_once_in_order_with_all_they_carry(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    seen: list[Record] = []

    async def handle(batch: Batch) -> None:
        await ownership.commit(batch)
        seen.extend(batch.records)

    messages = [
        amqp.encode(b"wallet", b"value", {"publisher": "chat"}),
        amqp.encode(None, b""),
        amqp.encode(b"wallet", None),
        b"not amqp",
    ]
    await (await link.send(STREAM, messages)).settled
    async with following(topics.url, ownership, handle):
        await until(lambda: len(seen) == 4)
        await store(link, STREAM, b"later")
        await until(lambda: len(seen) == 5)
    assert [(r.offset, r.key, r.value, r.headers, r.malformed) for r in seen] == [
        (0, b"wallet", b"value", {"publisher": "chat"}, False),
        (1, None, b"", {}, False),
        (2, b"wallet", None, {}, False),
        (3, None, b"not amqp", {}, True),
        (4, b"k", b"later", {}, False),
    ]
    assert seen[0].timestamp_ms > 1_700_000_000_000
    ledger.check()


async def test_a_restart_goes_on_where_the_last_commit_ended(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    for round_ in range(3):
        await store(link, STREAM, *numbered(700, 700 * round_))
        async with following(topics.url, ownership, max_records=100) as reader:
            goal = 700 * (round_ + 1)
            await until(partial(reached, ledger, goal))
            assert reader.partitions[TOPIC, 0].epoch == round_ + 1
    assert ledger.values(TOPIC, 0) == numbered(2100)
    ledger.check()
    assert {row[2] for row in ownership.restored} == {1, 2, 3}


async def test_a_failing_batch_is_tried_again_and_only_its_partition_waits(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    attempts: Counter[int] = Counter()

    async def handle(batch: Batch) -> None:
        attempts[batch.partition] += 1
        if batch.partition == 0 and attempts[0] < 4:
            raise OSError("the database is away")
        await ownership.commit(batch)

    async with following(topics.url, ownership, handle):
        for number in range(PARTITIONS):
            await store(link, f"{TOPIC}-{number}", *numbered(10))
        await until(lambda: ledger.count() == 10 * PARTITIONS)
    assert attempts[0] >= 4
    assert ledger.values(TOPIC, 0) == numbered(10)
    ledger.check()


async def test_a_fenced_worker_drops_its_batch_and_queues_anew(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    refused = 0

    async def handle(batch: Batch) -> None:
        nonlocal refused
        if batch.epoch == 1:
            await ownership.claim(TOPIC, [batch.partition], "somebody else")
        try:
            await ownership.commit(batch)
        except Fenced:
            refused += 1
            raise

    async with following(topics.url, ownership, handle) as reader:
        await store(link, STREAM, *numbered(50))
        await until(lambda: ledger.count() == 50)
        assert reader.partitions[TOPIC, 0].epoch == 3
    assert refused == 1
    assert ledger.values(TOPIC, 0) == numbered(50)
    ledger.check()


async def test_a_stream_whose_records_were_deleted_unread_halts_until_somebody_decides(
    broker: Broker, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    small = Topic(TOPIC, "key", max_length_bytes=60_000, segment_bytes=20_000)
    await declare(broker.admin_url, 1, topics=[small])
    wire = await Wire.connect(Address.parse(broker.url), name="test")
    async with Link(Address.parse(broker.url), name="test") as link:
        stored = 0
        while (await wire.stats(STREAM)).first_chunk_id <= 0:
            await store(link, STREAM, *[b"x" * 500] * 20)
            stored += 20
            assert stored < 4000
        await asyncio.sleep(0.5)  # the broker deletes in the background
        first = (await wire.stats(STREAM)).first_chunk_id
        async with following(broker.url, ownership, partitions=1) as reader:
            partition = reader.partitions[TOPIC, 0]
            await until(lambda: partition.halted is not None)
            labels = {"topic": TOPIC, "partition": "0"}
            assert REGISTRY.get_sample_value("stream_partition_halted", labels) == 1
            assert f"the first one there is is {first}" in str(partition.halted)
            await asyncio.sleep(0.3)
            assert ledger.count() == 0
            assert partition.epoch is not None
            await ownership.reincarnate(TOPIC, 0, partition.epoch, first)
            reader.requeue(partition)
            await until(lambda: ledger.count() == stored - first)
            assert REGISTRY.get_sample_value("stream_partition_halted", labels) == 0
    await wire.close()


async def test_reused_offsets_are_noticed_and_read_from_the_beginning(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    await store(link, STREAM, *numbered(100))
    async with following(topics.url, ownership):
        await until(lambda: ledger.count() == 100)
    admin = await Wire.connect(Address.parse(topics.admin_url), name="test")
    await admin.delete_super_stream(TOPIC)
    await admin.close()
    await declare(topics.admin_url, PARTITIONS)
    async with Link(Address.parse(topics.url), name="test") as fresh:
        await store(fresh, STREAM, *numbered(150))
    async with following(topics.url, ownership) as reader:
        await until(lambda: ledger.count() == 250)
        claim = reader.partitions[TOPIC, 0].claim
        assert claim is not None
        assert claim.incarnation == 2
    assert ledger.values(TOPIC, 0) == numbered(100) + numbered(150)


async def test_a_stream_that_lost_its_tail_is_noticed_before_anything_new_comes(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    await store(link, STREAM, *numbered(10))
    await ownership.claim(TOPIC, [0], "an earlier worker")
    await ownership.advance(TOPIC, 0, epoch=1, next_offset=51, last_offset=50, last_digest=b"d" * 16)
    async with following(topics.url, ownership):
        await until(lambda: ledger.count() == 10)
    assert ledger.rows("SELECT DISTINCT incarnation FROM records") == [(2,)]


async def test_a_deleted_stream_keeps_nobody_from_the_others_and_is_read_once_it_is_there_again(
    topics: Broker, ownership: SqliteOwnership, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partition 0 is gone before the worker comes, partition 1 goes while it reads."""
    monkeypatch.setattr(reading, "_ABSENT_S", (0.05, 0.2))
    streams = [partition_stream(TOPIC, number) for number in range(PARTITIONS)]
    admin = await Wire.connect(Address.parse(topics.admin_url), name="test")

    def lost(number: int) -> Callable[[], bool]:
        return lambda: reader.partitions[TOPIC, number].subscription is None

    await admin.request("deleting", admin.delete_stream(streams[0]))
    async with following(topics.url, ownership) as reader, Link(Address.parse(topics.url), name="t") as link:
        for stream in streams[1:]:
            await store(link, stream, *numbered(10))
        await until(lambda: ledger.count() == 30)
        assert lost(0)()

        await admin.request("deleting", admin.delete_stream(streams[1]))
        await until(lost(1))
        for stream in streams[2:]:
            await store(link, stream, *numbered(10, 10))
        await until(lambda: ledger.count() == 50)

        async with Management(topics.management_url) as management:
            for number in range(2):
                await management.restore_partition(topics.vhost, TOPIC, number)
        async with Link(Address.parse(topics.url), name="fresh") as fresh:
            for stream in streams[:2]:
                await store(fresh, stream, *numbered(20, 20))
        await until(lambda: ledger.count() == 90)
    await admin.close()
    assert [ledger.values(TOPIC, number) for number in range(PARTITIONS)] == [
        numbered(20, 20),
        numbered(10) + numbered(20, 20),
        numbered(20),
        numbered(20),
    ]
    assert ledger.rows("SELECT DISTINCT incarnation FROM records WHERE partition = 1") == [(1,), (2,)]


async def test_a_stream_that_nobody_leads_keeps_nobody_from_the_others_and_is_read_once_it_is_led(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As RabbitMQ answers of a stream whose writer met a full disk."""
    monkeypatch.setattr(reading, "_ABSENT_S", (0.05, 0.2))
    follow, led = Wire.follow, asyncio.Event()

    async def answer(self: Wire, stream: str, subscription: int, **more: Any) -> None:
        if stream == STREAM and not led.is_set():
            raise Refused(f"reading {stream}", StreamNotAvailable.code)
        await follow(self, stream, subscription, **more)

    monkeypatch.setattr(Wire, "follow", answer)
    async with following(topics.url, ownership):
        for number in range(PARTITIONS):
            await store(link, f"{TOPIC}-{number}", *numbered(10))
        await until(lambda: ledger.count() == 10 * (PARTITIONS - 1))
        led.set()
        await until(lambda: ledger.count() == 10 * PARTITIONS)
    assert ledger.values(TOPIC, 0) == numbered(10)
    ledger.check()


async def test_credit_is_returned_for_every_chunk_whatever_its_size(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    count = 5 * CREDIT
    async with following(topics.url, ownership):
        for number in range(count):
            await store(link, STREAM, b"%d" % number)
        await until(lambda: ledger.count() == count)
        for _ in range(count // 5):
            await store(link, STREAM, b"x" * 400_000, b"y" * 400_000)
        await until(lambda: ledger.count() == count + 2 * (count // 5))
    ledger.check()


async def test_a_slow_handler_does_not_fill_the_memory(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    release = asyncio.Event()

    async def handle(batch: Batch) -> None:
        await release.wait()
        await ownership.commit(batch)

    async with following(topics.url, ownership, handle) as reader:
        partition = reader.partitions[TOPIC, 0]
        for _ in range(40):
            await store(link, STREAM, *[b"x" * 100_000] * 4)
        await until(lambda: partition.held_bytes > PARTITION_BYTES)
        await asyncio.sleep(0.5)
        assert partition.held_bytes < PARTITION_BYTES + CREDIT * 900_000
        release.set()
        await until(lambda: ledger.count() == 160)
        await until(lambda: partition.held_bytes == 0)
    ledger.check()


async def test_a_silent_partition_is_read_anew(
    topics: Broker, link: Link, ownership: SqliteOwnership, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with following(topics.url, ownership, silent_s=0.5):
        await store(link, STREAM, *numbered(5))
        await until(lambda: ledger.count() == 5)
        with monkeypatch.context() as broken:
            broken.setattr(Wire, "credit_now", lambda *_: None)
            for number in range(CREDIT + 3):
                await store(link, STREAM, b"%d" % number)
            # What the credit lets through; the reader may have noticed the silence by the time we look.
            await until(lambda: ledger.count() >= 5 + CREDIT - 1)
        await until(lambda: ledger.count() == 5 + CREDIT + 3)
    ledger.check()


async def test_a_lost_connection_is_rebuilt_with_everything_cleared(
    topics: Broker, ownership: SqliteOwnership, ledger: Ledger, feed: Callable[..., Feed]
) -> None:
    async with feed(per_s=2000) as running, following(topics.url, ownership) as reader:
        for _ in range(3):
            await until(lambda: open_partitions(reader) == PARTITIONS)
            await asyncio.sleep(0.2)
            assert reader.wire is not None
            reader.wire._drop(ConnectionError("pulled out"))
            assert open_partitions(reader) == 0
        stored = await running.stop()
        await until(lambda: ledger.count() == stored)
    ledger.check()
    assert all(ledger.values(TOPIC, n) == running.sent[f"{TOPIC}-{n}"] for n in range(PARTITIONS))


async def test_more_partitions_than_one_connection_can_follow_are_refused(ownership: SqliteOwnership) -> None:
    reader = Reader(Address.parse("rabbitmq-stream://127.0.0.1:1"), ownership, group="tests", owner="here")
    with pytest.raises(ValueError, match="at most 255"):
        reader.follow({TOPIC: reading._MAX_SUBSCRIPTIONS + 1})


async def test_a_stream_that_is_not_yet_a_part_of_its_topic_is_left_alone(
    broker: Broker, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    """As while somebody declares topics on a new broker: a subscription then would end the broker's coordinator."""
    admin = await Wire.connect(Address.parse(broker.admin_url), name="test")
    await admin.create_stream(STREAM, {})
    async with following(broker.url, ownership, partitions=1) as reader:
        await asyncio.sleep(1.0)
        assert reader.partitions[TOPIC, 0].subscription is None
        await admin.delete_stream(STREAM)
        await declare(broker.admin_url, 1)
        async with Link(Address.parse(broker.url), name="test") as link:
            await store(link, STREAM, *numbered(10))
            await until(lambda: ledger.count() == 10)
    await admin.close()
