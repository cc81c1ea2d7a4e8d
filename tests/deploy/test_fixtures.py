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


async def test_a_pooler_gives_a_session_for_one_transaction_over_checked_tls(pooled_url: str) -> None:
    connection = await asyncpg.connect(pooled_url, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT current_user::text") == "core_app"
        async with connection.transaction():
            first = await connection.fetchval("SELECT pg_backend_pid()")
            assert await connection.fetchval("SELECT pg_backend_pid()") == first
    finally:
        await connection.close()
