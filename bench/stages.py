"""`./dev bench stages`: what each stage of a payment costs, PostgreSQL's CPU and ours apart, stage after stage.

The agents' own code on a durable private PostgreSQL with one connection; the broker is a list in memory and the gateway a
function, so that nothing but the stage itself is counted. `--batch` payments are taken through all stages, then the next;
with P partitions a stage commits batches of about batch / P. CPU is the backend's own (its kernel's count), so a busy
machine changes the figures little.
"""

from __future__ import annotations

import argparse
import array
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from agents import (
    analytics_billing,
    fraud_detection,
    invoice_generate,
    notifications_billing,
    payment_processing,
    wallet_credit,
    webhook_processing,
)
from agents.core import Core, Outgoing, PostgresOwnership
from agents.relay import Relay
from agents.settings import InvoiceSettings
from agents.verifier import Verifier
from agents.worker import rest_the_collector
from bench.frame import durability, machine, report, say
from bench.prepare import PRICE_PAISE, World, prepare
from bench.sender import body_of, body_template
from deploy.local.postgres import SUPERUSER
from deploy.local.private import private_postgres
from gateway.entities import Order, Payment
from gateway.signature import Reason, Verdict
from sql import webhooks
from sql.db import Database, DatabaseSettings
from streams.batches import Batch, Claim, Record
from tables.fraud import FraudWindows
from web.resources.webhooks import stored_form

NAME: Final = "stages"
_TOPICS: Final = (
    webhook_processing.TOPIC,
    payment_processing.TOPIC,
    fraud_detection.TOPIC,
    wallet_credit.TOPIC,
    invoice_generate.TOPIC,
    notifications_billing.TOPIC,
    analytics_billing.TOPIC,
)


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--payments", type=int, default=4_000)
    parser.add_argument("--batch", type=int, default=100, help="payments in each round")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--wallets", type=int, default=20_000)
    parser.add_argument("--prepared", type=int, default=100, help="prepared statements kept per connection")


class Streams:
    """The broker as lists: what is published to a partition waits there."""

    def __init__(self) -> None:
        self.waiting: defaultdict[tuple[str, int], list[Record]] = defaultdict(list)
        self._next: defaultdict[tuple[str, int], int] = defaultdict(int)

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """See `agents.core.Writer`."""
        now_ms = time.time_ns() // 1_000_000
        for message in outgoing:
            place = (message.topic, message.partition)
            offset, self._next[place] = self._next[place], self._next[place] + 1
            key = message.key.encode()
            self.waiting[place].append(Record(offset, now_ms, key, message.value, message.headers, False))


class Paid:
    """The gateway as a function: every order is paid."""

    async def get_order(self, order_id: str) -> Order:
        return Order(
            order_id=order_id, cf_order_id="1", status="PAID", amount_paise=PRICE_PAISE, currency="INR"
        )

    async def get_payments(self, order_id: str) -> tuple[Payment, ...]:
        raise AssertionError(f"{order_id} was paid whole: nobody needs to look at its attempts")


class Meter:
    """CPU by stage: (backend's ns, ours in ns, commits)."""

    def __init__(self, backend: int) -> None:
        self._file = Path(f"/proc/{backend}/schedstat")
        self.spent: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])

    async def take(self, stage: str, work: Awaitable[Any]) -> Any:
        """Do some work and count it for a stage."""
        backend, own = self._backend(), time.process_time_ns()
        try:
            return await work
        finally:
            spent = self.spent[stage]
            spent[0] += self._backend() - backend
            spent[1] += time.process_time_ns() - own
            spent[2] += 1

    def _backend(self) -> int:
        return int(self._file.read_text().split()[0])


class Line:
    """All stages of one worker that owns everything."""

    def __init__(self, db: Database, partitions: int, meter: Meter) -> None:
        self.streams = Streams()
        self.core = core = Core(db, self.streams, "commdesk", partitions)
        self._meter = meter
        self._windows = windows = FraudWindows(db)
        self._ownership = PostgresOwnership(db, core.group, [core.marks.restore, windows.restore])
        self._relay = Relay(core)
        self._verifier = Verifier(core, Paid(), shard=0)
        self._claims: dict[tuple[str, int], Claim] = {}
        self._ends: defaultdict[tuple[str, int], int] = defaultdict(int)
        terms = InvoiceSettings().terms()
        self._handlers: dict[str, Callable[[Batch], Awaitable[None]]] = {
            webhook_processing.TOPIC: lambda batch: webhook_processing.handle(core, batch),
            payment_processing.TOPIC: lambda batch: payment_processing.handle(core, batch),
            fraud_detection.TOPIC: lambda batch: fraud_detection.handle(core, windows, batch),
            wallet_credit.TOPIC: lambda batch: wallet_credit.handle(core, batch),
            invoice_generate.TOPIC: lambda batch: invoice_generate.handle(core, terms, batch),
            analytics_billing.TOPIC: lambda batch: analytics_billing.handle(core, batch),
            notifications_billing.TOPIC: lambda batch: notifications_billing.handle(core, batch),
        }

    async def start(self) -> None:
        """Claim everything."""
        for topic in _TOPICS:
            claims = await self._ownership.claim(topic, range(self.core.partitions), "bench")
            for number, claim in claims.items():
                self._claims[topic, number] = claim
                await self._ownership.restore(topic, number, claim)

    async def through(self, numbers: Sequence[int], ranks: Sequence[int]) -> None:
        """Take these orders' webhooks through every stage."""
        template = body_template()
        bodies = [body_of(template, number, ranks[number - 1], time.time()) for number in numbers]

        async def accept() -> None:
            verdict = Verdict(Reason.OK, 0, 0, version="2025-01-01")
            await webhooks.insert_webhooks(
                self.core.db, [stored_form(raw, verdict, None)[0] for raw in bodies]
            )

        await self._meter.take("inbox", accept())
        await self.relay()
        for topic in _TOPICS[:2]:
            await self._drain(topic)
        while await self._meter.take("verify", self._verifier.once(limit=200)):
            pass
        for topic in _TOPICS[2:]:
            await self._drain(topic)

    async def relay(self) -> None:
        """What waits in inboxes and outbox goes out."""
        await self._meter.take("relay", self._relay.once())

    async def _drain(self, topic: str) -> None:
        for (named, number), records in list(self.streams.waiting.items()):
            if named != topic or not records:
                continue
            claim = self._claims[topic, number]
            begin, last = self._ends[topic, number], records[-1].offset
            batch = Batch(
                topic, number, claim.epoch, claim.incarnation, begin, last + 1, last, b"digest", records
            )
            self.streams.waiting[named, number] = []
            self._ends[topic, number] = last + 1
            await self._meter.take(topic, self._handlers[topic](batch))


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if the books are not in order after it."""
    about, runs, settings = machine(), [], {}
    rest_the_collector()
    for _ in range(options.runs):
        async with private_postgres() as postgres:
            admin = postgres.url(SUPERUSER)
            settings = await durability(admin) | {"batch": options.batch, "partitions": options.partitions}
            world = await prepare(admin, wallets=options.wallets, orders=options.payments, seed=options.seed)
            runs.append(await measure(postgres.url(), world, options))
            show(runs[-1])
    report(options, NAME, settings, runs, about=about)
    return 0


async def measure(url: str, world: World, options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds per payment by stage."""
    async with await Database.connect(
        DatabaseSettings(
            database_url=url, database_pool_size=1, database_statement_cache_size=options.prepared
        )
    ) as db:
        meter = Meter(await db.value("SELECT pg_backend_pid()"))
        line = Line(db, options.partitions, meter)
        await line.start()
        ranks = array.array("I", world.orders)
        warm = options.payments // 4
        for start in range(1, options.payments + 1, options.batch):
            if start > warm and warm:
                meter.spent.clear()
                warm = 0
            await line.through(range(start, min(start + options.batch, options.payments + 1)), ranks)
        count = options.payments - options.payments // 4
        credited = await db.value(
            "SELECT count(*) FROM payments WHERE status = 'credited' AND order_id LIKE 'bench%'"
        )
    if credited != options.payments:
        say(f"only {credited} of {options.payments} are credited")
    found: dict[str, Any] = {"lost": options.payments - credited}
    for stage, (backend, own, commits) in meter.spent.items():
        found[f"{stage} postgres_us"] = round(backend / count / 1e3, 1)
        found[f"{stage} worker_us"] = round(own / count / 1e3, 1)
        found[f"{stage} commits"] = commits
    found["postgres_us"] = round(sum(spent[0] for spent in meter.spent.values()) / count / 1e3, 1)
    found["worker_us"] = round(sum(spent[1] for spent in meter.spent.values()) / count / 1e3, 1)
    return found


def show(found: dict[str, Any]) -> None:
    """Stages as rows."""
    table = Table("stage", "PostgreSQL µs", "ours µs", "commits")
    for name in found:
        if name.endswith(" postgres_us"):
            stage = name.removesuffix(" postgres_us")
            table.add_row(
                stage, *(str(found[f"{stage} {what}"]) for what in ("postgres_us", "worker_us", "commits"))
            )
    table.add_row("all", str(found["postgres_us"]), str(found["worker_us"]), "")
    Console(width=120).print(table)
