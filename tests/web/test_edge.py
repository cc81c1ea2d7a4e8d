"""Around every route: who may call, one shape of errors, ids, health, and what happens without a database."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
from pydantic import SecretStr

from deploy.local.private import private_postgres
from sql.db import DatabaseSettings
from tests.web.conftest import TOKEN, Api, serving, settings_for
from web.app import make_app
from web.auth import Scope
from web.router import ROUTES
from web.settings import WebSettings


async def test_every_route_of_the_api_refuses_a_stranger(api: Api) -> None:
    for route in ROUTES:
        if route.scope in (Scope.PUBLIC, Scope.SIGNED, Scope.LIVE):
            continue
        path = route.path.replace("{", "").replace("}", "")
        for given in ("", "Bearer wrong", f"Basic {TOKEN}", "Bearer"):
            answer = await api.call(route.method, path, Authorization=given)
            assert (answer.status, answer.code) == (401, "unauthorised"), (route.path, given)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_without_a_token_set_nobody_has_one(database, gateway) -> None:  # type: ignore[no-untyped-def]
    app = make_app(
        WebSettings(development=True, api_token=SecretStr("")),
        settings_for(gateway[0]),
        DatabaseSettings(database_url=database.web_url),
    )
    async with serving(app) as url, aiohttp.ClientSession() as http:
        for header in ("", "Bearer ", "Bearer"):
            async with http.get(f"{url}/v1/packs", headers={"Authorization": header}) as response:
                assert response.status == 401


async def test_a_problem_has_one_shape_and_the_request_id(api: Api) -> None:
    answer = await api.get("/v1/wallets/nope", X_Request_Id="req-17")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Request-Id"] == "req-17"
    assert answer.body["request_id"] == "req-17"
    assert {"type", "title", "status", "code", "detail", "request_id"} <= answer.body.keys()
    odd = await api.get("/v1/wallets/nope", X_Request_Id="x y<script>")
    assert odd.headers["X-Request-Id"] != "x y<script>"


async def test_a_query_is_read_strictly(api: Api) -> None:
    wallet = await api.wallet()
    for query in ("limit=0", "limit=x", "page=2", "limit=1&limit=2", "after=-1", "after=%00"):
        answer = await api.get(f"/v1/wallets/{wallet}/transactions?{query}")
        code = "repeated_parameter" if "&" in query else "invalid_parameter"
        assert (answer.status, answer.code) == (400, code), query


async def test_bodies_must_be_json_and_plain(api: Api) -> None:
    raw = b'{"external_id":"u"}'
    form = await api.call("POST", "/v1/users", raw=raw, Content_Type="application/x-www-form-urlencoded")
    assert (form.status, form.code) == (415, "not_json")
    packed = await api.call("POST", "/v1/users", raw=raw, Content_Encoding="gzip")
    assert (packed.status, packed.code) == (415, "encoded_body")
    long = await api.call("POST", "/v1/users", raw=b'{"external_id":"' + b"x" * 70_000 + b'"}')
    assert (long.status, long.code) == (413, "body_too_large")
    wrong = await api.get("/v1/users")
    assert (wrong.status, wrong.code, wrong.headers["Allow"]) == (405, "method_not_allowed", "POST")
    assert await api.count("users") == 0


async def test_a_chunked_body_is_cut_at_the_limit_though_it_never_says_its_length(api: Api) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 1024

    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Idempotency-Key": "c"}
    async with api.http.post(f"{api.url}/v1/users", data=endless(), headers=headers) as response:
        assert response.status == 413


async def test_health_readiness_and_metrics_tell_how_it_is(api: Api) -> None:
    await api.wallet(credits=5)
    assert (await api.get("/healthz")).status == 200
    assert (await api.get("/readyz")).body["status"] == "ready"
    text = (await api.get("/metrics")).body
    assert 'web_requests_total{method="POST",route="/v1/wallets",status="201"} 1.0' in text
    assert "web_database_up 1.0" in text
    assert 'sql_pool_connections{state="busy"}' in text
    await api.admin.execute("DELETE FROM schema_migrations WHERE version = '0011'")
    behind = await api.get("/readyz")
    assert (behind.status, behind.code, behind.body["missing"]) == (503, "migrations_missing", ["0011"])


async def test_without_a_database_the_answer_is_503_and_comes_back_by_itself(gateway) -> None:  # type: ignore[no-untyped-def]
    async with private_postgres() as postgres:
        settings = DatabaseSettings(database_url=postgres.url("core_app"), database_connect_timeout_s=2)
        app = make_app(
            WebSettings(development=True, api_token=SecretStr(TOKEN)), settings_for(gateway[0]), settings
        )
        async with serving(app) as url, aiohttp.ClientSession() as http:
            api = Api(url, http, None, gateway[1])  # type: ignore[arg-type]
            owner = await api.user()
            postgres.kill9()
            hook = await api.webhook(json.dumps({"type": "WEBHOOK", "data": {}, "event_time": None}).encode())
            assert (hook.status, hook.code) == (503, "database_unavailable")
            down = await api.post("/v1/wallets", {"owner_id": owner}, Idempotency_Key="w")
            assert (down.status, down.code, down.headers["Retry-After"]) == (503, "database_unavailable", "1")
            assert (await api.get("/readyz")).status == 503
            assert "web_database_up 0.0" in (await api.get("/metrics")).body
            assert (await api.get("/healthz")).status == 200
            await postgres.start()
            for _ in range(50):
                up = await api.post("/v1/wallets", {"owner_id": owner}, Idempotency_Key="w")
                if up.status != 503:
                    break
                await asyncio.sleep(0.1)
            assert up.status == 201
