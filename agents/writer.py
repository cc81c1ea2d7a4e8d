"""How agents publish: in order per partition, over one connection, without waiting for confirms.

A confirm proves nothing that the books need: what does not arrive is found by its consumer from the batch
numbers, or published again by the sweeper.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import structlog

from agents.core import Outgoing
from streams import amqp
from streams.address import Address
from streams.link import Link
from streams.topics import partition_stream
from streams.wire import Refused

log = structlog.get_logger("agents.writer")

PATIENCE_S = 5.0
"""How long a publish waits for a broker that is away, before it is left to the sweeper."""


class StreamWriter:
    """Publishes through one link, connected on first use."""

    def __init__(self, address: Address, name: str) -> None:
        self._link = Link(address, name=name)
        self._starting = asyncio.Lock()
        self._started = False
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def publish(self, outgoing: Sequence[Outgoing]) -> None:
        """Send messages, in order per partition. What cannot be sent now is left to the sweeper, and said."""
        by_stream: defaultdict[str, list[bytes]] = defaultdict(list)
        for message in outgoing:
            encoded = amqp.encode(message.key.encode(), message.value, message.headers)
            by_stream[partition_stream(message.topic, message.partition)].append(encoded)
        for stream, messages in by_stream.items():
            try:
                await self._ready()
                async with self._turns[stream]:
                    await self._link.send(stream, messages, wait_s=PATIENCE_S)
            except (OSError, TimeoutError, Refused) as error:
                log.warning("left to the sweeper", stream=stream, messages=len(messages), why=str(error))

    @property
    def up(self) -> bool:
        """Whether the broker is there, as far as we know; not before the first message has asked for it."""
        return self._link.up or not self._started

    async def _ready(self) -> None:
        async with self._starting:
            if not self._started:
                await self._link.start()
                self._started = True

    async def stop(self) -> None:
        """Wait briefly for confirms under way, and leave."""
        if self._started:
            await self._link.stop()
