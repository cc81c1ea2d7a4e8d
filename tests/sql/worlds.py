"""One random world, told twice: to the ledger in PostgreSQL and to its specification in memory."""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from domain.commands import INCOMING, KINDS, Command, Kind, Outcome, Payment, Status
from domain.gst import split_inclusive
from domain.ledger import Ledger
from domain.packs import PACKS
from sql import ledger, offsets
from sql.batches import Head
from sql.db import Database
from sql.ledger import Committed, Decision, LedgerCommand, Retry
from sql.offsets import Position

Told = tuple[Command, Outcome, Decision]
"""A command, what the specification answers, and what the database answered."""

NOW = datetime.now(UTC).replace(microsecond=0)
GROUP = "commdesk"
CREDIT, DEBIT = "wallet.credit", "wallet.debit"
FEATURES = ("chat.message", "ai.summary", None)
SPENDS = ["spend"] * 9
OTHERS = [*sorted(KINDS), "hold", "purchase", "grant", "nonsense"]


@dataclass
class Stream:
    """One partition we own, and where it stands."""

    topic: str
    position: Position
    offset: int = 0

    def head(self, records: int) -> Head:
        """The next batch of so many records."""
        begin, self.offset = self.offset, self.offset + records
        return Head(self.topic, 0, GROUP, self.position.epoch, begin, self.offset, self.offset - 1, b"digest")


@dataclass
class World:
    """Wallets, payments, commands of one seed; `admin` does what the web and the verifier would."""

    db: Database
    admin: "asyncpg.Connection[asyncpg.Record]"
    rng: random.Random
    model: Ledger = field(default_factory=Ledger)
    user: UUID = field(default_factory=uuid7)
    wallets: list[UUID] = field(default_factory=list)
    unopened: list[UUID] = field(default_factory=list)
    payments: dict[UUID, Payment] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    past: list[Command] = field(default_factory=list)
    extras: dict[UUID, dict[str, Any]] = field(default_factory=dict)
    count: int = 0

    async def begin(self, wallets: int) -> None:
        """Open wallets, name two that nobody has opened yet, claim both topics."""
        await self.admin.execute(
            "INSERT INTO users (id, external_id, state_code, request_hash) VALUES ($1, $2, '29', '')",
            self.user,
            str(self.user),
        )
        for _ in range(wallets):
            await self.open_wallet(uuid7())
        self.unopened = [uuid7(), uuid7()]
        for topic in (CREDIT, DEBIT):
            self.streams[topic] = Stream(topic, (await offsets.claim(self.db, topic, GROUP, "me", [0]))[0])

    async def open_wallet(self, wallet_id: UUID) -> None:
        self.model.open_wallet(wallet_id)
        self.wallets.append(wallet_id)
        await self.admin.execute(
            "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $2, '')", wallet_id, self.user
        )

    # -- what is asked

    async def payment(self, wallet_id: UUID) -> UUID:
        """A payments row as the verifier left it: verified (its credits are pending), held, or neither."""
        pack, verified, held = self.rng.choice(PACKS), self.rng.random() < 0.9, self.rng.random() < 0.1
        split = split_inclusive(pack.price_paise, inter_state=self.rng.random() < 0.5)
        id_ = uuid7()
        async with self.admin.transaction():
            await self.admin.execute(
                _PAYMENT,
                *(id_, self.user, wallet_id, pack.price_paise, pack.base, pack.bonus, pack.credits),
                *(split.taxable_paise, split.cgst_paise, split.sgst_paise, split.igst_paise, split.tax_paise),
            )
            await self.admin.execute(_TELL, "created", pack.credits, pack.price_paise)
        self.payments[id_] = Payment(wallet_id, split, pack.base, pack.bonus, verified=False)
        if verified:
            await self._verify(id_, held=held)
        return id_

    async def command(self, topic: str) -> Command:
        """One random command; often on things that exist, sometimes on ones that do not."""
        rng = self.rng
        if self.past and rng.random() < 0.08:
            return self.repeat(rng.choice(self.past[-200:]))
        self.count += 1
        kind = rng.choice(["purchase", "grant"] if topic == CREDIT else rng.choice([SPENDS, OTHERS]))
        wallet_id = rng.choice(self.wallets)
        asked = rng.choice([1, 7, rng.randint(1, 300), rng.randint(1, 2_000), 5_000])
        fields: dict[str, Any] = {"source": "test", "source_id": str(self.count)}
        extra: dict[str, Any] = {}
        if kind in INCOMING and rng.random() < 0.03 and self.unopened and kind == "grant":
            wallet_id = rng.choice(self.unopened)
        if kind not in INCOMING and rng.random() < 0.02:
            wallet_id = uuid7()
        if kind == "purchase":
            payment_id = await self.payment(wallet_id)
            if rng.random() < 0.1 and self.payments:
                payment_id = rng.choice(list(self.payments))
            payment = self.payments[payment_id]
            fields |= {"payment": payment, "source": "payment", "source_id": str(payment_id)}
            extra |= {
                "payment_id": str(payment_id),
                "invoice_partition": 0,
                "notify_partition": 1,
                "status_partition": 2,
            }
            asked = payment.credits_granted + rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
            if rng.random() < 0.03:  # forged: nobody ever paid
                fields |= {"payment": None, "source_id": str(uuid7())}
                extra["payment_id"] = fields["source_id"]
        if kind in INCOMING:
            expires_at = rng.choice([None, None, NOW + timedelta(hours=rng.randint(-12, 400))])
            fields |= {
                "expires_at": expires_at,
                "priority": rng.choice([0, 0, 1, -3]),
                "promotional": kind == "grant",
            }
            extra |= {"expires_at": expires_at and expires_at.isoformat(), "priority": fields["priority"]}
        lots = self.model.lots
        if lots and (kind in ("refund", "expire", "chargeback") or (kind == "hold" and rng.random() < 0.3)):
            lot = lots[rng.choice(list(lots)[-40:])]
            wallet_id = lot.wallet_id if rng.random() < 0.95 else wallet_id
            total = lot.paid_paise
            fields |= {"lot_id": lot.id, "refund_paise": rng.choice([0, 1, 10_000, total // 3, total, -1])}
            asked = rng.choice([asked, max(1, lot.free), max(1, lot.free // 3)])
        holds = [hold for hold in list(self.model.holds.values())[-30:] if hold.open or rng.random() < 0.1]
        if holds and kind in ("capture", "release", "refund"):
            hold = rng.choice(holds)
            if kind != "refund" or rng.random() < 0.6:
                fields["hold_id"] = hold.id
                wallet_id = hold.wallet_id
                asked = rng.choice([asked, hold.credits, max(1, hold.credits // 2)])
                if kind == "refund" and rng.random() < 0.9:
                    fields["lot_id"] = hold.parts[0][0]
        extra |= {name: str(fields[name]) for name in ("lot_id", "hold_id") if name in fields}
        if "refund_paise" in fields:
            extra["refund_paise"] = fields["refund_paise"]
        command = Command(
            id=uuid7(),
            wallet_id=wallet_id,
            kind=kind,
            credits=rng.choice([0, -5, 1_000_000_001]) if rng.random() < 0.01 else asked,
            key=f"test:{self.count}",
            request_hash=b"hash%d" % self.count,
            occurred_at=NOW + timedelta(hours=self.count // 12, minutes=rng.randint(-600, 60)),
            feature=rng.choice(FEATURES),
            **fields,
        )
        self.extras[command.id] = extra
        self.past.append(command)
        return command

    def repeat(self, command: Command) -> Command:
        """A known key again: mostly the same request, sometimes another one."""
        again = replace(command, id=uuid7())
        if self.rng.random() < 0.2:
            again = replace(again, request_hash=b"other", credits=command.credits + 1)
        self.extras[again.id] = self.extras[command.id]
        return again

    def encode(self, command: Command, offset: int = 0) -> LedgerCommand:
        return LedgerCommand(
            id=command.id,
            wallet_id=command.wallet_id,
            kind=command.kind,
            credits=command.credits,
            key=command.key,
            request_hash=command.request_hash,
            occurred_at=command.occurred_at,
            source=command.source,
            source_id=command.source_id,
            analytics_partition=self.count % 3,
            feature=command.feature,
            offset=offset,
            extra=self.extras[command.id] or None,
        )

    # -- telling both

    async def batch(self, size: int) -> list[Told]:
        """One batch on a random topic."""
        topic = self.rng.choice([CREDIT, DEBIT, DEBIT])
        commands = [await self.command(topic) for _ in range(size)]
        head = self.streams[topic].head(size)
        encoded = [self.encode(c, head.from_offset + n) for n, c in enumerate(commands)]
        committed = await ledger.commit_batch(self.db, head, encoded, expired_partition=2)
        return _told(commands, [self.model.apply(topic, self._as_known(c)) for c in commands], committed)

    async def retry(self) -> list[Told]:
        """Decide what waits for a random wallet anew, in order, until something must wait on."""
        rows = await self.admin.fetch(_WAITING)
        waiting = {(topic, str(wallet)) for (topic, wallet), queue in self.model.parked.items() if queue}
        assert {(row["topic"], row["key"]) for row in rows} == waiting
        rows = [row for row in rows if row["attempt"] < 15]
        if not rows:
            return []
        row = self.rng.choice(rows)
        topic, wallet_id, told = row["topic"], UUID(row["key"]), list[Told]()
        queue = self.model.parked[topic, wallet_id]
        while queue and not (told and told[-1][1].status is Status.PARKED):
            rows = await self.admin.fetch(_QUEUE, topic, str(wallet_id), self.rng.choice([1, 1, 2, 5]))
            queue[: len(rows)] = commands = [self._as_known(command) for command in queue[: len(rows)]]
            decide = [self.rng.random() < 0.3 + row["attempt"] / 10 for row in rows]
            retries = [Retry(row["id"], row["attempt"], d) for row, d in zip(rows, decide, strict=True)]
            items = [(retry, self.encode(c)) for retry, c in zip(retries, commands, strict=True)]
            epoch = self.streams[topic].position.epoch
            committed = await ledger.commit_retries(
                self.db, topic, 0, GROUP, epoch, items, expired_partition=2
            )
            told += self._retried(topic, commands, decide, committed)
        return told

    def _retried(
        self, topic: str, commands: list[Command], decide: list[bool], committed: Committed
    ) -> list[Told]:
        """What the specification says, one by one; what comes after one that must wait on is not decided anew."""
        assert committed.decisions is not None
        told: list[Told] = []
        for command, now, decision in zip(commands, decide, committed.decisions, strict=True):
            if not (told and told[-1][1].status is Status.PARKED):
                outcome = self.model.retry(topic, command.wallet_id, wait_for_pending=not now)
                told.append((command, outcome, decision))
            elif decision.outcome == "parked":
                assert decision.reason == "behind_parked"
            else:  # what is known already needs no turn
                assert decision.outcome in ("exists", "conflict")
                self.model.parked[topic, command.wallet_id].remove(command)
        return told

    async def call(self) -> list[Told]:
        """One command decided at once, as the API does; it never waits."""
        command = await self.command(DEBIT)
        while command.kind in INCOMING:
            command = await self.command(DEBIT)
        decision = await ledger.call(self.db, 0, self.encode(command), expired_partition=2)
        self.model.parked["api", command.wallet_id].append(command)
        outcome = self.model.retry("api", command.wallet_id, wait_for_pending=False)
        return [(command, outcome, decision)]

    async def life(self) -> None:
        """What else happens: a wallet is opened at last; what blocks a queue is verified, or given up."""
        if self.unopened and self.rng.random() < 0.02:
            await self.open_wallet(self.unopened.pop())
        for (topic, wallet_id), queue in self.model.parked.items():
            if not queue or queue[0].kind != Kind.PURCHASE or self.rng.random() < 0.6:
                continue
            payment_id = UUID(self.extras[queue[0].id]["payment_id"])
            payment = self.payments.get(payment_id)
            ours = payment is not None and payment.wallet_id == wallet_id
            if payment is not None and ours and not payment.verified:
                await self._verify(payment_id, held=False)
            elif payment is not None and ours and payment.held:
                self.payments[payment_id] = replace(payment, held=False)
                await self.admin.execute("UPDATE payments SET status = 'verified' WHERE id = $1", payment_id)
            else:
                await self.admin.execute(_GIVE_UP, topic, str(wallet_id))
                queue.pop(0)

    async def _verify(self, payment_id: UUID, *, held: bool) -> None:
        payment = replace(
            self.payments[payment_id], verified=True, held=held, offer_paise=self.offer(payment_id)
        )
        self.payments[payment_id] = payment
        self.model.expect_credits(payment.wallet_id, payment.credits_granted)
        async with self.admin.transaction():
            status = "held" if held else "verified"
            await self.admin.execute(_VERIFY, payment_id, status, payment.offer_paise)
            await self.admin.execute(_EXPECT, payment.wallet_id, payment.credits_granted)
            await self.admin.execute(_TELL, "verified", payment.credits_granted, payment.amount_paise)

    def offer(self, payment_id: UUID) -> int:
        """What an offer paid of a payment: mostly nothing."""
        price = self.payments[payment_id].amount_paise
        return self.rng.choice([0, 0, 0, 1, price // 10, price - 1])

    def _as_known(self, command: Command) -> Command:
        """The command with what its payments row says by now."""
        payment_id = self.extras[command.id].get("payment_id")
        if payment_id is None or command.payment is None:
            return command
        return replace(command, payment=self.payments[UUID(payment_id)])


_PAYMENT = """
INSERT INTO payments (id, user_id, wallet_id, order_id, amount, base_credits, bonus_credits, credits_granted,
    taxable_amount, cgst_amount, sgst_amount, igst_amount, gst_amount, place_of_supply, status, idempotency_key,
    request_hash)
  VALUES ($1, $2, $3, $1::uuid::text, $4, $5, $6, $7, $8, $9, $10, $11, $12, '29', 'active',
    'web:' || $1::uuid::text, '')
"""
_VERIFY = (
    "UPDATE payments SET status = $2, verified_at = now(), offer_amount = $3, offer_id = 'o' WHERE id = $1"
)
# As the functions of payments tell analytics.billing, on a chain of its own.
_TELL = """
WITH chain AS MATERIALIZED (SELECT * FROM begin_chain('desk', 0, 'test')),
told AS MATERIALIZED (
  SELECT count(*) FROM chain c, emit('desk', 0, 'test', c.incarnation, c.batch_no, ARRAY['analytics.billing'], ARRAY[0],
    ARRAY[payment_delta($1, now(), 1, $2, $3)]))
SELECT finish_batch(uuidv7(), 'desk', 0, 'test', c.batch_no, 0, c.incarnation, 0, 0, c.link, '', 1, 1, 0, 0, 0, 0, 0, 0)
  FROM chain c, told
"""
_EXPECT = "UPDATE wallets SET pending_credits = pending_credits + $2 WHERE id = $1"
_WAITING = """
SELECT DISTINCT ON (topic, key) id, topic, key, attempt FROM retries WHERE state = 'due' ORDER BY topic, key, id
"""
_QUEUE = """
SELECT id, attempt FROM retries WHERE topic = $1 AND key = $2 AND state = 'due' ORDER BY id LIMIT $3
"""
_GIVE_UP = """
UPDATE retries SET state = 'dead', finished_at = now()
 WHERE id = (SELECT min(id) FROM retries WHERE topic = $1 AND key = $2 AND state = 'due')
"""


def _told(commands: list[Command], outcomes: list[Outcome], committed: Committed) -> list[Told]:
    assert committed.decisions is not None
    return list(zip(commands, outcomes, committed.decisions, strict=True))


def same(command: Command, outcome: Outcome, decision: Decision) -> bool:
    """Whether the database answered as the specification does."""
    if outcome.status.value != decision.outcome:
        return False
    match outcome.status:
        case Status.POSTED:
            assert outcome.transaction is not None
            right = decision.transaction_id == command.id and decision.reason is None
            if command.kind in (Kind.CAPTURE, Kind.RELEASE, Kind.REFUND):
                return right  # what came back into a lapsed lot expired right after it
            return right and decision.balance_credits == outcome.transaction.balance_after
        case Status.EXISTS:
            assert outcome.original is not None
            return outcome.original.status.value == decision.reason
        case Status.CONFLICT:
            return decision.reason == "other_request"
    return outcome.reason is not None and outcome.reason.value == decision.reason
