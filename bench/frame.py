"""What every bench stands on: a durable private system, CPU by process, the machine's description, the report.

    async with Rig(workers=1, partitions=4) as rig:
        await prepare(rig.admin_url, wallets=100_000)
        await rig.start_services()
        before = rig.cpu()
        ...

The servers are `./dev run`'s own, in a profile apart, on empty data; PostgreSQL keeps its durability and its data
is on a disk, or the bench does not begin.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import psutil

from deploy import provision
from deploy.local.ports import HOST, Ports
from deploy.local.postgres import DATABASE, SUPERUSER
from deploy.local.secrets_file import Secrets
from deploy.local.stack import LOCAL, Stack
from deploy.migrations import CHECKOUT, migrate
from deploy.services import Keeper, python
from sql import invariants
from sql.bulk import bulk
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "frame.sql").read_text())
RAISED_PER_MINUTE: Final = 60_000
"""The gateway's limits as an operator of this size has them."""
POSTGRES: Final = {"shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "30min"}
"""As on a machine that is PostgreSQL's own: less often a checkpoint, so less often a whole page in the log. Durability stays."""
_DURABLE: Final = ("fsync", "synchronous_commit", "full_page_writes")
_READY_S: Final = 60.0


class NotFair(RuntimeError):
    """The figures would mean nothing: something that costs time is switched off."""


@dataclass
class Rig:
    """A whole system of its own. `limits` are the gateway's per minute, None for the documented ones."""

    workers: int = 1
    webs: int = 1
    partitions: int = 4
    limits: int | None = RAISED_PER_MINUTE
    extra: Mapping[str, str] = field(default_factory=dict)
    webhooks: bool = False
    """Whether the simulator sends them by itself."""
    stack: Stack = field(init=False)
    environment: dict[str, str] = field(init=False, default_factory=dict)
    settings: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        given = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        self.stack = Stack(
            LOCAL, profile="bench", given=given, fresh=True, report=say, postgres_settings=POSTGRES
        )
        self._keeper = Keeper(say)

    async def __aenter__(self) -> Self:
        try:
            await self.stack.start()
            self._set_up()
            await migrate(self.environment["DATABASE_DIRECT_URL"])
            await provision.declare_topics(self.environment["STREAM_ADMIN_URL"], self.partitions)
            self.settings |= await durability(self.admin_url)
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop everything; the data stays for a look until the next bench."""
        await self._keeper.stop()
        await self.stack.stop()

    def _set_up(self) -> None:
        ports, secrets = (
            Ports(self.stack.directory / "ports.json"),
            Secrets(self.stack.directory / "secrets.json"),
        )
        simulator, web = ports.take("simulator"), ports.take("web")
        self.environment = {
            **os.environ,
            **self.stack.environ(),
            "PARTITIONS": str(self.partitions),
            "CONSUMER_GROUP": "commdesk",
            "WEB_LOG_LEVEL": "warning",
            "INVOICE_RENDER": "false",
            "DATABASE_STATEMENT_CACHE_SIZE": "100",
            "WEB_URL": f"http://{HOST}:{web}",
            "SIMULATOR_URL": f"http://{HOST}:{simulator}",
            "CASHFREE_BASE_URL": f"http://{HOST}:{simulator}/pg",
            "CASHFREE_CLIENT_ID": "simulated",
            "CASHFREE_CLIENT_SECRET": secrets.get("cashfree"),
            "CASHFREE_WEBHOOK_SECRETS": secrets.get("cashfree"),
            "DEVELOPMENT": "true",
            "API_TOKEN": secrets.get("api_token"),
            **({} if self.limits is None else {"CASHFREE_LIMITS_PER_MINUTE": _limits(self.limits)}),
            **self.extra,
        }
        self.settings |= {
            "partitions": self.partitions,
            "workers": self.workers,
            "gateway_limit": self.limits or "documented",
            "postgres": POSTGRES,
        }

    @property
    def admin_url(self) -> str:
        """The database as its superuser."""
        assert self.stack.postgres is not None
        return self.stack.postgres.url(SUPERUSER, DATABASE)

    @property
    def secret(self) -> str:
        """What webhooks are signed with."""
        return self.environment["CASHFREE_WEBHOOK_SECRETS"]

    async def start_services(self) -> None:
        """The simulator, the workers and the web process, as `./dev run` starts them. Errors: TimeoutError."""
        self.start_simulator()
        self.start_workers()
        await self.start_web()
        await _until_ready(self.environment["SIMULATOR_URL"] + "/healthz")

    def _logs(self) -> Path:
        logs = self.stack.directory / "log"
        if not self._keeper.services:
            for log in logs.glob("*.log"):
                log.unlink()
        return logs

    def start_simulator(self) -> None:
        """The gateway's stand-in."""
        port = self.environment["SIMULATOR_URL"].rpartition(":")[2]
        arguments = ["gateway.simulator", "--port", port]
        arguments += (
            ["--webhook-url", f"{self.environment['WEB_URL']}/v1/webhooks/cashfree"] if self.webhooks else []
        )
        self._keeper.keep(python("simulator", arguments, self.environment, self._logs()))

    def start_workers(self) -> None:
        """As many as were asked for."""
        for number in range(1, self.workers + 1):
            arguments = ["agents", "--name", f"w{number}"]
            self._keeper.keep(python(f"worker-{number}", arguments, self.environment, self._logs()))

    async def start_web(self) -> None:
        """The web process, ready. Errors: TimeoutError."""
        port = self.environment["WEB_URL"].rpartition(":")[2]
        self._keeper.keep(python("web", ["web", "--port", port], self.environment, self._logs()))
        await _until_ready(self.environment["WEB_URL"] + "/readyz")

    async def send(self, job: Mapping[str, Any], module: str = "bench.sender") -> dict[str, Any]:
        """Run a generator in a process of its own; its figures. Errors: RuntimeError if it fails."""
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=CHECKOUT, stdin=-1, stdout=-1, env=self.environment
        )
        answer, _ = await child.communicate(json.dumps(job).encode())
        if child.returncode:
            raise RuntimeError("the generator failed")
        found: dict[str, Any] = json.loads(answer)
        return found

    def processes(self) -> dict[str, int]:
        """Process ids by name."""
        found = {service.name: service.pid for service in self._keeper.services if service.running}
        if self.stack.postgres is not None:
            found["postgres"] = self.stack.postgres.process.pid
        if self.stack.rabbitmq is not None:
            found["rabbitmq"] = self.stack.rabbitmq.process.pid
        if self.stack.valkey is not None:
            found["valkey"] = self.stack.valkey.process.pid
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds used so far by each process and its children, dead ones included."""
        return {name: tree_cpu_s(pid) for name, pid in self.processes().items()}

    async def verify(self) -> list[str]:
        """The invariants that do not hold, in words."""
        return [
            str(violation) for violation in await invariants.check(self.environment["DATABASE_READONLY_URL"])
        ]

    async def ask(self, statement: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of one statement, as the superuser, on a connection of its own."""
        async with bulk(self.admin_url) as db:
            return [dict(row) for row in await db.rows(statement, *args)]

    async def track_functions(self) -> None:
        """From the next connections on, PostgreSQL times its functions: `show_functions`."""
        await self.ask(f"ALTER DATABASE {DATABASE} SET track_functions = 'pl'")

    async def show_functions(self) -> None:
        """Where PostgreSQL's time went; nothing if it was not asked to measure."""
        for row in await self.ask(_Q["functions"]):
            say(f"{row['funcname']:28} {row['calls']:9} calls {row['self_ms']:10.0f} ms")

    async def batches_since(self, at: datetime) -> dict[str, list[int]]:
        """By topic: how many batches, and of how many records together."""
        rows = await self.ask(_Q["batches_since"], at)
        return {row["topic"]: [row["batches"], int(row["records"])] for row in rows}


def _limits(per_minute: int) -> str:
    names = ("create_order", "get_order", "get_payments", "create_refund", "get_refund")
    return json.dumps(dict.fromkeys(names, per_minute))


def tree_cpu_s(pid: int) -> float:
    """User and system seconds of a process, its living children and those it has buried."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += sum(member.cpu_times()[:4])
    return total


async def durability(admin_url: str) -> dict[str, Any]:
    """What PostgreSQL promises, and where its data is. Errors: NotFair if it promises less than production."""
    async with bulk(admin_url) as db:
        found: dict[str, Any] = {}
        for name in _DURABLE:
            found[name] = (await db.run("SELECT current_setting($1)", name))[0][0]
        directory = (await db.run("SELECT current_setting($1)", "data_directory"))[0][0]
    found["filesystem"] = filesystem(directory)
    weak = [name for name in _DURABLE if found[name] != "on"]
    if weak or found["filesystem"] == "tmpfs":
        raise NotFair(f"not durable: {', '.join(weak) or 'data in memory (tmpfs)'}")
    return found


def filesystem(path: str) -> str:
    """The type of the file system that holds `path`."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [
        (len(where), kind) for where, kind in mounts if (path + "/").startswith(where.rstrip("/") + "/")
    ]
    return max(inside)[1]


async def _until_ready(url: str) -> None:
    deadline = time.monotonic() + _READY_S
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} is not ready")
            await asyncio.sleep(0.1)


def machine() -> dict[str, Any]:
    """Where this was measured, and with what."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("asyncpg", "aiohttp", "faust-streaming", "rstream", "uvloop")},
        "commit": _commit(),
    }  # fmt: skip


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stdout.strip()


def share(values: Sequence[float], part: float) -> float | None:
    """The value below which `part` of them lie; None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


def median_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The median of each number that all runs have."""
    names = [n for n, v in runs[0].items() if isinstance(v, int | float) and not isinstance(v, bool)]
    return {
        name: round(statistics.median(run[name] for run in runs), 6)
        for name in names
        if all(isinstance(run.get(name), int | float) for run in runs)
    }


def report(
    options: argparse.Namespace,
    name: str,
    settings: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    *,
    about: Mapping[str, Any] | None = None,
    ratio: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The JSON every bench writes; `runs` must have `lost` and `double_posted` where something can be."""
    found = {
        "name": name,
        "machine": about or machine(),
        "seed": options.seed,
        "settings": dict(settings),
        "median": median_of(runs),
        "ratio": dict(ratio or {}),
        "lost": sum(run.get("lost", 0) for run in runs),
        "double_posted": sum(run.get("double_posted", 0) for run in runs),
        "violations": [violation for run in runs for violation in run.get("violations", [])],
        "runs": [dict(run) for run in runs],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1, default=str) + "\n")
    return found


def passed(found: Mapping[str, Any]) -> bool:
    """Whether nothing was lost, doubled or out of balance."""
    return not (found["lost"] or found["double_posted"] or found["violations"])


_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Progress, with the time since the start."""
    print(f"[{time.monotonic() - _BEGAN:6.1f} s] {text}", flush=True)
