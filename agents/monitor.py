"""The monitor: what the database and the broker know about the whole system, as metrics of one worker at a time.

In     the tables of what waits, the batches committed since the last look, the streams' own statistics
Books  nothing; it holds the duty `monitor`, so that no number is shown by two processes and summed twice
Out    the metrics below, from this worker's /metrics while it has the duty; from nobody's once it has not
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.core import Core, PostgresOwnership
from sql import errors, monitor, status
from sql.monitor import Measured
from streams import metrics as carrier
from streams.lag import LagReader
from streams.topics import TOPICS
from streams.wire import Refused

log = structlog.get_logger("agents.monitor")

LEASE: Final = 4.0
"""The duty is held for so many pauses between two looks: so long nobody measures when its holder dies."""
ASK_S: Final = 3.0
"""A broker that is frozen answers nothing: so long it is waited for, and no longer than from one look to the next."""
HANDOVER_S: Final = 60.0
"""Who takes the duty over shows first what was so long ago: what came while nobody measured is an increase, and alerts."""
SETTLE_S: Final = 5.0
"""A batch is counted when its id is this old: by then it is committed, or was not."""

# fmt: off
GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "core_monitor_up": ("1 from the one worker that measures the whole system", ()),
    "core_broker_up": ("1 if the broker told how far its streams are", ()),
    "core_waiting": ("Work that waits, by kind", ("kind",)),
    "core_waiting_oldest_seconds": ("How long the oldest of it has waited", ("kind",)),
    "core_backlog_events": ("Events committed for a topic and not applied by it yet", ("topic",)),
    "core_backlog_oldest_seconds": ("Age of the oldest such event", ("topic",)),
    "core_retries": ("Parked items: due or dead", ("topic", "state")),
    "core_retries_oldest_seconds": ("Age of the oldest of them", ("topic", "state")),
    "core_reconciliation_cases": ("Open differences that wait for a person", ("kind",)),
    "core_reconciliation_cases_oldest_seconds": ("Age of the oldest of them", ("kind",)),
    "core_reconciliation_age_seconds": ("Time since the books were last compared with the gateway's", ()),
    "core_invariant_violated": ("1 for an invariant that the newest check found violated", ("invariant",)),
    "core_invariant_check_age_seconds": ("Time since the invariants were last checked", ()),
    "core_invariant_unchecked_batches": ("Batches committed and not yet checked when the newest check began", ()),
    "core_database_connections": ("Client connections that the database server has", ()),
    "core_database_connections_allowed": ("Client connections that it takes at most", ()),
    "core_database_transaction_seconds": ("Age of the oldest open transaction", ()),
    "core_database_bytes": ("Size of the database", ()),
}
COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "core_batches": ("Batches committed", ("topic",)),
    "core_outcomes": ("Records decided: posted, refused, existing, conflict, parked, quarantined", ("topic", "outcome")),
    "core_quarantined": ("Records that can never be decided", ("topic",)),
    "core_payments": ("Payments that reached a status", ("status",)),
    "core_payments_paise": ("What they were worth", ("status",)),
    "core_refunds": ("Refunds done", ("policy",)),
    "core_refunds_paise": ("What they were worth", ("policy",)),
    "core_credits_granted": ("Purchases and grants booked", ("source",)),
    "core_stream_incidents": ("Times the broker's log was not what it should be, or a gap was mended", ("kind",)),
}
# fmt: on
_TOTALS: Final = {
    "payments": ("core_payments", "core_payments_paise"),
    "refunds": ("core_refunds", "core_refunds_paise"),
    "credits_granted": ("core_credits_granted", None),
}
STATUSES: Final = ("created", "failed", "verified", "held", "rejected", "credited", "mismatch", "refunded")
POLICIES: Final = ("PRO_RATA", "RETIER", "FORCED", "UNAPPLIED")
INCIDENTS: Final = (
    "reincarnated",
    "truncated",
    "tail_lost",
    "gap_filled",
    "slices_missing",
    "unapplied",
    "out_of_turn",
)

NEVER_YET: Final[Sequence[tuple[str, tuple[str, ...]]]] = (
    *(("core_quarantined", (topic,)) for topic in TOPICS),
    *(("core_stream_incidents", (kind,)) for kind in INCIDENTS),
    *((name, (status,)) for name in ("core_payments", "core_payments_paise") for status in STATUSES),
    *((name, (policy,)) for name in ("core_refunds", "core_refunds_paise") for policy in POLICIES),
)
"""Shown as 0 from the start: of a counter that appears with its first event, no increase is seen."""

Samples = dict[str, dict[tuple[str, ...], float]]


class Board(Collector):
    """The newest numbers, for Prometheus to collect; empty while the duty is another's."""

    def __init__(self) -> None:
        self._samples: Samples = {}
        self._counts: defaultdict[str, defaultdict[tuple[str, ...], float]] = defaultdict(
            lambda: defaultdict(float)
        )

    def clear(self) -> None:
        """Show nothing more; counts begin at zero with the next duty, as Prometheus expects of counters."""
        self._samples = {}
        self._counts.clear()

    def show(self, samples: Samples) -> None:
        """Replace what is shown."""
        self._samples = samples

    def count(self, name: str, label: tuple[str, ...], *, more: float = 0.0, total: float = 0.0) -> None:
        """Raise a counter by `more`, or to `total`; it never falls."""
        counts = self._counts[name]
        counts[label] = max(counts[label] + more, total)

    def describe(self) -> Iterator[Metric]:
        """Nothing, so that registering does not collect."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """All of it, or nothing."""
        for name, (text, labels) in GAUGES.items() if self._samples else ():
            gauge = GaugeMetricFamily(name, text, labels=labels)
            for label, number in self._samples.get(name, {}).items():
                gauge.add_metric(label, number)
            yield gauge
        for name, (text, labels) in COUNTERS.items() if self._samples else ():
            counter = CounterMetricFamily(name, text, labels=labels)
            for label, number in list(self._counts[name].items()):
                counter.add_metric(label, number)
            yield counter


BOARD: Final = Board()
REGISTRY.register(BOARD)


class Monitor:
    """One per worker; the one with the duty measures."""

    def __init__(
        self,
        core: Core,
        ownership: PostgresOwnership,
        lag: LagReader,
        *,
        holder: str,
        every_s: float = 5.0,
    ) -> None:
        self._core = core
        self._ownership = ownership
        self._lag = lag
        self._holder = holder
        self._every_s = every_s
        self._counted_until = _now_ms()
        self._last_quarantined = 0
        self._held = False

    async def run(self) -> None:
        """Until cancelled. Without the database or the duty, nothing is shown."""
        while True:
            try:
                await self.once()
            except errors.Unavailable as error:
                self._drop()
                log.warning("the monitor waits for the database", error=str(error))
            await asyncio.sleep(self._every_s)

    async def once(self) -> bool:
        """Measure, if the duty is ours; whether it was. Errors: Unavailable."""
        if not await monitor.take_duty(self._core.db, self._holder, lease_s=LEASE * self._every_s):
            self._drop()
            return False
        taken_over = not self._held
        if taken_over:
            self._held, self._last_quarantined = True, 0
            self._counted_until = _now_ms() - round(1000 * SETTLE_S)
        until = max(self._counted_until, _now_ms() - round(1000 * SETTLE_S))
        found = await monitor.measure(
            self._core.db,
            since=_first_id(self._counted_until),
            until=_first_id(until),
            after_quarantined=self._last_quarantined,
            older_s=HANDOVER_S if taken_over else 0.0,
        )
        backlog = await status.get_backlog(self._core.db, self._core.group)
        self._counted_until, self._last_quarantined = until, found.last_quarantined
        _count(found)
        samples = _samples(found)
        samples["core_backlog_events"] = {(b.topic,): b.events for b in backlog}
        samples["core_backlog_oldest_seconds"] = {(b.topic,): b.oldest_s for b in backlog}
        samples["core_broker_up"] = {(): await self._ask_broker()}
        BOARD.show(samples)
        return True

    async def _ask_broker(self) -> bool:
        """Set the streams' lag; whether the broker answered. Errors: Unavailable."""
        try:
            topics = sorted({topic for topic, _ in self._ownership.epochs})
            positions = {topic: await self._ownership.positions(topic) for topic in topics}
            async with asyncio.timeout(min(ASK_S, self._every_s)):
                await self._lag.read(positions)
        except (OSError, Refused, TimeoutError) as error:
            log.warning("the broker did not say how far its streams are", error=str(error))
            carrier.clear_positions()
            return False
        return True

    def _drop(self) -> None:
        if self._held:
            self._held = False
            BOARD.clear()
            carrier.clear_positions()


def _count(found: Measured) -> None:
    for name, label in NEVER_YET:
        BOARD.count(name, label)
    for topic, batches in found.batches.items():
        BOARD.count("core_batches", (topic,), more=batches)
    for (topic, outcome), records in found.outcomes.items():
        BOARD.count("core_outcomes", (topic, outcome), more=records)
    for topic, records in found.quarantined.items():
        BOARD.count("core_quarantined", (topic,), more=records)
    for (metric, dimension), (count, paise) in found.totals.items():
        number, amount = _TOTALS[metric]
        label = (dimension.partition("=")[2] or "-",)
        BOARD.count(number, label, total=count)
        if amount is not None:
            BOARD.count(amount, label, total=paise)
    for kind, incidents in found.incidents.items():
        BOARD.count("core_stream_incidents", (kind,), total=incidents)


def _samples(found: Measured) -> Samples:
    samples: Samples = {
        "core_monitor_up": {(): 1},
        "core_waiting": {(kind,): n for kind, (n, _) in found.waits.items()},
        "core_waiting_oldest_seconds": {(kind,): age for kind, (_, age) in found.waits.items()},
        "core_retries": {label: n for label, (n, _) in found.retries.items()},
        "core_retries_oldest_seconds": {label: age for label, (_, age) in found.retries.items()},
        "core_reconciliation_cases": {(kind,): n for kind, (n, _) in found.cases.items()},
        "core_reconciliation_cases_oldest_seconds": {(kind,): age for kind, (_, age) in found.cases.items()},
        "core_invariant_violated": {(name,): 1 for name in found.violated},
        "core_invariant_unchecked_batches": {(): found.unchecked_batches},
        "core_database_connections": {(): found.connections},
        "core_database_connections_allowed": {(): found.connections_allowed},
        "core_database_transaction_seconds": {(): found.transaction_s},
        "core_database_bytes": {(): found.database_bytes},
    }
    if found.reconciliation_age_s is not None:
        samples["core_reconciliation_age_seconds"] = {(): found.reconciliation_age_s}
    if found.check_age_s is not None:
        samples["core_invariant_check_age_seconds"] = {(): found.check_age_s}
    return samples


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _first_id(at_ms: int) -> UUID:
    """The lowest UUIDv7 of a millisecond."""
    return UUID(int=at_ms << 80 | 7 << 76 | 2 << 62)
