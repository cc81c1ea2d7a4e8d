"""One run: two workers, a broker, a gateway and their customers over one database, moved step by step."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Final

from gateway.entities import Refund
from sql.ids import uuid7
from sql.webhooks import NewWebhook
from streams.topics import TOPICS, partition_stream
from streams.transport.partition import Partition
from tests.simulation.broker import SimulatedBroker
from tests.simulation.clock import VirtualLoop
from tests.simulation.customers import Customers
from tests.simulation.database import Server
from tests.simulation.gateway import SimulatedGateway
from tests.simulation.schedule import Fate, Schedule, Trace
from tests.simulation.worker import PARTITIONS, Network, Tasks, Worker, actor_of

SWEEP_S: Final = 31.0
"""After so long, whatever nobody has applied is published again."""
_ROUNDS: Final = 400
_UNFINISHED: Final = """
SELECT string_agg(what || ' ' || n, ', ' ORDER BY what) FROM (
  SELECT 'webhooks' AS what, count(*) AS n FROM payment_webhooks WHERE closed_at IS NULL
  UNION ALL SELECT 'usage', count(*) FROM usage_metering WHERE closed_at IS NULL
  UNION ALL SELECT 'outbox', count(*) FROM outbox o LEFT JOIN producer_watermarks m
     ON (m.topic, m.partition, m.producer_topic, m.producer_partition, m.producer_group)
      = (o.dest_topic, o.dest_partition, o.producer_topic, o.producer_partition, o.producer_group)
    WHERE o.batch_no > coalesce(m.last_batch_no, 0)
  UNION ALL SELECT 'retries', count(*) FROM retries WHERE state = 'due'
  UNION ALL SELECT 'verifications', count(*) FROM verifications WHERE state = 'due'
  UNION ALL SELECT 'fraud checks', count(*) FROM fraud_checks WHERE open
  UNION ALL SELECT 'refunds', count(*) FROM refunds WHERE status IN ('requested', 'due', 'pending')
  UNION ALL SELECT 'inquiries', count(*) FROM order_inquiries WHERE next_at < now() + interval '1 hour') x
 WHERE n > 0
"""

_REWIND: Final = """
UPDATE consumer_offsets SET epoch = epoch + 1, incarnation = incarnation + 1, next_offset = 0, last_offset = NULL,
                            last_digest = NULL WHERE epoch > 0
"""


class Stuck(Exception):
    """The system does not come to rest, though nothing disturbs it any more."""


class World:
    """Everything of one run. Only `Nemesis` and `drain` decide what happens next."""

    def __init__(self, loop: VirtualLoop, server: Server, rng: random.Random) -> None:
        self.loop = loop
        self.server = server
        self.rng = rng
        self.trace = Trace()
        self.bugs: list[str] = []
        self.schedule = Schedule(loop, self.trace)
        streams = [partition_stream(topic, p) for topic in sorted(TOPICS) for p in range(PARTITIONS)]
        self.broker = SimulatedBroker(streams, rng)
        self.network = Network(self.broker, self.schedule, loop)
        self.gateway = SimulatedGateway(uuid7)
        self.customers = Customers(rng, loop, server, self.schedule, self.network, self.gateway)
        self.workers: list[Worker] = []
        self.heard: list[NewWebhook] = []
        self._outside = Tasks()
        self._names = 0

    async def open(self) -> None:
        """Customers with wallets, and two workers that join."""
        await self.customers.open()
        for _ in range(2):
            await self.hire()
        await self._flow()
        while (timer := self.loop.next_timer_s) is not None and timer < 0.01:
            await self.pass_time(timer)
            await self._flow()

    async def hire(self) -> None:
        """One more worker process."""
        self._names += 1
        worker = Worker(
            f"w{self._names}", self._names % 4, server=self.server, schedule=self.schedule,
            network=self.network, gateway=self.gateway, bugs=self.bugs,
        )  # fmt: skip
        await worker.start()
        self.workers.append(worker)
        await self.loop.settle()

    def outside(self, work: Coroutine[Any, Any, None]) -> None:
        """Somebody outside begins to do something."""

        async def watched() -> None:
            try:
                await work
            except Exception as error:
                self.bugs.append(f"outside: {type(error).__name__}: {error}")

        token = actor_of.set(self._outside)
        try:
            asyncio.ensure_future(watched())  # noqa: RUF006 - kept in `_outside`
        finally:
            actor_of.reset(token)

    def close(self) -> None:
        """End every process."""
        for worker in self.workers:
            worker.kill()
        self._outside.kill()

    # -- what the broker, the gateway and the operator do

    async def deliver(self) -> bool:
        """One chunk to one consumer; False if none waits."""
        ready = [group for group in self.broker.groups.values() if group.deliverable]
        if ready:
            self.rng.choice(ready).deliver()
            await self.loop.settle()
        return bool(ready)

    async def pass_time(self, seconds: float) -> None:
        self.loop.advance(seconds)
        await self.loop.settle()

    def tell(self) -> bool:
        """The gateway sends a webhook, now and then one that it has sent before."""
        news = self.gateway.webhooks
        if news and (not self.heard or self.rng.random() < 0.8):
            webhook = news.pop(self.rng.randrange(len(news)))
            self.heard.append(webhook)
        elif self.heard:
            webhook = self.gateway.again(self.rng.choice(self.heard))
            self.trace.fire("a webhook comes again")
        else:
            return False
        self.outside(self.customers.hear(webhook))
        return True

    def decide_refund(self) -> bool:
        """The gateway ends a pending refund."""
        pending = self.gateway.pending
        if pending:
            refund: Refund = self.rng.choice(pending)
            asked = {f"rf_{id.hex}" for id in self.customers.books.refunds}
            fails = refund.refund_id in asked and self.rng.random() < 0.2
            status = "FAILED" if fails else "SUCCESS"
            self.gateway.decide(refund, status, self.loop.now)
        return bool(pending)

    def partitions(self) -> list[tuple[Worker, Partition]]:
        return [(w, p) for w in self.workers if not w.frozen for p in w.reader.partitions.values()]

    async def look_after(self) -> bool:
        """What the watchdog does: notice that a stream ends before what was read of it."""
        acted = False
        for worker, partition in self.partitions():
            claim, log = partition.claim, self.broker.logs[partition.stream]
            if claim is None or not partition.active or partition.halted is not None:
                continue
            if not partition.verified and log.end < claim.next_offset:
                self.trace.fire("a lost tail is noticed")
                worker.reader.reincarnate(partition, "simulated watchdog")
                acted = True
        await self.loop.settle()
        return acted

    async def count_halts(self) -> None:
        """Fire for each partition that halted before a hole, and was mended."""
        for row in await self.server.look(
            "SELECT count(*) AS n FROM stream_incidents WHERE kind = 'truncated'"
        ):
            self.trace.fired["a partition halts at what retention deleted"] += row["n"]

    async def replay(self) -> None:
        """Every stream again from its first message, with all that was ever lost, for new workers. Errors: Stuck."""
        for worker in list(self.workers):
            self.workers.remove(worker)
            worker.kill()
        await self.loop.settle()
        self.broker.begin_anew(int(self.loop.now.timestamp() * 1000))
        await self.server.look(_REWIND)
        await self.hire()
        await self.drain()

    # -- the end

    async def drain(self) -> None:
        """Disturb nothing any more, and let everything come to rest. Errors: Stuck."""
        idle = 0
        for _ in range(_ROUNDS):
            moved = await self._flow()
            moved |= await self.look_after()
            timer = self.loop.next_timer_s
            if moved or (timer is not None and timer < 1.0):
                await self.pass_time(timer if timer is not None and not moved else 0.01)
                continue
            if await self._round():
                idle = 0
                await self.pass_time(0.25)
                continue
            left = await self.server.look(_UNFINISHED)
            kept = any(self.customers.service.kept.values())
            if left[0][0] is None and not kept and not self.gateway.pending and not self.gateway.webhooks:
                return
            idle += 1
            if idle > 16:
                raise Stuck(f"{left[0][0]}, kept by the service: {kept}")
            await self.pass_time(SWEEP_S if idle > 2 else 1.0)
        raise Stuck("it goes on for ever")

    async def _flow(self) -> bool:
        """All calls that wait, then all chunks; whether there were any."""
        moved = False
        await self.loop.settle()
        while self.schedule.waiting or await self.deliver():
            moved = True
            while self.schedule.waiting:
                await self.schedule.release(self.schedule.waiting[0], Fate.FINE)
        return moved

    async def _round(self) -> bool:
        """One round of every loop; whether any found something to do."""
        while self.tell_all():
            await self.loop.settle()
            await self._flow()
        while self.decide_refund():
            pass
        for row in await self.server.look("SELECT id FROM payments WHERE status = 'held' ORDER BY id"):
            self.outside(self.customers.review(row["id"]))
        if any(self.customers.service.kept.values()):
            self.outside(self.customers.service.look())
        self.workers.append(self.workers.pop(0))
        worker = self.workers[0]
        before = worker.found
        for job in worker.jobs:
            worker.begin(job)
        await self.loop.settle()
        await self._flow()
        return worker.found > before

    def tell_all(self) -> bool:
        """The gateway sends what it has not sent yet."""
        if not self.gateway.webhooks:
            return False
        self.outside(self.customers.hear(self.gateway.webhooks.pop(0)))
        return True
