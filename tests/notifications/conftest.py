"""Users with wishes, notices delivered by hand, and a mail server on loopback."""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from agents import notifications_billing
from agents.core import Core, Outgoing, PostgresOwnership
from agents.mail_settings import MailSettings
from agents.mailer import Mailer
from sql.db import Database, DatabaseSettings
from streams import messages
from streams.batches import Batch, Record
from streams.events import BillingNotice

from .smtp import MailServer

TOPIC = "notifications.billing"
GROUP = "commdesk"
NOW = datetime.now(UTC)


class Silent:
    """A writer of an agent that publishes nothing."""

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        assert not outgoing


@dataclass
class Office:
    """A core over a real database, and its mail server."""

    core: Core
    ownership: PostgresOwnership
    admin: asyncpg.Connection
    mail: MailServer
    admin_url: str
    position: tuple[int, int, int] | None = None
    sent: int = 0
    producer: messages.Producer = field(default_factory=lambda: messages.Producer("wallet.credit", 0, GROUP))

    @property
    def db(self) -> Database:
        return self.core.db

    async def user(
        self,
        *,
        email: str | None = "asha@example.com",
        name: str | None = "Asha",
        wishes: dict[str, Any] | None = None,
    ) -> UUID:
        id = uuid4()
        await self.admin.execute(
            "INSERT INTO users (id, external_id, name, email, notification_preferences, request_hash)"
            " VALUES ($1, $2, $3, $4, $5, '')",
            id, str(id), name, email, json.dumps(wishes or {}),
        )  # fmt: skip
        return id

    def slice(self, *events: BillingNotice) -> bytes:
        """The next slice of the producer."""
        self.sent += 1
        return messages.encode(
            messages.Slice(
                v=1,
                producer=self.producer,
                incarnation=1,
                batch_no=self.sent,
                prev_batch_no=self.sent - 1,
                events=list(events),
            )
        )

    async def own(self) -> None:
        claim = (await self.ownership.claim(TOPIC, [0], "test"))[0]
        await self.ownership.restore(TOPIC, 0, claim)
        self.position = (claim.epoch, claim.incarnation, claim.next_offset)

    async def batch(self, *values: bytes) -> Batch:
        """The next records of the partition."""
        if self.position is None:
            await self.own()
        assert self.position is not None
        epoch, incarnation, start = self.position
        at = int(time.time() * 1000)
        records = [
            Record(offset, at, None, value, {}, malformed=False) for offset, value in enumerate(values, start)
        ]
        end = start + len(records)
        self.position = (epoch, incarnation, end)
        digest = hashlib.sha256(values[-1]).digest()
        return Batch(TOPIC, 0, epoch, incarnation, start, end, end - 1, digest, records)

    async def tell(self, *events: BillingNotice) -> None:
        """One slice with these notices, delivered and committed."""
        await notifications_billing.handle(self.core, await self.batch(self.slice(*events)))

    def mailer(self, **settings: Any) -> Mailer:
        quick: dict[str, Any] = {"smtp_timeout_s": 1.0, "mail_retry_base_s": 0.05, "mail_lease_s": 10.0}
        return Mailer(self.db, self.mail_settings(**(quick | settings)))

    def mail_settings(self, **settings: Any) -> MailSettings:
        return MailSettings(
            smtp_url=self.mail.url, mail_from="CommDesk <billing@commdesk.example>", **settings
        )

    async def rows(self, channel: str = "email") -> list[asyncpg.Record]:
        return list(
            await self.admin.fetch("SELECT * FROM notifications WHERE channel = $1 ORDER BY id", channel)
        )

    async def states(self, channel: str = "email") -> dict[str, int]:
        rows = await self.rows(channel)
        return {s: sum(r["state"] == s for r in rows) for s in sorted({r["state"] for r in rows})}

    async def due_now(self) -> None:
        """Every lease and every pause is over."""
        await self.admin.execute("UPDATE notifications SET next_at = now() - interval '1 second'")

    async def outcomes(self) -> dict[str, int]:
        row = await self.admin.fetchrow(
            "SELECT sum(posted) posted, sum(existing) existing, sum(conflict) conflict, sum(quarantined) quarantined"
            " FROM batches WHERE topic = $1",
            TOPIC,
        )
        assert row is not None
        return {key: int(value) for key, value in row.items() if value}


def notice(user: UUID, kind: str = "credits_added", **more: Any) -> BillingNotice:
    """A notice of a payment of ₹500."""
    fields: dict[str, Any] = {
        "payment_id": str(uuid4()),
        "credits": 5000,
        "amount_paise": 50_000,
        "occurred_at": NOW,
    }
    return BillingNotice(user_id=str(user), kind=kind, **(fields | more))


@pytest.fixture
async def mail() -> AsyncIterator[MailServer]:
    server = await MailServer().start()
    yield server
    await server.stop()


@pytest.fixture
async def office(database: Any, mail: MailServer) -> AsyncIterator[Office]:
    db = await Database.connect(DatabaseSettings(database_url=database.url))
    admin = await asyncpg.connect(database.admin_url)
    core = Core(db, Silent(), GROUP, partitions=1)
    yield Office(core, PostgresOwnership(db, GROUP, [core.marks.restore]), admin, mail, database.admin_url)
    await admin.close()
    await db.close()
