"""The figures of a run: as a table for people and as JSON for CI."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.demo.log import Log
from bench.demo.oracle import Verdict


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which `share` of them lie; None of nothing."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


def figures(
    log: Log, verdict: Verdict, outcomes: dict[str, int], *, checked: int, violated: int, seconds: float
) -> dict[str, Any]:
    """The report's fields; latencies in ms from publishing to the commit, of usage and of payments (from the webhook)."""
    return {
        "sent": log.sent,
        "acknowledged": log.acknowledged,
        **{
            name: outcomes[name]
            for name in ("posted", "refused", "exists", "conflict", "parked", "quarantined")
        },
        "unknown": log.unknown,
        "duplicates_injected": log.duplicates_injected,
        "lost": len(verdict.lost),
        "double_posted": len(verdict.double_posted),
        "invariants_checked": checked,
        "invariants_violated": violated,
        "events_per_s": round(verdict.committed / seconds, 1),
        "latency_ms": {"p50": percentile(verdict.usage_ms, 0.5), "p99": percentile(verdict.usage_ms, 0.99)},
        "payment_latency_ms": {
            "p50": percentile(verdict.payment_ms, 0.5),
            "p99": percentile(verdict.payment_ms, 0.99),
        },
        "payments": dict(verdict.payments),
        "refunds": dict(verdict.refunds) | {"paise": verdict.refunded_paise},
        "errors": log.errors,
        "seconds": round(seconds, 1),
    }


def show(report: dict[str, Any], verdict: Verdict) -> None:
    """Print the report; what is wrong comes last, so that it is seen."""
    console = Console()
    table = Table(title="What came of it", title_justify="left", show_header=False)
    for name, value in report.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else f"{value}"
        bad = name in ("lost", "double_posted", "invariants_violated") and value
        table.add_row(name.replace("_", " "), f"[red]{text}[/red]" if bad else text)
    console.print(table)
    for line in [*verdict.lost[:20], *verdict.double_posted[:20]]:
        console.print(f"[red]{line}[/red]")


def passed(report: dict[str, Any]) -> bool:
    """Whether nothing was lost, doubled or out of balance, and something happened at all."""
    return (
        not (report["lost"] or report["double_posted"] or report["invariants_violated"])
        and report["posted"] > 0
    )


def write(report: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n")
