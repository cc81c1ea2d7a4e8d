"""The client's own log: what was sent, what was acknowledged, and when. It never looks into the database."""

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
class Log:
    """Everything this run sent. Counts are of sends, so an event sent twice counts twice."""

    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    usage: dict[str, Sent] = field(default_factory=dict)
    granted: dict[UUID, int] = field(default_factory=dict)
    orders: dict[str, UUID] = field(default_factory=dict)
    """Payment by our order id."""
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
