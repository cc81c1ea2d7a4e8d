"""`./dev run --docker`: the servers of compose.yaml instead of private ones, on free loopback ports."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.broker import USERS, VHOST
from deploy.local.ports import HOST, Ports
from deploy.local.postgres import DATABASE, PASSWORDS, SUPERUSER, database_url
from deploy.local.process import ServerError, run
from deploy.local.secrets_file import Secrets, write_private
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT
from deploy.provision import prepare_broker

_SERVERS = ("postgres", "rabbitmq", "valkey")


async def servers(*, fresh: bool, report: Callable[[str], None]) -> dict[str, str]:
    """Start the three servers in containers; our environment with their URLs.

    Errors: ServerError when no docker engine runs, or a container does not become healthy.
    """
    directory = LOCAL / "docker"
    ports, secrets = Ports(directory / "ports.json"), Secrets(directory / "secrets.json")
    port = {name: ports.take(name) for name in ("postgres", "stream", "management", "valkey")}
    passwords = {user: secrets.get(user) for user in (*PASSWORDS, *USERS, SUPERUSER, "core_root", "redis")}
    settings = {f"{name.upper()}_PASSWORD": password for name, password in passwords.items()}
    settings |= {variable: passwords[user] for user, variable in PASSWORDS.items()}
    settings |= {f"{name.upper()}_PORT": str(number) for name, number in port.items()}
    settings["STREAM_ADVERTISED_HOST"] = HOST
    write_private(directory / "compose.env", "".join(f"{name}={value}\n" for name, value in settings.items()))
    if fresh:
        await _compose("down", "--volumes")
    report("starting the servers' containers")
    await _compose("up", "--detach", "--wait", *_SERVERS)
    management = f"http://core_root:{passwords['core_root']}@{HOST}:{port['management']}"
    await prepare_broker(management, passwords)
    return {**os.environ, **_urls(port, passwords), "STREAM_MANAGEMENT_URL": management}


async def stop() -> None:
    """Stop the containers; their volumes stay."""
    await _compose("stop")


def _urls(port: Mapping[str, int], passwords: Mapping[str, str]) -> dict[str, str]:
    def database(user: str, name: str = DATABASE) -> str:
        return database_url(user, passwords[user], port["postgres"], name)

    def stream(user: str) -> str:
        return f"rabbitmq-stream://{user}:{passwords[user]}@{HOST}:{port['stream']}/{VHOST}"

    return {
        "DATABASE_URL": database("core_operator"),
        "DATABASE_WEB_URL": database("core_web"),
        "DATABASE_WORKER_URL": database("core_worker"),
        "DATABASE_DIRECT_URL": database("core_migrator"),
        "DATABASE_READONLY_URL": database("core_readonly"),
        "DATABASE_ADMIN_URL": database(SUPERUSER, "postgres"),
        "STREAM_URL": stream("core_worker"),
        "STREAM_ADMIN_URL": stream("core_admin"),
        "STREAM_SERVICE_URL": stream("core_service"),
        "REDIS_URL": f"redis://default:{passwords['redis']}@{HOST}:{port['valkey']}/0",
    }


async def _compose(*arguments: str) -> None:
    program = Path(sys.executable).with_name("docker-compose")
    command = [str(program), "--env-file", str(LOCAL / "docker" / "compose.env"), *arguments]
    try:
        await run(command, cwd=CHECKOUT, deadline_s=900)
    except ServerError as error:
        raise ServerError(f"--docker needs a docker engine that runs: {error}") from error
