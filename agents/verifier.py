"""The verifier pool: asks the gateway about payments that a webhook called successful: only that counts.

A payment matches its order when GET order says PAID, with our amount and currency, and what was paid is that
amount less an offer on record. Each payment costs one GET order. Its attempts (GET payments, a second call) are
asked for only where that does not settle it: the signed webhook told another amount than the order's, no
webhook told of a success, or there were several attempts. A webhook moves no money by itself: of one that
differs only the offer it names is used, and only if it explains the gateway's own amount to the paisa
(agents/matching.py).

In     verifications that are due, by deadline, then amount; no stream, so a slow gateway blocks no partition
Books  record_verifications on the chain verify/<shard>: matches, with its offer if there is one, or not
Out    fraud.detection: a FraudSignal per entity of a verified payment; analytics.billing: verified, mismatch
"""

import asyncio
from contextlib import nullcontext
from typing import Final, Protocol
from uuid import UUID

import structlog

from agents.core import Core
from agents.matching import evidence_of, settled_by_order
from domain.fraud import address_entity
from gateway.entities import Order, Payment
from gateway.errors import GatewayError, NotFound, NotSent
from sql import errors, verifications
from sql.verifications import Answer, Asked, Lease
from sql.webhooks import get_traceparents
from streams.telemetry import carriers, tracing
from streams.telemetry.carriers import Item

log = structlog.get_logger("agents.verifier")

CONCURRENCY: Final = 512
"""Most that are leased and under way; CASHFREE_CONNECTIONS says how many of them speak to the gateway at a time."""
LEASE_S: Final = 15.0
"""Asking seldom takes longer; where it does, somebody asks again, which changes nothing."""
POLL_S: Final = 0.05
TOGETHER: Final = 400
"""Most answers that are recorded in one transaction."""
REST: Final = 8.0
LINGER_S: Final = 0.1
"""After a recording, answers gather for eight times as long as it took, at most so long."""
MAX_ENTITY: Final = 256


class Gateway(Protocol):
    """What the pool needs of the gateway: its own view of an order, and of the attempts to pay it."""

    async def get_order(self, order_id: str) -> Order: ...
    async def get_payments(self, order_id: str) -> tuple[Payment, ...]: ...


class Verifier:
    """One per worker. All draw on one token bucket (the client's), and no two ask about one payment."""

    def __init__(self, core: Core, gateway: Gateway, *, shard: int, concurrency: int = CONCURRENCY) -> None:
        self._core = core
        self._gateway = gateway
        self._shard = shard
        self._concurrency = concurrency
        self._answers: asyncio.Queue[Answer] = asyncio.Queue()
        self._asking: set[asyncio.Task[None]] = set()
        self._traced: dict[UUID, Item] = {}

    async def run(self) -> None:
        """Until cancelled. What was leased and not recorded is leased again by somebody after `LEASE_S`."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._lease(), name="verifier-lease")
                group.create_task(self._record(), name="verifier-record")
        finally:
            for task in self._asking:
                task.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)

    async def once(self, limit: int = TOGETHER) -> int:
        """Lease, ask and record one round; returns how many. Errors: Unavailable."""
        leases = await verifications.lease_verifications(self._core.db, limit=limit, lease_s=LEASE_S)
        if leases:
            await self.record(list(await asyncio.gather(*(self.ask(lease) for lease in leases))))
        return len(leases)

    async def _lease(self) -> None:
        while True:
            free = self._concurrency - len(self._asking)
            leases: list[Lease] = []
            if free > 0:
                try:
                    leases = await verifications.lease_verifications(
                        self._core.db, limit=free, lease_s=LEASE_S
                    )
                except errors.Unavailable as error:
                    log.warning("verification waits for the database", error=str(error))
                    await asyncio.sleep(1.0)
            if leases and tracing.on():
                await self._begin_spans(leases)
            for lease in leases:
                task = asyncio.create_task(self._ask_and_queue(lease), name=f"verify-{lease.order_id}")
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            if len(leases) < max(1, self._concurrency // 2):
                await asyncio.sleep(POLL_S)

    async def _begin_spans(self, leases: list[Lease]) -> None:
        """The due row came through the database: its trace is on the inbox row that made it due."""
        try:
            found = await get_traceparents(self._core.db, [lease.order_id for lease in leases])
        except errors.Unavailable:
            return
        for lease in leases:
            if lease.order_id in found:
                ids = (str(lease.payment_id), lease.order_id)
                item = carriers.begin(
                    "verify", found[lease.order_id], ids, kind="internal", attributes={"ids": " ".join(ids)}
                )
                if item is not None:
                    self._traced[lease.payment_id] = item

    async def _ask_and_queue(self, lease: Lease) -> None:
        item = self._traced.get(lease.payment_id)
        with nullcontext() if item is None else tracing.current_as(item.span):
            self._answers.put_nowait(await self.ask(lease))

    async def _record(self) -> None:
        loop = asyncio.get_running_loop()
        rested = 0.0
        while True:
            answers = [await self._answers.get()]
            if (rest_s := rested - loop.time()) > 0 and self._answers.qsize() < TOGETHER:
                await asyncio.sleep(rest_s)
            began = loop.time()
            while len(answers) < TOGETHER and not self._answers.empty():
                answers.append(self._answers.get_nowait())
            while True:
                try:
                    await self.record(answers)
                    break
                except errors.Unavailable as error:
                    log.warning("verification waits for the database", error=str(error))
                    await asyncio.sleep(1.0)
            rested = began + min(REST * (loop.time() - began), LINGER_S)

    async def ask(self, lease: Lease) -> Answer:
        """The gateway's own word about an order. Never raises for what the gateway does."""
        credit_partition = self._core.partition(str(lease.wallet_id))
        asked = [self._asked(kind, entity) for kind, entity in entities(lease)]
        try:
            order = await self._gateway.get_order(lease.order_id)
            evidence = None
            if not settled_by_order(lease, order):
                evidence = evidence_of(lease, order, await self._gateway.get_payments(lease.order_id))
                if evidence is None:
                    return Answer(lease.payment_id, lease.attempt, "unexplained", credit_partition, asked)
        except NotFound:
            return Answer(lease.payment_id, lease.attempt, "not_found", credit_partition, asked)
        except GatewayError as error:
            retry_s = error.retry_after_s if isinstance(error, NotSent) else None
            log.warning("the gateway gave no answer", order_id=lease.order_id, error=str(error))
            return Answer(
                lease.payment_id, lease.attempt, "unavailable", credit_partition, asked, retry_s=retry_s
            )
        return Answer(
            lease.payment_id,
            lease.attempt,
            "order",
            credit_partition,
            asked,
            status=order.status,
            paid=order.paid,
            amount_paise=order.amount_paise,
            currency=order.currency,
            cf_order_id=order.cf_order_id,
            evidence=evidence,
        )

    def _asked(self, kind: str, entity: str | None) -> Asked:
        if entity is None:
            return None
        entity = entity[:MAX_ENTITY]
        return entity, self._core.partition(f"{kind}:{entity}")

    async def record(self, answers: list[Answer]) -> list[str]:
        """Record answers and publish what follows; returns what each did. Errors: Unavailable."""
        recorded = await verifications.record_verifications(
            self._core.db,
            answers,
            shard=self._shard,
            verified_partition=self._core.partition("status=verified"),
            mismatch_partition=self._core.partition("status=mismatch"),
        )
        if recorded.emitted is not None:
            with carriers.carrying(self._traced_of(answers)):
                await self._core.publish(recorded.emitted)
        for item in self._traced_of(answers):
            item.span.end()
        for answer in answers if self._traced else ():
            self._traced.pop(answer.payment_id, None)
        for answer, outcome in zip(answers, recorded.outcomes, strict=True):
            if outcome in ("mismatch", "orphan"):
                log.error(
                    "a payment needs a person",
                    payment_id=str(answer.payment_id),
                    why=outcome,
                    said=answer.status,
                )
        return recorded.outcomes

    def _traced_of(self, answers: list[Answer]) -> list[Item]:
        if not self._traced:
            return []
        return [self._traced[a.payment_id] for a in answers if a.payment_id in self._traced]


def entities(lease: Lease) -> tuple[tuple[str, str | None], ...]:
    """By whom and what a payment is judged, as (kind, entity): user, device, address, instrument; None where it has none."""
    return (
        ("user", str(lease.user_id)),
        ("device", lease.device_id or None),
        ("ip", address_entity(lease.ip) if lease.ip is not None else None),
        ("instrument", lease.instrument or None),
    )
