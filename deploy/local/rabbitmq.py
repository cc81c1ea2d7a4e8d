"""A private RabbitMQ 4 node on loopback, from Debian's packages unpacked under `.local/`.

Users and permissions are loaded at boot from a definitions file (rabbitmqctl costs seconds a call).
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import quote

from deploy.broker import USERS, VHOST, Management, definitions, require_version
from deploy.local import debian
from deploy.local.ports import HOST, Ports, answers
from deploy.local.process import Process, ServerError
from deploy.local.secrets_file import Secrets, write_private
from deploy.local.tls import Certificate

SUPERUSER = "core_root"
_WAY_OUT = "Set STREAM_URL to a RabbitMQ 4 with the stream plugin, or use ./dev run --docker."
# What rabbitmq-server needs to run, without what its package needs to install (adduser, logrotate, systemd).
_ERLANG = ["base", "asn1", "crypto", "eldap", "inets", "mnesia", "os-mon", "parsetools", "public-key"]
_ERLANG += ["runtime-tools", "ssl", "syntax-tools", "tools", "xmerl"]
_LIBRARIES = [
    "libc6",
    "libgcc-s1",
    "libstdc++6",
    "libtinfo6",
    "libncursesw6",
    "libssl3t64",
    "zlib1g",
    "libzstd1",
]
_LIBRARIES += ["libsystemd0", "libcap2", "libsctp1"]
_PACKAGES = ["rabbitmq-server", *(f"erlang-{part}" for part in _ERLANG), *_LIBRARIES]
_PLUGINS = "[rabbitmq_stream,rabbitmq_stream_management,rabbitmq_management,rabbitmq_prometheus]."
_PORTS = ("amqp", "stream", "stream_tls", "management", "prometheus", "distribution", "epmd")
_CONFIG = """\
listeners.tcp.1 = {host}:{amqp}
stream.listeners.tcp.1 = {host}:{stream}
stream.advertised_host = {host}
stream.advertised_port = {stream}
management.tcp.ip = {host}
management.tcp.port = {management}
prometheus.tcp.ip = {host}
prometheus.tcp.port = {prometheus}
definitions.import_backend = local_filesystem
definitions.local.path = {directory}/definitions.json
default_vhost = {vhost}
loopback_users = none
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.absolute = 1GB
log.file.level = info
log.console = false
"""
# Debian's own `erl` insists on /usr/lib/erlang.
_ERL = """\
#!/bin/sh
export ROOTDIR="{root}" BINDIR="{runtime}" EMU=beam PROGNAME=erl
exec "{runtime}/erlexec" "$@"
"""
_TLS_CONFIG = """\
stream.listeners.ssl.1 = {host}:{stream_tls}
stream.advertised_tls_host = {host}
stream.advertised_tls_port = {stream_tls}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
"""


async def fetch(local: Path, report: Callable[[str], None]) -> Path:
    """The root of the unpacked packages; downloaded on first use."""
    return await debian.unpacked(local, "rabbitmq", _PACKAGES, way_out=_WAY_OUT, report=report)


class RabbitMQ:
    """One node: `start` makes its data on first use, `kill9` and `start` again is a crash and its recovery.

    `root` is what `fetch` returned. With `tls`, the stream protocol also answers with that certificate.
    """

    def __init__(self, directory: Path, root: Path, *, tls: Certificate | None = None) -> None:
        self._directory = directory.resolve()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root = root
        self._tls = tls
        self.ca_file = None if tls is None else tls.ca
        self._ports = Ports(self._directory / "ports.json")
        secret_store = Secrets(self._directory / "secrets.json")
        self._passwords = {user: secret_store.get(user) for user in (*USERS, SUPERUSER)}
        self._port: dict[str, int] = {}
        self._node: Process | None = None
        self._epmd: Process | None = None

    def stream_url(self, user: str = "core_worker", vhost: str = VHOST, *, tls: bool = False) -> str:
        """`rabbitmq-stream://` URL for a user and virtual host; `rabbitmq-streams://` with TLS."""
        scheme, port = ("rabbitmq-streams", "stream_tls") if tls else ("rabbitmq-stream", "stream")
        account = f"{user}:{self._passwords[user]}"
        return f"{scheme}://{account}@{HOST}:{self._port[port]}/{quote(vhost, safe='')}"

    def password(self, user: str) -> str:
        """The user's password."""
        return self._passwords[user]

    @property
    def management_url(self) -> str:
        """`http://` URL of the management API, as the node's superuser."""
        return f"http://{SUPERUSER}:{self._passwords[SUPERUSER]}@{HOST}:{self._port['management']}"

    @property
    def stream_port(self) -> int:
        """Where the stream protocol answers, without TLS."""
        return self._port["stream"]

    @property
    def prometheus_url(self) -> str:
        """Where the node's metrics are scraped."""
        return f"http://{HOST}:{self._port['prometheus']}/metrics"

    @property
    def disk(self) -> Path:
        """The directory whose disk holds all data."""
        return self._directory / "data"

    @property
    def process(self) -> Process:
        """The running node.

        Errors: ServerError when it was never started.
        """
        if self._node is None:
            raise ServerError("RabbitMQ is not running")
        return self._node

    async def start(self) -> None:
        """Start the node on its remembered ports and data, and wait until the stream protocol answers.

        Errors: ServerError with the end of the log.
        """
        if self._epmd is None or not self._epmd.running:
            self._port = {name: self._ports.take(name) for name in _PORTS}
        self._write_configuration()
        env = self._environment()
        logs = self._directory / "log"
        if self._epmd is None or not self._epmd.running:
            command = [str(self._runtime / "epmd"), "-port", str(self._port["epmd"]), "-address", HOST]
            self._epmd = Process("epmd", command, log=logs / "epmd.log", env=env)
            self._epmd.start()
            await self._epmd.wait_until(self._epmd_answers, deadline_s=10)
        server = str(self._server / "sbin" / "rabbitmq-server")
        self._startup_log.unlink(missing_ok=True)
        self._node = Process("RabbitMQ", [server], log=self._startup_log, env=env, cwd=self._directory)
        self._node.start()
        await self._node.wait_until(self._is_ready, deadline_s=90)
        async with Management(self.management_url) as management:
            require_version(await management.version())

    def attach(self) -> None:
        """Use a node that another process of this checkout started in the same directory."""
        self._port = {name: self._ports.recall(name) for name in _PORTS}

    async def stop(self) -> None:
        """End the node cleanly; the data stays."""
        if self._node is not None:
            await self._node.stop(deadline_s=15)
        if self._epmd is not None:
            await self._epmd.stop(deadline_s=2)

    def kill9(self) -> None:
        """SIGKILL the node (its port mapper, epmd, stays)."""
        self.process.kill9()

    def kill_all(self) -> None:
        """SIGKILL the node and its port mapper: for data that nobody will read again."""
        for process in (self._node, self._epmd):
            if process is not None:
                process.kill9()

    def drop(self) -> None:
        """Delete the data of a stopped node."""
        shutil.rmtree(self._directory, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    @property
    def _server(self) -> Path:
        return next((self._root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))

    @property
    def _startup_log(self) -> Path:
        return self._directory / "log" / "startup.log"

    @property
    def _runtime(self) -> Path:
        return next((self._root / "usr/lib/erlang").glob("erts-*")) / "bin"

    async def _epmd_answers(self) -> bool:
        return answers(self._port["epmd"])

    async def _is_ready(self) -> bool:
        # Its listeners answer before its streams and bindings are recovered; only this line comes last.
        return b"completed with" in self._startup_log.read_bytes()

    def _write_configuration(self) -> None:
        config = _CONFIG.format(host=HOST, directory=self._directory, vhost=VHOST, **self._port)
        if self._tls is not None:
            tls = self._tls
            config += _TLS_CONFIG.format(
                host=HOST,
                ca=tls.ca,
                certificate=tls.certificate,
                key=tls.key,
                stream_tls=self._port["stream_tls"],
            )
        (self._directory / "rabbitmq.conf").write_text(config)
        (self._directory / "enabled_plugins").write_text(_PLUGINS)
        content = json.dumps(definitions(self._passwords, superuser=SUPERUSER))
        write_private(self._directory / "definitions.json", content)
        cookie = self._directory / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, secrets.token_hex(16))
            cookie.chmod(0o400)
        for part in ("bin", "data", "log"):
            (self._directory / part).mkdir(exist_ok=True)
        erl = self._directory / "bin" / "erl"
        erl.write_text(_ERL.format(root=self._root / "usr/lib/erlang", runtime=self._runtime))
        erl.chmod(0o755)

    def _environment(self) -> dict[str, str]:
        here = self._directory
        schedulers = min(os.cpu_count() or 1, 4)
        return {
            "HOME": str(here),
            "PATH": f"{here / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": "core@localhost",
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "no-environment-file"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_PLUGINS_DIR": str(self._server / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            "RABBITMQ_PID_FILE": str(here / "pid"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(here / "generated"),
            "RABBITMQ_DIST_PORT": str(self._port["distribution"]),
            "RABBITMQ_NODE_PORT": str(self._port["amqp"]),
            "ERL_EPMD_PORT": str(self._port["epmd"]),
            "ERL_EPMD_ADDRESS": HOST,
            # The script then becomes the virtual machine instead of watching over it: one process, one pid.
            "RUNNING_UNDER_SYSTEMD": "true",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-kernel inet_dist_use_interface {{127,0,0,1}} +S {schedulers}:{schedulers} "
                "+sbwt none +sbwtdcpu none +sbwtdio none"
            ),
        }
