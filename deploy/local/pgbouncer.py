"""A private PgBouncer with TLS in transaction mode: the stand-in for a managed pooler in front of PostgreSQL.

For tests. From Debian's packages, as RabbitMQ is. What breaks behind it (prepared statements, session state)
breaks behind the managed one.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote

from deploy.local import debian
from deploy.local.home import Home
from deploy.local.ports import HOST, answers, free_port
from deploy.local.postgres import Postgres
from deploy.local.process import Process
from deploy.local.secrets_file import write_private
from deploy.local.tls import Certificate

_PACKAGES = ["pgbouncer", "libc6", "libevent-2.1-7t64", "libcares2", "libpam0g", "libaudit1", "libcap-ng0"]
_PACKAGES += ["libssl3t64", "libzstd1", "zlib1g", "libsystemd0", "libcap2"]
_WAY_OUT = "Leave the pooler's tests out with: ./dev test -k 'not pooler'."
_CONFIG = """\
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = {host}
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = 8
max_client_conn = 200
max_prepared_statements = 0
auth_type = scram-sha-256
auth_file = {directory}/users.txt
server_tls_sslmode = disable
client_tls_sslmode = require
client_tls_key_file = {directory}/key.pem
client_tls_cert_file = {directory}/cert.pem
ignore_startup_parameters = extra_float_digits
"""


async def fetch(home: Home, report: Callable[[str], None]) -> Path:
    """The root of the packages, unpacked where the pooler's account reaches them; downloaded on first use."""
    return await debian.unpacked(home.path, "pgbouncer", _PACKAGES, way_out=_WAY_OUT, report=report)


class PgBouncer:
    """A pooler before `postgres`, for the roles `users`; `root` is what `fetch` returned.

    It refuses to run as root, as PostgreSQL does, and lives in the same `home`.
    """

    def __init__(
        self,
        home: Home,
        name: str,
        root: Path,
        postgres: Postgres,
        tls: Certificate,
        *,
        users: tuple[str, ...],
    ) -> None:
        self._directory = home.make(name)
        self._account = home.account
        self._program = root / "usr" / "sbin" / "pgbouncer"
        self._postgres = postgres
        self._tls = tls
        self._users = users
        self._process: Process | None = None
        self.ca_file = tls.ca
        self.port = 0

    def url(self, user: str, database: str) -> str:
        """URL through the pooler; its certificate is checked against `ca_file`."""
        password = self._postgres.password(user)
        where = f"{HOST}:{self.port}/{quote(database)}"
        return f"postgresql://{user}:{password}@{where}?sslmode=verify-full&sslrootcert={quote(str(self.ca_file))}"

    async def start(self) -> None:
        """Start on a free port.

        Errors: ServerError with the end of the log.
        """
        self.port = self.port or free_port()
        config = _CONFIG.format(
            host=HOST, port=self.port, server_port=self._postgres.port, directory=self._directory
        )
        files = {
            "pgbouncer.ini": config,
            "users.txt": "".join(f'"{user}" "{self._postgres.password(user)}"\n' for user in self._users),
            "key.pem": self._tls.key.read_text(),
            "cert.pem": self._tls.certificate.read_text(),
        }
        for name, content in files.items():
            write_private(self._directory / name, content)
            if self._account is not None:
                os.chown(self._directory / name, self._account.uid, self._account.gid)
        self._process = Process(
            "PgBouncer",
            [str(self._program), str(self._directory / "pgbouncer.ini")],
            log=self._directory / "pgbouncer.log",
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            account=self._account,
        )
        self._process.start()
        await self._process.wait_until(self._is_ready, deadline_s=20)

    async def stop(self) -> None:
        """End at once; clients lose their connections."""
        if self._process is not None:
            await self._process.stop(deadline_s=1)

    def drop(self) -> None:
        """Delete the files of a stopped pooler."""
        shutil.rmtree(self._directory)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _is_ready(self) -> bool:
        return answers(self.port)
