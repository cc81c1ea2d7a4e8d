"""Partitions move between real worker processes: nothing twice, nothing lost, and quickly."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.streams.conftest import PARTITIONS, Feed, Fleet, Ledger, Stall, until


def spread(ledger: Ledger, topic: str = "wallet.debit") -> list[int]:
    """How many partitions each owner has, most first."""
    return sorted(Counter(ledger.owners(topic).values()).values(), reverse=True)


async def both_own_two(ledger: Ledger) -> None:
    await until(lambda: spread(ledger) == [2, 2], within_s=40)
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_worker_that_ends_is_replaced_within_a_second_and_the_others_go_on(
    fleet: Fleet, ledger: Ledger, feed: Callable[..., Feed], number: signal.Signals
) -> None:
    async with feed(per_s=2000) as running:
        fleet.start("one")
        fleet.start("two")
        await both_own_two(ledger)
        before = ledger.owners()
        moving = [partition for partition, owner in before.items() if owner == "one"]
        staying = [partition for partition, owner in before.items() if owner == "two"]
        async with Stall() as stall:
            at = fleet.kill("one", number)
            await until(lambda: all(ledger.first_commit("two", at, partition) for partition in moving))
            await asyncio.sleep(1.2)
        stored = await running.stop()
    for partition in moving:
        first = ledger.first_commit("two", at, partition)
        assert first is not None
        assert first - at < 1.0 + stall.longest_s, f"partition {partition} stood still for {first - at:.2f} s"
    for partition in staying:
        assert ledger.longest_pause(partition, at - 0.2, at + 1.0) < 0.5 + stall.longest_s
    await until(lambda: ledger.count() == stored)
    ledger.check()
    assert all(
        ledger.values("wallet.debit", n) == running.sent[f"wallet.debit-{n}"] for n in range(PARTITIONS)
    )


async def test_a_frozen_worker_is_replaced_and_changes_nothing_when_it_wakes(
    fleet: Fleet, ledger: Ledger, feed: Callable[..., Feed]
) -> None:
    async with feed(per_s=1000) as running:
        fleet.start("one")
        fleet.start("two")
        await both_own_two(ledger)
        at = fleet.kill("one", signal.SIGSTOP)
        await until(lambda: set(ledger.owners().values()) == {"two"}, within_s=40, every_s=0.1)
        taken = time.time() - at
        fleet.kill("one", signal.SIGCONT)
        await until(lambda: "one" in ledger.owners().values(), every_s=0.1)
        await asyncio.sleep(0.5)
        stored = await running.stop()
    assert taken < 25
    await until(lambda: ledger.count() == stored)
    ledger.check()
    assert all(
        ledger.values("wallet.debit", n) == running.sent[f"wallet.debit-{n}"] for n in range(PARTITIONS)
    )


async def test_two_three_one_workers_share_the_partitions_of_several_topics(
    fleet: Fleet, ledger: Ledger, feed: Callable[..., Feed]
) -> None:
    names = ("wallet.debit", "wallet.credit", "analytics.billing")
    fleet.topics = ",".join(names)

    async def become(shares: list[int]) -> None:
        await until(lambda: all(spread(ledger, name) == shares for name in names), within_s=40)

    async with feed(per_s=3000, names=names) as running:
        fleet.start("one")
        fleet.start("two")
        await become([2, 2])
        fleet.start("three")
        await become([2, 1, 1])
        at = fleet.kill("one", signal.SIGTERM)
        fleet.kill("two", signal.SIGKILL)
        await become([4])
        assert fleet.processes["one"].wait(10) == 0
        stopped_s = time.time() - at
        await asyncio.sleep(0.5)
        stored = await running.stop()
    await until(lambda: ledger.count() == stored)
    ledger.check()
    assert stopped_s < 10
    for name in names:
        for number in range(PARTITIONS):
            assert ledger.values(name, number) == running.sent[f"{name}-{number}"]


async def test_partitions_left_to_nobody_are_taken_up_again(
    fleet: Fleet, ledger: Ledger, feed: Callable[..., Feed]
) -> None:
    """Two of four workers die at once: RabbitMQ 4.0 may wait for ever for an answer of a dead one."""
    async with feed(per_s=1000) as running:
        for name in ("one", "two", "three", "four"):
            fleet.start(name)
        await until(lambda: spread(ledger) == [1, 1, 1, 1], within_s=40)
        fleet.kill("one")
        fleet.kill("two")
        survivors = {"three", "four"}
        await until(lambda: set(ledger.owners().values()) <= survivors, within_s=40)
        await asyncio.sleep(0.5)
        stored = await running.stop()
    await until(lambda: ledger.count() == stored)
    ledger.check()
