"""How often we may call Cashfree: a token bucket per merchant and endpoint, shared by all processes or
local.

A bucket of limit L a minute lets a burst of B = L/10 through and refills at L - B a minute, so no window
of sixty seconds ever holds more than L. It is kept as one number, the time at which the bucket would be
full again (the generic cell rate algorithm), so a shared bucket is one key and one atomic script.

When Redis cannot be asked within 50 ms, each process falls back to its own bucket of a fixed share of the
limit and no burst: together the processes stay within the limit, and never beyond it because of an
outage.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, Self

from redis.asyncio import Redis
from redis.commands.core import AsyncScript
from redis.exceptions import RedisError

from gateway import metrics

DEFAULT_LIMITS: Final[Mapping[str, int]] = {
    "create_order": 200,
    "get_order": 400,
    "get_payments": 100,
    "create_refund": 100,
    "get_refund": 30,
}
"""Requests a minute that Cashfree allows a production account before it raises them."""
OTHER_LIMIT: Final = 100
"""For endpoints whose limit is not published."""
REDIS_BUDGET_S: Final = 0.05
PROBE_S: Final = 2.0
LOOK_EVERY_S: Final = 5.0
WARM_CONNECTIONS: Final = 4


class Budget(Protocol):
    """Permission to call an endpoint for a merchant."""

    async def take(self, merchant: str, endpoint: str) -> float:
        """0.0 if one call may be made now (a token is spent), else the seconds until it is worth asking
        again.
        """
        ...

    async def pause(self, merchant: str, endpoint: str, seconds: float) -> None:
        """Cashfree said 429: nothing more to this endpoint for so long."""
        ...


@dataclass(frozen=True, slots=True)
class Rate:
    """A bucket's shape: `burst` tokens at once, then one each `interval_s`."""

    interval_s: float
    burst: int

    @classmethod
    def per_minute(cls, limit: int) -> Rate:
        """A tenth as burst and the rest spread, so that no sixty seconds exceed the limit. ValueError
        below 1.
        """
        if limit < 1:
            raise ValueError("a limit of less than one call a minute is no limit but a switch")
        burst = max(1, limit // 10)
        return cls(60.0 / max(1, limit - burst), burst)

    @classmethod
    def share(cls, limit: int, processes: int) -> Rate:
        """One process's part of the limit, evenly spaced."""
        return cls(60.0 * processes / limit, 1)

    @property
    def slack_s(self) -> float:
        """How far ahead of now the bucket's time may run before it is empty."""
        return (self.burst - 1) * self.interval_s


def limits_from(overrides: Mapping[str, int]) -> Callable[[str], int]:
    """The limit a minute of an endpoint: the operator's, else the published one, else `OTHER_LIMIT`."""
    table = {**DEFAULT_LIMITS, **overrides}
    return lambda endpoint: table.get(endpoint, OTHER_LIMIT)


class LocalBudget:
    """Buckets of this process alone."""

    def __init__(self, rate_of: Callable[[str], Rate], clock: Callable[[], float] = time.monotonic) -> None:
        self._rate_of = rate_of
        self._clock = clock
        self._full_at: dict[tuple[str, str], float] = {}

    async def take(self, merchant: str, endpoint: str) -> float:
        """See `Budget.take`."""
        rate = self._rate_of(endpoint)
        now = self._clock()
        full_at = max(self._full_at.get((merchant, endpoint), now), now)
        wait_s = full_at - rate.slack_s - now
        if wait_s > 0:
            return wait_s
        self._full_at[merchant, endpoint] = full_at + rate.interval_s
        return 0.0

    async def pause(self, merchant: str, endpoint: str, seconds: float) -> None:
        """See `Budget.pause`."""
        until = self._clock() + seconds + self._rate_of(endpoint).slack_s
        self._full_at[merchant, endpoint] = max(self._full_at.get((merchant, endpoint), until), until)


_TAKE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wanted, granted = tonumber(ARGV[3]), 0
while granted < wanted and full_at - tonumber(ARGV[2]) - now <= 0 do
  full_at = full_at + tonumber(ARGV[1])
  granted = granted + 1
end
if granted > 0 then
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
end
return {granted, math.ceil(math.max(0, full_at - tonumber(ARGV[2]) - now))}
"""
_PAUSE: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local until_us = now + tonumber(ARGV[1]) + tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), until_us)
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
return {}
"""


class RedisBudget:
    """Buckets shared through Redis, with a local share to fall back on. Calls that begin together ask together.

    An answer takes at most 50 ms or is not waited for. After a failure a single task asks again in the
    background (it may take longer: a new TLS connection does), so an outage costs 50 ms once and not on
    every call.
    Use as `async with RedisBudget(...) as budget`; the Redis client stays the caller's.
    """

    def __init__(self, redis: Redis, limit_of: Callable[[str], int], *, processes: int) -> None:
        self._redis = redis
        self._take_script = redis.register_script(_TAKE)
        self._pause_script = redis.register_script(_PAUSE)
        self._limit_of = limit_of
        self._local = LocalBudget(lambda endpoint: Rate.share(limit_of(endpoint), processes))
        self._asking: dict[tuple[str, str], list[asyncio.Future[float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._shared = False
        self._probe: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if not await self._answers():
            self._lost()
        self._watch = asyncio.create_task(self._look_now_and_then(), name="gateway-budget-watch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        tasks = [task for task in (self._watch, self._probe) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def shared(self) -> bool:
        """Whether the processes currently share one bucket."""
        return self._shared

    async def take(self, merchant: str, endpoint: str) -> float:
        """See `Budget.take`."""
        if not self._shared:
            metrics.BUDGET_FALLBACKS.inc()
            return await self._local.take(merchant, endpoint)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[float] = loop.create_future()
        together = self._asking.setdefault((merchant, endpoint), [])
        if not together:
            loop.call_soon(self._begin, merchant, endpoint)
        together.append(answer)
        return await answer

    def _begin(self, merchant: str, endpoint: str) -> None:
        task = asyncio.get_running_loop().create_task(self._take(merchant, endpoint))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _take(self, merchant: str, endpoint: str) -> None:
        """One question for all that asked in this turn of the loop; who asked first is served first."""
        asked = [answer for answer in self._asking.pop((merchant, endpoint)) if not answer.done()]
        rate = Rate.per_minute(self._limit_of(endpoint))
        args = [_us(rate.interval_s), _us(rate.slack_s), len(asked)]
        found = await self._ask(self._take_script, merchant, endpoint, args) if asked else None
        for number, answer in enumerate(asked):
            if found is None:
                metrics.BUDGET_FALLBACKS.inc()
                wait_s = await self._local.take(merchant, endpoint)
            else:
                wait_s = 0.0 if number < found[0] else max(found[1], 1) / 1e6
            if not answer.done():
                answer.set_result(wait_s)

    async def pause(self, merchant: str, endpoint: str, seconds: float) -> None:
        """See `Budget.pause`. The local share pauses too."""
        rate = Rate.per_minute(self._limit_of(endpoint))
        await self._local.pause(merchant, endpoint, seconds)
        await self._ask(self._pause_script, merchant, endpoint, [_us(seconds), _us(rate.slack_s)])

    async def _ask(
        self, script: AsyncScript, merchant: str, endpoint: str, args: list[int]
    ) -> list[int] | None:
        """The script's answer, or None while Redis is not to be relied on."""
        if not self._shared:
            return None
        try:
            async with asyncio.timeout(REDIS_BUDGET_S):
                answer = await script(keys=[f"gateway:budget:{merchant}:{endpoint}"], args=args)
                return [int(number) for number in answer]
        except (RedisError, OSError, TimeoutError):
            self._lost()
            return None

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await asyncio.gather(*(self._redis.ping() for _ in range(WARM_CONNECTIONS)))
        except (RedisError, OSError, TimeoutError):
            return False
        self._shared = True
        metrics.BUDGET_SHARED.set(1)
        return True

    def _lost(self) -> None:
        self._shared = False
        metrics.BUDGET_SHARED.set(0)
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask_until_it_answers(), name="gateway-budget-probe")

    async def _look_now_and_then(self) -> None:
        """An outage shows also while nobody calls."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._shared and not await self._answers():
                self._lost()

    async def _ask_until_it_answers(self) -> None:
        pause_s = 0.25
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            if await self._answers():
                return
            pause_s = min(5.0, pause_s * 2)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)
