"""The watcher of orders whose money moved without our asking: paid twice, refunded by the gateway, disputed.

In     order_inquiries that are due: a webhook, a signal or a verdict named the order
Books  record_inquiry on the chain refund/<shard>: receipts without a sale, forced reversals, disputes lost and won
Out    refund.processing: the refund of exactly that receipt; notifications.billing, analytics.billing
"""

from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from agents.core import Core
from agents.pool import Pool
from gateway.entities import Dispute, Payment, Refund
from gateway.errors import GatewayError, NotFound
from sql import reversals
from sql.reversals import Inquired, Inquiry, Picture

log = structlog.get_logger("agents.reversals")

CONCURRENCY: Final = 4
LEASE_S: Final = 60.0


class Gateway(Protocol):
    """What the watcher needs of the gateway: all that it has of an order."""

    async def get_payments(self, order_id: str) -> tuple[Payment, ...]: ...
    async def get_refunds(self, order_id: str) -> tuple[Refund, ...]: ...
    async def get_disputes(self, order_id: str) -> tuple[Dispute, ...]: ...


class Reversals:
    """One per worker; no two look at one order at once."""

    def __init__(self, core: Core, gateway: Gateway, *, shard: int, concurrency: int = CONCURRENCY) -> None:
        self._core = core
        self._gateway = gateway
        self._shard = shard
        self.pool = Pool("reversals", self._lease, self.look, concurrency=concurrency)

    async def _lease(self, limit: int) -> Sequence[Inquiry]:
        return await reversals.lease_inquiries(self._core.db, limit=limit, lease_s=LEASE_S)

    async def look(self, inquiry: Inquiry) -> None:
        """Look at one order and book what is new. Errors: Unavailable."""
        await self.record(inquiry, await self.ask(inquiry))

    async def ask(self, inquiry: Inquiry) -> Picture | None:
        """All that the gateway shows of an order; None if it cannot be told, or the order is not ours yet."""
        if inquiry.payment_id is None:
            return None
        order_id = inquiry.order_id
        try:
            return reversals.as_picture(
                await self._gateway.get_payments(order_id),
                await self._gateway.get_refunds(order_id),
                await self._disputes(order_id),
            )
        except GatewayError as error:
            log.warning("the gateway showed no order", order_id=order_id, error=str(error))
            return None

    async def _disputes(self, order_id: str) -> tuple[Dispute, ...]:
        try:
            return await self._gateway.get_disputes(order_id)
        except NotFound:
            return ()

    async def record(self, inquiry: Inquiry, picture: Picture | None) -> Inquired:
        """Book what the gateway shows and publish what follows. Errors: Unavailable."""
        inquired = await reversals.record_inquiry(
            self._core.db, inquiry, picture, shard=self._shard, partitions=partitions(self._core, inquiry)
        )
        if inquired.emitted is not None:
            await self._core.publish(inquired.emitted)
        if inquired.news:
            log.warning("money moved without our asking", order_id=inquiry.order_id, facts=inquired.news)
        return inquired


def partitions(core: Core, inquiry: Inquiry) -> dict[str, int]:
    """Where what follows from an order's news goes."""
    return {
        "refund": core.partition(str(inquiry.payment_id)),
        "refunds": core.partition("policy=FORCED"),
        "refunds_unapplied": core.partition("policy=UNAPPLIED"),
        "refunded": core.partition("status=refunded"),
        "expired": core.partition(""),
        "notify": core.partition(str(inquiry.user_id)),
    }
