"""docs/metrics.md: every metric that a process of ours shows, from the registries themselves.

python -m deploy.observability.metrics          write it
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prometheus_client import REGISTRY, GCCollector, PlatformCollector, ProcessCollector

from deploy.migrations import CHECKOUT

FILE = CHECKOUT / "docs" / "metrics.md"
_PACKAGES = ("sql", "streams", "gateway", "tables", "agents")
_EVERY, _WORKER, _WEB, _ONE = "every process", "workers", "web", "one worker"
_SHARED = ("sql.", "gateway.", "streams.telemetry.")
_HEAD = """\
# Metrics

Every metric with its stable name; a test compares this page with what real processes show. Prometheus scrapes each process by
itself: `GET /metrics` of web, and of each worker on its `METRICS_PORT` (`./dev env` shows the addresses as `METRICS_URLS`).
What concerns the whole system is measured by one worker at a time (`agents/monitor.py`, the duty `monitor`): the others do
not show it, so nothing is counted twice, and `max()` is right while the duty moves. Beside these there are the Python
client's own `process_*` and `python_*`.

Seconds and bytes are base units, money is in paise. A counter begins at zero with its process, except for those of the whole
system that are read from the books.

"""


@dataclass(frozen=True, slots=True, order=True)
class Shown:
    """One metric. `name` is as Prometheus stores it, without a histogram's suffixes."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str
    shown_by: str


def metrics() -> list[Shown]:
    """All of them, by name."""
    return sorted({*_default(), *_of_web(), *_measured()})


def page() -> str:
    """The text of docs/metrics.md."""
    rows = ["| metric | type | labels | shown by | meaning |", "|---|---|---|---|---|"]
    rows += [
        f"| `{m.name}` | {m.kind} | {' '.join(f'`{label}`' for label in m.labels)} | {m.shown_by} | {m.text} |"
        for m in metrics()
    ]
    return _HEAD + "\n".join(rows) + "\n"


def _default() -> Iterator[Shown]:
    places: dict[int, str] = {}
    for name in _modules():
        module = importlib.import_module(name)
        for known in vars(module).values():
            if hasattr(known, "_labelnames") and hasattr(known, "describe"):
                places.setdefault(id(known), name)
    from streams.metrics import FIRST, LAG, STORED

    for place, collector in _found(places):
        shown_by = _EVERY if f"{place}.".startswith(_SHARED) else _WORKER
        shown_by = _ONE if collector in (FIRST, LAG, STORED) else shown_by
        yield from _described(collector, shown_by)
    from sql.metrics import POOLS

    for family in POOLS.collect():
        labels = ("state",) if family.name == "sql_pool_connections" else ()
        yield Shown(family.name, family.type, labels, family.documentation, _EVERY)


def _modules() -> Iterator[str]:
    for package in _PACKAGES:
        found = importlib.import_module(package)
        yield package
        for module in pkgutil.walk_packages(found.__path__, f"{package}."):
            if not module.name.endswith("__main__") and ".simulator" not in module.name:
                yield module.name


def _found(places: dict[int, str]) -> Iterator[tuple[str, Any]]:
    theirs = (GCCollector, PlatformCollector, ProcessCollector)
    for collector in list(REGISTRY._collector_to_names):
        if id(collector) in places and not isinstance(collector, theirs):
            yield places[id(collector)], collector


def _of_web() -> Iterator[Shown]:
    from web.metrics import Metrics

    for collector in list(Metrics().registry._collector_to_names):
        yield from _described(collector, _WEB)


def _measured() -> Iterator[Shown]:
    from agents.monitor import COUNTERS, GAUGES

    for name, (text, labels) in GAUGES.items():
        yield Shown(name, "gauge", labels, text, _ONE)
    for name, (text, labels) in COUNTERS.items():
        yield Shown(f"{name}_total", "counter", labels, text, _ONE)


def _described(collector: Any, shown_by: str) -> Iterator[Shown]:
    for family in collector.describe():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = tuple(getattr(collector, "_labelnames", ()))
        yield Shown(name, family.type, labels, family.documentation, shown_by)


if __name__ == "__main__":
    FILE.write_text(page())
