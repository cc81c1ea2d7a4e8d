"""Fixtures every floor's tests use: real servers, and a fresh database, broker and cache for each test.

PostgreSQL and RabbitMQ are shared by the session, started when first needed (under xdist by the controller,
so that its workers share one of each). A database is cloned from a migrated template; a broker is a virtual
host. Tests that kill a server take one of their own from `deploy.local.private`.
"""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar
from uuid import uuid4

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from deploy.broker import Management
from deploy.local import rabbitmq
from deploy.local.home import home
from deploy.local.postgres import SUPERUSER, Postgres
from deploy.local.private import private_pooler, private_valkey, session_name, sweep
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.stack import LOCAL
from deploy.migrations import fingerprint, migrate

_OWNER = "CORE_TEST_SERVERS_OF"
_servers = pytest.StashKey["Servers"]()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Database:
    """A migrated database of one test: its URL by role."""

    name: str
    url: str  # core_app: whoever plays several programs at once
    direct_url: str  # core_migrator
    readonly_url: str
    admin_url: str  # the superuser, to tamper with what no role of ours may
    web_url: str  # core_web
    worker_url: str  # core_worker
    operator_url: str  # core_operator


@dataclass(frozen=True, slots=True)
class Broker:
    """A virtual host of one test: its stream URL by role. Topics are not declared yet."""

    vhost: str
    url: str  # core_worker
    admin_url: str  # core_admin
    service_url: str  # core_service
    root_url: str  # the node's superuser, whom no permission binds
    management_url: str  # http, with the superuser's credentials


class Servers:
    """The session's servers. Their owner starts them; an xdist worker finds them by its process id."""

    def __init__(self, owner: int) -> None:
        self._owned = owner == os.getpid()
        self.directory = LOCAL / session_name(owner)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._postgres: Postgres | None = None
        self._rabbitmq: RabbitMQ | None = None

    @property
    def postgres(self) -> Postgres:
        """The running PostgreSQL (not durable)."""
        if self._postgres is None:
            self._postgres = Postgres(
                home(LOCAL), name=f"{self.directory.name}-postgres", fast=True, for_tests=True
            )
            if self._owned:
                _complete(self._postgres.start())
            else:
                self._postgres.attach()
        return self._postgres

    @property
    def rabbitmq(self) -> RabbitMQ:
        """The running RabbitMQ."""
        if self._rabbitmq is None:
            self._rabbitmq = RabbitMQ(self.directory / "rabbitmq", _complete(rabbitmq.fetch(LOCAL, print)))
            if self._owned:
                _complete(self._rabbitmq.start())
            else:
                self._rabbitmq.attach()
        return self._rabbitmq

    def start(self) -> None:
        """Start both now, instead of on first use."""
        assert self.postgres.port
        assert self.rabbitmq.management_url

    def close(self) -> None:
        """Kill the servers and delete their data, if they are ours."""
        if not self._owned:
            return
        if self._postgres is not None:
            self._postgres.kill9()
            self._postgres.drop()
        if self._rabbitmq is not None:
            self._rabbitmq.kill_all()
        shutil.rmtree(self.directory)


def _complete(work: Coroutine[object, object, T]) -> T:
    """Run to the end outside pytest's own event loop."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(work)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def pytest_configure(config: pytest.Config) -> None:
    """Know the session's servers; the controller of an xdist run starts them before its workers."""
    sweep()
    os.environ.setdefault(_OWNER, str(os.getpid()))
    servers = config.stash[_servers] = Servers(int(os.environ[_OWNER]))
    is_controller = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if is_controller and not config.option.collectonly:
        servers.start()


class OneSystem(LoadScopeScheduling):  # type: ignore[misc]
    """Spreads single tests, but keeps those of the browser together: they share one running system."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if "browser/" in nodeid.partition("::")[0] else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """How tests are dealt out to the processes of `./dev test`."""
    return OneSystem(config, log)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave no server and no data."""
    config.stash[_servers].close()


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    """The session's shared PostgreSQL and RabbitMQ."""
    return pytestconfig.stash[_servers]


@pytest.fixture(scope="session")
def migrated_template(servers: Servers) -> str:
    """Name of a database with the newest schema and no rows; the first process to ask makes it."""
    postgres, name = servers.postgres, f"template_{fingerprint()}"

    async def make() -> None:
        await postgres.create_database(name)
        await migrate(postgres.url("core_migrator", name))

    with (servers.directory / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = servers.directory / name
        if not done.exists():
            _complete(make())
            done.touch()
    return name


@asynccontextmanager
async def fresh_database(postgres: Postgres, template: str) -> AsyncIterator[Database]:
    """A database cloned from the migrated template, dropped in the end."""
    name = f"test_{uuid4().hex}"
    await postgres.create_database(name, template=template)
    roles = (
        "core_app",
        "core_migrator",
        "core_readonly",
        SUPERUSER,
        "core_web",
        "core_worker",
        "core_operator",
    )
    yield Database(name, *(postgres.url(role, name) for role in roles))
    await postgres.drop_database(name)


@pytest.fixture
async def database(servers: Servers, migrated_template: str) -> AsyncIterator[Database]:
    """A fresh, migrated database."""
    async with fresh_database(servers.postgres, migrated_template) as database:
        yield database


@pytest.fixture
async def pooled_url(servers: Servers, database: Database) -> AsyncIterator[str]:
    """URL of `database` as core_app through PgBouncer (transaction mode, TLS with a checked certificate)."""
    async with private_pooler(servers.postgres) as pooler:
        yield pooler.url("core_app", database.name)


@pytest.fixture(scope="session")
def rabbitmq_node(servers: Servers) -> RabbitMQ:
    """The session's RabbitMQ; started here, outside any test's event loop."""
    return servers.rabbitmq


@asynccontextmanager
async def fresh_vhost(node: RabbitMQ) -> AsyncIterator[Broker]:
    """A virtual host with every role's permissions, deleted in the end."""
    vhost = f"test-{uuid4().hex}"
    users = ("core_worker", "core_admin", "core_service", rabbitmq.SUPERUSER)
    async with Management(node.management_url) as management:
        await management.create_vhost(vhost, superuser=rabbitmq.SUPERUSER)
        urls = (node.stream_url(user, vhost) for user in users)
        worker, admin, service, root = urls
        yield Broker(vhost, worker, admin, service, root, node.management_url)
        await management.delete_vhost(vhost)


@pytest.fixture
async def broker(rabbitmq_node: RabbitMQ) -> AsyncIterator[Broker]:
    """A fresh virtual host with every role's permissions."""
    async with fresh_vhost(rabbitmq_node) as broker:
        yield broker


@pytest.fixture
async def redis_url() -> AsyncIterator[str]:
    """URL of an empty Valkey of the test's own."""
    async with private_valkey() as valkey:
        yield valkey.url
