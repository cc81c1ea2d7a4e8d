"""Topics: partitions as RabbitMQ's other clients choose them, declaration, permissions of broker users."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from deploy.broker import Management
from streams import amqp, topics
from streams.address import Address
from streams.link import Link
from streams.topics import TOPICS, PartitionMismatch, Topic, declare, partition_of, partition_stream
from streams.wire import Refused, UnsupportedBroker, Wire
from tests.conftest import Broker

# The keys and partitions that RabbitMQ's Go client asserts for its hash routing strategy over three
# partitions.
KNOWN = {
    "hello1": 1,
    "hello2": 0,
    "hello3": 1,
    "hello4": 2,
    "hello5": 0,
    "hello6": 2,
    "hello7": 0,
    "hello8": 1,
    "hello9": 0,
    "hello10": 2,
    "hello88": 1,
}


@pytest.mark.parametrize(("key", "partition"), KNOWN.items())
def test_a_key_lies_where_the_other_clients_put_it(key: str, partition: int) -> None:
    assert partition_of(key, 3) == partition
    assert partition_of(key.encode(), 3) == partition


def test_a_key_outside_ascii_is_hashed_as_utf_8() -> None:
    assert partition_of("कुंजी", 16) == partition_of("कुंजी".encode(), 16)


def test_keys_spread_evenly() -> None:
    counts = [0] * 16
    for number in range(16_000):
        counts[partition_of(f"wallet-{number}", 16)] += 1
    assert min(counts) > 800
    assert max(counts) < 1200


async def test_declaring_twice_is_the_same_as_once_and_another_count_is_an_error(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await declare(broker.admin_url, 2)
    await declare(broker.admin_url, 2)
    with pytest.raises(PartitionMismatch, match="2 partitions, not 1"):
        await declare(broker.admin_url, 1)
    monkeypatch.setattr(topics, "RECOVERY_S", 0.5)
    with pytest.raises(PartitionMismatch, match="2 partitions, not 3"):
        await declare(broker.admin_url, 3)
    wire = await Wire.connect(Address.parse(broker.url), name="test")
    for topic in TOPICS:
        assert sorted(await wire.partitions(topic)) == [f"{topic}-0", f"{topic}-1"]
    await wire.close()


async def test_partitions_that_a_restarted_broker_has_not_yet_found_are_waited_for(broker: Broker) -> None:
    await declare(broker.admin_url, 4)
    topic = "webhook.processing"
    host = quote(broker.vhost, safe="")

    async def recover(management: Management) -> None:
        for number in range(2, 4):
            await asyncio.sleep(topics.SETTLE_S / 2)
            await management.restore_partition(broker.vhost, topic, number)

    async with Management(broker.management_url) as management:
        wire = await Wire.connect(Address.parse(broker.url), name="test")
        for number in range(2, 4):
            binding = f"/api/bindings/{host}/e/{topic}/q/{partition_stream(topic, number)}"
            (found,) = await management.request("GET", binding)
            await management.request("DELETE", f"{binding}/{found['properties_key']}")
        assert len(await wire.partitions(topic)) == 2
        told, asked, declared, _ = await asyncio.gather(
            topics.whole(wire, topic, 4),
            topics.settled(wire, topic),
            declare(broker.admin_url, 4),
            recover(management),
        )
        await wire.close()
    assert (told, asked, declared) == (None, 4, None)


ACCESS_REFUSED = 16


async def may_write(url: str, stream: str) -> bool:
    code = 0
    async with Link(Address.parse(url), name="test") as link:
        try:
            ticket = await link.send(stream, [amqp.encode(b"k", b"v")])
            await ticket.settled
        except Refused as error:
            code = error.code
    assert code in (0, ACCESS_REFUSED)
    return not code and ticket.confirmed


async def may_read(url: str, stream: str) -> bool:
    wire, code = await Wire.connect(Address.parse(url), name="test"), 0
    try:
        await wire.follow(stream, 0, credit=1, offset=0)
    except Refused as error:
        code = error.code
    await wire.close()
    assert code in (0, ACCESS_REFUSED)
    return not code


async def test_a_servicemay_write_usage_and_nothing_else(broker: Broker) -> None:
    await declare(broker.admin_url, 1)
    for topic in TOPICS:
        assert await may_write(broker.service_url, f"{topic}-0") == (topic == "wallet.debit"), topic
        assert not await may_read(broker.service_url, f"{topic}-0"), topic


async def test_a_workermay_write_and_read_every_topic_but_declare_none(broker: Broker) -> None:
    await declare(broker.admin_url, 1)
    for topic in TOPICS:
        assert await may_write(broker.url, f"{topic}-0"), topic
        assert await may_read(broker.url, f"{topic}-0"), topic
    for url in (broker.url, broker.service_url):
        with pytest.raises(Refused, match="refused"):
            await declare(url, 1, topics=[Topic("wallet.debit.evil", "key")])
        wire = await Wire.connect(Address.parse(url), name="test")
        with pytest.raises(Refused, match="refused"):
            await wire.request("deleting", wire.delete_stream("wallet.debit-0"))
        await wire.close()


async def test_an_old_broker_is_refused_with_a_clear_error(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Wire.peer_properties

    async def old(wire: Wire) -> dict[str, str]:
        return {**await honest(wire), "version": "3.13.7"}

    monkeypatch.setattr(Wire, "peer_properties", old)
    with pytest.raises(UnsupportedBroker, match=r"is RabbitMQ 3\.13\.7; version 4\.0 or newer is needed"):
        await Wire.connect(Address.parse(broker.url), name="test")
    await asyncio.sleep(0)
