"""The whole system small: simulator, one worker, web, each a real process; and sinks that see all they tell.

The sinks are servers of the test: a collector for spans (the one of `./dev run --trace`), a Sentry.
"""

import asyncio
import gzip
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from deploy.local.ports import HOST, free_port
from deploy.local.process import Process
from deploy.observability import collector, traces
from deploy.observability.collector import Span
from deploy.services import python
from streams import topics

TOKEN = "token-of-the-tests-observed"
PARTITIONS = 2


@dataclass
class Sentry:
    """What a Sentry would have received: whole envelopes as text, and the events in them."""

    url: str = ""
    envelopes: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        """POST /api/<project>/envelope/: a line of JSON each, item headers before items."""
        raw = await request.read()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
        self.envelopes.append(text)
        lines = [msgspec.json.decode(line) for line in text.splitlines() if line.startswith("{")]
        self.events += [line for line in lines if "exception" in line or "level" in line]
        return web.json_response({"id": "0" * 32})


@dataclass
class House:
    """The running system; `post` and `simulate` talk to it."""

    url: str
    simulator: str
    metrics_url: str
    http: aiohttp.ClientSession
    directory: Path
    sentry: Sentry
    processes: list[Process]

    @property
    def spans(self) -> list[Span]:
        return traces.read(self.directory / "spans.jsonl")

    def logs(self) -> dict[str, str]:
        """What each process has written so far."""
        return {file.name: file.read_text(errors="replace") for file in self.directory.glob("*.log")}

    async def post(self, path: str, body: object, **headers: str) -> Any:
        sent = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": str(uuid4())} | headers
        async with self.http.post(self.url + path, json=body, headers=sent) as answer:
            assert answer.status < 500, await answer.text()
            return await answer.json()

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            return await answer.json()

    async def simulate(self, path: str, body: object) -> None:
        async with self.http.post(f"{self.simulator}{path}", json=body) as answer:
            answer.raise_for_status()

    async def customer(self, **more: str) -> tuple[str, str]:
        """A user and its wallet."""
        said = {"external_id": f"x-{uuid4()}", "email": "asha@example.com", "phone": "9999999999"}
        user = await self.post("/v1/users", {**said, "state_code": "29", **more})
        wallet = await self.post("/v1/wallets", {"owner_id": user["id"]})
        return user["id"], wallet["id"]

    async def pay(self, user: str, wallet: str, **wish: object) -> dict[str, Any]:
        """An order, and a customer who pays it; returns the order."""
        order = await self.post(
            "/v1/payments/orders",
            {"user_id": user, "wallet_id": wallet, "pack_paise": 50000, "device_id": "d-1"},
        )
        await self.simulate(f"/sim/orders/{order['order_id']}/pay", {"outcome": "success", **wish})
        return dict(order)

    def state(self) -> str:
        """Which processes have ended, how, and the ends of all logs."""
        ended = [f"{p.name} ended with {p.exit_code}\n" for p in self.processes if not p.running]
        logs = [f"--- {name}\n{text[-3000:]}\n" for name, text in self.logs().items()]
        return "".join([*ended, *logs])

    async def until(
        self, true: Callable[[], Awaitable[object]], *, deadline_s: float = 40.0, what: str = ""
    ) -> None:
        """Wait; fails with the logs."""
        end = time.monotonic() + deadline_s
        while not await true():
            assert time.monotonic() < end, what + self.state()
            await asyncio.sleep(0.1)

    async def credited(self, payment_id: str) -> None:
        """Wait until the payment is credited."""

        async def is_credited() -> bool:
            return bool((await self.get(f"/v1/payments/{payment_id}"))["status"] == "credited")

        await self.until(is_credited, what=f"{payment_id} was not credited\n")


@asynccontextmanager
async def house(
    directory: Path, database_url: str, worker_url: str, admin_url: str, **settings: str
) -> AsyncIterator[House]:
    """The system over a fresh database and virtual host; `settings` are more of the environment's."""
    await topics.declare(admin_url, PARTITIONS)
    sentry = Sentry()
    async with AsyncExitStack() as stack:
        sinks = collector.make_app(directory / "spans.jsonl")
        sinks.router.add_post("/api/{project}/envelope/", sentry.take)
        runner = web.AppRunner(sinks)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        sink_port = free_port()
        await web.TCPSite(runner, HOST, sink_port).start()
        sentry.url = f"http://public@{HOST}:{sink_port}/7"
        ports = {name: free_port() for name in ("web", "simulator", "metrics")}
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "STREAM_URL": worker_url,
            "PARTITIONS": str(PARTITIONS),
            "CASHFREE_BASE_URL": f"http://{HOST}:{ports['simulator']}/pg",
            "CASHFREE_CLIENT_ID": "simulated",
            "CASHFREE_CLIENT_SECRET": "s" * 40,
            "CASHFREE_WEBHOOK_SECRETS": "s" * 40,
            "CASHFREE_LIMITS_PER_MINUTE": '{"get_order": 100000, "create_order": 100000}',
            "DEVELOPMENT": "true",
            "API_TOKEN": TOKEN,
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{sink_port}",
            "TRACE_SAMPLE_RATIO": "1",
            "LOG_FORMAT": "json",
            "SENTRY_DSN": sentry.url,
            **settings,
        }
        simulator = ["gateway.simulator", "--port", str(ports["simulator"])]
        simulator += ["--webhook-url", f"http://{HOST}:{ports['web']}/v1/webhooks/cashfree"]
        own = {**environment, "METRICS_PORT": str(ports["metrics"])}
        processes = [
            python("simulator", simulator, environment, directory),
            python("worker", ["agents", "--name", "w1"], own, directory),
            python("web", ["web", "--port", str(ports["web"])], environment, directory),
        ]
        for process in processes:
            process.start()
            stack.callback(process.kill9)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        urls = [f"http://{HOST}:{ports[name]}" for name in ("web", "simulator", "metrics")]
        built = House(urls[0], urls[1], f"{urls[2]}/metrics", http, directory, sentry, processes)

        async def answers() -> bool:
            try:
                for url in (f"{urls[0]}/readyz", f"{urls[1]}/healthz", built.metrics_url):
                    async with http.get(url) as answer:
                        if answer.status != 200:
                            return False
            except aiohttp.ClientError:
                return False
            return True

        await built.until(answers, what="the house did not start\n")
        yield built
