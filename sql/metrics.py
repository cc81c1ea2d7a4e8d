"""What the database floor counts: its pools, and calls that found the database away."""

from collections.abc import Iterator
from typing import Final, Protocol
from weakref import WeakSet

from prometheus_client import REGISTRY, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

UNAVAILABLE: Final = Counter(
    "sql_unavailable_total", "Calls that found the database away, by SQLSTATE or the error's name", ["reason"]
)


class Pooled(Protocol):
    """Something with connections."""

    def connections(self) -> tuple[int, int, int]:
        """In use, idle, and the most there may be."""
        ...

    def __hash__(self) -> int: ...


class Pools(Collector):
    """The pools of this process that are open, asked when Prometheus asks."""

    def __init__(self) -> None:
        self._pools: WeakSet[Pooled] = WeakSet()

    def add(self, pool: Pooled) -> None:
        """Count this one too, as long as it lives."""
        self._pools.add(pool)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing, so that registering does not collect."""
        yield from ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Connections by state, and the most there may be."""
        counts = [pool.connections() for pool in self._pools]
        used = GaugeMetricFamily(
            "sql_pool_connections", "Connections of this process's pools", labels=["state"]
        )
        used.add_metric(["busy"], sum(busy for busy, _, _ in counts))
        used.add_metric(["idle"], sum(idle for _, idle, _ in counts))
        yield used
        yield GaugeMetricFamily(
            "sql_pool_size", "Connections they may have at most", sum(c[2] for c in counts)
        )


POOLS: Final = Pools()
REGISTRY.register(POOLS)
