"""Transactions that are made to overlap: each is stopped by a lock that the test holds, so that none is lucky."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from sql import verifications
from sql.db import Database, DatabaseSettings
from tables.fraud import TOPIC, FraudWindows

from .conftest import Shop
from .velocity import KINDS, judge, signals_of, verified

T = TypeVar("T")
_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def pools(shop: Shop) -> AsyncIterator[list[Database]]:
    """Four connections of their own."""
    settings = DatabaseSettings(database_url=shop.app_url, database_pool_size=1)
    databases = [await Database.connect(settings) for _ in range(4)]
    yield databases
    for database in databases:
        await database.close()


@asynccontextmanager
async def stopped_before(
    shop: Shop, statement: str, work: Sequence[Coroutine[object, object, T]]
) -> AsyncIterator[list[asyncio.Task[T]]]:
    """`work` runs until all of it waits for a lock; `statement` takes the one that stops it."""
    async with shop.admin.transaction():
        await shop.admin.execute(statement)
        tasks = [asyncio.create_task(one) for one in work]
        async with asyncio.timeout(20):
            while await shop.admin.fetchval(_WAITING) < len(tasks):
                await asyncio.sleep(0.01)
    yield tasks


async def test_the_last_counts_of_a_payment_bring_its_decision_whoever_commits_last(
    shop: Shop, pools: list[Database]
) -> None:
    payment = await verified(shop)
    await shop.ownership.claim(TOPIC, range(4), "test")
    signals = await signals_of(shop, payment.id)
    assert len(signals) == len(KINDS) == 4
    work = [judge(FraudWindows(db), db, i, [signals[i]]) for i, db in enumerate(pools)]
    async with stopped_before(shop, "LOCK TABLE batches IN SHARE MODE", work) as judged:
        assert await asyncio.gather(*judged) == [["posted"]] * 4
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_events") == 1


async def test_answers_about_one_payment_at_once_verify_it_once(shop: Shop, pools: list[Database]) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")
    (lease,) = await verifications.lease_verifications(shop.db, limit=10, lease_s=60)
    answer = await shop.verifier.ask(lease)
    work = [
        verifications.record_verifications(db, [answer], shard=i, verified_partition=0, mismatch_partition=0)
        for i, db in enumerate(pools)
    ]
    async with stopped_before(shop, "SELECT FROM wallets FOR UPDATE", work) as recorded:
        outcomes = [answered.outcomes for answered in await asyncio.gather(*recorded)]
    assert sorted(outcomes) == [["exists"]] * 3 + [["verified"]]
    assert await shop.balance(lease.wallet_id) == (0, 5_500)
