"""Whole outages, one after another, and what callers are answered meanwhile: Redis, RabbitMQ and PostgreSQL away."""

import asyncio
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from rich.console import Console
from rich.table import Table

from bench.faults.alerts import Span
from bench.faults.canary import Canary
from bench.faults.kinds import Lane, Scene
from bench.faults.nemesis import Injected
from bench.faults.web import Answer
from gateway.signature import sign
from gateway.simulator.book import Book
from gateway.simulator.clock import SimClock
from gateway.simulator.events import webhook_body
from gateway.simulator.plan import WebhookPlan

SETTLE_S: Final = 1.0
"""From the outage's beginning until answers count: a request under way is nobody's fault."""
EVERY_S: Final = 0.1
AT_ONCE: Final = 8
"""Most calls of a kind under way: a caller who waits does not call again."""
VERSION: Final = "2025-01-01"


@dataclass(slots=True)
class Outage:
    """What was answered while it lasted: per kind of call, statuses and how long the answers took."""

    name: str
    must: dict[str, frozenset[int]]
    """The statuses that each kind of call may be answered with."""
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recovery_s: float | None = None
    alert: str = ""
    began: float = 0.0
    ended: float = 0.0

    def wrong(self) -> dict[str, int]:
        """Answers of another status than allowed, by kind of call; a kind never answered counts as one."""
        found = {
            call: sum(n for status, n in self.statuses[call].items() if status not in allowed)
            or int(not self.statuses[call])
            for call, allowed in self.must.items()
        }
        return {call: count for call, count in found.items() if count}

    def figures(self) -> dict[str, Any]:
        """By kind of call: answers by status, median and p99 in ms; and the recovery in seconds."""
        calls = {
            call: {
                "answers": {str(status or "none"): n for status, n in sorted(statuses.items())},
                "p50_ms": _ms(self.seconds[call], 0.5),
                "p99_ms": _ms(self.seconds[call], 0.99),
            }
            for call, statuses in sorted(self.statuses.items())
        }
        return {"calls": calls, "wrong": self.wrong(), "recovery_s": self.recovery_s}


def _ms(seconds: list[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


OK: Final = frozenset({200})
AWAY: Final = frozenset({503})
GOES_ON: Final = {"webhook": OK, "read": OK, "usage": OK}


class Outages:
    """Plays them in place of a nemesis, with a prober that calls every door ten times a second."""

    def __init__(self, scene: Scene, canary: Canary, tell: Callable[[str], None]) -> None:
        self.injected: list[Injected] = []
        self.now: dict[Lane, str] = {}
        self.outages: list[Outage] = []
        self._scene, self._canary, self._tell = scene, canary, tell
        self._current: Outage | None = None

    @property
    def spans(self) -> list[Span]:
        """When each held, its recovery included."""
        return [Span(o.name, (o.alert,), o.began, o.ended) for o in self.outages]

    async def run(self, seconds: float) -> None:
        """Each for so long, with a recovery after it."""
        probing = asyncio.create_task(self._probe())
        try:
            await self._play(
                Outage("Redis killed", {**GOES_ON, "refund": AWAY, "payout": AWAY}, alert="RedisDown"),
                self._no_redis,
                seconds / 3,
            )
            await self._play(
                Outage("Redis frozen", {**GOES_ON, "refund": AWAY, "payout": AWAY}, alert="RedisDown"),
                self._frozen_redis,
                seconds / 3,
            )
            await self._play(
                Outage("RabbitMQ down", GOES_ON, alert="RabbitMQFailing"), self._no_rabbitmq, seconds
            )
            doors = ("webhook", "read", "usage", "refund")
            await self._play(
                Outage("PostgreSQL down", dict.fromkeys(doors, AWAY), alert="PostgresDown"),
                self._no_postgres,
                seconds / 3,
            )
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def _play(
        self, outage: Outage, make: Callable[[], AbstractAsyncContextManager[None]], seconds: float
    ) -> None:
        self.outages.append(outage)
        outage.began = time.monotonic()
        async with make():
            self._tell(f"{outage.name}, {seconds:.0f} s")
            self.now["parts"] = outage.name
            await asyncio.sleep(SETTLE_S)
            self._current = outage
            await asyncio.sleep(seconds)
            self._current = None
            healed = time.monotonic()
        self.now.clear()
        await self._canary.alive(payment=True)
        outage.ended = time.monotonic()
        outage.recovery_s = round(outage.ended - healed, 2)
        self._tell(f"{outage.name}: recovered in {outage.recovery_s} s")

    @asynccontextmanager
    async def _no_redis(self) -> AsyncIterator[None]:
        self._scene.system.valkey.kill9()
        yield
        await self._scene.system.valkey.start()

    @asynccontextmanager
    async def _frozen_redis(self) -> AsyncIterator[None]:
        self._scene.system.valkey.process.send(signal.SIGSTOP)
        yield
        self._scene.system.valkey.process.send(signal.SIGCONT)

    @asynccontextmanager
    async def _no_rabbitmq(self) -> AsyncIterator[None]:
        self._scene.system.broker.kill9()
        yield
        await self._scene.system.broker.start()

    @asynccontextmanager
    async def _no_postgres(self) -> AsyncIterator[None]:
        self._scene.system.postgres.kill9()
        yield
        await self._scene.system.postgres.start()

    async def _probe(self) -> None:
        """Every call on schedule, answered or not; what is answered counts for the outage it began and ended in."""
        web, source = self._scene.load.web, random.Random(0)
        wallets = self._scene.load.accounts.by_door["api"]
        calls: dict[str, Callable[[], Awaitable[Answer]]] = {
            "webhook": self._webhook,
            "read": lambda: web.get(f"/v1/wallets/{source.choice(wallets)}"),
            "usage": self._usage,
            "refund": lambda: web.post(f"/v1/payments/{uuid4()}/refunds", {"amount_paise": 100}),
            "payout": lambda: web.post(f"/v1/refunds/{uuid4()}/payout", {"verdict": "approve"}),
        }
        under_way: dict[str, set[asyncio.Task[None]]] = {name: set() for name in calls}
        try:
            while True:
                for name, call in calls.items():
                    if len(under_way[name]) < AT_ONCE:
                        task = asyncio.create_task(self._one(name, call))
                        under_way[name].add(task)
                        task.add_done_callback(under_way[name].discard)
                await asyncio.sleep(EVERY_S)
        finally:
            await asyncio.gather(
                *(task for tasks in under_way.values() for task in tasks), return_exceptions=True
            )

    async def _one(self, name: str, call: Callable[[], Awaitable[Answer]]) -> None:
        outage, began = self._current, time.monotonic()
        answer = await call()
        if outage is not None and outage is self._current:
            outage.statuses[name][answer.status] += 1
            outage.seconds[name].append(time.monotonic() - began)

    async def _usage(self) -> Answer:
        """An event that stays in the log: acknowledged, it must have its outcome in the end."""
        return await self._scene.load.use_once()

    async def _webhook(self) -> Answer:
        """A signed webhook of a failed attempt of a real order: a new row each time, which changes nothing."""
        load = self._scene.load
        known = [order for order in load.log.orders if order.order_id is not None]
        if not known:
            return Answer(0, None)
        book = Book(SimClock(), seed=random.getrandbits(32))
        chosen = random.choice(known)
        order = book.create_order(
            order_id=chosen.order_id, amount_paise=chosen.pack_paise, currency="INR", customer={}, meta={},
            tags=None, note=None, splits=[], expiry_ms=None,
        )  # fmt: skip
        attempt = book.start_attempt(order, "upi", None)
        attempt.status, attempt.completed_ms = "FAILED", book.clock.now_ms()
        body = webhook_body(
            "PAYMENT_FAILED_WEBHOOK", order, attempt, VERSION, WebhookPlan(), book.clock.now_ms()
        )
        stamp = str(book.clock.now_ms())
        headers = {
            "Content-Type": "application/json",
            "x-webhook-signature": sign(self._scene.system.secret.encode(), stamp, body).decode(),
            "x-webhook-timestamp": stamp,
            "x-webhook-version": VERSION,
        }
        return await load.web.deliver(body, headers)


def show(outages: list[Outage]) -> None:
    """One table."""
    table = Table(title="outages", title_justify="left")
    for column in ("outage", "call", "answers", "p50 ms", "p99 ms", "must be"):
        table.add_column(column)
    for outage in outages:
        for call, found in outage.figures()["calls"].items():
            answers = ", ".join(f"{n} × {status}" for status, n in found["answers"].items())
            allowed = "/".join(str(s) for s in sorted(outage.must.get(call, ())))
            mark = f"[red]{answers}[/red]" if call in outage.wrong() else answers
            table.add_row(outage.name, call, mark, str(found["p50_ms"]), str(found["p99_ms"]), allowed)
        table.add_row(outage.name, "recovered", f"{outage.recovery_s} s", "", "", "")
    Console().print(table)
