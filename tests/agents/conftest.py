"""A core over a real database whose outgoing messages are kept, so that a test may lose, double or reorder them."""

import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID, uuid4

import asyncpg
import pytest

from agents import wallet_credit
from agents.core import Core, Outgoing, PostgresOwnership
from sql.db import Database, DatabaseSettings
from streams import messages
from streams.batches import Batch, Record
from streams.events import GrantCommand, UsageEvent
from tests.kept import Kept

GROUP = "commdesk"
NOW = datetime.now(UTC)


@dataclass
class World:
    """A core, its database with superuser rights, and streams as lists of values."""

    core: Core
    kept: Kept
    ownership: PostgresOwnership
    admin: asyncpg.Connection
    positions: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)

    async def own(self, topic: str, partition: int) -> None:
        """Claim a partition as a worker would."""
        claim = (await self.ownership.claim(topic, [partition], "test"))[partition]
        await self.ownership.restore(topic, partition, claim)
        self.positions[topic, partition] = (claim.epoch, claim.incarnation, claim.next_offset)

    async def batch(self, topic: str, partition: int, values: Sequence[Outgoing | bytes]) -> Batch:
        """The next records of a partition, as the transport would deliver them."""
        if (topic, partition) not in self.positions:
            await self.own(topic, partition)
        epoch, incarnation, start = self.positions[topic, partition]
        records = []
        for offset, value in enumerate(values, start):
            raw, headers = (value, {}) if isinstance(value, bytes) else (value.value, value.headers)
            records.append(Record(offset, int(time.time() * 1000), None, raw, dict(headers), malformed=False))
        end = start + len(records)
        self.positions[topic, partition] = (epoch, incarnation, end)
        digest = hashlib.sha256(repr(records[-1]).encode()).digest()
        return Batch(topic, partition, epoch, incarnation, start, end, end - 1, digest, records)

    async def wallet(self, credits: int = 0, community: UUID | None = None) -> UUID:
        """A wallet, with a granted lot if `credits`."""
        wallet = uuid4()
        await self.admin.execute(
            "INSERT INTO wallets (id, owner_id, community_id, request_hash) VALUES ($1, $1, $2, '')",
            wallet,
            community,
        )
        if credits:
            grant = GrantCommand(
                id=str(wallet),
                wallet_id=str(wallet),
                credits=credits,
                priority=0,
                occurred_at=NOW,
                reason="test",
            )
            producer = messages.Producer("test", 0, str(wallet))
            value = messages.encode(
                messages.Slice(
                    v=1, producer=producer, incarnation=1, batch_no=1, prev_batch_no=0, events=[grant]
                )
            )
            await wallet_credit.handle(self.core, await self.batch("wallet.credit", 0, [value]))
        return wallet

    async def balance(self, wallet: UUID) -> int:
        return int(await self.admin.fetchval("SELECT available_credits FROM wallets WHERE id = $1", wallet))

    async def outcomes(self, topic: str) -> dict[str, int]:
        """Counts of all batches of a topic."""
        row = await self.admin.fetchrow(
            "SELECT sum(posted) posted, sum(refused) refused, sum(existing) existing, sum(conflict) conflict,"
            " sum(parked) parked, sum(quarantined) quarantined FROM batches WHERE topic = $1",
            topic,
        )
        assert row is not None
        return {key: int(value) for key, value in row.items() if value}

    async def quarantined(self) -> list[str]:
        return [r["reason"] for r in await self.admin.fetch("SELECT reason FROM quarantine ORDER BY id")]


def usage(wallet: UUID, id: str, credits: int = 10, **more: object) -> UsageEvent:
    return UsageEvent(id=id, wallet_id=str(wallet), feature="chat.message", credits=credits, **more)  # type: ignore[arg-type]


def signed(
    events: Sequence[UsageEvent], *, name: str, secret: bytes, session: str = str(uuid4()), seq: int = 1
) -> Outgoing:
    """A usage batch as a publisher sends it."""
    value = messages.encode(messages.UsageBatch(v=1, session=session, seq=seq, events=list(events)))
    return sign(value, name=name, secret=secret)


def sign(value: bytes, *, name: str, secret: bytes) -> Outgoing:
    return Outgoing("wallet.debit", 0, "", value, {"publisher": name, "mac": messages.sign(value, secret)})


@pytest.fixture
async def world(database) -> AsyncIterator[World]:  # type: ignore[no-untyped-def]
    db = await Database.connect(DatabaseSettings(database_url=database.url))
    admin = await asyncpg.connect(database.admin_url)
    kept = Kept()
    core = Core(db, kept, GROUP, partitions=1)
    yield World(core, kept, PostgresOwnership(db, GROUP, [core.marks.restore]), admin)
    assert kept.foreign == []
    await admin.close()
    await db.close()


@pytest.fixture
async def service(world: World) -> tuple[str, bytes]:
    """An enabled publisher without limits: its name and secret."""
    secret = b"s" * 32
    await world.admin.execute("INSERT INTO publishers (name, secret) VALUES ('chat', $1)", secret)
    return "chat", secret
