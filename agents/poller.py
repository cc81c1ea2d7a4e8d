"""The poller: payments that nobody told us about, and orders whose creation nobody answered.

In     payments created or active for 5 minutes of which no webhook came; what the verifier pool was told about them
Books  a due verification each (asked at once, after 1 h, after 1 d, then an orphan that a person sees); orders found are adopted,
       orders over are closed, orders never made are failed. A success after that is still verified and credited (W13)
Out    nothing by itself: the verifier pool asks the gateway, within its rate limits
"""

import asyncio
from typing import Final, Protocol

import structlog

from agents.core import Core
from agents.settings import PollerSettings
from gateway.entities import Order
from gateway.errors import GatewayError, NotFound
from sql import errors, payments, reconciliation

log = structlog.get_logger("agents.poller")

LEASE_S: Final = 60.0
LIMIT: Final = 500
MOST_DUE: Final = 2000
"""While so many verifications wait, polling adds none: what a webhook told us comes first."""


class Gateway(Protocol):
    """What the poller needs of the gateway: its own view of an order."""

    async def get_order(self, order_id: str) -> Order: ...


async def run(core: Core, gateway: Gateway, *, holder: str, shard: int) -> None:
    """Until cancelled. One worker at a time does it."""
    settings = PollerSettings()
    age_s, every_s = settings.poller_age_s, settings.poller_every_s
    while True:
        try:
            if await reconciliation.take_job(core.db, "poll", holder, lease_s=LEASE_S):
                await once(core, gateway, shard=shard, age_s=age_s)
                await reconciliation.finish_job(core.db, "poll", holder, after_s=every_s)
        except errors.Unavailable as error:
            log.warning("the poller waits for the database", error=str(error))
        await asyncio.sleep(every_s)


async def once(core: Core, gateway: Gateway, *, shard: int, age_s: float) -> int:
    """One round; returns how many payments it moved. Errors: Unavailable."""
    asked = await reconciliation.poll_payments(core.db, limit=LIMIT, most_due=MOST_DUE, age_s=age_s)
    settled = await _unknown(core, gateway, shard)
    closed = await reconciliation.close_payments(core.db, limit=LIMIT)
    if asked or settled or closed:
        log.info("polled", asked=asked, settled=settled, closed=closed)
    return asked + settled + closed


async def _unknown(core: Core, gateway: Gateway, shard: int) -> int:
    """Adopt orders that exist after all; give up those that the gateway has twice not found."""
    moved = 0
    for unknown in await reconciliation.unknown_orders(core.db, limit=LIMIT):
        try:
            order = await gateway.get_order(unknown.order_id)
        except NotFound:
            if unknown.result == "not_found":
                await payments.fail_order(
                    core.db,
                    unknown.payment_id,
                    "never_created",
                    shard=shard,
                    failed_partition=core.partition("status=failed"),
                )
                moved += 1
        except GatewayError as error:
            log.warning("an unknown order waits for the gateway", order_id=unknown.order_id, error=str(error))
            break
        else:
            await payments.order_created(
                core.db,
                unknown.payment_id,
                cf_order_id=order.cf_order_id,
                session_id=order.payment_session_id,
                expires_at=order.expires_at,
            )
            moved += 1
    return moved
