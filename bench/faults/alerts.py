"""Which alerts the faults raise: a real Prometheus beside the run, with production's rules, where a minute is a second.

A kind of fault names the alerts of which one must fire. What began to be so between a fault's beginning and a little after
its recovery was raised by it; what another fault had left burning when it began proves nothing for it, nor against it.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.faults.stack import System
from deploy.local.ports import HOST
from deploy.observability import watch
from deploy.observability.watch import Alert, Job

POLL_S: Final = 0.25
GRACE_S: Final = 12.0
"""From a recovery until what it was recovered from has been measured, scraped, and waited for by its rule."""
PROCESS_S: Final = 0.5
PATIENT_S: Final = 4.0
"""Web's metrics are also asked for as patiently as in production: it asks the database first, for up to three seconds."""


@dataclass(frozen=True, slots=True)
class Span:
    """When a fault of a kind held, by the monotonic clock, and the alerts of which one must fire; none: none must."""

    kind: str
    expected: tuple[str, ...]
    began: float
    ended: float


@dataclass(slots=True)
class Seen:
    """Every alert that fired, and when it was last seen to."""

    last: dict[Alert, float] = field(default_factory=dict)

    async def look(self, http: aiohttp.ClientSession, url: str) -> None:
        """Look once; a Prometheus that does not answer is looked at again."""
        with suppress(aiohttp.ClientError, TimeoutError):
            for alert in await watch.firing(http, url):
                self.last[alert] = time.monotonic()

    def during(self, span: Span) -> tuple[set[str], set[str]]:
        """The alerts that a fault raised, and those that burned already when it began."""
        offset = time.time() - time.monotonic()
        raised, before = set(), set()
        for alert, last in self.last.items():
            since = alert.since.timestamp() - offset
            if span.began - PROCESS_S <= since <= span.ended + GRACE_S:
                raised.add(alert.name)
            elif since < span.began <= last:
                before.add(alert.name)
        return raised, before - raised


@asynccontextmanager
async def beside(system: System, logs: Path) -> AsyncIterator[Seen]:
    """Watch a system until the end of the block. Errors: ServerError where there is no Prometheus."""
    web = system.web_url.removeprefix("http://")
    jobs = {
        "commdesk-web": Job([web], PROCESS_S),
        "commdesk-web-patient": Job([web], PATIENT_S),
        "commdesk-worker": Job([f"{HOST}:{port}" for port in system.metrics_ports.values()], PROCESS_S),
    }
    seen = Seen()

    async def keep_looking(http: aiohttp.ClientSession, url: str) -> None:
        while True:
            await seen.look(http, url)
            await asyncio.sleep(POLL_S)

    rules = watch.hurried(watch.RULES.read_text())
    timeout = aiohttp.ClientTimeout(total=2.0)
    async with (
        watch.watching(jobs, logs, rules=rules) as url,
        aiohttp.ClientSession(timeout=timeout) as http,
    ):
        looking = asyncio.create_task(keep_looking(http, url))
        try:
            yield seen
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)


def figures(spans: Iterable[Span], seen: Seen) -> dict[str, Any]:
    """By kind: the alerts expected, in how many of its faults each was raised, and the kinds whose alert never was."""
    expected: dict[str, list[str]] = {}
    raised: defaultdict[str, Counter[str]] = defaultdict(Counter)
    unclear: set[str] = set()
    for span in spans:
        if span.expected:
            expected[span.kind] = sorted(span.expected)
        by_it, before = seen.during(span)
        raised[span.kind].update(by_it)
        if before.intersection(span.expected):
            unclear.add(span.kind)
    missing = [
        kind
        for kind, names in sorted(expected.items())
        if not raised[kind].keys() & set(names) and kind not in unclear
    ]
    return {
        "alerts_expected": dict(sorted(expected.items())),
        "alerts_raised": {kind: dict(sorted(names.items())) for kind, names in sorted(raised.items())},
        "alerts_missing": missing,
    }


def together(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Those of several runs as one; a kind is missing if it was in any. Empty where nobody watched."""
    watched = [run for run in runs if "alerts_raised" in run]
    if not watched:
        return {}
    expected: dict[str, list[str]] = {}
    raised: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for run in watched:
        expected |= run["alerts_expected"]
        for kind, names in run["alerts_raised"].items():
            raised[kind].update(names)
    return {
        "alerts_expected": dict(sorted(expected.items())),
        "alerts_raised": {kind: dict(sorted(names.items())) for kind, names in sorted(raised.items())},
        "alerts_missing": sorted({kind for run in watched for kind in run["alerts_missing"]}),
    }


def show(console: Console, found: Mapping[str, Any]) -> None:
    """One table: per kind what must fire and what did, in how many of its faults."""
    table = Table(
        title="alerts (a minute of the rules is a second here; one of the expected must fire)",
        title_justify="left",
    )
    for column in ("fault", "expected", "raised"):
        table.add_column(column)
    for kind, names in found["alerts_raised"].items():
        mark = "[red]none of these[/red] " if kind in found["alerts_missing"] else ""
        table.add_row(
            kind,
            ", ".join(found["alerts_expected"].get(kind, ())),
            mark + ", ".join(f"{name} × {count}" for name, count in names.items()),
        )
    console.print(table)
