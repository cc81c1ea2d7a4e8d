"""The whole stack around one test: web, simulator, database, broker and a worker process, nothing stubbed."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from deploy.local.process import Process
from deploy.services import python
from gateway import signature
from gateway.settings import GatewaySettings
from gateway.simulator.app import SIMULATOR
from gateway.simulator.app import make_app as make_simulator
from gateway.simulator.sim import SimConfig, Simulator
from sql.db import Database, DatabaseSettings
from streams import topics
from tests.web.conftest import TOKEN, Api, serving
from web.app import make_app
from web.settings import WebSettings

PARTITIONS: Final = 4
GROUP: Final = "commdesk"
POLLER_EVERY_S: Final = 0.5
TIMEOUT_S: Final = 1.5
MERCHANT: Final = "merchant-of-the-walks"
SECRET: Final = "secret-of-the-walks"
OLD_SECRET: Final = "secret-of-the-walks-before"

# What is still on its way, of every kind; all zero is at rest. What waits for its time is not, see `hurry`.
UNDER_WAY: Final = """
SELECT (SELECT count(*) FROM payment_webhooks WHERE closed_at IS NULL) AS webhooks,
       (SELECT count(*) FROM outbox o LEFT JOIN producer_watermarks m
           ON (m.topic, m.partition, m.producer_topic, m.producer_partition, m.producer_group)
            = (o.dest_topic, o.dest_partition, o.producer_topic, o.producer_partition, o.producer_group)
         WHERE o.batch_no > coalesce(m.last_batch_no, 0)) AS slices,
       (SELECT count(*) FROM verifications WHERE state = 'due' AND (next_at <= now() OR leased_until > now())) AS verifications,
       (SELECT count(*) FROM payments WHERE status = 'verified') AS verified,
       (SELECT count(*) FROM retries r WHERE r.state = 'due' AND r.next_at <= now()
           AND (r.topic <> 'payment.processing' OR EXISTS (SELECT FROM payments p WHERE p.order_id = r.key))) AS retries,
       (SELECT count(*) FROM refunds WHERE next_at <= now() OR leased_until > now()) AS refunds,
       (SELECT count(*) FROM order_inquiries i JOIN payments p USING (order_id)
         WHERE (i.next_at <= now() OR i.leased_until > now())
           AND p.status IN ('verified', 'held', 'credited', 'refunded', 'rejected', 'mismatch')) AS inquiries
"""
HURRY: Final = (
    "UPDATE verifications SET next_at = now() WHERE state = 'due'",
    "UPDATE retries SET next_at = now() WHERE state = 'due'",
    "UPDATE refunds SET next_at = now() WHERE next_at < 'infinity'",
    "UPDATE order_inquiries SET next_at = now() WHERE next_at < 'infinity'",
)


@dataclass
class Stack:
    """Everything a payment passes, running."""

    api: Api
    db: Database
    pool: asyncpg.Pool
    """As the superuser."""
    sim: Simulator
    worker: Process
    gateway_url: str
    database_url: str
    admin_url: str
    readonly_url: str

    async def hear(self, raw: bytes, version: str, *, secret: str = SECRET, age_ms: int = 0) -> int:
        """A webhook reaches the web process: these bytes, signed so long ago; the answer's status."""
        stamp = str(time.time_ns() // 1_000_000 - age_ms)
        headers = {
            "x-webhook-timestamp": stamp,
            "x-webhook-signature": signature.sign(secret.encode(), stamp, raw).decode(),
            "x-webhook-version": version,
            "Content-Type": "application/json",
        }
        url = f"{self.api.url}/v1/webhooks/cashfree"
        async with self.api.http.post(url, data=raw, headers=headers) as response:
            await response.read()
            return response.status

    async def credited(self, payment: UUID, deadline_s: float = 60.0) -> None:
        """Wait until a payment that was paid is credited or held; after 4 s it is an hour later for it."""
        began, asked = time.monotonic(), False
        query = "SELECT status IN ('credited', 'refunded', 'held') FROM payments WHERE id = $1"
        async with asyncio.timeout(deadline_s):
            while not await self.pool.fetchval(query, payment):
                if not asked and time.monotonic() - began > 4:
                    asked = True
                    await self.pool.fetchval(
                        "UPDATE verifications SET next_at = now() WHERE payment_id = $1", payment
                    )
                await asyncio.sleep(0.2)

    async def at_rest(self, deadline_s: float = 60.0) -> None:
        """Wait until nothing is on its way any more."""
        quiet, began = 0, time.monotonic()
        while quiet < 2:
            left = {what: n for what, n in dict(await self.pool.fetchrow(UNDER_WAY) or {}).items() if n}
            assert self.worker.running, self.worker.log_tail()
            assert time.monotonic() - began < deadline_s, f"never at rest: {left}\n{self.worker.log_tail()}"
            quiet = 0 if left else quiet + 1
            await asyncio.sleep(0.15)

    async def hurry(self) -> None:
        """What waits for its time is due now: hours pass."""
        for statement in HURRY:
            await self.pool.execute(statement)


def environment(stream_url: str, database_url: str, gateway_url: str, folder: Path) -> Mapping[str, str]:
    """What the worker process is told: a poller that asks after two seconds of silence, and no limits."""
    limits = ("create_order", "get_order", "get_payments", "create_refund", "get_refund", "get_disputes")
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "STREAM_URL": stream_url,
        "PARTITIONS": str(PARTITIONS),
        "CONSUMER_GROUP": GROUP,
        "CASHFREE_BASE_URL": f"{gateway_url}/pg",
        "CASHFREE_CLIENT_ID": MERCHANT,
        "CASHFREE_CLIENT_SECRET": SECRET,
        "CASHFREE_LIMITS_PER_MINUTE": json.dumps(dict.fromkeys(limits, 600_000)),
        "CASHFREE_TIMEOUT_S": str(TIMEOUT_S),
        "POLLER_AGE_S": "2",
        "POLLER_EVERY_S": str(POLLER_EVERY_S),
        "INVOICE_STORAGE_URL": f"file:{folder / 'invoices'}",
    }


@pytest.fixture
async def stack(database, broker, tmp_path: Path) -> AsyncIterator[Stack]:  # type: ignore[no-untyped-def]
    """A stack whose fraud rules do not mind that all customers share one address."""
    async with AsyncExitStack() as opened:
        simulator = make_simulator(SimConfig(client_id=MERCHANT, client_secret=SECRET, seed=11))
        gateway_url = await opened.enter_async_context(serving(simulator))
        merchant = GatewaySettings(
            cashfree_base_url=f"{gateway_url}/pg",
            cashfree_client_id=MERCHANT,
            cashfree_client_secret=SecretStr(SECRET),
            cashfree_webhook_secrets=(SecretStr(SECRET), SecretStr(OLD_SECRET)),
            cashfree_limits_per_minute=dict.fromkeys(("create_order", "get_order"), 600_000),
            cashfree_timeout_s=TIMEOUT_S,
        )
        books = DatabaseSettings(database_url=database.url, database_pool_size=8)
        shop = make_app(
            WebSettings(development=True, api_token=SecretStr(TOKEN), partitions=PARTITIONS), merchant, books
        )
        url = await opened.enter_async_context(serving(shop))
        db = await opened.enter_async_context(await Database.connect(books))
        admin = await asyncpg.connect(database.admin_url)
        opened.push_async_callback(admin.close)
        pool = await opened.enter_async_context(
            asyncpg.create_pool(database.admin_url, min_size=1, max_size=4)
        )
        await pool.execute("UPDATE fraud_rules SET enabled = false WHERE entity_kind = 'ip'")
        await topics.declare(broker.admin_url, PARTITIONS)
        told = environment(broker.url, database.url, gateway_url, tmp_path)
        worker = python("walker", ["agents", "--name", "walker"], told, tmp_path)
        worker.start()
        opened.callback(worker.kill9)
        http = await opened.enter_async_context(aiohttp.ClientSession())
        sim = simulator[SIMULATOR]
        urls = (gateway_url, database.url, database.admin_url, database.readonly_url)
        yield Stack(Api(url, http, admin, sim), db, pool, sim, worker, *urls)
