"""A broker that is killed, that loses the end of its log, and that speaks TLS: nodes of the tests' own."""

from __future__ import annotations

import asyncio

import pytest

from bench.faults.tails import cut_tail
from deploy.local.private import private_rabbitmq
from streams import amqp
from streams.address import Address
from streams.link import Link
from streams.topics import declare
from streams.wire import Refused, Wire
from tests.streams.conftest import PARTITIONS, Feed, Ledger, until
from tests.streams.sqlite_ownership import SqliteOwnership
from tests.streams.test_reader import STREAM, TOPIC, following, numbered, store

SETTLED_S = 5.0
"""RabbitMQ writes down where a new stream lives a few seconds late; killed before, the stream
never comes back.
"""


async def test_a_broker_killed_under_load_loses_and_repeats_nothing(
    ownership: SqliteOwnership, ledger: Ledger
) -> None:
    async with private_rabbitmq() as node:
        await declare(node.stream_url("core_admin"), PARTITIONS)
        await asyncio.sleep(SETTLED_S)
        url = node.stream_url()
        async with Feed(url, (TOPIC,), 2000) as running, following(url, ownership):
            await until(lambda: ledger.count() > 500)
            node.kill9()
            await node.start()
            before = ledger.count()
            await until(lambda: ledger.count() > before + 500, within_s=20)
            stored = await running.stop()
            await until(lambda: ledger.count() >= stored)
    ledger.check()
    for number in range(PARTITIONS):
        committed = ledger.values(TOPIC, number)
        assert list(dict.fromkeys(committed)) == running.sent[f"{TOPIC}-{number}"]


async def test_a_cut_tail_whose_offsets_are_reused_is_noticed(
    ownership: SqliteOwnership, ledger: Ledger
) -> None:
    async with private_rabbitmq() as node:
        await declare(node.stream_url("core_admin"), 1)
        url = node.stream_url()
        async with Link(Address.parse(url), name="test") as link:
            for number in range(60):
                await store(link, STREAM, b"%d" % number)
        async with following(url, ownership, partitions=1):
            await until(lambda: ledger.count() == 60)
        await asyncio.sleep(SETTLED_S)
        node.kill9()
        assert cut_tail(node, STREAM) > 0
        await node.start()
        end = await end_of(url, STREAM)
        assert 0 < end < 60
        async with Link(Address.parse(url), name="test") as link:
            await store(link, STREAM, *numbered(80, start=1000))
        async with following(url, ownership, partitions=1) as reader:
            await until(lambda: ledger.count() == 60 + end + 80)
            claim = reader.partitions[TOPIC, 0].claim
            assert claim is not None
            assert claim.incarnation == 2
    assert ledger.values(TOPIC, 0) == numbered(60) + numbered(end) + numbered(80, start=1000)


async def end_of(url: str, stream: str) -> int:
    """Offset after the last record, once the broker that was restarted has found its streams."""
    for _ in range(200):
        wire = await Wire.connect(Address.parse(url), name="test")
        try:
            if (end := (await wire.ends([stream]))[stream]) > 0:
                return end
        except Refused:
            pass
        finally:
            await wire.close()
        await asyncio.sleep(0.1)
    raise AssertionError(f"{stream} did not come back")


async def test_records_flow_over_tls_and_a_stranger_is_refused(
    ownership: SqliteOwnership, ledger: Ledger
) -> None:
    async with private_rabbitmq(tls=True) as node:
        ca = node.ca_file
        assert ca is not None
        await declare(node.stream_url("core_admin", tls=True), PARTITIONS, ca_file=ca)
        address = Address.parse(node.stream_url(tls=True), ca_file=ca)
        async with Link(address, name="test") as link:
            await (await link.send(STREAM, [amqp.encode(b"k", value) for value in numbered(1000)])).settled
        async with following(node.stream_url(tls=True), ownership, ca_file=ca):
            await until(lambda: ledger.count() == 1000)
        assert ledger.values(TOPIC, 0) == numbered(1000)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            await Wire.connect(Address.parse(node.stream_url(tls=True)), name="test")
        await asyncio.sleep(0)
