"""How often a caller, and an address, may ask: counted in Redis by all web processes together, by each alone while it is away.

Requests that come together are counted by one script, each in its turn. An answer takes at most 50 ms or is not waited for. When
Redis cannot be reached, or three answers in a row were late, one task asks again in the background, and until then each process
goes on from what was used when it last knew, as one of `processes` that all take as much; when Redis is back, it is told what it
does not know. Money alone does not leave uncounted: with a Redis that is away, it is refused.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from web.problems import Problem
from web.windows import SLOT_S, SLOTS, WINDOW_S, Standing, Windows

BUDGET_S: Final = 0.05
PROBE_S: Final = 2.0
PAUSE_S: Final = (0.25, 2.0)
LATE: Final = 3
MOST: Final = 64
"""Most requests that one script counts."""

# Keys: two names a request, the second perhaps empty. Arguments: slot (s), slots, then for each name its limit and what is
# known to be used. Answer: for each name how much was used before this request, and in how many ms something is given back.
# A request takes from both or from neither.
_COUNT: Final = """
local slot_ms, slots = tonumber(ARGV[1]) * 1000, tonumber(ARGV[2])
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local slot = math.floor(now / slot_ms)
local function look(key, known)
  local all, used, first, old = redis.call('HGETALL', key), 0, slot, {}
  for i = 1, #all, 2 do
    local s = tonumber(all[i])
    if s < slot - slots then old[#old + 1] = all[i]
    else used = used + tonumber(all[i + 1]); if s < first then first = s end end
  end
  if #old > 0 then redis.call('HDEL', key, unpack(old)) end
  if known > used then
    redis.call('HINCRBY', key, slot, known - used)
    redis.call('PEXPIRE', key, slot_ms * (slots + 1))
    used = known
  end
  return used, (first + slots + 1) * slot_ms - now
end
local function take(key)
  if redis.call('HINCRBY', key, slot, 1) == 1 then redis.call('PEXPIRE', key, slot_ms * (slots + 1)) end
end
local answer = {}
for i = 1, #KEYS, 2 do
  local a = 2 * i + 1
  local used, back = look(KEYS[i], tonumber(ARGV[a + 1]))
  local used2, back2 = 0, 0
  if KEYS[i + 1] ~= '' then used2, back2 = look(KEYS[i + 1], tonumber(ARGV[a + 3])) end
  if used < tonumber(ARGV[a]) and (KEYS[i + 1] == '' or used2 < tonumber(ARGV[a + 2])) then
    take(KEYS[i])
    if KEYS[i + 1] ~= '' then take(KEYS[i + 1]) end
  end
  for _, n in ipairs({used, back, used2, back2}) do answer[#answer + 1] = n end
end
return answer
"""


@dataclass(frozen=True, slots=True)
class Name:
    """Something with a limit of its own. An empty `key` has none."""

    key: str
    limit: int

    @property
    def kind(self) -> str:
        """What an answer calls it."""
        return self.key.partition(":")[0]


NOTHING: Final = Name("", 1)


@dataclass(slots=True)
class _Asked:
    names: tuple[Name, Name]
    answer: "asyncio.Future[tuple[Standing, Standing] | None]"


class Throttle:
    """One per web process. Without a Redis this process counts alone. `processes`: how many share a limit while Redis is away."""

    def __init__(self, redis: Redis | None, *, processes: int = 1) -> None:
        self._redis = redis
        self._share = processes if redis is not None else 1
        self._count = redis.register_script(_COUNT) if redis is not None else None
        self._windows = Windows()
        self._asked: list[_Asked] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._probe: asyncio.Task[None] | None = None
        self._late = 0
        self.answers = redis is not None
        """Whether Redis can be asked just now."""

    async def take(self, first: Name, second: Name = NOTHING, *, counted: bool = False) -> Standing:
        """Count one request for both names, or for neither if one is at its limit. How the first stands after it.

        `counted`: 503 rather than uncounted while Redis is away. Errors: Problem 429, 503.
        """
        found = await self._ask(first, second) if self.answers else None
        if found is None and counted and self._redis is not None:
            raise _away()
        if found is None:
            found = self._take_alone(first, second, self._share)
        for standing in found:
            if standing.left == 0:
                raise too_many(first.kind, standing)
        return Standing(first.limit, found[0].used + 1, found[0].back_s or WINDOW_S)

    def take_here(self, name: Name) -> None:
        """Count in this process only. Errors: Problem 429."""
        standing = self._take_alone(name, NOTHING, 1)[0]
        if standing.left == 0:
            raise too_many(name.kind, standing)

    async def fail(self, name: Name) -> Problem | None:
        """Count a failure; the refusal, if there were too many. Beyond the limit Redis is not asked again."""
        if (over := self.over(name)) is not None:
            return over
        try:
            await self.take(name)
        except Problem as problem:
            return problem
        return None

    def over(self, name: Name) -> Problem | None:
        """The refusal, if this process knows that the name is at its limit. Costs no question."""
        standing = self._windows.look(name.key, name.limit, time.monotonic())
        return too_many(name.kind, standing) if standing.left == 0 else None

    def _take_alone(self, first: Name, second: Name, share: int) -> tuple[Standing, Standing]:
        now_s = time.monotonic()
        if not self.answers:
            self._windows.presume(first.key, now_s)
            self._windows.presume(second.key, now_s)
        found = (
            self._windows.look(first.key, first.limit, now_s),
            self._windows.look(second.key, second.limit, now_s),
        )
        if found[0].left and found[1].left:
            for name in (first, second):
                if name.key:
                    self._windows.take(name.key, share, now_s)
        return found

    async def _ask(self, first: Name, second: Name) -> tuple[Standing, Standing] | None:
        """What Redis says; None if it does not in time."""
        answer: asyncio.Future[tuple[Standing, Standing] | None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Asked((first, second), answer))
        self._send()
        return await answer

    def _send(self) -> None:
        """One script at a time: what comes meanwhile is counted by the next."""
        if self._asked and not self._asking:
            asked, self._asked = self._asked[:MOST], self._asked[MOST:]
            task = asyncio.create_task(self._counted(asked))
            self._asking.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._send()

    async def _counted(self, asked: Sequence[_Asked]) -> None:
        found = await self._script(asked) if self.answers else None
        for i, one in enumerate(asked):
            if not one.answer.done():
                one.answer.set_result(found[i] if found is not None else None)

    async def _script(self, asked: Sequence[_Asked]) -> list[tuple[Standing, Standing]] | None:
        if self._count is None:
            return None
        now_s = time.monotonic()
        keys, args = [], [SLOT_S, SLOTS]
        for one in asked:
            for name in one.names:
                keys.append(name.key and f"web:limit:{name.key}")
                args += (name.limit, self._windows.untold(name.key, now_s))
        try:
            async with asyncio.timeout(BUDGET_S):
                said = await self._count(keys=keys, args=args)
        except TimeoutError:
            self._late += 1
            if self._late >= LATE:
                self._lost()
            return None
        except (RedisError, OSError):
            self._lost()
            return None
        self._late = 0
        return [self._learned(one, said[4 * i : 4 * i + 4]) for i, one in enumerate(asked)]

    def _learned(self, one: _Asked, said: Sequence[int]) -> tuple[Standing, Standing]:
        now_s = time.monotonic()
        first, second = (
            Standing(name.limit, used, back_ms / 1000)
            for name, used, back_ms in zip(one.names, said[::2], said[1::2], strict=True)
        )
        taken = 1 if first.left and second.left else 0
        for name, standing in zip(one.names, (first, second), strict=True):
            if name.key:
                self._windows.learn(name.key, standing.used, now_s, taken=taken)
        return first, second

    async def open(self) -> None:
        """Ask once, so that the first caller finds a connection; if it fails, go on asking."""
        if self._redis is not None and not await self._ping(self._redis):
            self._lost()

    async def close(self) -> None:
        """Ask no more."""
        tasks = [*self._asking, *([self._probe] if self._probe is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _lost(self) -> None:
        self.answers = False
        self._windows.lost()
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


def too_many(kind: str, standing: Standing) -> Problem:
    """429, with the seconds to wait."""
    fields = shown(kind, standing)
    return Problem(
        429,
        "too_many_requests",
        f"at most {standing.limit} {kind} in {WINDOW_S} seconds",
        headers={"Retry-After": fields["RateLimit"].rpartition("=")[2], **fields},
    )


def shown(kind: str, standing: Standing) -> dict[str, str]:
    """The RateLimit fields of an answer. Source: draft-ietf-httpapi-ratelimit-headers-10."""
    wait_s = max(1, math.ceil(standing.back_s))
    return {
        "RateLimit-Policy": f'"{kind}";q={standing.limit};w={WINDOW_S}',
        "RateLimit": f'"{kind}";r={standing.left};t={wait_s}',
    }


def _away() -> Problem:
    return Problem(
        503,
        "throttle_unavailable",
        "money cannot leave just now; try again with the same Idempotency-Key",
        headers={"Retry-After": "2"},
    )


@asynccontextmanager
async def open_throttle(redis_url: str | None, *, processes: int = 1) -> AsyncIterator[Throttle]:
    """A throttle over its own connections; over none without a URL."""
    redis = (
        None
        if redis_url is None
        else Redis.from_url(redis_url, max_connections=16, retry=Retry(NoBackoff(), 0))
    )
    throttle = Throttle(redis, processes=processes)
    await throttle.open()
    try:
        yield throttle
    finally:
        await throttle.close()
        if redis is not None:
            await redis.aclose()
