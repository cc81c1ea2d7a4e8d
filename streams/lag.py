"""Lag: how many records of a topic are stored and not yet committed, per partition, for the metrics.

StreamStats tells the first offset of the last committed chunk, not its end, so a lag is exact only when it
is zero or the last chunk is short; it is never too large, and too small by less than one chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

from streams import metrics
from streams.address import Address
from streams.topics import partition_stream
from streams.wire import Wire


class LagReader:
    """`async with LagReader(address) as lag: found = await lag.read({"wallet.debit": positions})`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._wire: Wire | None = None

    async def __aenter__(self) -> LagReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._wire is not None:
            await self._wire.close()

    async def read(self, positions: Mapping[str, Mapping[int, int]]) -> dict[str, dict[int, int]]:
        """Lag per topic and partition. `positions` are the next offsets to commit, as `Ownership.positions`
        gives them; the metric `stream_lag_records` is set too.

        Errors: Refused, ConnectionError or another OSError; then ask again, it connects anew.
        """
        if self._wire is None or not self._wire.alive:
            self._wire = await Wire.connect(self._address, name="lag")
        found: dict[str, dict[int, int]] = {}
        for topic, offsets in positions.items():
            for partition, next_offset in offsets.items():
                stats = await self._wire.stats(partition_stream(topic, partition))
                end = stats.committed_chunk_id + 1
                lag = max(0, end - next_offset)
                found.setdefault(topic, {})[partition] = lag
                metrics.LAG.labels(topic, str(partition)).set(lag)
                metrics.FIRST.labels(topic, str(partition)).set(max(0, stats.first_chunk_id))
                metrics.STORED.labels(topic, str(partition)).set(max(0, end - max(0, stats.first_chunk_id)))
        return found
