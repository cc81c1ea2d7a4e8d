"""`./dev simulate --seeds A..B`: play seeds on private servers, and say which faults happened and which seeds failed."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from deploy.local.postgres import SUPERUSER, Postgres
from deploy.local.private import private_postgres
from tests.simulation.nemesis import FAILPOINTS
from tests.simulation.places import begin, make_template, play
from tests.simulation.simulation import Verdict

_TEMPLATE = "virtual"


@dataclass
class Figures:
    """What all seeds came to."""

    seeds: int = 0
    seconds: float = 0.0
    fired: Counter[str] = field(default_factory=Counter)
    failed: dict[int, list[str]] = field(default_factory=dict)

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        self.fired += verdict.fired
        if verdict.wrong:
            self.failed[verdict.seed] = verdict.wrong

    @property
    def unfired(self) -> list[str]:
        return [name for name in FAILPOINTS if not self.fired[name]]

    def encode(self) -> str:
        return json.dumps(
            {
                "seeds": self.seeds,
                "seconds": round(self.seconds, 2),
                "seeds_per_minute": round(60 * self.seeds / self.seconds, 1),
                "failpoints": dict(sorted(self.fired.items())),
                "unfired": self.unfired,
                "failed": self.failed,
            },
            indent=2,
        )


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(prog="./dev simulate", description=__doc__)
    parser.add_argument("--seeds", default="0..299", metavar="A..B", help="which seeds, both ends included")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes, each with its database")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--trace", action="store_true", help="print every step of a failed seed")
    return parser.parse_args(words)


def play_all(postgres: Postgres, seeds: Sequence[int], jobs: int, *, trace: bool) -> Figures:
    """All seeds, on `jobs` databases of a running server."""
    context = multiprocessing.get_context("spawn")
    places: SimpleQueue[tuple[str, str]] = context.SimpleQueue()
    asyncio.run(_make_places(postgres, places, jobs))
    figures, began = Figures(), time.perf_counter()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=begin, initargs=(places,)) as pool:
        for verdict in pool.map(play, seeds):
            figures.add(verdict)
            for line in verdict.lines if trace else ():
                print(line)
            if verdict.wrong:
                print(
                    f"seed {verdict.seed} failed; again: ./dev simulate --seeds {verdict.seed}..{verdict.seed} --trace"
                )
                print(*(f"    {wrong}" for wrong in verdict.wrong), sep="\n", flush=True)
    figures.seconds = time.perf_counter() - began
    return figures


async def _make_places(postgres: Postgres, places: SimpleQueue[tuple[str, str]], jobs: int) -> None:
    await make_template(postgres, _TEMPLATE)
    for number in range(jobs):
        name = f"simulation_{number}"
        await postgres.create_database(name, template=_TEMPLATE)
        places.put((postgres.url("core_app", name), postgres.url(SUPERUSER, name)))


def main(words: Sequence[str]) -> int:
    """0 if no seed failed."""
    options = arguments(words)
    first, _, last = options.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    with asyncio.Runner() as runner:
        server = private_postgres(fast=True, migrated=False)
        postgres = runner.run(server.__aenter__())
        try:
            figures = play_all(postgres, seeds, min(options.jobs, len(seeds)), trace=options.trace)
        finally:
            runner.run(server.__aexit__(None, None, None))
    for name in FAILPOINTS:
        print(f"{figures.fired[name]:6}  {name}")
    print(
        f"{figures.seeds} seeds in {figures.seconds:.1f} s: {60 * figures.seeds / figures.seconds:.0f} a minute; "
        f"{len(figures.failed)} failed, {len(figures.unfired)} of {len(FAILPOINTS)} failpoints never fired"
    )
    if options.json is not None:
        options.json.write_text(figures.encode() + "\n")
    return 1 if figures.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
