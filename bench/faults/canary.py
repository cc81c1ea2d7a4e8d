"""When the system works again: the moment at which events sent after a fault have gone end to end, in every partition."""

import asyncio
from typing import Final
from uuid import uuid4

from bench.faults.load import Load
from bench.faults.log import Order, Told, Use
from domain.packs import PACKS

DEADLINE_S: Final = 90.0


class Canary:
    """Sends its own events over the API until each is decided."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._payments = 0

    async def alive(self, *, payment: bool = False) -> bool:
        """Return once a usage event of each partition, and with `payment` a payment too, is in the books; False: never."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.gather(self._usage(), *([self._payment()] if payment else []))
        except TimeoutError:
            return False
        return True

    async def _usage(self) -> None:
        log = self._load.log
        uses = [
            Use(f"canary-{uuid4()}", "canary", wallet, "canary", 1) for wallet in self._load.accounts.canaries
        ]
        log.uses |= {use.id: use for use in uses}
        body = {
            "events": [
                {"id": use.id, "wallet_id": str(use.wallet_id), "feature": use.feature, "credits": 1}
                for use in uses
            ]
        }
        while True:
            answer = await self._load.web.post("/v1/usage?wait=1000", body, patience_s=2.0)
            if answer.ok:
                log.tell([use.id for use in uses], Told.ACKNOWLEDGED)
                outcomes = [(r.get("outcome") or {}).get("outcome") for r in answer.body["results"]]
                if all(outcome == "posted" for outcome in outcomes):
                    return
            else:
                log.tell([use.id for use in uses], Told.UNKNOWN)
                await asyncio.sleep(0.05)

    async def _payment(self) -> None:
        """An order, paid, credited. A new one each time: what became of the last is the judge's affair."""
        load = self._load
        account = load.accounts.canary_payers[self._payments % len(load.accounts.canary_payers)]
        self._payments += 1
        order = Order(str(uuid4()), account.wallet_id, PACKS[0].price_paise)
        load.log.orders.append(order)
        while order.told is not Told.ACKNOWLEDGED:
            await load.order(order, account.user_id)
        while not order.paid:
            await load.pay(order, safely=True)
        while True:
            answer = await load.web.get(f"/v1/payments/{order.payment_id}")
            if answer.ok and answer.body["status"] not in ("created", "active", "failed", "verified"):
                return
            await asyncio.sleep(0.1)
