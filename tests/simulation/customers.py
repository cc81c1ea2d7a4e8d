"""Those outside: they buy, use, hold and want their money back, and remember what they asked and were told."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Final, TypeVar
from uuid import UUID

from domain.gst import GstSplit, split_inclusive
from domain.packs import PACKS, Pack
from sql import fraud, ledger, payments, publishers, refunds, usage, webhooks
from sql.db import Database, Row
from sql.errors import Unavailable, Waiting
from sql.ids import uuid7
from sql.ledger import Decision, LedgerCommand
from sql.payments import NewPayment
from sql.refunds import NewRefund
from sql.usage import NewUsage
from sql.webhooks import NewWebhook
from streams import amqp, messages
from streams.events import UsageEvent
from streams.topics import partition_of, partition_stream
from tests.simulation.clock import VirtualLoop
from tests.simulation.database import NOWHERE, Server, SimulatedDatabase
from tests.simulation.gateway import SimulatedGateway
from tests.simulation.schedule import Schedule
from tests.simulation.worker import PARTITIONS, Network

T = TypeVar("T")
SERVICE: Final = "chat"
SECRET: Final = b"simulated secret of one service!"
FEATURES: Final = ("chat.message", "voice.minute")


@dataclass(frozen=True, slots=True)
class Use:
    """A usage event somebody asked to be charged."""

    wallet: UUID
    credits: int
    feature: str


@dataclass(frozen=True, slots=True)
class Purchase:
    """An order."""

    wallet: UUID
    user: UUID
    order_id: str
    pack: Pack
    split: GstSplit


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits set aside by the API."""

    wallet: UUID
    credits: int


@dataclass
class Books:
    """What was asked, by idempotency key or id; and which of it was acknowledged."""

    usage: dict[str, Use] = field(default_factory=dict)
    purchases: dict[UUID, Purchase] = field(default_factory=dict)
    paid: set[UUID] = field(default_factory=set)
    grants: dict[str, Hold] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    ends: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Captures and releases: the hold's key, and how many credits."""
    refunds: dict[UUID, tuple[UUID, int]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    decided: dict[str, Decision] = field(default_factory=dict)


class Direct(Database):
    """The database without a schedule, for what happens before and after a run."""

    def __init__(self, server: Server) -> None:
        super().__init__(NOWHERE)
        self._server = server

    async def rows(self, query: str, *args: Any) -> list[Row]:
        return await self._server.fetch(query, *args)


class Customers:
    """The web process and all who call it; and one service that publishes by itself."""

    def __init__(
        self,
        rng: random.Random,
        loop: VirtualLoop,
        server: Server,
        schedule: Schedule,
        network: Network,
        gateway: SimulatedGateway,
    ) -> None:
        self.books = Books()
        self.wallets: list[tuple[UUID, UUID]] = []
        self._rng = rng
        self._loop = loop
        self._server = server
        self._network = network
        self._gateway = gateway
        self._db = SimulatedDatabase(server, schedule, "web")
        self._count = 0
        self.service = Service(self, rng, SimulatedDatabase(server, schedule, SERVICE), network)

    async def open(self) -> None:
        """Three wallets of two users, two of them with some credits; and the service."""
        users = [uuid7(), uuid7()]
        for user in users:
            await self._server.look(
                "INSERT INTO users (id, external_id, state_code, request_hash) VALUES ($1, $2, $3, '')",
                user,
                str(user),
                self._rng.choice(["29", "27"]),
            )
        self.wallets = [(users[0], uuid7()), (users[0], uuid7()), (users[1], uuid7())]
        for user, wallet in self.wallets:
            await self._server.look(
                "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $2, '')", wallet, user
            )
        for _, wallet in self.wallets[:2]:
            key = f"core:grant/{wallet}"
            self.books.grants[key] = Hold(wallet, self._rng.choice([40, 300, 2000]))
            command = self._command("grant", wallet, self.books.grants[key].credits, key)
            await ledger.call(Direct(self._server), 0, command)
        await self._server.look("UPDATE publishers SET secret = $1 WHERE name = 'core'", SECRET)
        await self._server.look("INSERT INTO publishers (name, secret) VALUES ($1, $2)", SERVICE, SECRET)

    @property
    def now(self) -> datetime:
        return self._loop.now

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Callers try again, with the same key, until they are told."""
        while True:
            try:
                return await call()
            except Unavailable:
                continue

    def next(self) -> int:
        self._count += 1
        return self._count

    def some_use(self) -> Use:
        _, wallet = self._rng.choice(self.wallets)
        return Use(wallet, self._rng.choice([1, 7, 60, 250, 1500]), self._rng.choice(FEATURES))

    # -- what they do

    async def use(self) -> None:
        """POST /v1/usage, now and then a known id again."""
        batch = [(f"u{self.next()}", self.some_use()) for _ in range(self._rng.randint(1, 3))]
        if self.books.usage and self._rng.random() < 0.2:
            key = self._rng.choice([k for k in self.books.usage if k.startswith("api:")] or ["api:none"])
            if key in self.books.usage:
                batch.append((key.removeprefix("api:"), self.books.usage[key]))
        events = [
            NewUsage(
                uuid7(),
                id,
                u.wallet,
                u.feature,
                1,
                u.credits,
                None,
                None,
                said(u.wallet, u.credits),
                self.now,
            )
            for id, u in batch
        ]
        self.books.usage |= {f"api:{id}": use for id, use in batch}
        receipts = await self._insist(lambda: usage.insert_usage(self._db, "api", events))
        assert set(receipts) <= {"accepted", "replayed"}, receipts
        self.books.acknowledged |= {f"api:{id}" for id, _ in batch}

    async def order(self) -> None:
        """POST /v1/payments/orders; mostly the customer pays."""
        user, wallet = self._rng.choice(self.wallets)
        pack, inter = self._rng.choice(PACKS), self._rng.random() < 0.5
        id = uuid7()
        purchase = Purchase(
            wallet, user, f"cd_{id.hex}", pack, split_inclusive(pack.price_paise, inter_state=inter)
        )
        new = NewPayment(
            id=id,
            key=f"web:{id}",
            request_hash=said(wallet, pack.price_paise),
            user_id=user,
            wallet_id=wallet,
            order_id=purchase.order_id,
            pack=pack,
            split=purchase.split,
            place_of_supply="27" if inter else "29",
            device_id=f"device-{user}",
            ip=ip_address("49.36.0.7"),
        )
        created = self._partition("status=created")
        await self._insist(lambda: payments.create_payment(self._db, new, shard=0, created_partition=created))
        self.books.purchases[id] = purchase
        self._gateway.create(purchase.order_id, pack.price_paise)
        await self._insist(
            lambda: payments.order_created(self._db, id, cf_order_id="c", session_id="s", expires_at=None)
        )
        if self._rng.random() < 0.9:
            self.pay(id)

    def pay(self, id: UUID) -> None:
        """The customer pays at the gateway."""
        self.books.paid.add(id)
        order_id = self.books.purchases[id].order_id
        attempts = self._rng.choices(
            [("SUCCESS",), ("FAILED", "SUCCESS"), ("SUCCESS", "SUCCESS")], (12, 5, 3)
        )[0]
        self._gateway.pay(order_id, self.now, *attempts)

    async def hear(self, webhook: NewWebhook) -> None:
        """POST /v1/webhooks/cashfree: the gateway insists, too."""
        await self._insist(lambda: webhooks.insert_webhooks(self._db, [webhook]))

    async def review(self, payment: UUID) -> None:
        """A person lets a held payment pass."""
        rejected = self._partition("status=rejected")
        await self._insist(
            lambda: fraud.review_payment(
                self._db, payment, "release", "a person", shard=3, rejected_partition=rejected
            )
        )

    async def ask_back(self) -> None:
        """POST /v1/refunds, of a payment that may be credited or not; at times twice with one key."""
        if not self.books.paid:
            return
        payment = self._rng.choice(sorted(self.books.paid))
        purchase = self.books.purchases[payment]
        amount = self._rng.choice([1, purchase.pack.price_paise // 3, purchase.pack.price_paise])
        new = NewRefund(
            uuid7(), payment, amount, "PRO_RATA", "customer", f"customer:{self.next()}", said(payment, amount)
        )
        self.books.refunds[new.id] = (payment, amount)
        parts = {
            "refund": self._partition(str(payment)),
            "notify": self._partition(str(purchase.user)),
            "expired": self._partition(""),
        }
        for _ in range(self._rng.choice([1, 1, 2])):
            asked = await self._insist(
                lambda: refunds.request_refund(self._db, new, shard=1, partitions=parts)
            )
            assert asked.outcome in ("created", "exists", "refused"), asked
            if asked.outcome == "created":
                self.books.acknowledged.add(str(new.id))

    async def hold(self) -> None:
        """POST /v1/holds."""
        _, wallet = self._rng.choice(self.wallets)
        key, credits = f"api:h{self.next()}", self._rng.choice([5, 30, 400])
        self.books.holds[key] = Hold(wallet, credits)
        await self._decide(key, self._command("hold", wallet, credits, key, reason="table"))

    async def end_hold(self) -> None:
        """POST /v1/holds/{id}/capture or /release: one of a hold that was told to be there."""
        held = [k for k in self.books.holds if k in self.books.acknowledged]
        if not held:
            return
        of = self._rng.choice(held)
        hold, decision = self.books.holds[of], self.books.decided[of]
        kind = self._rng.choice(["capture", "release"])
        credits = self._rng.choice([hold.credits, max(1, hold.credits // 2)])
        key = f"api:{kind}{self.next()}"
        self.books.ends[key] = (of, credits)
        await self._decide(
            key, self._command(kind, hold.wallet, credits, key, hold_id=str(decision.transaction_id))
        )

    async def _decide(self, key: str, command: LedgerCommand) -> None:
        try:
            decision = await self._insist(
                lambda: ledger.call(self._db, 2, command, expired_partition=self._partition(""))
            )
        except Waiting:
            return
        self.books.decided[key] = decision
        if decision.outcome == "posted" or (decision.outcome, decision.reason) == ("exists", "posted"):
            self.books.acknowledged.add(key)

    def _command(self, kind: str, wallet: UUID, credits: int, key: str, **extra: Any) -> LedgerCommand:
        return LedgerCommand(
            id=uuid7(),
            wallet_id=wallet,
            kind=kind,
            credits=credits,
            key=key,
            request_hash=said(wallet, credits),
            occurred_at=self.now,
            source="test",
            source_id=key,
            analytics_partition=self._partition("source=grant" if kind == "grant" else ""),
            extra=extra or None,
        )

    def _partition(self, key: str) -> int:
        return partition_of(key, PARTITIONS)


class Service:
    """A service's publisher: numbered batches, kept until the watermark covers them, sent again until then."""

    def __init__(
        self, customers: Customers, rng: random.Random, db: SimulatedDatabase, network: Network
    ) -> None:
        self._customers = customers
        self._rng = rng
        self._db = db
        self._network = network
        self._session = str(uuid7())
        self._next_seq = dict.fromkeys(range(PARTITIONS), 1)
        self.kept: dict[int, list[tuple[int, bytes, list[str]]]] = {p: [] for p in range(PARTITIONS)}

    async def charge(self) -> None:
        """Publish one batch for one wallet."""
        use = self._customers.some_use()
        partition = partition_of(str(use.wallet), PARTITIONS)
        events, keys = [], []
        for _ in range(self._rng.randint(1, 3)):
            id = f"s{self._customers.next()}"
            event = UsageEvent(id=id, wallet_id=str(use.wallet), feature=use.feature, credits=use.credits)
            events.append(messages.encode_usage(event))
            keys.append(f"{SERVICE}:{id}")
            self._customers.books.usage[keys[-1]] = use
        seq = self._next_seq[partition]
        self._next_seq[partition] += 1
        value = messages.encode_usage_batch(self._session, seq, events)
        headers = {"publisher": SERVICE, "mac": messages.sign(value, SECRET)}
        raw = amqp.encode(str(use.wallet).encode(), value, headers)
        self.kept[partition].append((seq, raw, keys))
        await self._network.send(SERVICE, partition_stream("wallet.debit", partition), [raw])

    async def look(self) -> None:
        """Forget what is decided, and send the rest again."""
        try:
            covered = await publishers.watermarks(self._db, SERVICE, self._session, "wallet.debit")
        except Unavailable:
            return
        for partition, kept in self.kept.items():
            for seq, _, keys in list(kept):
                if seq <= covered.get(partition, 0):
                    self._customers.books.acknowledged |= set(keys)
                    kept.remove((seq, _, keys))
            if kept:
                stream = partition_stream("wallet.debit", partition)
                await self._network.send(SERVICE, stream, [raw for _, raw, _ in kept])


def said(*what: object) -> bytes:
    """16 bytes over what the same key must repeat."""
    return hashlib.blake2b(repr(what).encode(), digest_size=16).digest()
