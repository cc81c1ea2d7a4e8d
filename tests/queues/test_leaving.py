"""A worker that cannot publish, on its way out or without a broker, takes nothing from the inboxes."""

import asyncio
from collections.abc import Sequence
from typing import Any

from agents.core import Outgoing
from agents.relay import Relay
from tests.queues.test_recovery import Desk, desk, until

__all__ = ["desk"]


class Slow:
    """A writer that takes its time, and is closed when it is told to."""

    def __init__(self) -> None:
        self.busy, self.go = asyncio.Event(), asyncio.Event()
        self.sent: list[Outgoing] = []
        self.closed = False

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        if outgoing:
            self.busy.set()
            await self.go.wait()
            assert not self.closed, "what was taken is published before the way out is closed"
            self.sent += outgoing


async def test_a_relay_that_is_stopped_publishes_what_it_took_and_takes_no_more(desk: Desk) -> None:
    wallet = await desk.wallet(1000)
    writer: Any = Slow()
    desk.core.writer = writer
    relay = Relay(desk.core)
    running = asyncio.create_task(relay.run())
    await desk.charge(wallet, 3)
    await asyncio.wait_for(writer.busy.wait(), 10)

    stopping = asyncio.create_task(relay.stop(deadline_s=10))
    await asyncio.sleep(0.1)
    assert not stopping.done()
    await desk.charge(wallet, 2, start=3)
    writer.go.set()
    await stopping
    writer.closed = True
    await asyncio.wait_for(running, 10)
    assert len([m for m in writer.sent if m.topic == "wallet.debit"]) == 1
    waiting = "SELECT count(*) FROM usage_metering WHERE published_at IS NULL"
    assert await desk.admin.fetchval(waiting) == 2, "left to whoever stays"

    writer.closed = False

    async def taken() -> bool:
        return bool(await desk.admin.fetchval(waiting) == 0)

    another = asyncio.create_task(Relay(desk.core).run())
    await until(taken)
    another.cancel()
    await asyncio.gather(another, return_exceptions=True)


async def test_without_a_broker_nothing_is_taken_and_what_went_with_it_goes_again_at_once(desk: Desk) -> None:
    wallet = await desk.wallet(1000)
    writer: Any = Slow()
    writer.go.set()
    desk.core.writer = writer
    there = True
    running = asyncio.create_task(Relay(desk.core, up=lambda: there).run())
    await desk.charge(wallet, 1)

    def debits() -> list[Outgoing]:
        return [message for message in writer.sent if message.topic == "wallet.debit"]

    async def sent(count: int) -> bool:
        return len(debits()) >= count

    await until(lambda: sent(1))
    there = False
    await asyncio.sleep(0.3)
    await desk.charge(wallet, 1, start=1)
    await asyncio.sleep(0.5)
    waiting = "SELECT event_id FROM usage_metering WHERE published_at IS NULL"
    assert await desk.admin.fetchval(waiting) == "e1"
    assert len(debits()) == 1
    await asyncio.sleep(0.5)

    there = True
    async with asyncio.timeout(5):
        await until(lambda: sent(2))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    again = b"".join(message.value for message in debits()[1:])
    assert all(f'"id":"e{n}"'.encode() in again for n in range(2)), "the first one's outcome never came"
