"""The outbound budget: never more than the limit in a minute, shared through Redis, careful without it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import gateway.budget
from gateway import metrics
from gateway.budget import DEFAULT_LIMITS, LocalBudget, Rate, RedisBudget, limits_from


class Clock:
    """A time that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def redis_at(url: str) -> Redis:
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0))


async def until_shared(budget: RedisBudget) -> None:
    """Wait until Redis is used again, at most five seconds."""
    deadline = time.monotonic() + 5
    while not budget.shared:
        assert time.monotonic() < deadline, "Redis answers again and is not used"
        await asyncio.sleep(0.05)


@given(
    limit=st.integers(1, 400),
    gaps=st.lists(st.floats(0, 0.4), min_size=50, max_size=400),
)
def test_no_sixty_seconds_hold_more_calls_than_the_limit(limit: int, gaps: list[float]) -> None:
    clock = Clock()
    budget = LocalBudget(lambda endpoint: Rate.per_minute(limit), clock)
    granted: deque[float] = deque()

    async def run() -> None:
        for gap in gaps:
            clock.now += gap
            while (wait_s := await budget.take("m", "e")) > 0:
                clock.now += wait_s
            granted.append(clock.now)
            while granted[0] <= clock.now - 60 + 1e-6:
                granted.popleft()
            assert len(granted) <= limit

    asyncio.run(run())


async def test_a_wait_is_as_long_as_it_takes_and_no_longer() -> None:
    clock = Clock()
    budget = LocalBudget(lambda endpoint: Rate.per_minute(60), clock)
    for _ in range(6):
        assert await budget.take("m", "e") == 0
    wait_s = await budget.take("m", "e")
    assert wait_s == pytest.approx(60 / 54)
    clock.now += wait_s
    assert await budget.take("m", "e") == 0
    assert await budget.take("m", "other endpoint") == 0
    assert await budget.take("other merchant", "e") == 0


async def test_a_pause_stops_one_endpoint_for_its_time() -> None:
    clock = Clock()
    budget = LocalBudget(lambda endpoint: Rate.per_minute(100), clock)
    await budget.pause("m", "e", 30)
    assert await budget.take("m", "e") == pytest.approx(30)
    assert await budget.take("m", "other") == 0
    clock.now += 30.001
    assert await budget.take("m", "e") == 0


def test_the_published_limits_hold_until_the_operator_raises_them() -> None:
    limit_of = limits_from({"create_order": 5000})
    assert (limit_of("create_order"), limit_of("get_refund"), limit_of("recon")) == (5000, 30, 100)
    assert dict(DEFAULT_LIMITS) == {
        "create_order": 200,
        "get_order": 400,
        "get_payments": 100,
        "create_refund": 100,
        "get_refund": 30,
    }
    with pytest.raises(ValueError, match="less than one"):
        Rate.per_minute(0)


async def test_two_processes_share_one_bucket_through_redis(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.budget, "REDIS_BUDGET_S", 5.0)  # a busy machine is no outage here
    first, second = redis_at(redis_url), redis_at(redis_url)
    async with (
        first,
        second,
        RedisBudget(first, lambda endpoint: 60, processes=8) as one,
        RedisBudget(second, lambda endpoint: 60, processes=8) as two,
    ):
        assert one.shared
        assert two.shared
        rate, granted, started = Rate.per_minute(60), 0, time.monotonic()
        for _ in range(10):
            granted += (await one.take("m", "e")) == 0
            granted += (await two.take("m", "e")) == 0
        refilled = (time.monotonic() - started) / rate.interval_s
        assert rate.burst <= granted <= rate.burst + refilled
        assert 0 < await one.take("m", "e") <= rate.interval_s
        await one.pause("m", "e", 20)
        assert 19 < await two.take("m", "e") <= 20


async def test_without_redis_each_process_keeps_to_its_share_and_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}"
        async with redis_at(url) as redis, RedisBudget(redis, lambda endpoint: 240, processes=8) as budget:
            assert not budget.shared
            before = metrics.BUDGET_FALLBACKS._value.get()
            assert await budget.take("m", "e") == 0
            assert await budget.take("m", "e") == pytest.approx(2.0, abs=0.1)
            assert metrics.BUDGET_FALLBACKS._value.get() == before + 2
            assert metrics.BUDGET_SHARED._value.get() == 0


async def test_a_redis_that_hangs_costs_fifty_milliseconds_once_and_is_taken_back(redis_url: str) -> None:
    async with redis_at(redis_url) as redis, RedisBudget(redis, lambda endpoint: 6000, processes=2) as budget:
        assert await budget.take("m", "e") == 0
        async with redis_at(redis_url) as other:
            await other.client_pause(600)
        started = time.monotonic()
        for _ in range(20):
            await budget.take("m", "e")
        assert time.monotonic() - started < 0.2
        assert not budget.shared
        await until_shared(budget)
        assert await budget.take("m", "e2") == 0
