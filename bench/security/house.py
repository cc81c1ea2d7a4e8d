"""The system under attack: its processes as in production (no development token), beside sinks that see all they tell."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

from bench.security.edge import Rows
from bench.security.issuer import Issuer
from bench.security.sinks import Sinks, open_sinks
from deploy.local.ports import HOST, free_port
from deploy.local.postgres import DATABASE, SUPERUSER
from deploy.local.private import private_postgres, private_rabbitmq, private_valkey
from deploy.local.process import Process, ServerError
from deploy.local.valkey import Valkey
from deploy.services import python
from deploy.supervisor import SIMULATED_LIMITS
from sql.bulk import bulk
from streams.topics import declare

PARTITIONS: Final = 2
READY_S: Final = 60.0
CLIENT_ID: Final = "merchant-of-the-attacks"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Servers:
    """Where the servers are, by who calls them. Without a broker there is no worker."""

    web_database_url: str
    admin_database_url: str
    redis_url: str
    valkey: Valkey | None = None
    worker_database_url: str = ""
    stream_url: str = ""
    stream_admin_url: str = ""


@dataclass
class House:
    """The running system. Of the webhooks' secrets the first two count: the newest, and the one being rotated out."""

    servers: Servers
    directory: Path
    sinks: Sinks
    rows: Rows
    issuer: Issuer = field(default_factory=Issuer)
    webhook_secrets: tuple[str, str] = field(
        default_factory=lambda: (secrets.token_hex(16), secrets.token_hex(16))
    )
    processes: dict[str, Process] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The web process."""
        return self.url_of("web")

    def url_of(self, name: str) -> str:
        """A process's address."""
        return f"http://{HOST}:{self.ports[name]}"

    def environment(self) -> dict[str, str]:
        """What every process of ours is told."""
        keys = [key.model_dump(mode="json") for key in self.issuer.settings()["jwt_keys"]]
        return {
            **{name: value for name, value in os.environ.items() if not name.endswith(("_URL", "API_TOKEN"))},
            **self.sinks.environment,
            "REDIS_URL": self.servers.redis_url,
            "PARTITIONS": str(PARTITIONS),
            "CASHFREE_BASE_URL": f"{self.url_of('simulator')}/pg",
            "CASHFREE_CLIENT_ID": CLIENT_ID,
            "CASHFREE_CLIENT_SECRET": self.webhook_secrets[0],
            "CASHFREE_WEBHOOK_SECRETS": ",".join(self.webhook_secrets),
            "CASHFREE_LIMITS_PER_MINUTE": SIMULATED_LIMITS,
            "JWT_KEYS": json.dumps(keys),
            "JWT_ISSUER": self.issuer.settings()["jwt_issuer"],
            "JWT_AUDIENCE": self.issuer.settings()["jwt_audience"],
            "DEVELOPMENT": "false",
            "INVOICE_STORAGE_URL": f"file:{self.directory / 'invoices'}",
            "ARCHIVE_URL": "",
        }

    async def start(self) -> None:
        """The simulator, the web process and, where there is a broker, a worker. Errors: ServerError."""
        self.ports |= {name: free_port() for name in ("web", "simulator", "metrics")}
        simulator = ["gateway.simulator", "--port", str(self.ports["simulator"])]
        self._start("simulator", [*simulator, "--webhook-url", f"{self.url}/v1/webhooks/cashfree"], {})
        if self.servers.stream_url:
            await declare(self.servers.stream_admin_url, PARTITIONS)
            own = {
                "DATABASE_URL": self.servers.worker_database_url,
                "STREAM_URL": self.servers.stream_url,
                "METRICS_PORT": str(self.ports["metrics"]),
            }
            self._start("worker", ["agents", "--name", "w1"], own)
        await self.start_web("web")
        await self._answers(f"{self.url_of('simulator')}/healthz")

    async def start_web(self, name: str, **settings: str) -> str:
        """A web process with settings of its own; its address, when it is ready. Errors: ServerError."""
        port = self.ports.setdefault(name, free_port())
        own = {"DATABASE_URL": self.servers.web_database_url, **settings}
        self._start(name, ["web", "--port", str(port)], own)
        await self._answers(f"{self.url_of(name)}/readyz")
        return self.url_of(name)

    def rss_mb(self, name: str = "web") -> float:
        """Resident memory of a process."""
        return float(psutil.Process(self.processes[name].pid).memory_info().rss) / 2**20

    def logs(self) -> dict[str, str]:
        """What each process has written so far."""
        return {file.stem: file.read_text(errors="replace") for file in self.directory.glob("*.log")}

    async def stop(self) -> None:
        """Everything that `start` started."""
        await asyncio.gather(*(process.stop(deadline_s=8) for process in self.processes.values()))

    def _start(self, name: str, arguments: list[str], own: Mapping[str, str]) -> None:
        process = python(name, arguments, {**self.environment(), **own}, self.directory)
        self.processes[name] = process
        process.start()

    async def _answers(self, url: str) -> None:
        deadline = time.monotonic() + READY_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while True:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                if time.monotonic() > deadline or not all(p.running for p in self.processes.values()):
                    tails = "\n".join(f"--- {n}\n{p.log_tail(5)}" for n, p in self.processes.items())
                    raise ServerError(f"{url} did not answer\n{tails}")
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(servers: Servers, directory: Path) -> AsyncIterator[House]:
    """A house over these servers; its logs are in `directory`. Errors: ServerError."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    async with AsyncExitStack() as stack:
        sinks = await stack.enter_async_context(open_sinks(directory))

        async def rows(statement: str, /, *args: Any) -> Any:
            async with bulk(servers.admin_database_url) as db:
                return await db.rows(statement, *args)

        house = House(servers, directory, sinks, rows)
        stack.push_async_callback(house.stop)
        await house.start()
        yield house


@asynccontextmanager
async def private(directory: Path, say: Say) -> AsyncIterator[House]:
    """A house on private, durable servers and empty data. Errors: ServerError."""
    say("starting the servers")
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(private_postgres())
        broker = await stack.enter_async_context(private_rabbitmq())
        valkey = await stack.enter_async_context(private_valkey())
        servers = Servers(
            web_database_url=postgres.url("core_web"),
            worker_database_url=postgres.url("core_worker"),
            admin_database_url=postgres.url(SUPERUSER, DATABASE),
            redis_url=valkey.url,
            valkey=valkey,
            stream_url=broker.stream_url("core_worker"),
            stream_admin_url=broker.stream_url("core_admin"),
        )
        say("starting the simulator, a worker and the web process")
        yield await stack.enter_async_context(running(servers, directory))
