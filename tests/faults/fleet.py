"""A fleet of real processes to break: its own PostgreSQL and RabbitMQ, workers, a publishing service, and a judge."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from uuid_utils.compat import uuid7

from deploy.local.postgres import DATABASE, SUPERUSER, Postgres
from deploy.local.private import private_postgres, private_rabbitmq
from deploy.local.process import Process
from deploy.local.rabbitmq import RabbitMQ
from deploy.services import python
from sql import invariants, ledger, publishers
from sql.db import Database, DatabaseSettings
from sql.errors import Unavailable
from sql.ledger import LedgerCommand
from streams import topics
from streams.events import UsageEvent
from streams.publish import Publisher

PARTITIONS = 4
GROUP = "commdesk"
SECRET = b"f" * 32
FEATURES = ("chat", "voice", "video")


@dataclass
class Load:
    """Usage events at a steady rate, straight onto the stream; what was sent is remembered."""

    publisher: Publisher
    wallets: list[UUID]
    per_s: int = 400
    sent: dict[str, tuple[UUID, int]] = field(default_factory=dict)
    stopping: bool = False

    async def run(self) -> None:
        """Until told to stop, or the broker does not come back for the publisher's patience."""
        began, n = time.monotonic(), 0
        while not self.stopping:
            await asyncio.sleep(max(0.0, began + n / self.per_s - time.monotonic()))
            event = UsageEvent(
                id=f"e{n}",
                wallet_id=str(self.wallets[n % len(self.wallets)]),
                feature=FEATURES[n % 3],
                credits=1 + n % 5,
            )
            self.sent[event.id] = (self.wallets[n % len(self.wallets)], event.credits)
            await self.publisher.publish(event)
            if n % 50 == 0:  # some things are sent twice
                await self.publisher.publish(event)
            n += 1


class Fleet:
    """Servers, workers and one load. Workers are started and killed by name."""

    def __init__(self, postgres: Postgres, broker: RabbitMQ, directory: Path) -> None:
        self.postgres = postgres
        self.broker = broker
        self.directory = directory
        self.workers: dict[str, Process] = {}
        self.wallets: list[UUID] = []

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DATABASE_URL": self.postgres.url("core_app"),
            "STREAM_URL": self.broker.stream_url("core_worker"),
            "PARTITIONS": str(PARTITIONS),
            "CONSUMER_GROUP": GROUP,
            "CASHFREE_BASE_URL": "http://127.0.0.1:9/pg",
            "CASHFREE_CLIENT_ID": "x",
            "CASHFREE_CLIENT_SECRET": "x" * 32,
            "CASHFREE_WEBHOOK_SECRETS": "x" * 32,
        }

    async def admin(self) -> asyncpg.Connection:
        return await asyncpg.connect(self.postgres.url(SUPERUSER, DATABASE))

    async def prepare(self, wallets: int = 20) -> None:
        """Topics, a publisher, and wallets with more than enough credits in three lots each."""
        await topics.declare(self.broker.stream_url("core_admin"), PARTITIONS)
        settings = DatabaseSettings(database_url=self.postgres.url("core_app"))
        async with await Database.connect(settings) as db:
            await publishers.register(db, "chat", SECRET)
            admin = await self.admin()
            for _ in range(wallets):
                wallet = uuid4()
                await admin.execute(
                    "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $1, '')", wallet
                )
                self.wallets.append(wallet)
                for lot in range(3):
                    key = f"test:{wallet}/{lot}"
                    grant = LedgerCommand(
                        uuid7(), wallet, "grant", 1_000_000, key, b"", datetime.now(UTC), "test", key, 0
                    )
                    await ledger.call(db, 0, grant)
            await admin.close()

    def start(self, name: str) -> Process:
        worker = python(name, ["agents", "--name", name], self.environment, self.directory)
        worker.start()
        self.workers[name] = worker
        return worker

    @asynccontextmanager
    async def load(self, per_s: int = 400) -> AsyncIterator[Load]:
        """Send in the background while the block runs; then stop, and wait until everything is decided."""
        settings = DatabaseSettings(database_url=self.postgres.url("core_app"), database_pool_size=2)
        async with await Database.connect(settings) as db:

            async def watermarks(session: str) -> dict[int, int]:
                try:
                    return await publishers.watermarks(db, "chat", session, "wallet.debit")
                except Unavailable:
                    return {}

            url = self.broker.stream_url("core_service")
            async with Publisher(url, name="chat", secret=SECRET, watermarks=watermarks) as publisher:
                load = Load(publisher, self.wallets, per_s)
                sending = asyncio.create_task(load.run())
                try:
                    yield load
                finally:
                    load.stopping = True
                    await sending
                await asyncio.wait_for(publisher.flush(), 60)

    async def posted(self) -> int:
        """Usage debits in the books."""
        admin = await self.admin()
        try:
            return int(
                await admin.fetchval("SELECT count(*) FROM wallet_transactions WHERE source = 'usage'")
            )
        finally:
            await admin.close()

    async def until_posted(self, count: int, *, deadline_s: float = 60.0) -> None:
        """Wait until so many debits are posted."""
        end = time.monotonic() + deadline_s
        while (now := await self.posted()) < count:
            assert time.monotonic() < end, f"{now} of {count} posted in {deadline_s} s\n{self.logs()}"
            await asyncio.sleep(0.1)

    async def judge(self, load: Load) -> None:
        """Every event sent is posted exactly once, every balance is right, windows equal a recomputation, invariants hold."""
        await self.until_posted(len(load.sent))
        await self._windows_settled()
        admin = await self.admin()
        rows = await admin.fetch(
            "SELECT source_id, wallet_id, amount_credits FROM wallet_transactions WHERE source = 'usage'"
        )
        posted = Counter(row["source_id"] for row in rows)
        assert posted == Counter(dict.fromkeys(load.sent, 1))
        used: Counter[UUID] = Counter()
        for row in rows:
            assert load.sent[row["source_id"]] == (row["wallet_id"], row["amount_credits"])
            used[row["wallet_id"]] += row["amount_credits"]
        balances = await admin.fetch("SELECT id, available_credits FROM wallets")
        assert {r["id"]: r["available_credits"] for r in balances} == {
            w: 3_000_000 - used[w] for w in self.wallets
        }
        spent = await admin.fetch(
            "SELECT dimension, sum(count) AS n, sum(credits) AS credits FROM billing_windows"
            " WHERE metric = 'credits_spent' AND resolution = '1m' GROUP BY 1"
        )
        expected: Counter[str] = Counter()
        for wallet_credits, number in zip(load.sent.values(), range(len(load.sent)), strict=True):
            expected[f"community=-,feature={FEATURES[number % 3]}"] += wallet_credits[1]
        assert {r["dimension"]: int(r["credits"]) for r in spent} == dict(expected)
        await admin.close()
        violations = await invariants.check(self.postgres.url("core_readonly"))
        assert not violations, violations

    async def _windows_settled(self, deadline_s: float = 60.0) -> None:
        """Wait until every outbox row has been applied."""
        query = """
            SELECT count(*) FROM outbox o LEFT JOIN producer_watermarks m
                ON (m.topic, m.partition, m.producer_topic, m.producer_partition, m.producer_group)
                 = (o.dest_topic, o.dest_partition, o.producer_topic, o.producer_partition, o.producer_group)
             WHERE o.dest_topic = 'analytics.billing' AND o.batch_no > coalesce(m.last_batch_no, 0)"""
        end = time.monotonic() + deadline_s
        admin = await self.admin()
        while left := await admin.fetchval(query):
            assert time.monotonic() < end, f"{left} slices were not applied\n{self.logs()}"
            await asyncio.sleep(0.2)
        await admin.close()

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{worker.log_tail(30)}" for name, worker in self.workers.items())

    async def stop(self) -> None:
        for worker in self.workers.values():
            worker.kill9()


@asynccontextmanager
async def fleet(directory: Path, *workers: str) -> AsyncIterator[Fleet]:
    """A prepared fleet with these workers running."""
    async with private_postgres() as postgres, private_rabbitmq() as broker:
        made = Fleet(postgres, broker, directory)
        try:
            await made.prepare()
            for name in workers:
                made.start(name)
            yield made
        finally:
            await made.stop()
