"""A shop: orders, a gateway that answers as told, and streams that the test delivers, so that it may lose or double them."""

import hashlib
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from uuid import UUID, uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from agents import analytics_billing, fraud_detection, payment_processing, wallet_credit, webhook_processing
from agents.core import Core, PostgresOwnership
from agents.relay import Relay
from agents.verifier import Verifier
from domain.gst import split_inclusive
from domain.packs import pack_for
from gateway.entities import Order
from gateway.entities import Payment as Attempt
from gateway.errors import GatewayError, NotFound
from sql import invariants, payments, webhooks
from sql.db import Database, DatabaseSettings
from sql.payments import NewPayment, Payment
from sql.webhooks import NewWebhook
from streams.batches import Batch, Record
from tables.fraud import FraudWindows
from tests.kept import Kept

GROUP = "commdesk"
PARTITIONS = 3


def attempt(
    order_id: str, paid_paise: int, cf_payment_id: str = "1", status: str = "SUCCESS", **more: str | int
) -> Attempt:
    """An attempt as the gateway lists it."""
    return Attempt(
        cf_payment_id=cf_payment_id,
        order_id=order_id,
        status=status,
        amount_paise=paid_paise,
        currency="INR",
        **more,  # type: ignore[arg-type]
    )


class Gateway:
    """Answers about orders as the test says: an order, or an error to raise."""

    def __init__(self) -> None:
        self.orders: dict[str, Order | GatewayError] = {}
        self.attempts: dict[str, tuple[Attempt, ...]] = {}
        self.asked: list[str] = []
        self.asked_payments: list[str] = []

    async def get_order(self, order_id: str) -> Order:
        self.asked.append(order_id)
        answer = self.orders.get(order_id) or NotFound("get_order", order_id)
        if isinstance(answer, GatewayError):
            raise answer
        return answer

    async def get_payments(self, order_id: str) -> tuple[Attempt, ...]:
        """As the test says; else that one attempt paid it all."""
        self.asked_payments.append(order_id)
        order = self.orders[order_id]
        assert isinstance(order, Order)
        if order_id in self.attempts:
            return self.attempts[order_id]
        return (attempt(order_id, order.amount_paise),)

    def pays(
        self,
        payment: Payment,
        *,
        amount_paise: int | None = None,
        currency: str = "INR",
        status: str = "PAID",
    ) -> None:
        """GET order will say that the order is paid."""
        self.orders[payment.order_id] = Order(
            order_id=payment.order_id,
            cf_order_id=f"cf-{payment.order_id}",
            status=status,
            amount_paise=payment.amount_paise if amount_paise is None else amount_paise,
            currency=currency,
        )


Handler = Callable[[Batch], Awaitable[None]]


@dataclass
class Shop:
    """A core over a real database, and everything a payment passes."""

    core: Core
    kept: Kept
    ownership: PostgresOwnership
    windows: FraudWindows
    gateway: Gateway
    admin: asyncpg.Connection
    app_url: str
    readonly_url: str
    relay: Relay
    verifier: Verifier
    positions: dict[tuple[str, int], tuple[int, int, int]] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    prices: dict[str | None, int] = field(default_factory=dict)

    @property
    def db(self) -> Database:
        return self.core.db

    def handlers(self) -> dict[str, Handler]:
        return {
            "webhook.processing": partial(webhook_processing.handle, self.core),
            "payment.processing": partial(payment_processing.handle, self.core),
            "fraud.detection": partial(fraud_detection.handle, self.core, self.windows),
            "wallet.credit": partial(wallet_credit.handle, self.core),
            "analytics.billing": partial(analytics_billing.handle, self.core),
        }

    # The customer.

    async def buyer(self) -> tuple[UUID, UUID]:
        """A user in Karnataka and their wallet."""
        user, wallet = uuid4(), uuid4()
        await self.admin.execute(
            "INSERT INTO users (id, external_id, state_code, request_hash) VALUES ($1, $2, '29', '')",
            user,
            str(user),
        )
        await self.admin.execute(
            "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $2, '')", wallet, user
        )
        return user, wallet

    def new(self, user: UUID, wallet: UUID, price_paise: int = 50_000, **more: object) -> NewPayment:
        """A payment nobody has stored yet."""
        id = uuid7()
        fields: dict[str, object] = {
            "id": id,
            "key": f"web:{id}",
            "request_hash": b"body",
            "order_id": f"cd_{id.hex}",
            "place_of_supply": "29",
            "device_id": f"device-{user}",
            "ip": ip_address("49.36.0.7"),
        }
        self.prices[str((fields | more)["order_id"])] = price_paise
        return NewPayment(
            user_id=user,
            wallet_id=wallet,
            pack=pack_for(price_paise),
            split=split_inclusive(price_paise, inter_state=False),
            **(fields | more),  # type: ignore[arg-type]
        )

    async def order(
        self, buyer: tuple[UUID, UUID] | None = None, price_paise: int = 50_000, **more: object
    ) -> Payment:
        """A payment whose order the gateway knows."""
        user, wallet = buyer or await self.buyer()
        new = self.new(user, wallet, price_paise, **more)
        created = await payments.create_payment(
            self.db, new, shard=0, created_partition=self.core.partition("status=created")
        )
        assert created.payment is not None
        await payments.order_created(self.db, new.id, cf_order_id="c", session_id="s", expires_at=None)
        return await self.payment(new.id)

    async def payment(self, id: UUID) -> Payment:
        found = await payments.get_payment(self.db, id)
        assert found is not None
        return found

    # The gateway.

    def webhook(
        self,
        order_id: str | None,
        status: str = "SUCCESS",
        cf_payment_id: str = "1",
        *,
        minutes: float = 0,
        **more: object,
    ) -> NewWebhook:
        """What the gateway says about an attempt, `minutes` ago."""
        fields: dict[str, object] = {
            "id": uuid7(),
            "kind": "payment",
            "event_type": f"PAYMENT_{status}_WEBHOOK",
            "business_key": f"PAYMENT|{order_id}|{cf_payment_id}|{status}",
            "version": "2025-01-01",
            "stale": False,
            "body": b"{}",
            "status": status,
            "order_id": order_id,
            "cf_payment_id": cf_payment_id,
            "payment_group": "upi",
            "instrument": f"upi:{order_id}@bank",
            "amount_paise": self.prices.get(order_id),
            "occurred_at": datetime.now(UTC) - timedelta(minutes=minutes),
        }
        return NewWebhook(**(fields | more))  # type: ignore[arg-type]

    async def hear(self, *heard: NewWebhook) -> list[str]:
        """Webhooks arrive at the web process."""
        return list(await webhooks.insert_webhooks(self.db, heard))

    # The streams.

    async def own(self, topic: str, number: int) -> None:
        """Claim a partition as a worker would."""
        claim = (await self.ownership.claim(topic, [number], "test"))[number]
        await self.ownership.restore(topic, number, claim)
        self.positions[topic, number] = (claim.epoch, claim.incarnation, claim.next_offset)

    async def batch(self, topic: str, number: int, values: Sequence[bytes]) -> Batch:
        """The next records of a partition, as the transport would deliver them."""
        if (topic, number) not in self.positions:
            await self.own(topic, number)
        epoch, incarnation, start = self.positions[topic, number]
        now_ms = int(time.time() * 1000)
        records = [
            Record(offset, now_ms, None, value, {}, malformed=False)
            for offset, value in enumerate(values, start)
        ]
        end = start + len(records)
        self.positions[topic, number] = (epoch, incarnation, end)
        digest = hashlib.sha256(records[-1].value or b"").digest()
        return Batch(topic, number, epoch, incarnation, start, end, end - 1, digest, records)

    async def deliver(self, topic: str, chaos: random.Random | None = None) -> int:
        """Deliver what was published to a topic and not delivered yet; under `chaos` some of it twice, out of order."""
        waiting = [m for m in self.kept.sent if m.topic == topic]
        news = waiting[self.delivered[topic] :]
        self.delivered[topic] = len(waiting)
        if chaos is not None and news:
            news = [*news, *chaos.sample(news, k=len(news) // 2), *chaos.sample(waiting, k=len(waiting) // 4)]
            chaos.shuffle(news)
        by_partition: defaultdict[int, list[bytes]] = defaultdict(list)
        for message in news:
            by_partition[message.partition].append(message.value)
        for number, values in by_partition.items():
            await self.handlers()[topic](await self.batch(topic, number, values))
        return len(news)

    async def settle(self, chaos: random.Random | None = None) -> None:
        """Relay, deliver and verify until nothing moves any more."""
        while True:
            await self.relay.once()
            moved = await self.verifier.once()
            for topic in self.handlers():
                moved += await self.deliver(topic, chaos)
            if not moved:
                return

    # What there is.

    async def violations(self) -> list[str]:
        """Every invariant that does not hold."""
        return [str(violation) for violation in await invariants.check(self.readonly_url)]

    async def balance(self, wallet: UUID) -> tuple[int, int]:
        """(available, pending) credits."""
        row = await self.admin.fetchrow(
            "SELECT available_credits, pending_credits FROM wallets WHERE id = $1", wallet
        )
        assert row is not None
        return row[0], row[1]

    async def counts(self, topic: str) -> dict[str, int]:
        """Outcomes of all batches of a topic or chain."""
        row = await self.admin.fetchrow(
            "SELECT sum(posted) posted, sum(existing) existing, sum(parked) parked, sum(quarantined) quarantined"
            " FROM batches WHERE topic = $1",
            topic,
        )
        assert row is not None
        return {key: int(value) for key, value in dict(row).items() if value}

    async def by_status(self) -> dict[str, int]:
        """Payments in the billing windows, by status."""
        rows = await self.admin.fetch(
            "SELECT dimension, sum(count) AS n FROM billing_windows WHERE metric = 'payments' AND resolution = '1m' GROUP BY 1"
        )
        return {r["dimension"].removeprefix("status="): int(r["n"]) for r in rows}


@pytest.fixture
async def shop(database) -> AsyncIterator[Shop]:  # type: ignore[no-untyped-def]
    db = await Database.connect(DatabaseSettings(database_url=database.url))
    admin = await asyncpg.connect(database.admin_url)
    kept, gateway = Kept(), Gateway()
    core = Core(db, kept, GROUP, partitions=PARTITIONS)
    windows = FraudWindows(db)
    ownership = PostgresOwnership(db, GROUP, [core.marks.restore, windows.restore])
    verifier = Verifier(core, gateway, shard=0)
    yield Shop(
        core,
        kept,
        ownership,
        windows,
        gateway,
        admin,
        database.url,
        database.readonly_url,
        Relay(core),
        verifier,
    )
    assert kept.foreign == []
    await admin.close()
    await db.close()
