"""Limits as a caller meets them: by caller, by address, by kind of request; and who is never refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from bench.security.issuer import Issuer
from deploy.local.private import private_valkey
from deploy.local.valkey import Valkey
from sql.db import DatabaseSettings
from tests.web.conftest import TOKEN, Answer, Api, serving, settings_for
from tests.web.test_webhooks import payment_webhook
from web.app import make_app
from web.services import SERVICES
from web.settings import WebSettings

ISSUER = Issuer()
Opened = Callable[..., Any]


@pytest.fixture
async def valkey() -> AsyncIterator[Valkey]:
    async with private_valkey() as server:
        yield server


@pytest.fixture
def opened(database, gateway, valkey: Valkey) -> Opened:  # type: ignore[no-untyped-def]
    """Opens the API with settings of a test's own, over a Redis of the test's own."""

    @asynccontextmanager
    async def open_api(**settings: Any) -> AsyncIterator[Api]:
        app = make_app(
            WebSettings(
                development=True,
                api_token=SecretStr(TOKEN),
                access_cache_s=0,
                **ISSUER.settings(),
                **settings,
            ),
            settings_for(gateway[0]).model_copy(update={"redis_url": SecretStr(valkey.url)}),
            DatabaseSettings(database_url=database.web_url, database_pool_size=4),
        )
        admin = await asyncpg.connect(database.admin_url)
        async with serving(app) as url, aiohttp.ClientSession() as http:
            api = Api(url, http, admin, gateway[1])
            api.services = app[SERVICES]  # type: ignore[attr-defined]
            yield api
        await admin.close()

    return open_api


async def statuses(call: Callable[[int], Awaitable[Any]], of: int) -> dict[int, int]:
    """How many of so many at once were answered how."""
    answers = [a.status for a in await asyncio.gather(*(call(i) for i in range(of)))]
    return {status: answers.count(status) for status in set(answers)}


def customer() -> str:
    return f"Bearer {ISSUER.token(role='customer', sub=str(uuid4()))}"


async def test_each_kind_of_request_has_its_limit_and_the_answer_says_how_it_stands(opened: Opened) -> None:
    async with opened(web_reads_per_minute=20, web_writes_per_minute=5) as api:
        first = await api.get("/v1/packs")
        assert first.headers["RateLimit-Policy"] == '"reads";q=20;w=60'
        assert first.headers["RateLimit"].startswith('"reads";r=19;t=6')
        assert await statuses(lambda _: api.get("/v1/packs"), 100) == {200: 19, 429: 81}
        assert await statuses(lambda _: api.post("/v1/users", {"external_id": str(uuid4())}), 9) == {
            201: 5,
            429: 4,
        }
        over = await api.get("/v1/packs")
        assert (over.status, over.code) == (429, "too_many_requests")
        assert 55 <= int(over.headers["Retry-After"]) <= 65
        assert over.headers["Content-Type"] == "application/problem+json"
        assert (await api.get("/healthz")).status == 200


async def test_the_limits_hold_with_redis_killed_in_the_middle_and_back_again(
    opened: Opened, valkey: Valkey
) -> None:
    async with opened(web_reads_per_minute=100) as api:
        taken = (await statuses(lambda _: api.get("/v1/packs"), 60))[200]
        valkey.kill9()
        taken += (await statuses(lambda _: api.get("/v1/packs"), 100)).get(200, 0)
        await valkey.start()
        async with asyncio.timeout(10):
            while not api.services.throttle.answers:
                await asyncio.sleep(0.02)
        taken += (await statuses(lambda _: api.get("/v1/packs"), 100)).get(200, 0)
        assert taken == 100


async def test_a_customer_has_less_and_does_not_take_from_another(opened: Opened) -> None:
    async with opened(web_customer_reads_per_minute=3) as api:
        asha, ravi = customer(), customer()
        assert await statuses(lambda _: api.get("/v1/packs", Authorization=asha), 5) == {200: 3, 429: 2}
        assert await statuses(lambda _: api.get("/v1/packs", Authorization=ravi), 3) == {200: 3}
        assert await statuses(lambda _: api.get("/v1/packs"), 20) == {200: 20}


async def test_many_callers_of_one_address_share_it_whatever_they_write_into_forwarding_headers(
    opened: Opened,
) -> None:
    async with opened(web_customer_reads_per_minute=5, web_reads_per_minute=10, web_address_times=2) as api:

        async def forged(i: int) -> Answer:
            answer: Answer = await api.get(
                "/v1/packs",
                Authorization=customer(),
                X_Forwarded_For=f"192.0.2.{i}",
                Forwarded=f"for=192.0.2.{i}",
                X_Real_Ip=f"192.0.2.{i}",
            )
            return answer

        assert await statuses(forged, 60) == {200: 20, 429: 40}


async def test_behind_our_own_proxy_each_client_has_its_own_limit_and_rotating_the_left_gains_nothing(
    opened: Opened,
) -> None:
    async with opened(
        web_reads_per_minute=5, web_address_times=1, web_trusted_proxies="127.0.0.0/8,::1"
    ) as api:

        async def through(left: int, client: str) -> Answer:
            forwarded = f"192.0.2.{left}, {client}"
            answer: Answer = await api.get("/v1/packs", Authorization=customer(), X_Forwarded_For=forwarded)
            return answer

        assert await statuses(lambda i: through(i, "198.51.100.1"), 20) == {200: 5, 429: 15}
        assert await statuses(lambda i: through(i, "198.51.100.2"), 5) == {200: 5}
        assert await statuses(lambda i: through(i, f"2001:db8:0:1::{i:x}"), 20) == {200: 5, 429: 15}


async def test_refused_credentials_are_counted_and_a_good_one_is_let_in_beside_them(opened: Opened) -> None:
    async with opened(web_refused_credentials_per_minute=10) as api:
        guessed = [f"Bearer cdk_{i:016x}_{'x' * 43}" for i in range(40)]
        answers = await statuses(lambda i: api.get("/v1/packs", Authorization=guessed[i]), 40)
        assert answers == {401: 10, 429: 30}
        asked: list[object] = []
        rows = api.services.db.rows

        async def noted(*args: Any) -> Any:
            asked.append(args)
            return await rows(*args)

        api.services.db.rows = noted
        assert (await api.get("/v1/packs", Authorization=guessed[0])).status == 429
        assert asked == [], "a guess was looked up"
        assert (await api.get("/v1/packs")).status == 200
        assert (await api.get("/v1/packs", Authorization=customer())).status == 200


async def test_a_flood_of_forged_webhooks_is_told_to_wait_and_a_genuine_one_is_taken_amid_it(
    opened: Opened,
) -> None:
    async with opened(web_forged_webhooks_per_minute=20) as api:
        answers = await statuses(lambda i: api.webhook(payment_webhook(f"f_{i}"), secret="wrong"), 100)
        assert answers[401] >= 20
        assert answers[401] + answers[429] == 100
        again = await statuses(lambda i: api.webhook(payment_webhook(f"f_{i}"), secret="wrong"), 20)
        assert again == {429: 20}
        assert (await api.webhook(payment_webhook("genuine"))).body == {"status": "new"}
        assert await api.count("payment_webhooks") == 1


async def test_a_genuine_webhook_costs_no_question_to_redis(opened: Opened, valkey: Valkey) -> None:
    async with opened() as api:
        valkey.kill9()
        assert await statuses(lambda i: api.webhook(payment_webhook(f"o_{i}")), 20) == {200: 20}
        assert api.services.throttle.answers, "somebody asked Redis"


async def test_webhooks_come_from_where_they_may_and_a_header_does_not_change_that(opened: Opened) -> None:
    async with opened(web_webhook_sources="52.66.0.0/16, 2001:db8::/32") as api:
        for headers in ({}, {"x_forwarded_for": "52.66.1.1"}, {"forwarded": "for=52.66.1.1"}):
            refused = await api.webhook(payment_webhook(), **headers)
            assert (refused.status, refused.code) == (403, "source_not_allowed")
        assert await api.count("payment_webhooks") == 0
    async with opened(web_webhook_sources="52.66.0.0/16", web_trusted_proxies="127.0.0.1/32") as api:
        inside = await api.webhook(payment_webhook(), x_forwarded_for="9.9.9.9, 52.66.1.1")
        assert inside.status == 200
        assert str(await api.admin.fetchval("SELECT host(source_ip) FROM payment_webhooks")) == "52.66.1.1"
        outside = await api.webhook(payment_webhook(), x_forwarded_for="52.66.1.1, 9.9.9.9")
        assert outside.status == 403


async def test_the_customers_address_and_device_reach_the_payment(opened: Opened) -> None:
    async with opened(web_trusted_proxies="127.0.0.1/32") as api:
        user = await api.user()
        wallet = await api.wallet(owner=user)
        order = {"user_id": user, "wallet_id": wallet, "pack_paise": 50_000, "device_id": "phone-1"}
        theirs = f"Bearer {ISSUER.token(role='customer', sub=user)}"
        lying = order | {"client_ip": "8.8.8.8"}
        refused = await api.post("/v1/payments/orders", lying, Authorization=theirs)
        assert (refused.status, refused.code) == (422, "client_ip_is_known")
        own = await api.post(
            "/v1/payments/orders", order, Authorization=theirs, X_Forwarded_For="8.8.8.8, 49.36.1.2"
        )
        said = await api.post(
            "/v1/payments/orders", order | {"client_ip": "2a00:1450::1"}, Idempotency_Key="s"
        )
        again = await api.post(
            "/v1/payments/orders", order | {"client_ip": "2a00:1450::2"}, Idempotency_Key="s"
        )
        none = await api.post("/v1/payments/orders", order)
        bad = await api.post("/v1/payments/orders", order | {"client_ip": "not one"})
        assert (bad.status, bad.code) == (422, "invalid_client_ip")
        assert [a.status for a in (own, said, again, none)] == [201, 201, 200, 201], (own.body, said.body)
        rows = await api.admin.fetch("SELECT id::text, host(ip) AS ip, device_id FROM payments")
        assert {row["id"]: row["ip"] for row in rows} == {
            own.body["payment_id"]: "49.36.1.2",
            said.body["payment_id"]: "2a00:1450::1",
            none.body["payment_id"]: None,
        }
        assert {row["device_id"] for row in rows} == {"phone-1"}
