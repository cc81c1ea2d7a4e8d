"""What comes in too often, too slow, too large or twice is refused early, and who is genuine does not notice."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from deploy.local.private import private_postgres
from gateway.simulator.sim import Simulator
from sql.db import Database, DatabaseSettings
from sql.errors import Unavailable
from sql.ids import uuid7
from sql.webhooks import NewWebhook, Receipt
from tests.conftest import Database as Prepared
from tests.web.conftest import TOKEN, Api, settings_for
from tests.web.test_webhooks import payment_webhook
from web.app import make_app, make_runner
from web.auth import Scope
from web.connections import FIELDS, HEAD_BYTES
from web.headers import ALWAYS
from web.inbox import MOST, WAITING, Inbox
from web.problems import Problem
from web.room import Room
from web.router import ROUTES
from web.services import SERVICES, Services
from web.settings import WebSettings


@asynccontextmanager
async def opened(database_url: str, gateway_url: str, **settings: Any) -> AsyncIterator[tuple[Api, Services]]:
    """The API with settings of a test's own, also those of its connections."""
    said = WebSettings(development=True, api_token=SecretStr(TOKEN), web_shutdown_s=0.2, **settings)
    app = make_app(
        said, settings_for(gateway_url), DatabaseSettings(database_url=database_url, database_pool_size=2)
    )
    runner = make_runner(app, said)
    await runner.setup()
    site = aiohttp.web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with aiohttp.ClientSession() as http:
            yield Api(f"http://{host}:{port}", http, None, None), app[SERVICES]  # type: ignore[arg-type]
    finally:
        await runner.cleanup()


async def connect(api: Api) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = api.url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def ended(reader: asyncio.StreamReader, within_s: float) -> bytes:
    """What was answered until the other side closed. Errors: TimeoutError if it does not."""
    async with asyncio.timeout(within_s):
        try:
            return await reader.read(-1)
        except ConnectionResetError:
            return b""


def refused(services: Services, why: str) -> float:
    return float(services.metrics.refused_connections.labels(why)._value.get())


HEAD = (
    b"POST /v1/users HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nIdempotency-Key: k\r\n"
    % TOKEN.encode()
)
JSON = b"Content-Type: application/json\r\n"


async def test_a_head_that_drips_is_ended_and_so_is_a_connection_that_says_nothing(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0], web_head_s=0.6) as (api, services):
        drip, silent, again = await connect(api), await connect(api), await connect(api)
        again[1].write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await again[0].readuntil(b"}")).startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        again[1].write(b"GET /hea")
        for reader, writer in (drip, silent, again):
            if writer is drip[1]:
                for part in (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: a", b"b", b"c"):
                    writer.write(part)
                    await asyncio.sleep(0.1)
            assert (await ended(reader, 5)).startswith(b"HTTP/1.1 408")
            writer.close()
        assert 0.5 < time.monotonic() - began < 3
        assert refused(services, "slow_head") == 3


async def test_a_connection_that_rests_between_requests_is_left_alone(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0], web_head_s=0.3) as (api, _):
        reader, writer = await connect(api)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(1.2)
        writer.close()


async def test_who_leaves_in_the_middle_of_a_body_is_counted_and_is_no_error(
    database: Prepared,
    gateway: tuple[str, Simulator],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with opened(database.url, gateway[0]) as (api, services):
        for _ in range(20):
            _, writer = await connect(api)
            writer.write(HEAD + JSON + b"Content-Length: 500\r\n\r\n{")
            await writer.drain()
            await asyncio.sleep(0.01)
            writer.transport.abort()
        left = services.metrics.requests.labels("POST", "/v1/users", "499")._value
        async with asyncio.timeout(5):
            while left.get() < 20:
                await asyncio.sleep(0.02)
        assert (await api.get("/healthz")).status == 200
    told = caplog.text + "".join(capsys.readouterr())
    assert "Traceback" not in told
    assert "499" not in told, "a thousand who leave would be a thousand lines"


async def test_a_connection_of_ours_that_breaks_is_a_bug_and_not_the_client_s_leaving(
    database: Prepared, gateway: tuple[str, Simulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reset(*_: object) -> None:
        raise ConnectionResetError("not the client's")

    async with opened(database.url, gateway[0]) as (api, services):
        for method in ("row", "rows", "value"):
            monkeypatch.setattr(services.db, method, reset)
        answer = await api.get(f"/v1/wallets/{uuid7()}")
        assert (answer.status, answer.code) == (500, "internal_error")


async def test_a_head_without_end_is_cut_before_it_fills_the_memory(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0]) as (api, services):
        reader, writer = await connect(api)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        field = b"X-%d: " + b"y" * 2000 + b"\r\n"
        while sent < 4 * HEAD_BYTES and not reader.at_eof():
            writer.write(field % sent)
            sent += 2000
            await asyncio.sleep(0.01)
            if refused(services, "head_too_large"):
                break
        assert HEAD_BYTES <= sent <= 2 * HEAD_BYTES
        assert refused(services, "head_too_large") == 1
        writer.close()
        many = {f"X-{i}": "y" for i in range(FIELDS + 20)}
        async with api.http.get(f"{api.url}/healthz", headers=many) as response:
            assert response.status == 400
            assert (await response.json())["code"] == "malformed_request"
            assert ALWAYS.items() <= dict(response.headers).items()


async def test_a_body_that_pauses_or_never_ends_is_refused_in_time(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0], web_body_s=1.2, web_stall_s=0.4) as (api, _):
        stalled, dripped = await connect(api), await connect(api)
        began = time.monotonic()
        for _, writer in (stalled, dripped):
            writer.write(HEAD + JSON + b'Content-Length: 1000\r\n\r\n{"external_id":"')

        async def drip() -> None:
            for _ in range(100):
                dripped[1].write(b"x")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert b"body_too_slow" in await ended(stalled[0], 5)
        assert time.monotonic() - began < 1.1 + 2
        assert b"body_too_slow" in await ended(dripped[0], 8)
        dripping.cancel()
        stalled[1].close()
        dripped[1].close()


async def test_a_large_body_is_refused_by_what_it_declares(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0]) as (api, _):
        reader, writer = await connect(api)
        writer.write(HEAD + JSON + b"Content-Length: 100000000\r\n\r\n")
        async with asyncio.timeout(2):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413"), "nothing of the body was sent"
        writer.close()


async def test_bodies_under_way_share_a_room_and_give_it_back(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0]) as (api, services):
        services.room = Room(50_000)
        opened_bodies = [await connect(api) for _ in range(3)]
        for _, writer in opened_bodies:
            writer.write(HEAD + JSON + b"Content-Length: 30000\r\n\r\n" + b" " * 20_000)
        done, _ = await asyncio.wait(
            [asyncio.create_task(reader.readuntil(b"\r\n\r\n")) for reader, _ in opened_bodies],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert [task.result()[:12] for task in done] == [b"HTTP/1.1 503"]
        for _, writer in opened_bodies:
            writer.close()
        async with asyncio.timeout(5):
            while services.room._left != 50_000:
                await asyncio.sleep(0.02)


async def test_connections_are_so_many_in_all_and_of_one_address_and_room_comes_back(
    database: Prepared, gateway: tuple[str, Simulator]
) -> None:
    for limit, why in (
        ({"web_connections": 5}, "too_many"),
        ({"web_connections_per_address": 5}, "too_many_of_one"),
    ):
        async with opened(database.url, gateway[0], **limit) as (api, services):
            held = [await connect(api) for _ in range(5)]
            await asyncio.sleep(0.1)
            reader, writer = await connect(api)
            answer = await ended(reader, 5)
            assert answer.startswith((b"HTTP/1.1 503", b"HTTP/1.1 429")), why
            assert refused(services, why) == 1
            writer.close()
            for _, one in held:
                one.close()
            await asyncio.sleep(0.1)
            assert (await api.get("/healthz")).status == 200


async def test_our_own_proxy_may_have_as_many_connections_as_it_needs(database, gateway) -> None:  # type: ignore[no-untyped-def]
    ours = {"web_connections_per_address": 2, "web_trusted_proxies": "127.0.0.1/32"}
    async with opened(database.url, gateway[0], **ours) as (api, services):
        held = [await connect(api) for _ in range(6)]
        assert (await api.get("/healthz")).status == 200
        assert refused(services, "too_many_of_one") == 0
        for _, one in held:
            one.close()


async def test_who_does_not_read_the_answers_is_cut_off(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0], web_body_s=0.6) as (api, services):
        host, _, port = api.url.removeprefix("http://").partition(":")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        raw.connect((host, int(port)))
        raw.setblocking(False)
        asked = b"GET /static/vendor/uPlot.iife.min.js HTTP/1.1\r\nHost: x\r\n\r\n"
        name = next(p for p in _large() if p)
        asked = f"GET /static/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        async with asyncio.timeout(20):
            while not refused(services, "slow_reader"):
                with suppress(OSError):
                    raw.send(asked)
                await asyncio.sleep(0.005)
        raw.close()
        assert (await api.get("/healthz")).status == 200


def _large() -> list[str]:
    from web.live import STATIC

    files = list(STATIC.rglob("*.js"))
    return [str(file.relative_to(STATIC)) for file in sorted(files, key=lambda f: -f.stat().st_size)]


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Content-Type",
        "Idempotency-Key",
        "X-Request-Id",
        "X-Webhook-Signature",
        "Origin",
        "Cookie",
    ],
)
async def test_a_header_that_may_come_once_and_comes_twice_is_a_400_at_every_door(
    api: Api, name: str
) -> None:
    genuine = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", "Idempotency-Key": "k"}
    value = genuine.get(name, "x")
    sent = [*(item for item in genuine.items() if item[0] != name), (name, value), (name, value)]
    for method, path in (("POST", "/v1/users"), ("POST", "/v1/webhooks/cashfree"), ("GET", "/v1/packs")):
        async with api.http.request(method, api.url + path, headers=sent, data=b"{}") as response:
            assert response.status == 400, path
            assert (await response.json())["code"] in ("repeated_header", "malformed_request"), path
    assert await api.count("users") == 0


async def test_a_list_may_come_in_two_headers(api: Api) -> None:
    sent = [
        ("Authorization", f"Bearer {TOKEN}"),
        ("Accept", "a/b"),
        ("Accept", "c/d"),
        ("X-Forwarded-For", "1.1.1.1"),
    ]
    async with api.http.get(
        f"{api.url}/v1/packs", headers=[*sent, ("X-Forwarded-For", "2.2.2.2")]
    ) as response:
        assert response.status == 200


async def test_a_body_in_another_charset_is_refused(api: Api) -> None:
    for said, status in (
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin-1", 415),
        ('application/json; charset="UTF-8"', 201),
        ("application/json", 201),
    ):
        answer = await api.post("/v1/users", {"external_id": said}, Content_Type=said)
        assert answer.status == status, said


async def test_a_body_that_is_not_framed_as_it_says_is_a_400(api: Api) -> None:
    reader, writer = await connect(api)
    writer.write(HEAD + JSON + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"ext\r\nZZZ\r\n')
    answer = await ended(reader, 5)
    assert b" 400 " in answer.split(b"\r\n")[0], answer
    writer.close()


async def test_every_answer_has_the_fields_that_protect_it(api: Api) -> None:
    for answer in (
        await api.get("/v1/packs"),
        await api.get("/v1/packs", Authorization="Bearer no"),
        await api.get("/nowhere"),
        await api.call("PUT", "/v1/packs"),
        await api.get("/healthz"),
        await api.get("/metrics"),
        await api.webhook(b"{}", secret="wrong"),
        await api.post("/v1/users", {"x": 1}),
    ):
        assert ALWAYS.items() <= dict(answer.headers).items(), answer
        assert "X-Request-Id" in answer.headers
        assert "aiohttp" not in answer.headers["Server"]
        assert "Strict-Transport-Security" not in answer.headers
    page = await api.get("/")
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    async with api.http.get(f"{api.url}/v1/live", headers={"Authorization": f"Bearer {TOKEN}"}) as stream:
        assert ALWAYS.items() <= dict(stream.headers).items()


async def test_who_comes_over_tls_through_our_proxy_is_told_to_stay_with_it(database, gateway) -> None:  # type: ignore[no-untyped-def]
    async with opened(database.url, gateway[0], web_trusted_proxies="127.0.0.1/32") as (api, _):
        assert (
            "max-age"
            in (await api.get("/healthz", X_Forwarded_Proto="https")).headers["Strict-Transport-Security"]
        )
        assert (
            "Strict-Transport-Security" not in (await api.get("/healthz", X_Forwarded_Proto="http")).headers
        )


async def test_when_the_database_stands_still_a_queue_does_not_grow_and_the_answer_is_fast(gateway) -> None:  # type: ignore[no-untyped-def]
    async with private_postgres() as postgres:
        url = postgres.url("core_app")
        async with opened(url, gateway[0], web_shed_after_s=0.5) as (api, services):
            wallet = await api.wallet()
            admin = await asyncpg.connect(postgres.url("postgres"))
            await admin.execute("BEGIN; LOCK TABLE wallets, payment_webhooks IN ACCESS EXCLUSIVE MODE")
            stuck = [asyncio.create_task(api.get(f"/v1/wallets/{wallet}")) for _ in range(6)]
            hooks = [asyncio.create_task(api.webhook(payment_webhook(f"o_{i}"))) for i in range(6)]
            await asyncio.sleep(1.0)
            assert services.db.waited_s() > 0.5
            began = time.monotonic()
            read = await api.get(f"/v1/wallets/{wallet}")
            hook = await api.webhook(payment_webhook("late"))
            assert time.monotonic() - began < 0.4
            for answer in (read, hook):
                assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "overloaded", "2")
            assert (await api.get("/healthz")).status == 200
            assert 'web_shed_total{queue="database"} 2.0' in (await api.get("/metrics")).body
            await admin.execute("ROLLBACK")
            await admin.close()
            assert {a.status for a in await asyncio.gather(*stuck, *hooks)} <= {200, 503}
            assert (await api.get(f"/v1/wallets/{wallet}")).status == 200
            assert (await api.webhook(payment_webhook("late", cf_payment_id=77))).body == {"status": "new"}


async def test_the_wait_is_that_of_the_first_in_the_queue_and_none_when_nobody_waits(database) -> None:  # type: ignore[no-untyped-def]
    async with await Database.connect(
        DatabaseSettings(database_url=database.web_url, database_pool_size=1)
    ) as db:
        assert db.waited_s() == 0
        busy = [asyncio.create_task(db.rows("SELECT pg_sleep(0.4)")) for _ in range(2)]
        await asyncio.sleep(0.2)
        assert 0.1 < db.waited_s() < 0.4
        cancelled = asyncio.create_task(db.rows("SELECT 1"))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(*busy, cancelled, return_exceptions=True)
        assert db.waited_s() == 0


class _Stuck:
    """A database that stores nothing until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def insert(self, webhooks: Any) -> list[Receipt]:
        await self.go.wait()
        return ["new"] * len(webhooks)


WEBHOOK: NewWebhook = None  # type: ignore[assignment]


async def test_an_inbox_that_stands_still_sends_away_who_waits_and_who_comes() -> None:
    database = _Stuck()
    inbox = Inbox(database.insert, longest_wait_s=0.2)
    first = [asyncio.create_task(inbox.put(WEBHOOK)) for _ in range(2 * MOST + 10)]
    await asyncio.sleep(0.3)
    with pytest.raises(Problem) as sent_away:
        await inbox.put(WEBHOOK)
    assert (sent_away.value.status, sent_away.value.code) == (503, "overloaded")
    database.go.set()
    answers = await asyncio.gather(*first, return_exceptions=True)
    assert {a for a in answers if isinstance(a, str)} == {"new"}
    assert sum(isinstance(a, Problem) for a in answers) >= 10
    assert await inbox.put(WEBHOOK) == "new"


async def test_an_inbox_holds_so_many_and_no_more() -> None:
    database = _Stuck()
    inbox = Inbox(database.insert, longest_wait_s=60)
    tasks = [asyncio.create_task(inbox.put(WEBHOOK)) for _ in range(WAITING + 3 * MOST)]
    await asyncio.sleep(0.1)
    refused_now = sum(task.done() for task in tasks)
    assert 0 < refused_now <= 3 * MOST
    database.go.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(a == "new" for a in answers) == WAITING + 3 * MOST - refused_now
    assert not any(isinstance(a, Unavailable) for a in answers)


async def test_no_cookie_is_a_credential_for_what_changes_something(api: Api) -> None:
    for route in ROUTES:
        if route.method == "GET" or route.scope is Scope.SIGNED:
            continue
        path = route.path.replace("{", "").replace("}", "")
        answer = await api.post(path, {}, Authorization="", Cookie=f"core_token={TOKEN}", Origin=api.url)
        assert (answer.status, answer.code) == (401, "unauthorised"), route.name
    for path in ("/", "/v1/packs"):
        assert "Set-Cookie" not in (await api.get(path)).headers
