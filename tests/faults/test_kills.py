"""kill -9 of each process under load, a zombie, and workers that come and go: nothing lost, nothing twice, windows exact."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from bench.faults.tails import cut_tail

from .fleet import PARTITIONS, Fleet, fleet

pytestmark = pytest.mark.timeout(240)


async def warm(made: Fleet, count: int = 300) -> None:
    await made.until_posted(count)


async def test_a_killed_worker_is_replaced_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made)
            made.workers["a"].kill9()
            await asyncio.sleep(3)
            made.start("a2")
            await asyncio.sleep(3)
        await made.judge(load)


async def test_postgres_killed_under_load_comes_back_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made)
            for _ in range(2):
                made.postgres.kill9()
                await asyncio.sleep(1)
                await made.postgres.start()
                await asyncio.sleep(3)
        await made.judge(load)


async def test_rabbitmq_killed_under_load_comes_back_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made)
            made.broker.kill9()
            await asyncio.sleep(1)
            await made.broker.start()
            await asyncio.sleep(5)
        await made.judge(load)


async def test_a_frozen_worker_is_replaced_and_changes_nothing_when_it_wakes(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made)
            made.workers["a"].send(signal.SIGSTOP)
            frozen_at, before = time.monotonic(), await made.posted()
            await asyncio.sleep(20)
            assert await made.posted() > before
            assert time.monotonic() - frozen_at >= 20
            made.workers["a"].send(signal.SIGCONT)
            await asyncio.sleep(5)
        await made.judge(load)


async def test_two_three_and_one_workers_share_the_partitions(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made)
            made.start("c")
            await asyncio.sleep(4)
            await made.workers["a"].stop()
            made.workers["b"].kill9()
            await asyncio.sleep(4)
        await made.judge(load)


async def test_messages_lost_after_their_confirm_are_found_and_repaired(tmp_path: Path) -> None:
    """The broker's log loses its tail on both sides of the consumer: between agents, and of the services' own events."""
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await warm(made, 800)
            for name in ("a", "b"):
                made.workers[name].kill9()
            await asyncio.sleep(1)  # events pile up unread
            made.broker.kill9()
            topics = ("analytics.billing", "wallet.debit")
            cut = sum(cut_tail(made.broker, f"{t}-{p}", share=0.5) for t in topics for p in range(PARTITIONS))
            await made.broker.start()
            for name in ("a", "b"):
                made.start(name)
            await asyncio.sleep(5)
        assert cut > 0
        await made.judge(load)
