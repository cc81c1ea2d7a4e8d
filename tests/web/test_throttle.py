"""The limits count the same whether Redis is there, dies, comes back empty, or was never there."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import uuid4

import aiohttp
import pytest
from pydantic import SecretStr

from deploy.local.private import private_valkey
from deploy.local.valkey import Valkey
from gateway.simulator.sim import Simulator
from sql.db import DatabaseSettings
from tests.web.conftest import TOKEN, Api, serving, settings_for
from web.app import make_app
from web.problems import Problem
from web.settings import WebSettings
from web.throttle import Name, Throttle, open_throttle
from web.windows import SLOT_S, SLOTS, WINDOW_S, Windows


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with private_valkey() as server:
        yield server


@pytest.fixture
async def api(  # type: ignore[no-untyped-def]
    database, gateway: tuple[str, Simulator], valkey: Valkey
) -> AsyncIterator[Api]:
    """The API with a Redis of its own."""
    url, simulator = gateway
    app = make_app(
        WebSettings(development=True, api_token=SecretStr(TOKEN)),
        settings_for(url).model_copy(update={"redis_url": SecretStr(valkey.url)}),
        DatabaseSettings(database_url=database.web_url),
    )
    async with serving(app) as address, aiohttp.ClientSession() as http:
        yield Api(address, http, None, simulator)  # type: ignore[arg-type]


async def refund_status(api: Api) -> int:
    """What asking for a refund of a payment that is not there is answered: 404 once callers can be counted."""
    return (await api.post(f"/v1/payments/{uuid4()}/refunds", {"amount_paise": 100})).status


async def until_refund(api: Api, status: int) -> None:
    async with asyncio.timeout(10):
        while await refund_status(api) != status:
            await asyncio.sleep(0.05)


async def refused(call: Callable[[], Awaitable[object]]) -> Problem | None:
    """The problem that a call ends with."""
    try:
        await call()
    except Problem as problem:
        return problem
    return None


async def accepted(throttle: Throttle, *names: Name, of: int) -> int:
    """How many of so many requests, all at once, are let in."""
    answers = await asyncio.gather(*(refused(lambda: throttle.take(*names)) for _ in range(of)))
    assert {a.status for a in answers if a is not None} <= {429}
    return sum(a is None for a in answers)


async def until(there: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not there():
            await asyncio.sleep(0.02)


async def test_a_killed_redis_stops_refunds_alone_and_they_come_back_with_it(
    api: Api, valkey: Valkey
) -> None:
    await until_refund(api, 404)
    valkey.kill9()
    await until_refund(api, 503)
    away = await api.post(f"/v1/refunds/{uuid4()}/payout", {"verdict": "approve"})
    assert (away.status, away.code, away.headers["Retry-After"]) == (503, "throttle_unavailable", "2")
    wallet = await api.wallet(100)
    assert (await api.get(f"/v1/wallets/{wallet}")).status == 200
    assert (await api.webhook(b'{"type":"x","data":{}}')).status == 200
    await valkey.start()
    await until_refund(api, 404)


async def test_a_frozen_redis_costs_a_caller_no_more_than_its_budget(api: Api, valkey: Valkey) -> None:
    await until_refund(api, 404)
    valkey.process.send(signal.SIGSTOP)
    try:
        began = time.monotonic()
        assert await refund_status(api) == 503
        assert await refund_status(api) == 503
        assert (await api.get("/v1/packs")).status == 200
        assert time.monotonic() - began < 1.0
    finally:
        valkey.process.send(signal.SIGCONT)
    await until_refund(api, 404)


async def test_over_the_limit_a_caller_waits_and_no_other_does(valkey: Valkey) -> None:
    async with open_throttle(valkey.url) as throttle:
        standing = await throttle.take(Name("money:c:asha", 2))
        assert (standing.limit, standing.left) == (2, 1)
        await throttle.take(Name("money:c:asha", 2))
        over = await refused(lambda: throttle.take(Name("money:c:asha", 2)))
        assert over is not None
        assert (over.status, over.code) == (429, "too_many_requests")
        assert 60 <= int(over.headers["Retry-After"]) <= 65
        assert over.headers["RateLimit-Policy"] == '"money";q=2;w=60'
        assert over.headers["RateLimit"].startswith('"money";r=0;t=6')
        await throttle.take(Name("money:c:ravi", 2))


async def test_two_processes_share_a_limit_and_a_thousand_requests_at_once_do_not_pass_it(
    valkey: Valkey,
) -> None:
    name = Name("reads:c:asha", 300)
    async with open_throttle(valkey.url) as one, open_throttle(valkey.url) as two:
        let_in = await asyncio.gather(accepted(one, name, of=500), accepted(two, name, of=500))
    assert sum(let_in) == 300
    assert all(let_in)


async def test_callers_of_one_address_share_its_limit_and_pay_nothing_for_what_it_refuses(
    valkey: Valkey,
) -> None:
    near = Name("writes:a:192.0.2.1", 5)
    async with open_throttle(valkey.url) as throttle:
        for i in range(5):
            await throttle.take(Name(f"writes:c:{i % 2}", 10), near)
        over = await refused(lambda: throttle.take(Name("writes:c:0", 10), near))
        assert over is not None
        assert over.status == 429
        assert (await throttle.take(Name("writes:c:0", 10))).left == 6


@pytest.mark.parametrize("processes", [1, 3])
async def test_killed_in_the_middle_it_is_counted_on_and_nobody_begins_anew(
    valkey: Valkey, processes: int
) -> None:
    name = Name("writes:c:asha", 100)
    async with open_throttle(valkey.url, processes=processes) as throttle:
        assert await accepted(throttle, name, of=40) == 40
        valkey.kill9()
        alone = await accepted(throttle, name, of=200)
        assert 60 // processes <= alone <= -(-60 // processes)
        await valkey.start()
        await until(lambda: throttle.answers)
        assert await accepted(throttle, name, of=50) == 0, "an empty Redis knows less than we do"


async def test_what_another_process_counted_just_before_the_kill_is_no_gain(valkey: Valkey) -> None:
    name = Name("writes:c:asha", 200)
    async with (
        open_throttle(valkey.url, processes=2) as one,
        open_throttle(valkey.url, processes=2) as two,
    ):
        for _ in range(3):
            for throttle in (one, two):
                assert await accepted(throttle, name, of=24) == 24
        valkey.kill9()
        alone = [await accepted(throttle, name, of=200) for throttle in (one, two)]
        assert 0.9 * 200 <= 144 + sum(alone) <= 200, "the first process has not heard of the last 24"
        await valkey.start()
        await until(lambda: one.answers and two.answers)
        assert await accepted(one, name, of=50) + await accepted(two, name, of=50) == 0


async def test_who_alone_uses_a_name_has_all_of_it_left_when_redis_goes(valkey: Valkey) -> None:
    name = Name("writes:c:asha", 100)
    async with open_throttle(valkey.url, processes=2) as one:
        assert await accepted(one, name, of=40) == 40
        valkey.kill9()
        assert await accepted(one, name, of=100) == 30


async def test_a_redis_that_comes_back_empty_is_told_also_by_who_took_nothing_meanwhile(
    valkey: Valkey,
) -> None:
    name = Name("writes:c:asha", 10)
    async with open_throttle(valkey.url) as throttle:
        assert await accepted(throttle, name, of=10) == 10
        valkey.kill9()
        assert await accepted(throttle, Name("writes:c:ravi", 10), of=1) == 1
        await valkey.start()
        await until(lambda: throttle.answers)
        assert await accepted(throttle, name, of=5) == 0


async def test_a_frozen_redis_is_asked_three_times_and_then_not_waited_for(valkey: Valkey) -> None:
    name = Name("reads:c:asha", 50)
    async with open_throttle(valkey.url) as throttle:
        await throttle.take(name)
        valkey.process.send(signal.SIGSTOP)
        try:
            began = time.monotonic()
            taken = [await refused(lambda: throttle.take(name)) for _ in range(100)]
            assert time.monotonic() - began < 1.0
            assert not throttle.answers
            assert sum(t is None for t in taken) == 49
        finally:
            valkey.process.send(signal.SIGCONT)


async def test_without_a_redis_this_process_counts_alone() -> None:
    throttle = Throttle(None, processes=5)
    name = Name("money:c:asha", 3)
    for _ in range(3):
        await throttle.take(name, counted=True)
    over = await refused(lambda: throttle.take(name, counted=True))
    assert over is not None
    assert over.status == 429


async def test_beyond_its_limit_a_failure_asks_redis_nothing_more(valkey: Valkey) -> None:
    name = Name("credentials:a:192.0.2.1", 2)
    async with open_throttle(valkey.url) as throttle:
        assert [await throttle.fail(name) for _ in range(2)] == [None, None]
        assert throttle.over(name) is not None
        valkey.kill9()
        over = await throttle.fail(name)
        assert over is not None
        assert over.status == 429
        assert throttle.answers, "nobody noticed that Redis is gone"


def test_no_sixty_seconds_hold_more_than_the_limit_wherever_they_begin() -> None:
    windows, taken = Windows(), []
    for tick in range(2000):
        now_s = tick * 0.37
        if windows.look("a", 20, now_s).left:
            windows.take("a", 1, now_s)
            taken.append(now_s)
    assert max(sum(t <= u < t + WINDOW_S for u in taken) for t in taken) == 20
    assert len(taken) >= 0.8 * 20 * (2000 * 0.37 / WINDOW_S)


def test_who_is_told_when_to_come_back_is_let_in_then() -> None:
    windows = Windows()
    for _ in range(3):
        windows.take("a", 1, 1003.0)
    standing = windows.look("a", 3, 1010.0)
    assert (standing.left, standing.back_s) == (0, 1000 + (SLOTS + 1) * SLOT_S - 1010)
    assert windows.look("a", 3, 1010.0 + standing.back_s).left == 3


def test_only_so_many_names_are_remembered() -> None:
    windows = Windows(remembered=10)
    for i in range(100):
        windows.take(str(i), 1, 1.0)
    assert windows.look("0", 1, 1.0).left == 1
    assert windows.look("99", 1, 1.0).left == 0
