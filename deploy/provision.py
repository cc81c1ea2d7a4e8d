"""Prepare given servers: the broker's users and virtual host, the schema, the topics. Safe to repeat.

`python -m deploy.provision` does it from the environment: what a container does once before the others start.
A private stack does the same at its own start-up.
"""

import asyncio
import os
import sys
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from deploy.broker import USERS, VHOST, Management, require_version
from deploy.local.process import ServerError
from deploy.migrations import migrate
from streams import topics
from streams.wire import Refused, UnsupportedBroker

_URL_BY_ROLE = {
    "core_admin": "STREAM_ADMIN_URL",
    "core_worker": "STREAM_URL",
    "core_service": "STREAM_SERVICE_URL",
}


async def declare_topics(admin_url: str, partitions: int) -> None:
    """Declare the ten topics; what exists stays.

    Errors: ServerError when the broker is too old, refuses, does not answer, or holds the topics otherwise.
    """
    try:
        await topics.declare(admin_url, partitions)
    except (UnsupportedBroker, Refused, topics.PartitionMismatch, OSError, ValueError) as error:
        raise ServerError(f"the topics could not be declared: {error}") from error


async def prepare_broker(management_url: str, passwords: Mapping[str, str]) -> None:
    """Create the roles' users with `passwords`, and our virtual host with their permissions.

    `management_url` carries an administrator's credentials.
    Errors: BrokerError when the broker is too old or refuses.
    """
    superuser = unquote(urlsplit(management_url).username or "")
    async with Management(management_url) as management:
        require_version(await management.version())
        for user in USERS:
            await management.request("PUT", f"/api/users/{user}", {"password": passwords[user], "tags": ""})
        await management.create_vhost(VHOST, superuser=superuser)


async def main() -> None:
    """Prepare what the environment names: broker, then schema, then topics."""
    passwords = {
        role: unquote(urlsplit(os.environ[url]).password or "") for role, url in _URL_BY_ROLE.items()
    }
    await prepare_broker(os.environ["STREAM_MANAGEMENT_URL"], passwords)
    await migrate(os.environ["DATABASE_DIRECT_URL"])
    await declare_topics(os.environ["STREAM_ADMIN_URL"], int(os.environ.get("PARTITIONS", "16")))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
