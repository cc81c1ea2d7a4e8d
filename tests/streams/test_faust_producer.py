"""Faust's producer on the transport: every message stored at least once, in order, and refusals told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from faust.exceptions import ImproperlyConfigured, ProducerSendError

from streams.app import CoreApp, make_app
from streams.settings import StreamSettings
from streams.transport.producer import MAX_IN_FLIGHT, Producer
from streams.wire import Wire
from tests.conftest import Broker
from tests.streams.conftest import PARTITIONS, Ledger, until
from tests.streams.sqlite_ownership import SqliteOwnership
from tests.streams.test_reader import following

TOPIC = "wallet.debit"


@pytest.fixture
def app(topics: Broker, ownership: SqliteOwnership) -> CoreApp:
    settings = StreamSettings(stream_url=topics.url, partitions=PARTITIONS, consumer_group="tests")
    return make_app(settings, ownership)


@pytest.fixture
async def producer(app: CoreApp) -> AsyncIterator[Producer]:
    started = app.producer
    assert isinstance(started, Producer)
    await started.start()
    yield started
    await started.stop()


async def send(producer: Producer, partition: int, value: bytes) -> None:
    await producer.send(TOPIC, b"k", value, partition, None, None)


def connected(producer: Producer) -> Wire | None:
    return None if producer._link is None else producer._link._wire


async def test_messages_survive_lost_connections_in_order(
    producer: Producer, topics: Broker, ownership: SqliteOwnership, ledger: Ledger
) -> None:
    for number in range(4000):
        await send(producer, number % PARTITIONS, b"%d" % number)
        if number % 1000 == 500:
            await until(lambda: connected(producer) is not None)
            await send(producer, 0, b"under way")
            wire = connected(producer)
            assert wire is not None
            wire._drop(ConnectionError("pulled out"))
    await producer.flush()
    async with following(topics.url, ownership):
        wanted = {b"%d" % number for number in range(4000)}
        await until(lambda: wanted <= {row[0] for row in ledger.rows("SELECT value FROM records")})
    for partition in range(PARTITIONS):
        seen = list(dict.fromkeys(ledger.values(TOPIC, partition)))
        assert [v for v in seen if v != b"under way"] == [
            b"%d" % n for n in range(partition, 4000, PARTITIONS)
        ]


async def test_a_flush_ends_though_others_go_on_sending(producer: Producer) -> None:
    stop = asyncio.Event()

    async def noise() -> None:
        while not stop.is_set():
            await send(producer, 1, b"noise")
            await asyncio.sleep(0)

    task = asyncio.create_task(noise())
    future = await producer.send(TOPIC, b"k", b"mine", 0, None, {"from": b"me"})
    await asyncio.wait_for(producer.flush(), 5)
    assert (await future).topic == TOPIC
    stop.set()
    await task


async def test_what_the_broker_refuses_fails_its_future(producer: Producer) -> None:
    future = await producer.send(TOPIC, b"k", b"v", 99, None, None)
    with pytest.raises(ProducerSendError, match="does not exist"):
        await future
    await producer.flush()


async def test_messages_under_way_are_bounded(producer: Producer) -> None:
    most = 0
    for number in range(MAX_IN_FLIGHT + 5000):
        await send(producer, number % PARTITIONS, b"v")
        most = max(most, producer._in_flight)
    await producer.flush()
    assert most <= MAX_IN_FLIGHT
    assert producer._in_flight == 0


async def test_a_topic_that_does_not_exist_is_an_error_and_not_made_silently(producer: Producer) -> None:
    with pytest.raises(ImproperlyConfigured, match="no such thing does not exist"):
        await producer.send("no such thing", b"k", b"v", None, None, None)


async def test_keys_go_to_their_partition_and_messages_without_one_take_turns(producer: Producer) -> None:
    await producer.transport.partitions_of(TOPIC)
    assert producer.key_partition(TOPIC, b"hello1").partition == producer.transport.partition_for(
        TOPIC, b"hello1"
    )
    assert {producer.transport.partition_for(TOPIC, None) for _ in range(PARTITIONS)} == set(
        range(PARTITIONS)
    )


async def test_an_app_names_only_topics_there_are(topics: Broker, ownership: SqliteOwnership) -> None:
    with pytest.raises(ValueError, match=r"wallet\.nothing"):
        make_app(StreamSettings(stream_url=topics.url), ownership, topics=["wallet.nothing"])


async def test_stopping_fails_what_cannot_be_sent_any_more_at_once(app: CoreApp) -> None:
    producer = app.producer
    assert isinstance(producer, Producer)
    await producer.start()
    await producer.transport.partitions_of(TOPIC)
    assert producer._link is not None
    wire = producer._link._wire
    assert wire is not None
    wire.on_confirm = lambda *_: None
    futures = [await producer.send(TOPIC, b"k", b"v", 0, None, None) for _ in range(5000)]
    await asyncio.wait_for(producer.stop(), 8)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(result, ProducerSendError) for result in results)
