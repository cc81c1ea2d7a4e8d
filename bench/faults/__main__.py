"""`python -m bench.faults --seed N --for SECONDS [--json FILE]`, or `--seeds A..B`: exit 1 if anything is wrong."""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from bench.faults import outages, report
from bench.faults.canary import Canary
from bench.faults.deck import DECK, LEFT_OUT
from bench.faults.kinds import Scene
from bench.faults.load import Rates
from bench.faults.outages import Outages
from bench.faults.run import by_seed, run
from deploy.local.process import ServerError
from deploy.local.stack import LOCAL


async def play_outages(seed: int, seconds: float, json: Path | None) -> int:
    """The outages instead of a nemesis; judged like any run."""
    played: list[Outages] = []

    def make(scene: Scene, canary: Canary, tell: Callable[[str], None]) -> Outages:
        played.append(Outages(scene, canary, tell))
        return played[0]

    outcome = await run(seed, seconds, make, LOCAL / "faults" / "outages", rates=Rates())
    found = report.figures(outcome)
    found["outages"] = {outage.name: outage.figures() for outage in played[0].outages}
    outages.show(played[0].outages)
    report.show(found, [*outcome.verdict.wrong(), *outcome.violations, *outcome.not_drained])
    if json is not None:
        report.write(found, json)
    return 0 if report.passed(found) and not any(o.wrong() for o in played[0].outages) else 1


async def main(args: argparse.Namespace) -> int:
    me = asyncio.current_task()
    assert me
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    if args.outages:
        return await play_outages(args.seed, args.seconds, args.json)
    deck = [kind for kind in DECK if not args.kinds or any(part in str(kind) for part in args.kinds)]
    print(*LEFT_OUT, sep="\n", end="\n" if LEFT_OUT else "")
    first, _, last = (args.seeds or str(args.seed)).partition("..")
    runs, good = [], True
    for seed in range(int(first), int(last or first) + 1):
        logs = LOCAL / "faults" / f"seed-{seed}"
        outcome = await run(seed, args.seconds, by_seed(seed, deck), logs, rates=Rates())
        found = report.figures(outcome)
        runs.append(found)
        violated = [f"{name}" for name in outcome.violations]
        changed = [f"{table}: {count} rows changed" for table, count in outcome.replayed.items()]
        report.show(
            found,
            [*outcome.verdict.wrong(), *violated, *changed, *outcome.not_drained, *outcome.verdict.raw_lost],
        )
        good = good and report.passed(found)
        if args.json is not None and args.seeds:
            report.write(found, args.json.with_name(f"{args.json.stem}-{seed}{args.json.suffix}"))
    total = runs[0] if len(runs) == 1 else report.together(runs)
    if len(runs) > 1:
        report.show(total, [])
    if args.json is not None:
        report.write(total, args.json)
    return 0 if good else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what happens, and when")
    parser.add_argument("--seeds", metavar="A..B", help="several runs, one after another, and their sum")
    parser.add_argument(
        "--for", dest="seconds", type=float, default=60.0, help="seconds of faults in each run"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--kinds", nargs="*", metavar="WORD", help="only kinds of faults whose name has a word"
    )
    parser.add_argument(
        "--outages", action="store_true", help="Redis, RabbitMQ and PostgreSQL away for long instead"
    )
    parser.add_argument("--list", action="store_true", help="name the kinds of faults")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse()
    if args.list:
        print(*DECK, sep="\n")
        sys.exit(0)
    try:
        sys.exit(uvloop.run(main(args)))
    except asyncio.CancelledError:
        sys.exit(130)
    except ServerError as error:
        sys.exit(f"./dev faults: {error}")
