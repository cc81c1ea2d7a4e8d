"""The refunder: carries due refunds to the gateway under their one id, and records what it says.

In     refunds that are due, by time; no stream, so a slow gateway blocks no partition
Books  record_refund on the chain refund/<shard>: on SUCCESS the reversal, its tax and its credit note; on FAILED or
       CANCELLED the hold is released; anything else is asked again
Out    notifications.billing: what became of it; analytics.billing: refunds, payments refunded
"""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from agents.core import Core
from agents.pool import Pool
from gateway import errors as gateway_errors
from gateway.entities import Refund
from gateway.requests import NewRefund
from sql import refunds
from sql.refunds import Answer, Lease

log = structlog.get_logger("agents.refunder")

CONCURRENCY: Final = 8
LEASE_S: Final = 90.0
"""Longer than three tries at the gateway with their looks; two holders would send one id twice, which is safe."""


class Gateway(Protocol):
    """What the refunder needs of the gateway."""

    async def create_refund(self, order_id: str, new: NewRefund, *, again: bool = False) -> Refund: ...
    async def get_refund(self, order_id: str, refund_id: str) -> Refund: ...


class Refunder:
    """One per worker. All draw on the client's token buckets, and no two hold one refund."""

    def __init__(self, core: Core, gateway: Gateway, *, shard: int, concurrency: int = CONCURRENCY) -> None:
        self._core = core
        self._gateway = gateway
        self._shard = shard
        self.pool = Pool("refunder", self._lease, self.carry, concurrency=concurrency)

    async def _lease(self, limit: int) -> Sequence[Lease]:
        return await refunds.lease_refunds(self._core.db, limit=limit, lease_s=LEASE_S)

    async def carry(self, lease: Lease) -> None:
        """Ask about one refund and record the answer. Errors: Unavailable."""
        await self.record(lease, await self.ask(lease))

    async def ask(self, lease: Lease) -> Answer:
        """The gateway's word about a refund. Never raises for what the gateway does."""
        new = NewRefund(
            refund_id=lease.refund_id,
            amount_paise=lease.amount_paise,
            currency=lease.currency,
            note=lease.reason,
        )
        try:
            if lease.known:
                refund = await self._gateway.get_refund(lease.order_id, lease.refund_id)
            else:
                refund = await self._gateway.create_refund(lease.order_id, new, again=lease.again)
        except gateway_errors.GatewayError as error:
            log.warning("the gateway gave no refund", refund_id=lease.refund_id, error=str(error))
            return answer_to(lease, error)
        if (refund.amount_paise, refund.currency) != (lease.amount_paise, lease.currency):
            return Answer("mismatched", detail=f"{refund.amount_paise} paise {refund.currency}")
        return Answer("refund", refund.status, refund.cf_refund_id)

    async def record(self, lease: Lease, answer: Answer) -> str:
        """Record an answer and publish what follows; returns the refund's status. Errors: Unavailable."""
        recorded = await refunds.record_refund(
            self._core.db, lease, answer, shard=self._shard, partitions=partitions(self._core, lease)
        )
        if recorded.emitted is not None:
            await self._core.publish(recorded.emitted)
        if recorded.status == "review":
            log.error("a refund needs a person", refund_id=lease.refund_id, said=answer.detail)
        return recorded.status


def answer_to(lease: Lease, error: gateway_errors.GatewayError) -> Answer:
    """What an error means for the refund: only a definite no to our first request lets its credits go."""
    match error:
        case gateway_errors.ContentMismatch():
            return Answer("mismatched", detail=str(error))
        case gateway_errors.NotSent():
            return Answer("not_sent", detail=str(error), retry_s=error.retry_after_s)
        case gateway_errors.BadRequest() | gateway_errors.NotFound() if not lease.again and not lease.known:
            return Answer("refused", detail=str(error))
    # Credentials refused, no answer, or a no after a doubt: nothing is proven.
    return Answer("no_answer", detail=str(error))


def partitions(core: Core, lease: Lease) -> dict[str, int]:
    """Where what follows from a refund goes."""
    return {
        "refunds": core.partition(f"policy={lease.policy}"),
        "refunded": core.partition("status=refunded"),
        "expired": core.partition(""),
        "notify": core.partition(str(lease.user_id)),
    }
