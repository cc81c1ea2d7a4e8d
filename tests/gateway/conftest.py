"""A running simulator, a client of ours on it, and a place that receives its webhooks. All on loopback."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import SecretStr

from gateway import signature
from gateway.client import CashfreeClient, open_client
from gateway.requests import NewOrder
from gateway.settings import GatewaySettings
from gateway.simulator.app import SIMULATOR, make_app
from gateway.simulator.sim import SimConfig, Simulator
from gateway.webhooks import Refused, WebhookEvent, parse

CLIENT_ID = "TEST_CLIENT"
SECRET = "test-secret-of-the-merchant"


@pytest.fixture(scope="session")
def reference() -> Path:
    """Cashfree's public examples; they are not part of the project."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("CASHFREE_REFERENCE") or root.parent / "shared" / "cashfree")
    if not (folder / "vectors").is_dir():
        pytest.skip("Cashfree's public examples are not here (set CASHFREE_REFERENCE to their folder)")
    return folder


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """Run an application on a free loopback port; gives its address."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@dataclass
class Received:
    """One webhook as it arrived."""

    verdict: signature.Verdict
    event: WebhookEvent | Refused
    headers: list[tuple[str, str]]
    body: bytes
    at: float


@dataclass
class Inbox:
    """What the simulator delivered, judged as the product judges it."""

    url: str = ""
    answer: int = 200
    received: list[Received] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_for(self, count: int, timeout_s: float = 5.0) -> list[Received]:
        """The first `count` webhooks, or a failure naming how many came."""
        deadline = time.monotonic() + timeout_s
        while len(self.received) < count:
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), max(0.01, deadline - time.monotonic()))
            except TimeoutError:
                pytest.fail(f"{len(self.received)} of {count} webhooks arrived in {timeout_s} s")
        return self.received

    def events(self) -> list[WebhookEvent]:
        """The authentic ones, parsed."""
        found = []
        for item in self.received:
            assert item.verdict.ok, item.verdict
            assert isinstance(item.event, WebhookEvent), item.event
            found.append(item.event)
        return found


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    box = Inbox()

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        headers = list(request.headers.items())
        verdict = signature.verify(body, request.headers, [SECRET.encode()], time.time_ns() // 1_000_000)
        event = parse(body, verdict.version)
        box.received.append(Received(verdict, event, headers, body, time.monotonic()))
        box.arrived.set()
        return web.Response(status=box.answer)

    app = web.Application()
    app.router.add_post("/hook", receive)
    async with serving(app) as url:
        box.url = url + "/hook"
        yield box


@dataclass
class Running:
    """A simulator on loopback and ways to move it."""

    url: str
    sim: Simulator
    http: aiohttp.ClientSession

    async def control(self, method: str, path: str, body: object = None) -> Any:
        """A call of the control door; its JSON answer."""
        async with self.http.request(method, f"{self.url}/sim{path}", json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def pay(self, order_id: str, **wish: Any) -> Any:
        """Let the customer pay."""
        return await self.control("POST", f"/orders/{order_id}/pay", wish)

    async def fault(self, endpoint: str, kind: str, **more: Any) -> None:
        """Break an endpoint."""
        await self.control("POST", "/faults", {"endpoint": endpoint, "kind": kind, **more})


@pytest.fixture
async def simulator(inbox: Inbox) -> AsyncIterator[Running]:
    config = SimConfig(client_id=CLIENT_ID, client_secret=SECRET, webhook_url=inbox.url, seed=7)
    app = make_app(config)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Running(url, app[SIMULATOR], http)


@pytest.fixture
def settings(simulator: Running) -> GatewaySettings:
    return GatewaySettings(
        cashfree_base_url=simulator.url + "/pg",
        cashfree_client_id=CLIENT_ID,
        cashfree_client_secret=SecretStr(SECRET),
        cashfree_limits_per_minute=dict.fromkeys(
            ("create_order", "get_order", "get_payments", "create_refund", "get_refund"), 100_000
        ),
        cashfree_timeout_s=1.0,
        cashfree_connect_timeout_s=0.5,
    )


@pytest.fixture
async def client(settings: GatewaySettings) -> AsyncIterator[CashfreeClient]:
    async with open_client(settings) as opened:
        yield opened


MakeOrder = Callable[..., Awaitable[str]]


def new_order(order_id: str, amount_paise: int = 50_000, **more: Any) -> NewOrder:
    """An order of the ordinary kind."""
    return NewOrder(
        order_id=order_id,
        amount_paise=amount_paise,
        customer_id="cust_1",
        customer_phone="9999999999",
        **more,
    )


@pytest.fixture
def make_order(client: CashfreeClient) -> MakeOrder:
    async def make(order_id: str, amount_paise: int = 50_000, **more: Any) -> str:
        return (await client.create_order(new_order(order_id, amount_paise, **more))).order_id

    return make
