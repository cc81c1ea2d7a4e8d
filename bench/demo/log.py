"""The client's own log: what was sent, what was acknowledged, and when; and the gateway's truth. Never the database's."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID


@dataclass(slots=True)
class Sent:
    """One usage event, however often it was sent."""

    wallet_id: UUID
    credits: int
    at: datetime
    acknowledged: bool = False


@dataclass(slots=True)
class Asked:
    """One refund that a customer asked for, however often. outcome: created | refused | None (no answer came)."""

    payment_id: UUID
    order_id: str
    amount_paise: int
    outcome: str | None = None
    refund_id: UUID | None = None


@dataclass(slots=True)
class Log:
    """Everything this run sent. Counts are of sends, so an event sent twice counts twice."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    usage: dict[str, Sent] = field(default_factory=dict)
    granted: dict[UUID, int] = field(default_factory=dict)
    orders: dict[str, UUID] = field(default_factory=dict)
    """Payment by our order id."""
    refunds: dict[str, Asked] = field(default_factory=dict)
    """By the customer's key."""
    sent: int = 0
    acknowledged: int = 0
    duplicates_injected: int = 0
    unknown: int = 0
    """Sends whose answer never came: the caller cannot know, and sends them again."""
    errors: dict[str, int] = field(default_factory=dict)

    def send(self, event_id: str, wallet_id: UUID, credits: int) -> None:
        """An event goes out, perhaps not for the first time."""
        self.sent += 1
        if event_id in self.usage:
            self.duplicates_injected += 1
        else:
            self.usage[event_id] = Sent(wallet_id, credits, datetime.now(UTC))

    def acknowledge(self, event_id: str) -> None:
        """The system said that it has this event."""
        self.acknowledged += 1
        self.usage[event_id].acknowledged = True

    def error(self, what: str) -> None:
        self.errors[what] = self.errors.get(what, 0) + 1


@dataclass(frozen=True, slots=True)
class GatewayRefund:
    """A refund as the gateway has it."""

    order_id: str
    refund_id: str
    status: str
    amount_paise: int


@dataclass(slots=True)
class Truth:
    """What the gateway knows of our orders: the paid ones, and every refund."""

    paid: set[str] = field(default_factory=set)
    refunds: list[GatewayRefund] = field(default_factory=list)
