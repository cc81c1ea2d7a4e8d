"""Where a stream begins and ends, and which offset it had at a time: for people who send a group back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rstream import schema
from rstream.constants import OffsetType

from streams.address import Address
from streams.chunks import Chunk
from streams.topics import partition_stream
from streams.wire import Wire

_FIRST_CHUNK_S = 5.0


@dataclass(frozen=True, slots=True)
class Extent:
    """Offsets first..end - 1 are there, about: `first` is that of the first chunk."""

    first: int
    end: int


async def extents(address: Address, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], Extent]:
    """Exactly where partitions end. Errors: Refused, ConnectionError."""
    wanted = {partition_stream(topic, number): (topic, number) for topic, number in partitions}
    wire = await Wire.connect(address, name="extents")
    try:
        firsts = {stream: max(0, (await wire.stats(stream)).first_chunk_id) for stream in wanted}
        ends = await wire.ends(wanted)
    finally:
        await wire.close()
    return {key: Extent(firsts[stream], max(firsts[stream], ends[stream])) for stream, key in wanted.items()}


async def offset_at(address: Address, topic: str, partition: int, at: datetime) -> int:
    """The first offset stored at or after a time, or up to a chunk earlier; the end if nothing was stored since.

    Errors: Refused, ConnectionError; ValueError for a time without zone.
    """
    if at.tzinfo is None:
        raise ValueError("say the time with its zone, e.g. 2026-11-23T06:00:00Z")
    stream, at_ms = partition_stream(topic, partition), int(at.timestamp() * 1000)
    wire = await Wire.connect(address, name="offset at")
    try:
        last = (await wire.stats(stream)).committed_chunk_id
        if last < 0:
            return 0
        arrived: asyncio.Future[Chunk] = asyncio.get_running_loop().create_future()

        def on_chunk(_: int, chunk: Chunk) -> None:
            if not arrived.done():
                arrived.set_result(chunk)

        wire.on_chunk = on_chunk
        spec = schema.OffsetSpec.from_params(OffsetType.TIMESTAMP, at_ms)
        await wire.request(f"reading {stream}", wire.subscribe(stream, 0, spec, 1, {}))
        chunk: Chunk | None = None
        with contextlib.suppress(TimeoutError):
            chunk = await asyncio.wait_for(arrived, _FIRST_CHUNK_S)
    finally:
        await wire.close()
    if chunk is None or chunk.timestamp_ms < at_ms:
        return (await extents(address, [(topic, partition)]))[topic, partition].end
    return chunk.first
