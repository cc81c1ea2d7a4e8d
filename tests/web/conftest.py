"""The web process's application on a real server, with a fresh database, the simulator, and hands to call it."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from pydantic import SecretStr

from gateway import signature
from gateway.settings import GatewaySettings
from gateway.simulator.app import SIMULATOR
from gateway.simulator.app import make_app as make_simulator
from gateway.simulator.sim import SimConfig, Simulator
from sql.db import DatabaseSettings
from tests.conftest import Database as Prepared
from web.app import make_app, make_runner
from web.settings import WebSettings

TOKEN = "token-of-the-tests"
SECRET = "secret-of-the-merchant"
_numbers = itertools.count(1)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Run an application on a free loopback port; gives its address."""
    runner = make_runner(app, WebSettings(web_shutdown_s=0.2))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@dataclass
class Answer:
    """A response, read."""

    status: int
    body: Any
    headers: Any

    @property
    def code(self) -> str:
        """The problem's code; the body, where it is none, to show in a failure."""
        return str(self.body.get("code", self.body)) if isinstance(self.body, dict) else str(self.body)


@dataclass
class Api:
    """The API of one test and the database below it."""

    url: str
    http: aiohttp.ClientSession
    admin: asyncpg.Connection
    gateway: Simulator
    token: str = TOKEN

    async def call(
        self, method: str, path: str, body: object = None, *, raw: bytes | None = None, **headers: str
    ) -> Answer:
        """One call; POSTs get a fresh Idempotency-Key if none is given ('' for none at all)."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("Authorization", f"Bearer {self.token}")
        if method == "POST":
            sent.setdefault("Idempotency-Key", f"k-{next(_numbers)}")
            sent.setdefault("Content-Type", "application/json")
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {name: value for name, value in sent.items() if value}
        async with self.http.request(method, self.url + path, data=data, headers=sent) as response:
            text = await response.text()
            is_json = response.content_type.endswith("json")
            return Answer(response.status, json.loads(text) if is_json and text else text, response.headers)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, raw=None, **headers)

    async def post(self, path: str, body: object = None, **headers: str) -> Answer:
        return await self.call("POST", path, body, raw=None, **headers)

    async def user(self, **more: Any) -> str:
        """A user who can buy."""
        said = {
            "external_id": f"x-{uuid4()}",
            "email": "asha@example.com",
            "phone": "9999999999",
            "state_code": "29",
        }
        answer = await self.post("/v1/users", said | more)
        assert answer.status == 201, answer.body
        return str(answer.body["id"])

    async def wallet(self, credits: int = 0, owner: str | None = None) -> str:
        """A wallet, with a promotional lot if `credits`."""
        answer = await self.post("/v1/wallets", {"owner_id": owner or await self.user()})
        assert answer.status == 201, answer.body
        wallet = str(answer.body["id"])
        if credits:
            granted = await self.post(f"/v1/wallets/{wallet}/grants", {"credits": credits, "reason": "test"})
            assert granted.status == 201, granted.body
        return wallet

    async def webhook(self, raw: bytes, *, secret: str = SECRET, **headers: str) -> Answer:
        """A signed delivery; `headers` replace ('' removes) what a genuine one has."""
        stamp = str(time.time_ns() // 1_000_000)
        sent = {
            "x-webhook-timestamp": stamp,
            "x-webhook-signature": signature.sign(secret.encode(), stamp, raw).decode(),
            "x-webhook-version": "2025-01-01",
            "Content-Type": "application/json",
        } | {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in sent.items() if value}
        async with self.http.post(f"{self.url}/v1/webhooks/cashfree", data=raw, headers=sent) as response:
            return Answer(response.status, await response.json(), response.headers)

    async def row(self, query: str) -> asyncpg.Record:
        """The one row of a query."""
        found = await self.admin.fetch(query)
        assert len(found) == 1, found
        return found[0]

    async def count(self, table: str) -> int:
        """Rows of a table."""
        return int(await self.admin.fetchval(f'SELECT count(*) FROM "{table}"'))


def usage_event(wallet: str, **more: Any) -> dict[str, Any]:
    """A usage event as a caller writes it."""
    return {"id": f"e-{uuid4()}", "wallet_id": wallet, "feature": "chat.message", "credits": 10} | more


def new_id() -> str:
    return str(UUID(int=uuid4().int))


@pytest.fixture
async def gateway() -> AsyncIterator[tuple[str, Simulator]]:
    """The simulator and its address."""
    app = make_simulator(SimConfig(client_id="merchant", client_secret=SECRET, seed=7))
    async with serving(app) as url:
        yield url, app[SIMULATOR]


def settings_for(url: str) -> GatewaySettings:
    """The gateway as the tests' web process knows it."""
    return GatewaySettings(
        cashfree_base_url=f"{url}/pg",
        cashfree_client_id="merchant",
        cashfree_client_secret=SecretStr(SECRET),
        cashfree_limits_per_minute=dict.fromkeys(("create_order", "get_order", "get_payments"), 100_000),
        cashfree_timeout_s=0.5,
        cashfree_connect_timeout_s=0.5,
    )


@asynccontextmanager
async def opened_api(
    database: Prepared, gateway: tuple[str, Simulator], *, development: bool = True, **settings: Any
) -> AsyncIterator[Api]:
    """The API over a database; `settings` are the web process's. The development token counts if `development`."""
    gateway_url, simulator = gateway
    app = make_app(
        WebSettings(development=development, api_token=SecretStr(TOKEN), **settings),
        settings_for(gateway_url),
        DatabaseSettings(database_url=database.web_url, database_pool_size=4),
    )
    admin = await asyncpg.connect(database.admin_url)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Api(url, http, admin, simulator)
    await asyncio.wait_for(admin.close(), 5)


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:
    """The API over a fresh database."""
    async with opened_api(database, gateway) as api:
        yield api
