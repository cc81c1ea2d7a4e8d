"""The client's own log: each operation, and what its caller was told. It never looks into the database."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal
from uuid import UUID

Door = Literal["api", "client", "raw", "canary"]
"""How a usage event goes in: POST /v1/usage, our client onto the stream, no client onto the stream; the harness's own."""


class Told(StrEnum):
    """What the caller knows."""

    SENT = "sent"  # no answer yet
    ACKNOWLEDGED = "acknowledged"
    UNKNOWN = "unknown"  # the answer never came, and nobody asked again
    REFUSED = "refused"  # the system said that it did not take it


@dataclass(slots=True)
class Use:
    """One usage event, however often it was sent."""

    id: str
    door: Door
    wallet_id: UUID
    feature: str
    credits: int
    told: Told = Told.SENT


@dataclass(slots=True)
class Order:
    """One order, by its Idempotency-Key; ids once the caller was told."""

    key: str
    wallet_id: UUID
    pack_paise: int
    told: Told = Told.SENT
    payment_id: UUID | None = None
    order_id: str | None = None
    paid: bool = False


@dataclass(slots=True)
class Refund:
    """One refund, by its Idempotency-Key."""

    key: str
    payment_id: UUID
    amount_paise: int
    told: Told = Told.SENT
    refund_id: str | None = None


@dataclass(slots=True)
class Log:
    """Everything this run asked for, in the order it was first sent."""

    uses: dict[str, Use] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    granted: dict[UUID, int] = field(default_factory=dict)
    exact: set[UUID] = field(default_factory=set)
    """Wallets whose every outcome a model can foretell: one door in order, and a balance that runs out."""
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """HTTP answers by route and status; 0: none came."""
    seconds: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    """How long each took."""
    sent_again: int = 0

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A call came to its end."""
        self.answers[route, status] += 1
        self.seconds.setdefault((route, status), []).append(seconds)

    def tell(self, ids: list[str], told: Told) -> None:
        """What was acknowledged once stays so."""
        for id in ids:
            if self.uses[id].told is not Told.ACKNOWLEDGED:
                self.uses[id].told = told

    def count(self, told: Told | None = None, *doors: Door) -> int:
        """How many operations; of these doors only, if any are named (then orders and refunds do not count)."""
        asked: list[Use | Order | Refund] = [u for u in self.uses.values() if not doors or u.door in doors]
        if not doors:
            asked += [*self.orders, *self.refunds]
        return sum(told is None or item.told is told for item in asked)
