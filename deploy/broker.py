"""RabbitMQ as we need it: who may do what, and the management API to set it up.

A local node loads users and permissions at boot; a test's virtual host and a given broker get them over the
management API.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import quote

import aiohttp

from streams.topics import ROLES, TOPICS, Permissions, partition_stream

VHOST = "commdesk"
MINIMUM_VERSION = (4, 0)

# Who may configure, write and read what is the streams floor's knowledge; here the roles become users.
USERS: Mapping[str, Permissions] = {f"core_{role}": permissions for role, permissions in ROLES.items()}
_EVERYTHING = Permissions(configure=".*", write=".*", read=".*")


class BrokerError(RuntimeError):
    """The broker is unsuitable or refused a management request. The message is a sentence for the user."""


def definitions(passwords: Mapping[str, str], *, superuser: str) -> dict[str, Any]:
    """Definitions for a node to load at boot: users, the virtual host, permissions.

    `passwords` maps each of `USERS` and `superuser` to its password.
    Source: RabbitMQ's definitions format; a hash is base64(salt + sha256(salt + password)), salt of 4 bytes.
    """
    users = [
        {
            "name": name,
            "password_hash": _password_hash(password),
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": ["administrator"] if name == superuser else [],
        }
        for name, password in passwords.items()
    ]
    grants = {**USERS, superuser: _EVERYTHING}
    permissions = [
        {"user": user, "vhost": VHOST, "configure": p.configure, "write": p.write, "read": p.read}
        for user, p in grants.items()
    ]
    return {"users": users, "vhosts": [{"name": VHOST}], "permissions": permissions}


def _password_hash(password: str) -> str:
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def require_version(version: str) -> None:
    """Refuse a broker older than 4.0, which lacks what correctness stands on.

    Errors: BrokerError naming the version and the way out.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM_VERSION:
        raise BrokerError(
            f"RabbitMQ {version} is too old: 4.0 or newer is required (super streams, single active "
            "consumer, stream statistics). Upgrade it, unset STREAM_URL for a private one, or use --docker"
        )


class Management:
    """RabbitMQ's management API at an `http://user:password@host:port` address."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def version(self) -> str:
        """The broker's version, such as `4.0.5`."""
        return str((await self.request("GET", "/api/overview"))["rabbitmq_version"])

    async def create_vhost(self, name: str, *, superuser: str) -> None:
        """Create a virtual host with the permissions of every role and the superuser."""
        await self.request("PUT", f"/api/vhosts/{quote(name, safe='')}", {"default_queue_type": "stream"})
        for user, grant in {**USERS, superuser: _EVERYTHING}.items():
            body = {"configure": grant.configure, "write": grant.write, "read": grant.read}
            await self.request("PUT", f"/api/permissions/{quote(name, safe='')}/{quote(user)}", body)

    async def restore_partition(self, vhost: str, topic: str, partition: int, *, replicas: int = 1) -> None:
        """Make a partition stream of a topic again, empty, where somebody deleted it; what exists stays.

        Errors: BrokerError.
        """
        host, stream = quote(vhost, safe=""), partition_stream(topic, partition)
        kept = TOPICS[topic].arguments(replicas=replicas)
        arguments = {
            "x-queue-type": "stream",
            "x-queue-leader-locator": kept["queue-leader-locator"],
            "x-max-age": kept["max-age"],
            "x-max-length-bytes": int(kept["max-length-bytes"]),
            "x-stream-max-segment-size-bytes": int(kept["stream-max-segment-size-bytes"]),
            "x-initial-cluster-size": replicas,
        }
        await self.request(
            "PUT", f"/api/queues/{host}/{quote(stream)}", {"durable": True, "arguments": arguments}
        )
        binding = {
            "routing_key": str(partition),
            "arguments": {"x-stream-partition-order": partition},
        }
        await self.request("POST", f"/api/bindings/{host}/e/{quote(topic)}/q/{quote(stream)}", binding)

    async def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with its streams."""
        await self.request("DELETE", f"/api/vhosts/{quote(name, safe='')}")

    async def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One request; the decoded answer, or None when it is empty.

        Errors: BrokerError with the broker's reason.
        """
        if self._session is None:
            raise BrokerError("the management client is not open")
        async with self._session.request(method, f"{self._url}{path}", json=body) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise BrokerError(f"RabbitMQ answered {answer.status} to {method} {path}: {text}")
            return await answer.json() if text else None
