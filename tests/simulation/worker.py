"""A worker process of a simulation: the real reader, lanes, agents and pools over simulated edges."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast

from agents import (
    analytics_billing,
    fraud_detection,
    fraud_timer,
    invoice_generate,
    notifications_billing,
    payment_processing,
    refund_processing,
    retries,
    wallet_credit,
    wallet_debit,
    webhook_processing,
)
from agents.core import Core, Outgoing, PostgresOwnership
from agents.recovery import Recovery
from agents.refunder import Refunder
from agents.relay import LIMIT, Relay
from agents.reversals import Reversals
from agents.settings import InvoiceSettings
from agents.verifier import Verifier
from sql import relay
from sql.errors import DatabaseError, RetryTaken, Unavailable
from sql.errors import Fenced as Taken
from sql.fraud import StaleWindows
from streams import amqp
from streams.address import Address
from streams.batches import Batch, Fenced
from streams.runner import Lanes
from streams.topics import partition_stream
from streams.transport.reader import Reader
from streams.wire import Wire
from tables.fraud import FraudWindows
from tests.simulation.broker import SimulatedBroker, SimulatedWire
from tests.simulation.clock import VirtualLoop
from tests.simulation.database import Server, SimulatedDatabase
from tests.simulation.gateway import Line, SimulatedGateway
from tests.simulation.schedule import Fate, Schedule

GROUP: Final = "commdesk"
PARTITIONS: Final = 2
ADDRESS: Final = Address.parse("rabbitmq-stream://simulated@broker/")
_TERMS: Final = InvoiceSettings().terms()
_PASSING: Final = (Unavailable, Fenced, Taken, RetryTaken, StaleWindows)
actor_of: Final[ContextVar[Tasks | None]] = ContextVar("actor", default=None)


class Tasks:
    """The tasks of one process, so that it can be killed."""

    def __init__(self) -> None:
        self.running: dict[asyncio.Task[Any], None] = {}

    def forget(self, task: asyncio.Task[Any]) -> None:
        self.running.pop(task, None)

    def kill(self) -> None:
        for task in list(self.running):
            task.cancel()


def track_tasks(loop: VirtualLoop) -> None:
    """Every task from now on belongs to the process that began it."""

    def factory(loop_: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **more: Any) -> Any:
        task = asyncio.Task(work, loop=loop_, **more)
        tasks = actor_of.get()
        if tasks is not None:
            tasks.running[task] = None
            task.add_done_callback(tasks.forget)
        return task

    loop.set_task_factory(cast(Any, factory))


class Network:
    """The way to the broker: messages arrive, are lost, arrive twice, or much later than their sender thinks."""

    def __init__(self, broker: SimulatedBroker, schedule: Schedule, loop: VirtualLoop) -> None:
        self.broker = broker
        self.under_way: list[tuple[str, list[bytes]]] = []
        self._schedule = schedule
        self._loop = loop

    async def send(self, actor: str, stream: str, messages: list[bytes]) -> bool:
        """Publish to one stream; whether the broker said that it has them."""
        async with self._schedule.turn(actor, "publish", stream) as fate:
            if fate is Fate.NOT_SENT or not self.broker.up:
                return False
            if fate is Fate.LATE:
                self.under_way.append((stream, messages))
                return False
            self.arrive(stream, messages)
            if fate is Fate.TWICE:
                self.arrive(stream, messages)
            return fate is not Fate.NO_ANSWER

    def arrive(self, stream: str, messages: list[bytes]) -> None:
        """The broker stores messages."""
        self.broker.logs[stream].append(messages, int(self._loop.now.timestamp() * 1000))


async def _overdue(core: Core, shard: int) -> int:
    found, _ = await fraud_timer.once(core, shard=shard)
    return found


class NetworkWriter:
    """What agents publish with; as the real one, it waits for no confirm."""

    def __init__(self, network: Network, actor: str) -> None:
        self._network = network
        self._actor = actor

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        by_stream: defaultdict[str, list[bytes]] = defaultdict(list)
        for m in outgoing:
            by_stream[partition_stream(m.topic, m.partition)].append(
                amqp.encode(m.key.encode(), m.value, m.headers)
            )
        for stream, messages in by_stream.items():
            await self._network.send(self._actor, stream, messages)


class Worker:
    """One process. `bugs` collects what no handler or loop may ever raise."""

    def __init__(
        self,
        name: str,
        shard: int,
        *,
        server: Server,
        schedule: Schedule,
        network: Network,
        gateway: SimulatedGateway,
        bugs: list[str],
    ) -> None:
        self.name = name
        self.frozen = False
        self.tasks = Tasks()
        self._bugs = bugs
        self._trace = schedule.trace
        db = SimulatedDatabase(server, schedule, name)
        core = self.core = Core(db, NetworkWriter(network, name), GROUP, PARTITIONS)
        windows = FraudWindows(db)
        self.ownership = PostgresOwnership(db, GROUP, [core.marks.restore, windows.restore])
        line = Line(gateway, schedule, name)
        relay_, verifier = Relay(core), Verifier(core, line, shard=shard)
        refunder, watcher = Refunder(core, line, shard=shard), Reversals(core, line, shard=shard)
        handlers: dict[str, Callable[[Batch], Awaitable[None]]] = {
            webhook_processing.TOPIC: partial(webhook_processing.handle, core),
            payment_processing.TOPIC: partial(payment_processing.handle, core),
            fraud_detection.TOPIC: partial(fraud_detection.handle, core, windows),
            refund_processing.TOPIC: partial(refund_processing.handle, core),
            wallet_credit.TOPIC: partial(wallet_credit.handle, core),
            wallet_debit.TOPIC: partial(wallet_debit.handle, core),
            invoice_generate.TOPIC: partial(invoice_generate.handle, core, _TERMS),
            analytics_billing.TOPIC: partial(analytics_billing.handle, core),
            notifications_billing.TOPIC: partial(notifications_billing.handle, core),
        }
        self.jobs: dict[str, Callable[[], Awaitable[int]]] = {
            "relay": relay_.once,
            "sweep": lambda: relay.close_usage(db, limit=LIMIT),
            "verifier": verifier.once,
            "refunder": refunder.pool.once,
            "reversals": watcher.pool.once,
            "retries wallet.debit": partial(retries.once, core, self.ownership, "wallet.debit"),
            "retries wallet.credit": partial(retries.once, core, self.ownership, "wallet.credit"),
            "retries payment": partial(payment_processing.retry_once, core, self.ownership),
            "retries invoice": partial(invoice_generate.retry_once, core, self.ownership, _TERMS),
            "fraud timer": partial(_overdue, core, shard),
            "mend": self._mend,
        }
        self.busy: set[str] = set()
        self.found = 0
        """What the jobs found to do, in all."""
        self.reader = Reader(
            ADDRESS, self.ownership, group=GROUP, owner=name,
            connect=cast(Callable[..., Awaitable[Wire]], network.broker.connect),
        )  # fmt: skip
        self._recovery = Recovery(core, self.ownership, ADDRESS, holder=name, reader=lambda: self.reader)
        self._lanes = {
            topic: Lanes(
                self.reader, self._watched(topic, handler), max_records=8, max_bytes=100_000, concurrency=2
            )
            for topic, handler in handlers.items()
        }
        self.topics = list(handlers)
        self.reader.on_data = lambda p: self._lanes[p.topic].wake(p)

    @property
    def wire(self) -> SimulatedWire | None:
        return cast("SimulatedWire | None", self.reader.wire)

    async def start(self) -> None:
        """Connect and follow everything. Errors: ConnectionError."""
        token = actor_of.set(self.tasks)
        try:
            await self.reader.start()
            self.reader.follow(dict.fromkeys(self.topics, PARTITIONS))
        finally:
            actor_of.reset(token)

    def kill(self) -> None:
        """kill -9: whatever it waited for is forgotten."""
        self.reader.leaving = True
        for p in self.reader.partitions.values():
            p.stop()
        self.tasks.kill()
        if self.wire is not None:
            self.wire.abort()

    def begin(self, job: str) -> None:
        """One round of one of the loops beside the agents, unless it is still at the last one."""
        if job in self.busy:
            return
        self.busy.add(job)
        token = actor_of.set(self.tasks)
        try:
            asyncio.ensure_future(self._round(job))  # noqa: RUF006 - kept in `tasks`
        finally:
            actor_of.reset(token)

    async def _mend(self) -> int:
        halted = sum(p.halted is not None for p in self.reader.partitions.values())
        await self._recovery.mend()
        return halted

    async def _round(self, job: str) -> None:
        try:
            self.found += await self.jobs[job]()
        except (DatabaseError, Fenced, OSError):
            self.found += 1
        except Exception as error:
            self._bugs.append(f"{self.name} {job}: {type(error).__name__}: {error}")
        finally:
            self.busy.discard(job)

    def _watched(
        self, topic: str, handler: Callable[[Batch], Awaitable[None]]
    ) -> Callable[[Batch], Awaitable[None]]:
        async def watched(batch: Batch) -> None:
            try:
                await handler(batch)
            except Fenced:
                self._trace.fire("fenced in the middle of a batch")
                raise
            except _PASSING:
                raise
            except Exception as error:
                self._bugs.append(f"{self.name} {topic}: {type(error).__name__}: {error}")
                raise

        return watched
