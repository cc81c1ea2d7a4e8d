"""The shared fixtures give every test servers of its own making."""

import asyncpg

from tests.conftest import Broker, Database


async def test_a_database_is_migrated_and_empty(database: Database) -> None:
    connection = await asyncpg.connect(database.url, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT current_user::text") == "core_app"
        assert await connection.fetchval("SELECT count(*) FROM wallets") == 0
    finally:
        await connection.close()


async def test_a_broker_has_its_own_virtual_host(broker: Broker) -> None:
    assert broker.vhost in broker.url
    assert len({broker.url, broker.admin_url, broker.service_url}) == 3


async def test_a_cache_answers(redis_url: str) -> None:
    from redis.asyncio import Redis

    async with Redis.from_url(redis_url) as cache:
        assert await cache.ping()
