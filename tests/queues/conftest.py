"""The agents' world, and topics whose agent breaks on what the test calls poison."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from agents.breakers import Breakers
from agents.intake import Turn
from agents.queues import Queue
from sql import errors
from streams import messages
from streams.batches import Batch
from streams.events import Event
from tests.agents.conftest import World, service, world

__all__ = ["service", "world"]

AT = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)


@dataclass
class Fragile:
    """An agent that raises on events whose text contains a word of `poison`; `away` makes the database unavailable."""

    world: World
    agent: Callable[[Batch], Awaitable[object]]
    poison: set[str] = field(default_factory=set)
    away: bool = False
    calls: int = 0

    async def __call__(self, batch: Batch) -> None:
        self.calls += 1
        if self.away:
            raise errors.Unavailable("the database is away")
        told = (
            [repr(taken.event) for taken in batch.taken]
            if isinstance(batch, Turn)
            else [(record.value or b"").decode() for record in batch.records]
        )
        if any(word in text for word in self.poison for text in told):
            raise ValueError("this event makes no sense")
        await self.agent(batch)


def queue_of(
    world: World, topic: str, agent: Callable[[Batch], Awaitable[object]], *poison: str, **more: Any
) -> tuple[Queue, Fragile]:
    """A topic's queue around a fragile agent."""
    fragile = Fragile(world, agent, set(poison))
    breakers = more.pop("breakers", None) or Breakers(world.core.db, "test")
    return Queue(world.core, world.ownership, topic, fragile, breakers, **more), fragile


class Producer:
    """A producer of slices, numbered as the outbox does it."""

    def __init__(self) -> None:
        self.name = str(uuid4())
        self.batch_no = 0

    def slice(self, events: Sequence[Event]) -> bytes:
        self.batch_no += 1
        return messages.encode(
            messages.Slice(
                v=1,
                producer=messages.Producer("test", 0, self.name),
                incarnation=1,
                batch_no=self.batch_no,
                prev_batch_no=self.batch_no - 1,
                events=list(events),
            )
        )


async def deliver(world: World, queue: Queue, values: Sequence[Any]) -> None:
    """One batch as `run_batches` would bring it: halved down to a record that is set aside, the others handled."""
    pending = list(values)
    size = len(pending)
    while pending:
        before = world.positions.get((queue.topic, 0))
        batch = await world.batch(queue.topic, 0, pending[:size])
        try:
            await queue.handle(batch)
        except ValueError as error:
            if not queue.blames(error):
                raise
            if len(batch.records) > 1:
                epoch, incarnation, _ = world.positions[queue.topic, 0]
                world.positions[queue.topic, 0] = before or (epoch, incarnation, 0)
                size = len(batch.records) // 2
                continue
            await queue.set_aside(batch, error)
        pending = pending[len(batch.records) :]
        size = max(1, min(2 * size, len(pending)))


async def due_now(world: World) -> None:
    """Time passes: every parked item may be tried."""
    await world.admin.execute("UPDATE retries SET next_at = now() WHERE state = 'due'")
