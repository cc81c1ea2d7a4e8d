"""Servers of a test's own, which it may kill and restart on the same data and ports.

Durable, unlike the servers tests share. Data is deleted at the end.
"""

import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from deploy.local import pgbouncer, rabbitmq
from deploy.local.disk import mounts_below, small_disk
from deploy.local.home import home
from deploy.local.pgbouncer import PgBouncer
from deploy.local.postgres import DATABASE, PASSWORDS, Postgres
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.stack import LOCAL
from deploy.local.tls import issue
from deploy.local.valkey import Valkey
from deploy.migrations import migrate

_ROLES = (*PASSWORDS, "core_app")


def session_name(owner: int) -> str:
    """Name of the servers that the test session of process `owner` shares."""
    return f"test-{owner}"


def sweep() -> None:
    """Delete what killed test sessions left behind."""
    for directory in {LOCAL, home(LOCAL).path}:
        for path in [*directory.glob("test-*"), *directory.glob("private-*")]:
            owner = path.name.split("-")[1].partition(".")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                for disk in mounts_below(path):
                    subprocess.run([shutil.which("umount") or "/bin/umount", "-l", str(disk)], check=False)
                shutil.rmtree(path, ignore_errors=True)


def _name() -> str:
    return f"private-{os.getpid()}-{secrets.token_hex(4)}"


@asynccontextmanager
async def private_postgres(
    *, fast: bool = False, migrated: bool = True, disk_mb: int | None = None
) -> AsyncIterator[Postgres]:
    """A running PostgreSQL with roles and, unless `migrated=False`, the newest schema in `commdesk`.

    `pg.kill9()`, then `await pg.start()`: the same data on the same port. `pg.url(role)` is its address. With
    `disk_mb` its data lie on a disk of that size, which only root may ask for.
    """
    place = home(LOCAL)
    postgres = Postgres(place, name=_name(), fast=fast, for_tests=True)
    try:
        async with AsyncExitStack() as disk:
            if disk_mb is not None:
                await disk.enter_async_context(small_disk(postgres.disk, mb=disk_mb, account=place.account))
            try:
                await postgres.start()
                if migrated:
                    await migrate(postgres.url("core_migrator", DATABASE))
                yield postgres
            finally:
                await postgres.stop()
    finally:
        postgres.drop()


@asynccontextmanager
async def private_pooler(postgres: Postgres) -> AsyncIterator[PgBouncer]:
    """A running PgBouncer (transaction mode, TLS) before `postgres`; `pooler.url(role, database)`."""
    place, name = home(LOCAL), _name()
    root = await pgbouncer.fetch(place, print)
    pooler = PgBouncer(place, name, root, postgres, issue(LOCAL / name), users=_ROLES)
    try:
        await pooler.start()
        yield pooler
    finally:
        await pooler.stop()
        pooler.drop()
        shutil.rmtree(LOCAL / name, ignore_errors=True)


@asynccontextmanager
async def private_rabbitmq(*, tls: bool = False, disk_mb: int | None = None) -> AsyncIterator[RabbitMQ]:
    """A running RabbitMQ with the roles' users; with `tls`, `node.stream_url(tls=True)` and `node.ca_file`.

    `node.kill9()`, then `await node.start()`: the same data on the same ports. `disk_mb`: as for PostgreSQL.
    """
    directory = LOCAL / _name()
    root = await rabbitmq.fetch(LOCAL, print)
    node = RabbitMQ(directory, root, tls=issue(directory / "tls") if tls else None)
    try:
        async with AsyncExitStack() as disk:
            if disk_mb is not None:
                await disk.enter_async_context(small_disk(node.disk, mb=disk_mb))
            try:
                await node.start()
                yield node
            finally:
                await node.stop()
    finally:
        node.drop()


@asynccontextmanager
async def private_valkey() -> AsyncIterator[Valkey]:
    """A running, empty Valkey; `valkey.url` is its address."""
    valkey = Valkey(LOCAL / _name())
    try:
        await valkey.start()
        yield valkey
    finally:
        valkey.kill9()
        valkey.drop()
