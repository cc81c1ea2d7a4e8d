"""The figures of a run, the bounds they must keep, and one table for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

MB: Final = 400.0
"""Most memory that the web process may need, resident, while it is attacked."""
GREW_MB: Final = 150.0
"""And how much of it the attack may add."""
SLOWER: Final = 2.0
BYPASS: Final = 1.05
VECTORS: Final = 60


@dataclass(slots=True)
class Report:
    """Everything a run found. `wrong` is in words, `figures` is what `--json` writes."""

    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def broken(self) -> list[str]:
        """The bounds that do not hold, in words."""
        found = []
        for name, (words, holds) in BOUNDS.items():
            if name in self.figures and not holds(self.figures):
                found.append(f"{name} is {self.figures[name]}, must be {words}")
        return found

    @property
    def passed(self) -> bool:
        """Whether every bound holds and nothing else is wrong."""
        return not self.broken() and not self.wrong


Holds = Callable[[Mapping[str, Any]], bool]


def _zero(name: str) -> tuple[str, Holds]:
    return "0", lambda figures: figures[name] == 0


def _slower(figures: Mapping[str, Any]) -> bool:
    return bool(figures["p99_attacked_ms"] <= SLOWER * figures["p99_alone_ms"])


BOUNDS: Final[dict[str, tuple[str, Holds]]] = {
    "vectors": (f"at least {VECTORS}", lambda f: f["vectors"] >= VECTORS),
    "forged_accepted": _zero("forged_accepted"),
    "genuine_sent": ("at least 1", lambda f: f["genuine_sent"] >= 1),
    "genuine_accepted": ("all that were sent", lambda f: f["genuine_accepted"] == f["genuine_sent"]),
    "unexpected_5xx": _zero("unexpected_5xx"),
    "jwt_attacks": ("at least 1", lambda f: f["jwt_attacks"] >= 1),
    "jwt_accepted": _zero("jwt_accepted"),
    "rbac_cells": ("at least 1", lambda f: f["rbac_cells"] >= 1),
    "rbac_violations": _zero("rbac_violations"),
    "rbac_route_coverage": ("1.0", lambda f: f["rbac_route_coverage"] == 1.0),
    "canary_leaks": _zero("canary_leaks"),
    "limiter_bypass_ratio": (f"at most {BYPASS}", lambda f: 0 < f["limiter_bypass_ratio"] <= BYPASS),
    "max_rss_mb": (
        f"at most {MB:.0f}, and {GREW_MB:.0f} more than before",
        lambda f: f["max_rss_mb"] <= MB and f["max_rss_mb"] <= f["rss_before_mb"] + GREW_MB,
    ),
    "p99_attacked_ms": (f"at most {SLOWER:.0f} × p99_alone_ms", _slower),
}


def show(report: Report, notes: Sequence[str] = ()) -> None:
    """One table; what is wrong comes last, so that it is seen."""
    console = Console()
    table = Table(title=f"security, seed {report.figures.get('seed')}", title_justify="left")
    table.add_column("figure")
    table.add_column("found", justify="right")
    table.add_column("must be")
    table.add_column("")
    for name, (words, holds) in BOUNDS.items():
        if name in report.figures:
            good = holds(report.figures)
            table.add_row(
                name, str(report.figures[name]), words, "[green]ok[/green]" if good else "[red]BROKEN[/red]"
            )
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    for line in (report.broken() + report.wrong)[:60]:
        console.print(line, style="red", markup=False, highlight=False)
    left = len(report.wrong) - 60
    if left > 0:
        console.print(f"and {left} more", style="red")
    console.print("[green]passed[/green]" if report.passed else "[red]FAILED[/red]")


def write(report: Report, file: Path) -> None:
    """As JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report.figures, indent=1) + "\n")
