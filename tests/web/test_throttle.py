"""While Redis is away money cannot leave, and everything else goes on."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
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
from web.throttle import Throttle, open_throttle


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
        DatabaseSettings(database_url=database.url),
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


async def test_a_killed_redis_stops_refunds_alone_and_they_come_back_with_it(
    api: Api, valkey: Valkey
) -> None:
    await until_refund(api, 404)
    valkey.kill9()
    await until_refund(api, 503)
    refused = await api.post(f"/v1/refunds/{uuid4()}/payout", {"verdict": "approve"})
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (
        503,
        "throttle_unavailable",
        "2",
    )
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
        assert time.monotonic() - began < 1.0
    finally:
        valkey.process.send(signal.SIGCONT)
    await until_refund(api, 404)


async def test_a_caller_over_the_limit_waits_for_the_next_minute_and_no_other_caller_does(
    valkey: Valkey,
) -> None:
    async with open_throttle(valkey.url, per_minute=2) as throttle:
        for _ in range(2):
            await throttle.take("refunds", "asha")
        with pytest.raises(Problem) as refused:
            await throttle.take("refunds", "asha")
        assert (refused.value.status, refused.value.code) == (429, "too_many_requests")
        assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
        await throttle.take("refunds", "ravi")


async def test_without_a_redis_nobody_is_counted() -> None:
    throttle = Throttle(None, per_minute=1)
    for _ in range(3):
        await throttle.take("refunds", "asha")
