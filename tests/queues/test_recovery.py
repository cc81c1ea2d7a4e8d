"""What the broker lost is noticed, counted, published again, and applied once: real servers, real workers' parts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from agents import analytics_billing, retries, wallet_debit
from agents.breakers import Breakers
from agents.core import Core, PostgresOwnership
from agents.queues import Queue
from agents.recovery import Recovery
from agents.relay import STALE_S, Relay
from agents.upkeep import OWN_WAY
from agents.writer import StreamWriter
from bench.faults.tails import cut_tail
from deploy.broker import Management
from deploy.local.private import private_rabbitmq
from sql import ledger, recovery
from sql.db import Database, DatabaseSettings
from sql.ledger import LedgerCommand
from streams.address import Address
from streams.link import Link
from streams.runner import Lanes
from streams.topics import declare, partition_stream
from streams.transport.reader import Reader
from streams.transport.watchdog import Watchdog
from tests.agents.conftest import GROUP
from tests.conftest import Broker
from tests.conftest import Database as Prepared
from tests.streams.test_broken_broker import SETTLED_S

PARTITIONS = 2
TOPICS = ("wallet.debit", "analytics.billing")


@dataclass
class Desk:
    """A worker's parts in this process, over a real broker and a real database."""

    core: Core
    ownership: PostgresOwnership
    broker: Broker
    admin: asyncpg.Pool
    mending: Recovery
    readers: dict[str, Reader]

    @asynccontextmanager
    async def working(self, *topics: str) -> AsyncIterator[None]:
        """The agents (of these topics, or of both), the relay and the recovery, while the block runs."""
        self.ownership.epochs.clear()
        breakers = Breakers(self.core.db, "test")
        handlers = {
            "wallet.debit": partial(wallet_debit.handle, self.core),
            "analytics.billing": partial(analytics_billing.handle, self.core),
        }
        reader = Reader(Address.parse(self.broker.url), self.ownership, group=GROUP, owner="here")
        lanes = {
            topic: Lanes(
                reader,
                (
                    queue := Queue(
                        self.core,
                        self.ownership,
                        topic,
                        handle,
                        breakers,
                        own_retries=topic not in OWN_WAY,
                    )
                ).handle,
                max_records=100,
                max_bytes=1 << 20,
                concurrency=2,
                isolation=queue,
            )
            for topic, handle in handlers.items()
        }
        reader.on_data = lambda partition: lanes[partition.topic].wake(partition)
        self.readers["now"] = reader
        await reader.start()
        reader.follow(dict.fromkeys(topics or TOPICS, PARTITIONS))
        tasks = [
            asyncio.create_task(work)
            for work in (
                Watchdog(reader, unverified_s=0.5).run(),
                Relay(self.core).run(),
                Relay(self.core).sweep(),
                self.mending.run(),
                self.mending.run_survey(),
                retries.run(self.core, self.ownership, breakers),
            )
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for lane in lanes.values():
                await lane.stop(deadline_s=2)
            await reader.leave(deadline_s=2)

    async def wallet(self, credits: int) -> UUID:
        """A wallet with credits, granted by a call."""
        wallet = uuid7()
        await self.admin.execute(
            "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $1, '')", wallet
        )
        key, now = f"test:{wallet}", datetime.now(UTC)
        grant = LedgerCommand(uuid7(), wallet, "grant", credits, key, b"x" * 16, now, "test", key, 0)
        await ledger.call(self.core.db, 0, grant)
        return wallet

    async def charge(self, wallet: UUID, count: int, start: int = 0, feature: str = "chat") -> None:
        """Usage events in the inbox, as the API accepts them."""
        await self.admin.execute(
            """INSERT INTO usage_metering (idempotency_key, id, principal, event_id, wallet_id, feature, quantity, credits,
                                           request_hash, occurred_at)
               SELECT 'api:e' || n, uuidv7(), 'api', 'e' || n, $1, $4, 1, 1, '', now()
                 FROM generate_series($2::int, $3::int) n""",
            wallet,
            start,
            start + count - 1,
            feature,
        )

    async def spent(self) -> int:
        return int(
            await self.admin.fetchval("SELECT count(*) FROM wallet_transactions WHERE source = 'usage'")
        )

    async def windowed(self) -> int:
        return int(
            await self.admin.fetchval(
                "SELECT coalesce(sum(count), 0) FROM billing_windows WHERE metric = 'credits_spent' AND resolution = '1m'"
            )
        )

    async def incidents(self) -> dict[str, int]:
        return {kind: found.n for kind, found in (await recovery.count_incidents(self.core.db)).items()}


async def until(true: Callable[[], object], *, within_s: float = 40.0) -> None:
    async with asyncio.timeout(within_s):
        while not await true():  # type: ignore[misc]
            await asyncio.sleep(0.05)


@asynccontextmanager
async def a_desk(database: Prepared, broker: Broker) -> AsyncIterator[Desk]:
    """A desk with declared topics."""
    await declare(broker.admin_url, PARTITIONS)
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        admin = await asyncpg.create_pool(database.admin_url, min_size=1, max_size=3)
        address = Address.parse(broker.url)
        writer = StreamWriter(address, "test")
        core = Core(db, writer, GROUP, PARTITIONS)
        ownership = PostgresOwnership(db, GROUP, [core.marks.restore])
        readers: dict[str, Reader] = {}
        mending = Recovery(core, ownership, address, holder="test", reader=lambda: readers.get("now"))
        yield Desk(core, ownership, broker, admin, mending, readers)
        await writer.stop()
        await admin.close()


@pytest.fixture
async def desk(database: Prepared, broker: Broker) -> AsyncIterator[Desk]:
    """A desk on the session's servers."""
    async with a_desk(database, broker) as made:
        yield made


async def settled(desk: Desk, count: int) -> None:
    """Every event was charged once and counted once."""
    await until(lambda: _is(desk.spent, count))
    await until(lambda: _is(desk.windowed, count))


async def _is(ask: Callable[[], object], value: int) -> bool:
    return bool(await ask() == value)  # type: ignore[misc]


async def test_a_deleted_stream_costs_nothing_once_it_is_there_again(desk: Desk, broker: Broker) -> None:
    wallet = await desk.wallet(1000)
    number = desk.core.partition(str(wallet))
    async with desk.working():
        await desk.charge(wallet, 20)
        await settled(desk, 20)
        async with Management(broker.management_url) as management:
            vhost = broker.vhost
            await management.request(
                "DELETE", f"/api/queues/{vhost}/{partition_stream('wallet.debit', number)}"
            )
            await desk.charge(wallet, 10, start=100)
            await desk.charge(await desk.wallet(100), 1, start=500)
            await asyncio.sleep(1)
            await management.restore_partition(vhost, "wallet.debit", number)
        await desk.admin.execute(
            "UPDATE usage_metering SET published_at = now() - interval '31 seconds' WHERE closed_at IS NULL"
        )
        await settled(desk, 31)
    assert (await desk.incidents())["reincarnated"] >= 1
    assert (
        await desk.admin.fetchval(
            "SELECT max(incarnation) FROM consumer_offsets WHERE topic = 'wallet.debit'"
        )
        == 2
    )


async def test_records_deleted_unread_halt_the_partition_and_are_published_again(
    desk: Desk, broker: Broker
) -> None:
    """Retention passes a group that was away: as if its offset lay before the first one of the stream."""
    wallet = await desk.wallet(1000)
    number = desk.core.partition(str(wallet))
    async with desk.working():
        await desk.charge(wallet, 20)
        await settled(desk, 20)
    async with Link(Address.parse(broker.url), name="test"), Management(broker.management_url) as management:
        await desk.charge(wallet, 10, start=100)
        # a stream whose first offset is beyond where the group stands: deleted and made anew, filled, its head cut by retention
        await _shrink(desk, management, number)
    async with desk.working():
        began = asyncio.get_running_loop().time()
        await settled(desk, 30)
        assert asyncio.get_running_loop().time() - began < STALE_S, "published again, not only swept"
    assert (await desk.incidents())["truncated"] == 1


async def _shrink(desk: Desk, management: Management, number: int) -> None:
    stream = partition_stream("wallet.debit", number)
    host = desk.broker.vhost
    await management.request("DELETE", f"/api/queues/{host}/{stream}")
    body = {
        "durable": True,
        "arguments": {
            "x-queue-type": "stream",
            "x-max-length-bytes": 200_000,
            "x-stream-max-segment-size-bytes": 100_000,
        },
    }
    await management.request("PUT", f"/api/queues/{host}/{stream}", body)
    binding = {"routing_key": str(number), "arguments": {"x-stream-partition-order": number}}
    await management.request("POST", f"/api/bindings/{host}/e/wallet.debit/q/{stream}", binding)
    async with Link(Address.parse(desk.broker.url), name="filler") as link:
        for _ in range(12):
            ticket = await link.send(stream, [b"x" * 50_000])
            await ticket.settled
    await desk.admin.execute(
        "UPDATE consumer_offsets SET next_offset = 1, last_offset = NULL, last_digest = NULL, incarnation = incarnation + 1"
        " WHERE topic = 'wallet.debit' AND partition = $1",
        number,
    )


async def test_confirmed_slices_that_the_broker_lost_beyond_the_consumer_are_found_and_applied_once(
    database: Prepared,
) -> None:
    async with private_rabbitmq() as node:
        url = node.stream_url("core_worker")
        broker = Broker("commdesk", url, node.stream_url("core_admin"), url, url, node.management_url)
        async with a_desk(database, broker) as desk:
            wallet = await desk.wallet(1000)
            async with desk.working():
                await desk.charge(wallet, 10)
                await settled(desk, 10)
            async with desk.working("wallet.debit"):  # nobody reads analytics.billing
                for start in range(10, 40, 3):
                    await desk.charge(wallet, 3, start=start)
                    await until(partial(_is, desk.spent, start + 3))
                await asyncio.sleep(SETTLED_S)
            assert await desk.windowed() == 10
            await asyncio.to_thread(node.kill9)
            assert sum(cut_tail(node, f"analytics.billing-{n}", share=0.6) for n in range(PARTITIONS)) > 0
            await node.start()
            async with desk.working():
                began = asyncio.get_running_loop().time()
                await settled(desk, 40)
                took_s = asyncio.get_running_loop().time() - began
            incidents = await desk.incidents()
            assert incidents.keys() & {"tail_lost", "unapplied", "reincarnated"}, incidents
            assert took_s < STALE_S, "found, not only swept"


async def test_usage_that_was_published_and_never_came_is_found_before_the_sweep(desk: Desk) -> None:
    wallet = await desk.wallet(1000)
    number = desk.core.partition(str(wallet))
    await desk.charge(wallet, 5)
    await desk.admin.execute(
        "UPDATE usage_metering SET published_at = now()"
    )  # said to be published; nothing is on the stream
    async with desk.working():
        began = asyncio.get_running_loop().time()
        await settled(desk, 5)
        assert asyncio.get_running_loop().time() - began < STALE_S
    [incident] = [i for i in await recovery.get_incidents(desk.core.db, limit=9) if i.kind == "unapplied"]
    assert (incident.topic, incident.partition, incident.detail) == (
        "wallet.debit",
        number,
        "5 events published again",
    )


async def test_a_group_that_is_moved_while_its_partition_is_idle_reads_again(desk: Desk) -> None:
    wallet = await desk.wallet(1000)
    async with desk.working():
        await desk.charge(wallet, 10)
        await settled(desk, 10)
        number = desk.core.partition(str(wallet))
        assert await recovery.rewind_partition(
            desk.core.db, "wallet.debit", number, GROUP, 0, actor="asha", why="drill"
        )
        again = "SELECT coalesce(sum(existing), 0) FROM batches WHERE topic = 'wallet.debit'"
        await until(lambda: _is(lambda: desk.admin.fetchval(again), 10), within_s=15)
        assert not await recovery.rewind_partition(
            desk.core.db, "wallet.debit", number, GROUP, 10**6, actor="asha", why="never forward"
        )
    assert (await desk.spent(), await desk.windowed()) == (10, 10)


async def test_a_partition_publishes_again_what_it_has_not_applied_and_nothing_else(desk: Desk) -> None:
    wallet = await desk.wallet(1000)
    number, db = desk.core.partition(str(wallet)), desk.core.db
    async with desk.working():
        await desk.charge(wallet, 4)
        await settled(desk, 4)
    await desk.charge(wallet, 3, start=10)
    await desk.admin.execute("UPDATE usage_metering SET published_at = now() WHERE closed_at IS NULL")
    await desk.admin.execute(
        "UPDATE usage_metering SET closed_at = now() WHERE event_id IN ('e0', 'e1', 'e2', 'e3')"
    )

    async def again(topic: str, partition: int) -> int:
        return await recovery.republish_partition(db, topic, partition, partitions=PARTITIONS, group=GROUP)

    assert await again("wallet.debit", 1 - number) == 0
    assert await again("wallet.debit", number) == 3
    assert await desk.admin.fetchval("SELECT count(*) FROM usage_metering WHERE published_at IS NULL") == 3
    slices = (
        "INSERT INTO outbox VALUES ('analytics.billing', 0, 'x', 0, 'g', $1, 0, 1, 1, '[]', now(), now())"
    )
    for batch_no in (1, 2):
        await desk.admin.execute(slices, batch_no)
    await desk.admin.execute(
        "INSERT INTO producer_watermarks VALUES ('analytics.billing', 0, $1, 'x', 0, 'g', 1)", GROUP
    )
    assert await again("analytics.billing", 0) == 1
    unpublished = "SELECT batch_no FROM outbox WHERE producer_topic = 'x' AND published_at = '-infinity'"
    assert await desk.admin.fetchval(unpublished) == 2
