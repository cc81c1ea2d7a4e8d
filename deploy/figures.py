"""Judge the figures of a demo run: `python -m deploy.figures FILE` exits 1 and says what does not add up."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WANTED = [
    *("sent", "acknowledged", "posted", "refused", "exists", "conflict", "parked", "quarantined", "unknown"),
    *("duplicates_injected", "lost", "double_posted", "invariants_checked", "invariants_violated"),
    *("events_per_s", "latency_ms"),
]


def problems(figures: Mapping[str, Any]) -> list[str]:
    """What is wrong with a run's figures, as sentences; empty when nothing is.

    `figures` are counts of events by name, `events_per_s`, and `latency_ms` with `p50` and `p99`.
    """
    missing = [name for name in _WANTED if name not in figures]
    if missing:
        return [f"missing: {', '.join(missing)}"]
    found = [
        f"{name} is {figures[name]}, not 0"
        for name in ("lost", "double_posted", "unknown", "invariants_violated")
        if figures[name] != 0
    ]
    found += [
        f"{name} is {figures[name]}: nothing was measured"
        for name in ("sent", "acknowledged", "posted", "refused", "invariants_checked", "events_per_s")
        if figures[name] <= 0
    ]
    if figures["duplicates_injected"] * 50 < figures["sent"]:
        found.append(f"only {figures['duplicates_injected']} of {figures['sent']} events were sent twice")
    latency = figures["latency_ms"]
    if not 0 < (latency.get("p50") or 0) <= (latency.get("p99") or 0):
        found.append(f"latency_ms is {latency}")
    return found


def main(file: Path) -> int:
    """Print what is wrong; 1 if anything is."""
    figures = json.loads(file.read_text())
    found = problems(figures)
    for problem in found:
        print(f"figures: {problem}", file=sys.stderr)
    if not found:
        print(f"figures: {figures['posted']} posted, {figures['events_per_s']:.0f}/s, nothing lost or twice")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
