"""A worker: every agent as a Faust agent over its topic, and the loops beside them, in one process."""

import asyncio
import gc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

import faust
import structlog

from agents import (
    analytics_billing,
    anchors,
    fraud_detection,
    fraud_timer,
    invoice_generate,
    invoice_render,
    mailer,
    months,
    notifications_billing,
    outgoing,
    overdue_holds,
    payment_processing,
    poller,
    refund_processing,
    reminders,
    retries,
    settlements_processing,
    wallet_credit,
    wallet_debit,
    webhook_processing,
)
from agents.core import Core, PostgresOwnership
from agents.monitor import Monitor
from agents.queues import Queue
from agents.reconciler import Reconciler
from agents.refunder import Refunder
from agents.relay import Relay
from agents.reversals import Reversals
from agents.settings import InvoiceSettings, MonitorSettings
from agents.upkeep import Upkeep, kept
from agents.verifier import Verifier
from agents.writer import StreamWriter
from gateway.client import open_client
from gateway.settings import GatewaySettings
from gateway.storage import open_storage
from sql.batches import CHAINS
from sql.db import Database
from streams.app import make_app
from streams.batches import Batch
from streams.lag import LagReader
from streams.runner import REST, run_batches
from streams.settings import StreamSettings
from streams.telemetry.batches import told
from tables.fraud import FraudWindows

log = structlog.get_logger("agents.worker")

LINGERS: Final = {
    **dict.fromkeys(
        (webhook_processing.TOPIC, payment_processing.TOPIC, fraud_detection.TOPIC, wallet_credit.TOPIC), 1.5
    ),
    analytics_billing.TOPIC: 3.0,
    invoice_generate.TOPIC: 5.0,
    notifications_billing.TOPIC: 5.0,
}
"""Topics whose batches may gather so many times longer: a payment has two seconds, and nobody waits for the last three."""
BATCH_BYTES: Final = 128 << 10
"""About 500 events: beyond, a commit is no cheaper per event and holds its wallets longer."""
SETTLED_S: Final = 3.0


def rest_the_collector() -> None:
    """What there is now is never looked through again for garbage, and the young less often: a batch leaves few cycles behind."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def build(name: str, *, concurrency: int = 4) -> faust.App:
    """The app of the worker called `name`, from the environment's settings."""
    settings = StreamSettings()
    db = Database()
    writer = StreamWriter(settings.address, f"worker-{name}")
    core = Core(db, writer, settings.consumer_group, settings.partitions)
    windows = FraudWindows(db)
    invoicing = InvoiceSettings()
    terms = invoicing.terms()
    shard = zlib.crc32(name.encode()) % CHAINS

    ownership = PostgresOwnership(db, settings.consumer_group, [core.marks.restore, windows.restore])
    handlers: dict[str, Callable[[Batch], Awaitable[None]]] = {
        webhook_processing.TOPIC: lambda batch: webhook_processing.handle(core, batch),
        payment_processing.TOPIC: lambda batch: payment_processing.handle(core, batch),
        fraud_detection.TOPIC: lambda batch: fraud_detection.handle(core, windows, batch),
        refund_processing.TOPIC: lambda batch: refund_processing.handle(core, batch),
        settlements_processing.TOPIC: lambda batch: settlements_processing.handle(core, batch),
        wallet_credit.TOPIC: lambda batch: wallet_credit.handle(core, batch),
        wallet_debit.TOPIC: lambda batch: wallet_debit.handle(core, batch),
        invoice_generate.TOPIC: lambda batch: invoice_generate.handle(core, terms, batch),
        analytics_billing.TOPIC: lambda batch: analytics_billing.handle(core, batch),
        notifications_billing.TOPIC: lambda batch: notifications_billing.handle(core, batch),
    }
    app = make_app(settings, ownership, topics=handlers)
    upkeep = Upkeep(
        core,
        ownership,
        handlers,
        address=settings.address,
        holder=f"{name}/{uuid4()}",
        shard=shard,
        app=app,
    )
    for queue in upkeep.queues.values():
        longer = LINGERS.get(queue.topic, 1.0)
        _declare(app, queue, concurrency, linger_s=settings.stream_linger_s * longer, rest=REST * longer)

    relay = Relay(core, up=lambda: writer.up)

    async def leave() -> None:
        await relay.stop()
        await writer.stop()

    app.drain = leave

    async def verify() -> None:
        async with open_client(GatewaySettings()) as gateway:
            await Verifier(core, gateway, shard=shard).run()

    async def refund() -> None:
        async with open_client(GatewaySettings()) as gateway, asyncio.TaskGroup() as group:
            group.create_task(Refunder(core, gateway, shard=shard).pool.run(), name="refunder")
            group.create_task(Reversals(core, gateway, shard=shard).pool.run(), name="reversals")

    async def reconcile() -> None:
        holder = f"{name}/{uuid4()}"
        async with open_client(GatewaySettings()) as gateway, asyncio.TaskGroup() as group:
            group.create_task(poller.run(core, gateway, holder=holder, shard=shard), name="poller")
            group.create_task(Reconciler(core, gateway, holder=holder).run(), name="reconciler")

    async def watch() -> None:
        async with LagReader(settings.address) as lag:
            every_s = MonitorSettings().monitor_every_s
            await Monitor(core, ownership, lag, holder=f"{name}/{uuid4()}", every_s=every_s).run()

    async def render() -> None:
        async with open_storage() as storage:
            await invoice_render.run(core, storage)

    async def settle() -> None:
        await asyncio.sleep(SETTLED_S)
        rest_the_collector()

    loops: list[Callable[[], Awaitable[None]]] = [render] if invoicing.invoice_render else []
    loops += [
        settle,
        relay.run,
        relay.sweep,
        watch,
        verify,
        refund,
        reconcile,
        *upkeep.loops,
        lambda: retries.run(core, ownership, upkeep.breakers),
        lambda: overdue_holds.run(core),
        lambda: payment_processing.run_retries(core, ownership),
        lambda: invoice_generate.run_retries(core, ownership, terms),
        lambda: fraud_timer.run(core, shard=shard),
        lambda: mailer.run(db),
        lambda: reminders.run(db),
        kept(lambda: outgoing.run(db)),
        kept(lambda: anchors.run(db, holder=f"{name}/{uuid4()}")),
        kept(lambda: months.run(db)),
    ]
    for loop in loops:
        app.task(loop)
    return app


def _declare(app: faust.App, queue: Queue, concurrency: int, *, linger_s: float, rest: float) -> None:
    handler = told(queue.handle)

    async def agent(stream: Any) -> None:
        await run_batches(
            app,
            stream,
            handler,
            max_bytes=BATCH_BYTES,
            concurrency=concurrency,
            linger_s=linger_s,
            rest=rest,
            isolation=queue,
        )

    app.agent(app.topic(queue.topic), name=queue.topic)(agent)
