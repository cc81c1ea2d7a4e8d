"""One simulated Cashfree: its account, its webhooks, its faults and what it remembers of idempotency keys."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gateway.simulator.book import Book
from gateway.simulator.clock import SimClock
from gateway.simulator.deliveries import Deliveries
from gateway.simulator.disputes import Disputes
from gateway.simulator.faults import Faults
from gateway.simulator.mandates import Mandates
from gateway.simulator.payouts import Payouts
from gateway.wire import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class SimConfig:
    """How a simulator is set up. One merchant, whose secret also signs webhooks unless `webhook_secret`
    says else.
    """

    client_id: str = "simulator"
    client_secret: str = "simulator-secret"
    webhook_secret: str | None = None
    old_webhook_secret: str = "simulator-secret-before"
    webhook_url: str | None = None
    seed: int = 1
    public_url: str = ""
    journal: Path | None = None
    settle_every_s: float | None = None


class Simulator:
    """Everything the doors (`api`, `checkout`, `control`) work on."""

    def __init__(self, config: SimConfig) -> None:
        self.config = config
        self.clock = SimClock()
        self.book = Book(self.clock, seed=config.seed)
        self.faults = Faults(self.book.random)
        self.deliveries = Deliveries(
            self.book,
            url=config.webhook_url,
            secret=(config.webhook_secret or config.client_secret).encode(),
            old_secret=config.old_webhook_secret.encode(),
        )
        self.mandates = Mandates(self.book, self.deliveries.announce_data)
        self.payouts = Payouts(self.book, self.deliveries.announce_data)
        self.disputes = Disputes(self.book, self.deliveries.announce_data)
        self.vendors: dict[str, dict[str, Json]] = {}
        self.calls: Counter[str] = Counter()
        self.remembered: dict[str, tuple[bytes, int, bytes]] = {}

    async def start(self) -> None:
        """Begin to send webhooks and, if asked to, to settle."""
        await self.deliveries.start()
        if self.config.settle_every_s is not None:
            self._settle_again(self.config.settle_every_s)

    async def stop(self) -> None:
        """End both."""
        self.clock.stop()
        await self.deliveries.stop()

    def _settle_again(self, every_s: float) -> None:
        def settle() -> None:
            self.book.settle()
            self._settle_again(every_s)

        self.clock.call_later(every_s, settle)
