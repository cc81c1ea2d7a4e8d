"""Several runs, one after another, and their sum; the outages; and both, as every night."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.faults import outages, report
from bench.faults.canary import Canary
from bench.faults.kinds import Kind, Scene
from bench.faults.load import Rates
from bench.faults.outages import Outages
from bench.faults.run import by_seed, run
from deploy.local.process import ServerError
from deploy.local.stack import LOCAL
from streams.wire import Refused

NIGHTLY_SEEDS: Final = 24
"""Enough for every kind of fault at least five times."""


async def play_seeds(
    seeds: Iterable[int], seconds: float, deck: Sequence[Kind], json: Path | None, *, watched: bool = False
) -> bool:
    """Whether all was right. Each run's figures are in a file of its own beside `json`, which has the sum so far."""
    runs: list[dict[str, Any]] = []
    good = True
    for seed in seeds:
        try:
            outcome = await run(
                seed, seconds, by_seed(seed, deck), _logs(seed), rates=Rates(), watched=watched
            )
        except (ServerError, ExceptionGroup, OSError, Refused) as error:
            print(f"seed {seed} ended early: {error!r}", flush=True)
            good = False
            continue
        found = report.figures(outcome)
        runs.append(found)
        report.show(found, report.wrong(outcome))
        good = good and report.passed(found)
        if json is not None:
            report.write(found, json.with_name(f"{json.stem}-{seed}{json.suffix}"))
            report.write(report.together(runs), json)
    if len(runs) > 1:
        report.show(report.together(runs), [])
    return good


def _logs(seed: int) -> Path:
    return LOCAL / "faults" / f"seed-{seed}"


async def play_seed(
    seed: int, seconds: float, deck: Sequence[Kind], json: Path | None, *, watched: bool = False
) -> bool:
    """One run, as `play_seeds`; `json` has its figures. Errors: ServerError."""
    outcome = await run(seed, seconds, by_seed(seed, deck), _logs(seed), rates=Rates(), watched=watched)
    found = report.figures(outcome)
    report.show(found, report.wrong(outcome))
    if json is not None:
        report.write(found, json)
    return report.passed(found)


async def play_outages(seed: int, seconds: float, json: Path | None, *, watched: bool = False) -> bool:
    """The outages instead of a nemesis; judged like any run. Errors: ServerError."""
    played: list[Outages] = []

    def make(scene: Scene, canary: Canary, tell: Callable[[str], None]) -> Outages:
        played.append(Outages(scene, canary, tell))
        return played[0]

    logs = LOCAL / "faults" / "outages"
    outcome = await run(seed, seconds, make, logs, rates=Rates(), watched=watched)
    found = report.figures(outcome)
    found["outages"] = {outage.name: outage.figures() for outage in played[0].outages}
    outages.show(played[0].outages)
    report.show(found, report.wrong(outcome))
    if json is not None:
        report.write(found, json)
    return report.passed(found) and not any(outage.wrong() for outage in played[0].outages)


async def play_night(deck: Sequence[Kind], json: Path | None) -> bool:
    """New seeds each night, then the outages, a minute each; the figures under `.local/faults` if nowhere else."""
    day = (datetime.now(UTC) - datetime(2026, 1, 1, tzinfo=UTC)).days
    first = NIGHTLY_SEEDS * day
    file = json or LOCAL / "faults" / "nightly.json"
    good = await play_seeds(range(first, first + NIGHTLY_SEEDS), 60.0, deck, file, watched=True)
    outages_file = file.with_name(f"{file.stem}-outages{file.suffix}")
    return await play_outages(first, 60.0, outages_file, watched=True) and good
