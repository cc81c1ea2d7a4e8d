"""A shop with a till: real PostgreSQL, the real gateway client, and a simulator whose webhooks reach our inbox."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiohttp import web
from pydantic import SecretStr
from uuid_utils.compat import uuid7

from agents import invoice_generate, notifications_billing, refund_processing, settlements_processing
from agents.core import Core, PostgresOwnership
from agents.refunder import Refunder
from agents.relay import Relay
from agents.reversals import Reversals
from agents.settings import InvoiceSettings
from agents.verifier import Verifier
from gateway.client import CashfreeClient, open_client
from gateway.requests import NewOrder
from gateway.settings import GatewaySettings
from gateway.simulator.app import SIMULATOR, make_app
from gateway.simulator.control import Pay, pay
from gateway.simulator.sim import SimConfig, Simulator
from gateway.webhooks import WebhookEvent, parse
from sql import ledger, refunds, reversals
from sql.db import Database, DatabaseSettings
from sql.ledger import LedgerCommand
from sql.payments import Payment
from sql.refunds import NewRefund, Policy, Refund, Requested
from sql.webhooks import NewWebhook
from tables.fraud import FraudWindows
from tests.gateway.conftest import CLIENT_ID, SECRET, serving
from tests.kept import Kept
from tests.payments.conftest import GROUP, PARTITIONS, Gateway, Handler, Shop

TERMS = InvoiceSettings().terms()


@dataclass
class Till(Shop):
    """A shop whose gateway is the simulator; `drain` moves everything until nothing moves."""

    client: CashfreeClient = field(kw_only=True)
    sim: Simulator = field(kw_only=True)
    refunder: Refunder = field(kw_only=True)
    watcher: Reversals = field(kw_only=True)
    shards: Iterator[int] = field(default_factory=lambda: itertools.cycle(range(16)))

    def handlers(self) -> dict[str, Handler]:
        return super().handlers() | {
            "refund.processing": partial(refund_processing.handle, self.core),
            "invoice.generate": partial(invoice_generate.handle, self.core, TERMS),
            "notifications.billing": partial(notifications_billing.handle, self.core),
            "settlements.processing": partial(settlements_processing.handle, self.core),
        }

    # The customer.

    async def place(self, price_paise: int = 100_000, buyer: tuple[UUID, UUID] | None = None) -> Payment:
        """An order that the gateway knows."""
        payment = await self.order(buyer, price_paise)
        await self.client.create_order(
            NewOrder(
                order_id=payment.order_id,
                amount_paise=price_paise,
                customer_id=f"u_{payment.user_id.hex}",
                customer_phone="9999999999",
            )
        )
        return payment

    async def buy(self, price_paise: int = 100_000, buyer: tuple[UUID, UUID] | None = None) -> Payment:
        """A payment that is credited and invoiced."""
        payment = await self.place(price_paise, buyer)
        self.pay(payment)
        await self.drain()
        return await self.payment(payment.id)

    def pay(self, payment: Payment, **wish: Any) -> list[str]:
        """The customer pays; the attempts' ids."""
        made = pay(self.sim.book, self.sim.book.order(payment.order_id), Pay(**wish))
        return [str(attempt.cf_payment_id) for attempt in made]

    async def spend(
        self,
        wallet: UUID,
        credits: int,
        *,
        kind: str = "spend",
        source: str = "test",
        source_id: str = "t",
        **extra: Any,
    ) -> str:
        """One command on the wallet; its outcome."""
        command = LedgerCommand(
            id=uuid7(),
            wallet_id=wallet,
            kind=kind,
            credits=credits,
            key=f"test:{uuid4()}",
            request_hash=b"h",
            occurred_at=datetime.now(UTC),
            source=source,
            source_id=source_id,
            analytics_partition=0,
            feature="chat",
            extra=extra or None,
        )
        return (await ledger.call(self.db, 0, command, expired_partition=self.core.partition(""))).outcome

    async def ask(
        self,
        payment: Payment,
        amount_paise: int,
        policy: Policy = "PRO_RATA",
        *,
        key: str | None = None,
        by: str = "customer",
    ) -> Requested:
        """Ask for a refund, as the API does; each on another chain, so that only the payment's lock is in the way."""
        said = f"{payment.id}|{amount_paise}|{policy}"
        return await refunds.request_refund(
            self.db,
            NewRefund(
                uuid7(),
                payment.id,
                amount_paise,
                policy,
                by,
                f"{by}:{key or uuid4()}",
                hashlib.blake2b(said.encode(), digest_size=16).digest(),
                "asked for",
            ),
            shard=next(self.shards),
            partitions={
                "refund": self.core.partition(str(payment.id)),
                "notify": self.core.partition(str(payment.user_id)),
                "expired": self.core.partition(""),
            },
        )

    async def refund(self, payment: Payment, amount_paise: int, policy: Policy = "PRO_RATA") -> Refund:
        """A refund that went through."""
        asked = await self.ask(payment, amount_paise, policy)
        assert asked.refund is not None, asked
        await self.drain()
        done = await refunds.get_refund(self.db, asked.refund.id)
        assert done is not None
        return done

    # The machinery.

    async def quiet(self) -> None:
        """Wait until the simulator has said all that is due now."""
        await asyncio.sleep(0)
        while self.sim.clock.pending:
            await asyncio.sleep(0.003)
        await self.sim.deliveries.settled()

    async def hurry(self) -> None:
        """What waits for its time is due now."""
        await self.admin.execute("UPDATE refunds SET next_at = now() WHERE next_at < 'infinity'")
        await self.admin.execute("UPDATE order_inquiries SET next_at = now() WHERE next_at < 'infinity'")

    async def expire_leases(self) -> None:
        """Whoever held a lease is dead."""
        await self.admin.execute("UPDATE refunds SET leased_until = '-infinity'")
        await self.admin.execute("UPDATE order_inquiries SET leased_until = '-infinity'")
        await self.admin.execute("UPDATE verifications SET leased_until = '-infinity'")

    async def drain(self) -> None:
        """Relay, deliver, ask and record until nothing moves any more."""
        while True:
            await self.quiet()
            await self.relay.once()
            moved = await self.verifier.once()
            moved += await self.refunder.pool.once()
            moved += await self.watcher.pool.once()
            for topic in self.handlers():
                moved += await self.deliver(topic)
            if not moved:
                await self.quiet()
                if not await self.admin.fetchval(
                    "SELECT count(*) FROM payment_webhooks WHERE published_at IS NULL"
                ):
                    return

    # What there is.

    async def sums(self) -> dict[str, int]:
        """Every account's balance, debits positive, without the zeros."""
        rows = await self.admin.fetch(
            "SELECT account::text, sum(amount)::bigint AS amount FROM ledger_entries GROUP BY 1 HAVING sum(amount) <> 0"
        )
        return {row["account"]: row["amount"] for row in rows}

    async def legs(self, key: str) -> dict[str, int]:
        """One transaction's legs, by its key."""
        rows = await self.admin.fetch(
            "SELECT e.account::text, sum(e.amount)::bigint AS amount FROM ledger_entries e JOIN wallet_transactions t"
            " ON t.id = e.transaction_id WHERE t.idempotency_key = $1 GROUP BY 1",
            key,
        )
        return {row["account"]: row["amount"] for row in rows}

    async def refunds(self, payment: Payment) -> list[Refund]:
        return await refunds.get_payment_refunds(self.db, payment.id)

    async def receipts(self, payment: Payment) -> list[reversals.Receipt]:
        return await reversals.get_receipts(self.db, payment.id)

    async def cases(self) -> list[str]:
        rows = await self.admin.fetch("SELECT kind FROM reconciliation_cases WHERE state = 'open' ORDER BY 1")
        return [row["kind"] for row in rows]

    async def metric(self, metric: str) -> dict[str, tuple[int, int, int]]:
        """(count, credits, paise) of a metric, by dimension."""
        rows = await self.admin.fetch(
            "SELECT dimension, sum(count)::bigint, sum(credits)::bigint, sum(amount_paise)::bigint FROM billing_windows"
            " WHERE metric = $1 AND resolution = '1m' GROUP BY 1",
            metric,
        )
        return {row[0]: (row[1], row[2], row[3]) for row in rows}

    def at_gateway(self, payment: Payment) -> list[tuple[str, int]]:
        """(status, paise) of every refund that the gateway has of the order."""
        found = self.sim.book.order(payment.order_id).refunds.values()
        return [(refund.status, refund.amount_paise) for refund in found]


def received(event: WebhookEvent, body: bytes) -> NewWebhook:
    """A webhook as the web process stores it."""
    return NewWebhook(
        id=uuid7(),
        business_key=event.business_key,
        kind=event.kind,
        event_type=event.event_type,
        version=event.version or "-",
        stale=False,
        body=body,
        status=event.status,
        order_id=event.order_id,
        cf_payment_id=event.cf_payment_id,
        refund_id=event.refund_id,
        payment_group=event.payment_group,
        instrument=None,
        amount_paise=event.amount_paise,
        offer_id=event.offer_id,
        discount_paise=event.discount_paise,
        currency=event.currency,
        occurred_at=event.happened_at,
    )


@pytest.fixture
async def till(database) -> AsyncIterator[Till]:  # type: ignore[no-untyped-def]
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(
            await Database.connect(DatabaseSettings(database_url=database.url, database_pool_size=10))
        )
        admin = await asyncpg.connect(database.admin_url)
        stack.push_async_callback(admin.close)
        shops: list[Till] = []

        async def receive(request: web.Request) -> web.Response:
            body = await request.read()
            event = parse(body, request.headers.get("x-webhook-version"))
            assert isinstance(event, WebhookEvent), event
            await shops[0].hear(received(event, body))
            return web.Response()

        door = web.Application()
        door.router.add_post("/hook", receive)
        hook = await stack.enter_async_context(serving(door))
        app = make_app(
            SimConfig(client_id=CLIENT_ID, client_secret=SECRET, webhook_url=hook + "/hook", seed=7)
        )
        url = await stack.enter_async_context(serving(app))
        limits = ("create_order", "get_order", "get_payments", "create_refund", "get_refund", "get_disputes")
        client = await stack.enter_async_context(
            open_client(
                GatewaySettings(
                    cashfree_base_url=url + "/pg",
                    cashfree_client_id=CLIENT_ID,
                    cashfree_client_secret=SecretStr(SECRET),
                    cashfree_limits_per_minute=dict.fromkeys(limits, 100_000),
                    cashfree_timeout_s=0.5,
                    cashfree_connect_timeout_s=0.5,
                )
            )
        )
        sim = app[SIMULATOR]
        sim.book.refund_delay_s = 0.0
        kept = Kept()
        core = Core(db, kept, GROUP, partitions=PARTITIONS)
        windows = FraudWindows(db)
        shop = Till(
            core,
            kept,
            PostgresOwnership(db, GROUP, [core.marks.restore, windows.restore]),
            windows,
            Gateway(),
            admin,
            database.url,
            database.readonly_url,
            Relay(core),
            Verifier(core, client, shard=0),
            client=client,
            sim=sim,
            refunder=Refunder(core, client, shard=0),
            watcher=Reversals(core, client, shard=0),
        )
        shops.append(shop)
        yield shop
        assert kept.foreign == []
