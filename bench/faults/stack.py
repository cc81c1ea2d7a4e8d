"""The system under fault: private servers, our processes under a keeper, and a proxy on every connection between them."""

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import aiohttp

from bench.faults.proxy import Proxy
from deploy import supervisor
from deploy.local.disk import MAY_MOUNT
from deploy.local.ports import HOST, free_port
from deploy.local.postgres import DATABASE, SUPERUSER, Postgres
from deploy.local.private import private_postgres, private_rabbitmq, private_valkey
from deploy.local.process import Process, ServerError
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.valkey import Valkey
from deploy.services import Keeper, python
from sql.db import Database, DatabaseSettings
from streams.topics import TOPICS, declare

PARTITIONS: Final = 4
GROUP: Final = "commdesk"
DISK_MB: Final = 800 if MAY_MOUNT else None
"""The servers' own small disks, so that they can be filled: several times what a run needs."""
SEGMENT_BYTES: Final = 60_000
"""Small, so that retention has something to take away within seconds."""
WORKERS: Final = ("worker-1", "worker-2")
READY_S: Final = 60.0
PUBLISHER: Final = "meter"
RAW_PUBLISHER: Final = "bare"
_TOPICS: Final = [replace(topic, segment_bytes=SEGMENT_BYTES) for topic in TOPICS.values()]


def topic_arguments(topic: str) -> dict[str, Any]:
    """Arguments of a partition's stream, as a queue is declared with over the management API."""
    found = next(t for t in _TOPICS if t.name == topic).arguments(replicas=1)
    return {f"x-{name.removeprefix('x-')}": int(v) if v.isdigit() else v for name, v in found.items()}


def faketime() -> Path | None:
    """The library that shifts a process's clock, if it is installed."""
    try:
        wheel = metadata.distribution("libfaketime")
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(wheel.locate_file("libfaketime/vendor/libfaketime/src/libfaketime.so.1")))
    return path if path.exists() else None


def forget_clocks() -> None:
    """Remove the shared memory in which killed processes kept their wrong clocks."""
    for left in Path("/dev/shm").glob("*faketime_*"):  # nosec B108
        number = left.name.rpartition("_")[2]
        if number.isdigit() and not Path(f"/proc/{number}").exists():
            left.unlink(missing_ok=True)


class System:
    """One running system. Processes are named; `proxies` are by (process, server)."""

    def __init__(
        self, postgres: Postgres, broker: RabbitMQ, valkey: Valkey, logs: Path, say: Callable[[str], None]
    ) -> None:
        self.postgres, self.broker, self.valkey = postgres, broker, valkey
        self.logs = logs
        self.keeper = Keeper(say)
        self.processes: dict[str, Process] = {}
        self.proxies: dict[tuple[str, str], Proxy] = {}
        self.secret = secrets.token_hex(16)
        self.token = secrets.token_hex(16)
        self.publisher_secret = secrets.token_bytes(32)
        self._ports = {"web": free_port(), "simulator": free_port()}
        self.metrics_ports = {name: free_port() for name in WORKERS}
        """Where each worker tells Prometheus what it counts."""

    @property
    def web_url(self) -> str:
        return f"http://{HOST}:{self._ports['web']}"

    @property
    def simulator_url(self) -> str:
        return f"http://{HOST}:{self._ports['simulator']}"

    def clock_file(self, process: str) -> Path:
        """What a process adds to its wall clock, in seconds with a sign."""
        return self.logs / f"{process}.clock"

    async def start(self) -> None:
        """Proxies first, then the processes; returns when the web process is ready. Errors: ServerError."""
        servers = {
            "postgres": self.postgres.port,
            "rabbitmq": self.broker.stream_port,
            "valkey": self.valkey.port,
            **self._ports,
        }
        used = {
            **dict.fromkeys(WORKERS, ("postgres", "rabbitmq", "valkey", "simulator")),
            "web": ("postgres", "valkey", "simulator"),
            "simulator": ("web",),
            "client": ("rabbitmq",),
        }
        for process, needs in used.items():
            for server in needs:
                proxy = self.proxies[process, server] = Proxy(servers[server])
                await proxy.start()
        await self.declare_topics()
        self._keep("simulator", self._simulator_arguments())
        for name in WORKERS:
            self._keep(name, ["agents", "--name", name])
        self._keep("web", ["web", "--port", str(self._ports["web"])])
        await self.wait_ready()

    async def declare_topics(self) -> None:
        """The streams, on a broker that may know nothing yet."""
        await declare(self.broker.stream_url("core_admin"), PARTITIONS, topics=_TOPICS)

    async def stop(self) -> None:
        """Everything that `start` started."""
        await self.keeper.stop()
        for proxy in self.proxies.values():
            await proxy.stop()
        forget_clocks()

    async def start_workers(self) -> None:
        """The workers again, after `stop_workers`."""
        for name in WORKERS:
            self._keep(name, ["agents", "--name", name])

    async def stop_workers(self) -> None:
        """Every worker, in order, so that nobody consumes."""
        await asyncio.gather(*(self.keeper.drop(self.processes[name]) for name in WORKERS))

    @asynccontextmanager
    async def database(self, user: str = SUPERUSER) -> AsyncIterator[Database]:
        """The database without a proxy, as the superuser who may look everywhere."""
        settings = DatabaseSettings(
            database_url=self.postgres.url(user, DATABASE),
            database_pool_size=2,
            database_connect_timeout_s=5.0,
            database_call_timeout_s=60.0,
        )
        db = Database(settings)
        try:
            yield db
        finally:
            await db.close()

    async def wait_ready(self) -> None:
        """Until the web process says that it is ready. Errors: ServerError with the ends of the logs."""
        deadline = time.monotonic() + READY_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            while time.monotonic() < deadline:
                try:
                    async with session.get(f"{self.web_url}/readyz") as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass
                await asyncio.sleep(0.1)
        tails = "\n".join(f"--- {name}\n{process.log_tail(3)}" for name, process in self.processes.items())
        raise ServerError(f"the system was not ready in {READY_S:.0f} s\n{tails}")

    def _keep(self, name: str, arguments: list[str]) -> None:
        process = self.processes[name] = python(name, arguments, self._environment(name), self.logs)
        self.keeper.keep(process)

    def _wrong_clock(self, name: str) -> dict[str, str]:
        """A wall clock that can be set; the clock that measures intervals stays right."""
        library = faketime()
        if library is None:
            return {}
        self.clock_file(name).write_text("+0")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock_file(name)),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def _simulator_arguments(self) -> list[str]:
        webhooks = f"http://{HOST}:{self.proxies['simulator', 'web'].port}/v1/webhooks/cashfree"
        port = str(self._ports["simulator"])
        journal = str(self.logs / "gateway.journal")
        return ["gateway.simulator", "--port", port, "--webhook-url", webhooks, "--journal", journal]

    def _environment(self, name: str) -> dict[str, str]:
        """What a process is told: every server by way of its own proxy."""
        urls = {
            "postgres": ("DATABASE_URL", self.postgres.url("core_app")),
            "rabbitmq": ("STREAM_URL", self.broker.stream_url("core_worker")),
            "valkey": ("REDIS_URL", self.valkey.url),
            "simulator": ("CASHFREE_BASE_URL", f"{self.simulator_url}/pg"),
        }
        through = {
            variable: self.proxies[name, server].through(url)
            for server, (variable, url) in urls.items()
            if (name, server) in self.proxies
        }
        return {
            **os.environ,
            **through,
            **(self._wrong_clock(name) if name != "simulator" else {}),
            "PARTITIONS": str(PARTITIONS),
            "CONSUMER_GROUP": GROUP,
            "CASHFREE_CLIENT_ID": "simulated",
            "CASHFREE_CLIENT_SECRET": self.secret,
            "CASHFREE_WEBHOOK_SECRETS": self.secret,
            "CASHFREE_LIMITS_PER_MINUTE": supervisor.SIMULATED_LIMITS,
            "CASHFREE_PROCESSES": "3",
            "DEVELOPMENT": "true",
            "API_TOKEN": self.token,
            "POLLER_AGE_S": "8",
            "POLLER_EVERY_S": "2",
            "ARCHIVE_URL": f"file:{self.logs / 'archive'}",
            "METRICS_PORT": str(self.metrics_ports.get(name, 0)),
            "MONITOR_EVERY_S": "1",
            "INVOICE_STORAGE_URL": f"file:{self.logs / 'invoices'}",
        }


@asynccontextmanager
async def running(logs: Path, say: Callable[[str], None]) -> AsyncIterator[System]:
    """A system of its own on empty data, stopped and deleted at the end; its logs stay in `logs`."""
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    async with AsyncExitStack() as servers:
        postgres = await servers.enter_async_context(private_postgres(disk_mb=DISK_MB))
        broker = await servers.enter_async_context(private_rabbitmq(disk_mb=DISK_MB))
        valkey = await servers.enter_async_context(private_valkey())
        system = System(postgres, broker, valkey, logs, say)
        try:
            await system.start()
            yield system
        finally:
            await system.stop()
