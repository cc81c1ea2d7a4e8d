"""A broker gets our users and virtual host, or a clear refusal."""

import pytest

from deploy.broker import VHOST, BrokerError, Management, require_version
from deploy.local.private import private_rabbitmq
from deploy.local.rabbitmq import SUPERUSER
from deploy.provision import prepare_broker
from streams.topics import declare

PASSWORDS = {"core_admin": "a", "core_worker": "b", "core_service": "c"}


@pytest.mark.parametrize("version", ["3.10.8", "3.13.7"])
def test_an_old_broker_is_refused_with_the_way_out(version: str) -> None:
    with pytest.raises(BrokerError, match=rf"RabbitMQ {version} is too old: 4\.0 or newer .* --docker"):
        require_version(version)


@pytest.mark.parametrize("version", ["4.0.5", "4.2.0-rc.1", "10.1.0"])
def test_a_new_broker_is_accepted(version: str) -> None:
    require_version(version)


async def test_a_given_broker_is_prepared_over_its_management_api() -> None:
    async with private_rabbitmq() as node:
        for _ in range(2):  # safe to repeat
            await prepare_broker(node.management_url, PASSWORDS)
        given = node.stream_url("core_admin").replace(node.password("core_admin"), PASSWORDS["core_admin"])
        await declare(given, 1)
        async with Management(node.management_url) as management:
            rows = await management.request("GET", f"/api/vhosts/{VHOST}/permissions")
        assert {row["user"] for row in rows} == {*PASSWORDS, SUPERUSER}
