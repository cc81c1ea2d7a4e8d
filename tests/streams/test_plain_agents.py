"""Agents written for plain Faust run on the transport unchanged: at least once, in order, offsets stored."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from streams import amqp
from streams.address import Address
from streams.lag import LagReader
from streams.link import Link
from tests.conftest import Broker
from tests.streams import conftest
from tests.streams.conftest import PARTITIONS, Feed, Fleet, Ledger, until


def first_seen(values: list[bytes]) -> list[bytes]:
    return list(dict.fromkeys(values))


def arrived(ledger: Ledger) -> set[bytes]:
    return {row[0] for row in ledger.rows("SELECT DISTINCT value FROM records")}


async def test_plain_agents_forward_and_acknowledge_and_lose_nothing_when_killed(
    fleet: Fleet, ledger: Ledger, feed: Callable[..., Feed]
) -> None:
    fleet.script = Path(conftest.__file__).parent / "plain_worker.py"
    async with feed(per_s=1000) as running:
        fleet.start("one")
        await until(lambda: len(arrived(ledger)) > 300)
        fleet.start("two")
        await until(lambda: set(ledger.owners().values()) == {"one", "two"})
        await asyncio.sleep(1)
        fleet.kill("one", signal.SIGKILL)
        await until(lambda: set(ledger.owners("wallet.credit").values()) == {"two"})
        await asyncio.sleep(1)
        await running.stop()
    sent = [value for values in running.sent.values() for value in values]
    await until(lambda: len(arrived(ledger)) == len(sent))
    offsets = "SELECT sum(next_offset) FROM offsets WHERE topic = 'wallet.debit'"
    await until(lambda: ledger.rows(offsets)[0][0] == len(sent))
    for number in range(PARTITIONS):
        values = first_seen(ledger.values("wallet.credit", number))
        for source in range(PARTITIONS):
            mine = [value for value in values if value.startswith(b"wallet.debit-%d:" % source)]
            ranks = [int(value.split(b":")[1]) for value in mine]
            assert ranks == sorted(ranks)
    repeated = ledger.count() - len(sent)
    assert repeated < len(sent)


async def test_lag_counts_what_is_stored_and_not_committed(topics: Broker, link: Link) -> None:
    async with LagReader(Address.parse(topics.url)) as lag:
        assert await lag.read({"wallet.debit": {0: 0}}) == {"wallet.debit": {0: 0}}
        for _ in range(10):
            await (await link.send("wallet.debit-0", [amqp.encode(b"k", b"v")])).settled
        assert await lag.read({"wallet.debit": {0: 10, 1: 0}}) == {"wallet.debit": {0: 0, 1: 0}}
        assert (await lag.read({"wallet.debit": {0: 4}}))["wallet.debit"][0] in range(3, 7)
