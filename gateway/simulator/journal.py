"""What a gateway must not forget when its process dies: its orders, and the answers that idempotency keys stand for.

Kept in one file, written anew before each change is answered, so it is for small simulations. Settlements, mandates,
payouts and disputes are not kept, nor are webhooks on their way: those are lost, as a caller has to expect anyway.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from gateway.simulator.records import Attempt, Order, Refund
from gateway.simulator.sim import Simulator


class Kept(msgspec.Struct):
    """The content of the file. An order is its fields: what customers and merchants wrote in it has any shape."""

    orders: list[dict[str, Any]]
    remembered: dict[str, tuple[bytes, int, bytes]]


def _order(fields: dict[str, Any]) -> Order:
    attempts = [Attempt(**attempt) for attempt in fields.pop("attempts")]
    refunds = {refund_id: Refund(**refund) for refund_id, refund in fields.pop("refunds").items()}
    return Order(**fields, attempts=attempts, refunds=refunds)


class Journal:
    """The file of one simulator: `restore` before it serves, `save` after each change."""

    def __init__(self, sim: Simulator, file: Path) -> None:
        self._sim, self._file = sim, file

    def restore(self) -> None:
        """Take up what an earlier process kept; refunds that it had begun go on."""
        if not self._file.exists():
            return
        kept = msgspec.msgpack.decode(self._file.read_bytes(), type=Kept)
        self._sim.remembered |= kept.remembered
        for fields in kept.orders:
            self._sim.book.take_up(_order(fields))

    def save(self) -> None:
        """Write everything, so that a crash leaves the file as it was or as it is to be."""
        kept = {"orders": list(self._sim.book.orders.values()), "remembered": self._sim.remembered}
        draft = self._file.with_name(f"{self._file.name}.new")
        draft.write_bytes(msgspec.msgpack.encode(kept))
        draft.replace(self._file)

    def middleware(self) -> Middleware:
        """Saves before a changing request is answered."""

        @web.middleware
        async def saved(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            finally:
                if request.method not in ("GET", "HEAD"):
                    self.save()

        return saved
