"""`<topic>.dead`: a plain stream per topic where its dead letters can be read, as JSON, by any client.

It is a copy for reading; the truth about a dead letter, and what is done about it, is in the database. A letter
may lie there twice: whoever reads tells them apart by `id` and `attempt`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from streams import amqp
from streams.address import Address
from streams.chunks import Chunk
from streams.link import Link
from streams.topics import dead_stream
from streams.wire import Wire


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter as it lies on the stream."""

    v: int = 1
    id: int
    topic: str
    partition: int
    offset: int
    key: str
    attempt: int
    reason: str
    error: str | None
    payload: dict[str, Any]
    created_at: datetime
    died_at: datetime | None


@dataclass(frozen=True, slots=True)
class DeadWriter:
    """Publishes dead letters, confirmed."""

    _link: Link

    async def publish(self, topic: str, letters: Sequence[DeadLetter]) -> bool:
        """Whether all of them are stored; if not, publish them again. Errors: Refused, OSError, TimeoutError."""
        encoded = [amqp.encode(letter.key.encode(), msgspec.json.encode(letter)) for letter in letters]
        ticket = await self._link.send(dead_stream(topic), encoded, wait_s=5.0)
        await ticket.settled
        return ticket.confirmed


@asynccontextmanager
async def dead_writer(address: Address, *, name: str) -> AsyncIterator[DeadWriter]:
    """A connection for publishing dead letters. Errors: those of `Wire.connect`."""
    async with Link(address, name=name) as link:
        yield DeadWriter(link)


async def read_dead(address: Address, topic: str, *, limit: int = 100) -> list[DeadLetter]:
    """The first dead letters of a topic that its stream still has. Errors: Refused, ConnectionError."""
    found: list[DeadLetter] = []
    wire = await Wire.connect(address, name="dead letters")
    try:
        stream = dead_stream(topic)
        last = (await wire.stats(stream)).committed_chunk_id
        if last < 0:
            return []
        async for chunk in chunks_of(wire, stream, 0):
            found += [
                msgspec.json.decode(amqp.decode(raw)[1] or b"", type=DeadLetter) for raw in chunk.messages()
            ]
            if chunk.first >= last or len(found) >= limit:
                return found[:limit]
    finally:
        await wire.close()
    return found


async def chunks_of(wire: Wire, stream: str, offset: int) -> AsyncIterator[Chunk]:
    """Chunks of a stream from the one with `offset` (or its first) on, for ever, on a connection of the caller's own.

    Errors: Refused, ConnectionError when the connection ends.
    """
    arrived: asyncio.Queue[Chunk | None] = asyncio.Queue()
    wire.on_chunk = lambda _, chunk: arrived.put_nowait(chunk)
    wire.on_closed = lambda _: arrived.put_nowait(None)
    await wire.follow(stream, 0, credit=2, offset=offset)
    while (chunk := await arrived.get()) is not None:
        wire.credit_now(0, 1)
        if chunk.user:
            yield chunk
    raise ConnectionError(f"the connection that read {stream} is gone")
