"""The servers the core needs: those given by URL are used, the rest start privately, all at once.

Everything private binds to loopback, lives under `.local/<profile>` (for root, PostgreSQL outside: see
`home.py`) and dies with this process. Data and ports survive a restart; `fresh` drops the data first.
"""

import asyncio
import fcntl
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self, TextIO, TypeVar

from deploy.local import rabbitmq
from deploy.local.home import home
from deploy.local.postgres import SUPERUSER, Postgres
from deploy.local.process import ServerError
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.secrets_file import write_private
from deploy.local.valkey import Valkey

Server = TypeVar("Server", Postgres, RabbitMQ, Valkey)
LOCAL = Path(__file__).resolve().parent.parent.parent / ".local"
_PASSED_ON = (
    "DATABASE_WEB_URL",
    "DATABASE_WORKER_URL",
    "DATABASE_DIRECT_URL",
    "DATABASE_READONLY_URL",
    "STREAM_ADMIN_URL",
    "STREAM_SERVICE_URL",
    "MONGO_URL",
)


class Stack:
    """`async with Stack(...) as stack:` then `stack.environ()` is what every process of ours needs to know.

    `given` is the environment whose DATABASE_URL, STREAM_URL, REDIS_URL and MONGO_URL say which servers exist
    already. `fast` gives up PostgreSQL's durability.
    """

    def __init__(
        self,
        local: Path = LOCAL,
        *,
        profile: str = "run",
        given: Mapping[str, str] = os.environ,
        fast: bool = False,
        fresh: bool = False,
        postgres_settings: Mapping[str, str] | None = None,
        report: Callable[[str], None] = print,
    ) -> None:
        self.directory = local / profile
        self.postgres: Postgres | None = None
        self.rabbitmq: RabbitMQ | None = None
        self.valkey: Valkey | None = None
        self._local = local
        self._profile = profile
        self._given = given
        self._fast = fast
        self._postgres_settings = postgres_settings
        self._fresh = fresh
        self._report = report
        self._lock: TextIO | None = None

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start what is not given and wait until all of it answers.

        Errors: ServerError when another process runs this profile, or a server does not start.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            await self._start_missing()
        except ExceptionGroup as group:
            failed, other = group.split(ServerError)
            if failed is None or other is not None:
                raise
            raise ServerError("\n".join(str(error) for error in failed.exceptions)) from group
        self.publish({})

    async def _start_missing(self) -> None:
        async with asyncio.TaskGroup() as servers:
            if "DATABASE_URL" not in self._given:
                place, name = home(self._local), f"{self._profile}-postgres"
                self.postgres = self._made(
                    lambda: Postgres(place, name=name, fast=self._fast, settings=self._postgres_settings)
                )
                servers.create_task(self.postgres.start())
            if "REDIS_URL" not in self._given:
                self.valkey = self._made(lambda: Valkey(self.directory / "valkey"))
                servers.create_task(self.valkey.start())
            if "STREAM_URL" not in self._given:
                root = await rabbitmq.fetch(self._local, self._report)
                self.rabbitmq = self._made(lambda: RabbitMQ(self.directory / "rabbitmq", root))
                servers.create_task(self.rabbitmq.start())

    def publish(self, more: Mapping[str, str]) -> None:
        """Write the addresses, and `more` of them, where `./dev env` finds them while this process runs."""
        exports = [
            f"export {name}={shlex.quote(value)}" for name, value in {**self.environ(), **more}.items()
        ]
        write_private(self.directory / "env", "\n".join(exports) + "\n")

    async def stop(self) -> None:
        """Stop every private server within a deadline; their data stays."""
        running = [server for server in (self.rabbitmq, self.postgres, self.valkey) if server is not None]
        await asyncio.gather(*(server.stop() for server in running))
        if self._lock is not None:
            (self.directory / "env").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def environ(self) -> dict[str, str]:
        """The URLs by their setting's name; roles' own URLs only where they are known."""
        urls = {name: self._given[name] for name in _PASSED_ON if name in self._given}
        if self.postgres is None:
            urls["DATABASE_URL"] = self._given["DATABASE_URL"]
        else:
            urls["DATABASE_URL"] = self.postgres.url("core_operator")
            urls["DATABASE_WEB_URL"] = self.postgres.url("core_web")
            urls["DATABASE_WORKER_URL"] = self.postgres.url("core_worker")
            urls["DATABASE_DIRECT_URL"] = self.postgres.url("core_migrator")
            urls["DATABASE_READONLY_URL"] = self.postgres.url("core_readonly")
            urls["DATABASE_ADMIN_URL"] = self.postgres.url(SUPERUSER, "postgres")
        if self.rabbitmq is None:
            urls["STREAM_URL"] = self._given["STREAM_URL"]
        else:
            urls["STREAM_URL"] = self.rabbitmq.stream_url("core_worker")
            urls["STREAM_ADMIN_URL"] = self.rabbitmq.stream_url("core_admin")
            urls["STREAM_SERVICE_URL"] = self.rabbitmq.stream_url("core_service")
            urls["STREAM_MANAGEMENT_URL"] = self.rabbitmq.management_url
        urls["REDIS_URL"] = self._given["REDIS_URL"] if self.valkey is None else self.valkey.url
        return urls

    def _made(self, make: Callable[[], Server]) -> Server:
        """The server, on its remembered data; on none with `fresh`."""
        if self._fresh:
            make().drop()
        return make()

    def _take_lock(self) -> None:
        lock = (self.directory / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with lock:
                lock.seek(0)
                owner = lock.read().strip()
            raise ServerError(f"this checkout's stack runs already (process {owner})") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
