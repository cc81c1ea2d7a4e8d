"""How often a caller may have money leave: counted in Redis, by all web processes together. Who cannot be counted may not.

An answer takes at most 50 ms or is not waited for. When it cannot be reached, or three answers in a row were late, one task
asks again in the background, and until Redis answers, these calls are refused at once. Everything else goes on without it.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from web.problems import Problem

BUDGET_S: Final = 0.05
PROBE_S: Final = 2.0
PAUSE_S: Final = (0.25, 2.0)
WINDOW_S: Final = 60
LATE: Final = 3
_COUNT: Final = """
local n = redis.call('INCR', KEYS[1])
if n == 1 then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return {n, redis.call('TTL', KEYS[1])}
"""


class Throttle:
    """One per web process. Without a Redis nothing is counted and nothing refused: one process on one machine."""

    def __init__(self, redis: Redis | None, *, per_minute: int) -> None:
        self._redis = redis
        self._per_minute = per_minute
        self._count = redis.register_script(_COUNT) if redis is not None else None
        self._probe: asyncio.Task[None] | None = None
        self._late = 0
        self.answers = redis is None
        """Whether callers can be counted just now."""

    async def take(self, what: str, principal: str) -> None:
        """Count one call. Errors: Problem 429 over the limit, 503 while Redis does not answer."""
        if self._count is None:
            return
        if not self.answers:
            raise _away()
        try:
            async with asyncio.timeout(BUDGET_S):
                n, left_s = await self._count(keys=[f"web:throttle:{what}:{principal}"], args=[WINDOW_S])
        except TimeoutError as error:
            self._late += 1
            if self._late >= LATE:
                self._lost()
            raise _away() from error
        except (RedisError, OSError) as error:
            self._lost()
            raise _away() from error
        self._late = 0
        if n > self._per_minute:
            raise Problem(
                429,
                "too_many_requests",
                f"at most {self._per_minute} a minute",
                headers={"Retry-After": str(max(1, left_s))},
            )

    async def open(self) -> None:
        """Ask once, so that the first caller finds a connection; if it fails, go on asking."""
        if self._redis is not None and not await self._ping(self._redis):
            self._lost()

    async def close(self) -> None:
        """Ask no more."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.gather(self._probe, return_exceptions=True)

    def _lost(self) -> None:
        self.answers = False
        if self._redis is not None and (self._probe is None or self._probe.done()):
            self._probe = asyncio.create_task(self._until_it_answers(self._redis), name="throttle-probe")

    async def _until_it_answers(self, redis: Redis) -> None:
        pause_s = PAUSE_S[0]
        while True:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            if await self._ping(redis):
                return
            pause_s = min(PAUSE_S[1], 2 * pause_s)

    async def _ping(self, redis: Redis) -> bool:
        try:
            async with asyncio.timeout(PROBE_S):
                await redis.ping()
        except (RedisError, OSError, TimeoutError):
            return False
        self.answers, self._late = True, 0
        return True


def _away() -> Problem:
    return Problem(
        503,
        "throttle_unavailable",
        "money cannot leave just now; try again with the same Idempotency-Key",
        headers={"Retry-After": "2"},
    )


@asynccontextmanager
async def open_throttle(redis_url: str | None, *, per_minute: int) -> AsyncIterator[Throttle]:
    """A throttle over its own connections; over none without a URL."""
    redis = (
        None
        if redis_url is None
        else Redis.from_url(redis_url, max_connections=16, retry=Retry(NoBackoff(), 0))
    )
    throttle = Throttle(redis, per_minute=per_minute)
    await throttle.open()
    try:
        yield throttle
    finally:
        await throttle.close()
        if redis is not None:
            await redis.aclose()
