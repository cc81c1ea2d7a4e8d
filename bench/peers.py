"""`./dev bench peers`: our ledger and our streams next to others', in one database, on one broker, in turns; the ratios.

Ledgers (bench/peer_ledgers.py): the limit (binary COPY of our very rows + UPDATE), row by row with `SELECT … FOR UPDATE`,
and pgledger's approach, written as its public description says. Streams (bench/peer_streams.py): rstream, rbfly, Faust's drain.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import peer_ledgers, peer_streams
from bench.frame import machine, passed, report, say

NAME: Final = "peers"
_STREAMS: Final = {
    "publish": "publish: ours",
    "consume": "consume: ours, batches",
    "Faust": "Faust: ours, run_batches",
}


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.set_defaults(runs=3)
    parser.add_argument("--only", choices=["ledgers", "streams"], help="one half of it")
    parser.add_argument("--for", dest="seconds", type=float, default=4.0, help="seconds per ledger and run")
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=100_000, help="messages per case of the streams")


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if a ledger is out of balance."""
    about, settings = machine(), {"wallets": options.wallets, "lots_per_wallet": 3, "duplicates": 0.02}
    runs: list[dict[str, Any]] = [{} for _ in range(options.runs)]
    missing = None
    if options.only != "streams":
        found, durable = await peer_ledgers.measure(
            options.wallets, options.runs, options.seconds, options.seed
        )
        settings |= durable
        runs = [run | more for run, more in zip(runs, found, strict=True)]
    if options.only != "ledgers":
        found, missing = await peer_streams.measure(options.runs, options.events)
        runs = [run | more for run, more in zip(runs, found, strict=True)]
    ratio = ratios(runs)
    show(runs, ratio)
    if missing:
        say(f"rbfly is not among them. {missing}")
    written = report(options, NAME, settings | {"missing": missing}, runs, about=about, ratio=ratio)
    for violation in written["violations"]:
        say(violation)
    return 0 if passed(written) else 1


def ratios(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Our rate by each other's, run by run, and of these the median. By CPU where both are alone with a core: `… cpu`."""
    found: dict[str, float] = {}
    for name in _names(runs[0]):
        ours = next((mine for kind, mine in _STREAMS.items() if name.startswith(kind)), peer_ledgers.OURS)
        if name == ours:
            continue
        found[name] = round(statistics.median(run[f"{ours} per_s"] / run[f"{name} per_s"] for run in runs), 2)
        found[f"{name} cpu"] = round(statistics.median(_cpu(run, name) / _cpu(run, ours) for run in runs), 2)
    return found


def _cpu(run: Mapping[str, Any], name: str) -> float:
    return float(run.get(f"{name} postgres_us", 0.0) + run[f"{name} client_us"])


def _names(run: Mapping[str, Any]) -> list[str]:
    return [name.removesuffix(" per_s") for name in run if name.endswith(" per_s")]


def show(runs: Sequence[Mapping[str, Any]], ratio: Mapping[str, float]) -> None:
    """Medians, and how many times each goes into ours."""
    table = Table("", "events/s", "PostgreSQL µs", "client µs", "ours is × its rate", "it costs × our CPU")
    for name in _names(runs[0]):
        cells = [
            f"{statistics.median(run[key] for run in runs):,.1f}" if key in runs[0] else ""
            for key in (f"{name} per_s", f"{name} postgres_us", f"{name} client_us")
        ]
        table.add_row(name, *cells, str(ratio.get(name, "")), str(ratio.get(f"{name} cpu", "")))
    Console(width=140).print(table)
