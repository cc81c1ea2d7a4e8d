"""A browser, the whole system running, and a shop's hands to make orders and look at what became of them.

One system for the module: servers of the test session, everything else as `./dev run` starts it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from deploy.local import chromium
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.stack import LOCAL
from tests.conftest import Servers, fresh_database, fresh_vhost
from tests.system import settings, system

PARTITIONS = 2
PATIENCE_S = 30.0
_SPIES = """
document.addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy ${event.violatedDirective} ${event.blockedURI}`));
"""
T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Order:
    """An order of a customer of its own, to be paid at `checkout`."""

    customer: str
    wallet_id: str
    payment_id: str
    order_id: str
    checkout: str
    credits: int


@dataclass
class Shop:
    """The API as a shop calls it, and the simulator's own truth."""

    http: aiohttp.ClientSession
    web_url: str
    simulator_url: str
    logs: Path

    async def order(self, pack_paise: int = 50_000) -> Order:
        """A new customer's order. Who it is shows on the live page as `customer`."""
        number = next(_numbers)
        who = {"name": "Asha Nair", "email": f"asha@shop{number}.example", "phone": f"98765{number:05}"}
        user = await self.post("/v1/users", {"external_id": str(uuid4()), "state_code": "29", **who})
        wallet = await self.post("/v1/wallets", {"owner_id": user["id"]})
        order = await self.post("/v1/payments/orders", {
            "user_id": user["id"], "wallet_id": wallet["id"], "pack_paise": pack_paise, "return_url": f"{self.web_url}/",
        })  # fmt: skip
        return Order(
            customer=f"a•••@shop{number}.example",
            wallet_id=wallet["id"],
            payment_id=order["payment_id"],
            order_id=order["order_id"],
            checkout=order["checkout_url"],
            credits=order["credits"],
        )

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A write that succeeds."""
        headers = {"Idempotency-Key": str(uuid4())}
        async with self.http.post(self.web_url + path, json=body, headers=headers) as answer:
            assert answer.status in (200, 201), await answer.text()
            return dict(await answer.json())

    async def get(self, path: str) -> dict[str, Any]:
        """A read that succeeds."""
        async with self.http.get(self.web_url + path) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())

    async def payment(self, order: Order) -> dict[str, Any]:
        return await self.get(f"/v1/payments/{order.payment_id}")

    async def refunds(self, order: Order) -> list[dict[str, Any]]:
        return list((await self.get(f"/v1/payments/{order.payment_id}/refunds"))["items"])

    async def credited(self, order: Order) -> list[int]:
        """What was added to the wallet, entry by entry."""
        history = (await self.get(f"/v1/wallets/{order.wallet_id}/transactions"))["items"]
        return [entry["credits"] for entry in history]

    async def balance(self, order: Order) -> int:
        """The credits that the wallet can spend."""
        return int((await self.get(f"/v1/wallets/{order.wallet_id}"))["available_credits"])

    def told(self) -> str:
        """The last words of every process, for a failure to show."""
        return "\n".join(
            "\n".join([f"--- {log.name}", *log.read_text(errors="replace").splitlines()[-10:]])
            for log in sorted(self.logs.glob("worker*.log")) + sorted(self.logs.glob("simulator.log"))
        )

    async def simulator(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """A call of the simulator's control door."""
        async with self.http.request(method, f"{self.simulator_url}/sim{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return dict(await answer.json())

    async def attempted(self, order: Order, *statuses: str) -> None:
        """Wait until the core knows of attempts with exactly these statuses."""

        async def known() -> list[str]:
            return sorted(attempt["status"] for attempt in (await self.payment(order))["attempts"])

        assert await until(known, lambda found: found == sorted(statuses)) == sorted(statuses)


async def until(ask: Callable[[], Awaitable[T]], is_it: Callable[[T], bool]) -> T:
    """Ask until the answer is right, or patience ends; the last answer."""
    end = asyncio.get_running_loop().time() + PATIENCE_S
    while not is_it(answer := await ask()) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.1)
    return answer


@dataclass
class Window:
    """A person's browser window. `problems`: what a page complained of, and what went beyond loopback."""

    context: BrowserContext
    problems: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Note errors, violations of a page's policy, failed answers, and requests to other machines."""
        note = self.problems.append
        self.context.on(
            "console", lambda said: note(said.text) if said.type in ("error", "warning") else None
        )
        self.context.on("weberror", lambda found: note(str(found.error)))
        self.context.on(
            "response", lambda got: note(f"{got.status} {got.url}") if got.status >= 400 else None
        )
        self.context.on("request", lambda sent: None if _is_near(sent.url) else note(f"went to {sent.url}"))

    async def open(self, address: str) -> Page:
        """Another tab."""
        page = await self.context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        await page.goto(address)
        return page


def _is_near(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "about:"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    program = await chromium.find(LOCAL, print)
    expect.set_options(timeout=PATIENCE_S * 1000)
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=program, args=list(chromium.FLAGS))
        yield launched
        await launched.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(
    servers: Servers,
    migrated_template: str,
    rabbitmq_node: RabbitMQ,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[dict[str, str], Path]]:
    """The settings of the system that runs for this module, and where its processes' logs are."""
    local = tmp_path_factory.mktemp("system")
    async with (
        fresh_database(servers.postgres, migrated_template) as database,
        fresh_vhost(rabbitmq_node) as broker,
    ):
        environment = {
            "DATABASE_URL": database.url,
            "DATABASE_DIRECT_URL": database.direct_url,
            "STREAM_URL": broker.url,
            "STREAM_ADMIN_URL": broker.admin_url,
            "PARTITIONS": str(PARTITIONS),
            "INVOICE_STORAGE_URL": f"file:{local}/invoices",
        }
        with system(local, workers=1, environment=environment):
            yield settings(local), local / "run" / "log"


@pytest_asyncio.fixture(loop_scope="module")
async def shop(running: tuple[dict[str, str], Path]) -> AsyncIterator[Shop]:
    found, logs = running
    authority = {"Authorization": f"Bearer {found['API_TOKEN']}"}
    async with aiohttp.ClientSession(headers=authority) as http:
        yield Shop(http, found["WEB_URL"], found["CASHFREE_BASE_URL"].removesuffix("/pg"), logs)


OpenWindow = Callable[..., Awaitable[Window]]


@pytest_asyncio.fixture(loop_scope="module")
async def open_window(browser: Browser) -> AsyncIterator[OpenWindow]:
    """Opens windows; in the end no page in any of them may have had a problem."""
    windows: list[Window] = []

    async def opened(**options: Any) -> Window:
        context = await browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        await context.add_init_script(_SPIES)
        windows.append(Window(context))
        windows[-1].watch()
        return windows[-1]

    yield opened
    for window in windows:
        await window.context.close()
    assert [problem for window in windows for problem in window.problems] == []
