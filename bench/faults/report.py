"""The figures of a run and of several: JSON for CI, a live line and one table for people."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench.faults import alerts
from bench.faults.judge import Verdict
from bench.faults.log import Log, Told
from bench.faults.nemesis import Injected

MUST_BE_ZERO: Final = (
    "lost",
    "duplicated",
    "misordered",
    "negative",
    "model_differences",
    "invariant_rows",
    "replay_changed_rows",
    "not_drained",
    "not_recovered",
)
DOORS: Final = ("api", "client", "canary")


@dataclass(slots=True)
class Outcome:
    """Everything a run found."""

    seed: int
    log: Log
    injected: list[Injected]
    verdict: Verdict
    violations: Counter[str]
    replayed: Counter[str]
    not_drained: list[str]
    truncations_injected: int = 0
    truncations_detected: int = 0
    raw_at_risk: int = 0
    """Faults that may lose what was published without our client: cut tails, deleted and shortened streams."""
    seconds: float = 0.0
    alerts: dict[str, Any] = field(default_factory=dict)
    """Figures of bench.faults.alerts; empty where nobody watched."""


def figures(outcome: Outcome) -> dict[str, Any]:
    """The report's fields; recoveries in seconds."""
    log, verdict = outcome.log, outcome.verdict
    times: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for fault in outcome.injected:
        if fault.recovery_s is not None:
            times[fault.kind.component][fault.kind.name].append(round(fault.recovery_s, 2))
    return {
        "seed": outcome.seed,
        "faults": dict(sorted(Counter(str(fault.kind) for fault in outcome.injected).items())),
        "sent": log.count() - log.count(None, "raw"),
        "sent_again": log.sent_again,
        "acknowledged": log.count(Told.ACKNOWLEDGED) - log.count(Told.ACKNOWLEDGED, "raw"),
        "unknown": log.count(Told.UNKNOWN) - log.count(Told.UNKNOWN, "raw"),
        "orders": len(log.orders),
        "refunds": len(log.refunds),
        "posted": verdict.posted,
        "refused": verdict.refused,
        "payments_asked_later": len(verdict.waiting),
        "lost": len(verdict.lost),
        "duplicated": len(verdict.duplicated),
        "misordered": len(verdict.misordered),
        "negative": len(verdict.negative),
        "model_differences": len(verdict.differences),
        "invariant_rows": outcome.violations.total(),
        "truncations_injected": outcome.truncations_injected,
        "truncations_detected": outcome.truncations_detected,
        "replay_changed_rows": outcome.replayed.total(),
        "not_drained": len(outcome.not_drained),
        "not_recovered": sum(not fault.recovered for fault in outcome.injected),
        "without_our_client": {
            "sent": log.count(None, "raw"),
            "acknowledged": log.count(Told.ACKNOWLEDGED, "raw"),
            "unknown": log.count(Told.UNKNOWN, "raw"),
            "lost": len(verdict.raw_lost),
            "faults_that_may_lose_them": outcome.raw_at_risk,
        },
        "recovery_s": {component: summed(kinds) for component, kinds in sorted(times.items())},
        "recoveries": {component: dict(kinds) for component, kinds in sorted(times.items())},
        "answers": {
            f"{route} {status or 'none'}": count for (route, status), count in sorted(log.answers.items())
        },
        "seconds": round(outcome.seconds, 1),
        **outcome.alerts,
    }


def wrong(outcome: Outcome) -> list[str]:
    """Everything that is not as it should be, in words."""
    changed = [f"{table}: {count} rows changed by the replay" for table, count in outcome.replayed.items()]
    left = [f"not drained: {line}" for line in outcome.not_drained]
    return [*outcome.verdict.wrong(), *outcome.violations, *changed, *left, *outcome.verdict.raw_lost[:3]]


def summed(kinds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """n, median and max of each kind."""
    return {
        kind: {"n": len(times), "median": round(median(times), 2), "max": max(times)}
        for kind, times in sorted(kinds.items())
        if times
    }


def together(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several runs as one: counts added, recoveries pooled."""
    total: dict[str, Any] = {"seeds": [run["seed"] for run in runs]}
    for run in runs:
        for name, value in run.items():
            if name in ("seed", "recovery_s", "recoveries") or name.startswith("alerts_"):
                continue
            if isinstance(value, dict):
                sums = total.setdefault(name, {})
                sums |= {key: sums.get(key, 0) + number for key, number in value.items()}
            else:
                total[name] = round(total.get(name, 0) + value, 1)
    pooled: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for component, kinds in run["recoveries"].items():
            for kind, times in kinds.items():
                pooled[component][kind] += times
    total["recovery_s"] = {component: summed(kinds) for component, kinds in sorted(pooled.items())}
    total["recoveries"] = {component: dict(kinds) for component, kinds in sorted(pooled.items())}
    return total | alerts.together(runs)


def passed(found: dict[str, Any]) -> bool:
    """Whether nothing is wrong, and something happened at all."""
    undetected = found["truncations_injected"] - found["truncations_detected"]
    bare = found["without_our_client"]
    silent = bare["lost"] if not bare["faults_that_may_lose_them"] else 0
    return (
        not any(found[name] for name in MUST_BE_ZERO)
        and not undetected
        and not silent
        and not found.get("alerts_missing")
        and found["posted"] > 0
    )


def show(found: dict[str, Any], wrong: Sequence[str]) -> None:
    """One table; what is wrong comes last, so that it is seen."""
    console = Console()
    title = f"seed {found['seed']}" if "seed" in found else f"{len(found['seeds'])} seeds"
    table = Table(title=f"faults, {title}", title_justify="left")
    for column in ("component", "kind", "faults"):
        table.add_column(column)
    for column in ("n", "median s", "max s"):
        table.add_column(column, justify="right")
    for name, count in found["faults"].items():
        component, _, kind = name.partition(": ")
        times = found["recovery_s"].get(component, {}).get(kind)
        row = (
            ("", "", "")
            if times is None
            else (str(times["n"]), f"{times['median']:.2f}", f"{times['max']:.2f}")
        )
        table.add_row(component, kind, str(count), *row)
    console.print(table)
    if "alerts_raised" in found:
        alerts.show(console, found)
    bare = found["without_our_client"]
    console.print(
        f"sent {found['sent']}, acknowledged {found['acknowledged']}, unknown {found['unknown']},"
        f" posted {found['posted']}, refused {found['refused']}, orders {found['orders']}, refunds {found['refunds']}"
    )
    console.print(", ".join(f"{name.replace('_', ' ')} {found[name]}" for name in MUST_BE_ZERO))
    console.print(
        f"truncations: {found['truncations_injected']} injected, {found['truncations_detected']} detected;"
        f" without our client: {bare['acknowledged']} confirmed, {bare['lost']} of them lost"
    )
    for line in wrong[:40]:
        console.print(f"[red]{line}[/red]", markup=True, highlight=False)
    console.print("[green]passed[/green]" if passed(found) else "[red]FAILED[/red]")


def write(found: dict[str, Any], file: Path) -> None:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n")
