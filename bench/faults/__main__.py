"""`python -m bench.faults --seed N --for SECONDS [--json FILE]`, or `--seeds A..B`: exit 1 if anything is wrong."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import uvloop

from bench.faults import campaign
from bench.faults.deck import DECK, LEFT_OUT
from deploy.local.process import ServerError


async def main(args: argparse.Namespace) -> bool:
    """What was asked for; whether all was right. A first Ctrl-C or SIGTERM ends it and stops every process."""
    me = asyncio.current_task()
    assert me
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    deck = [kind for kind in DECK if not args.kinds or any(part in str(kind) for part in args.kinds)]
    print(*LEFT_OUT, sep="\n", end="\n" if LEFT_OUT else "")
    if args.nightly:
        return await campaign.play_night(deck, args.json)
    if args.outages:
        return await campaign.play_outages(args.seed, args.seconds, args.json, watched=args.alerts)
    if args.seeds is None:
        return await campaign.play_seed(args.seed, args.seconds, deck, args.json, watched=args.alerts)
    first, _, last = args.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    return await campaign.play_seeds(seeds, args.seconds, deck, args.json, watched=args.alerts)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev faults", description=__doc__)
    add = parser.add_argument
    add("--seed", type=int, default=1, help="what happens, and when")
    add("--seeds", metavar="A..B", help="several runs, one after another, and their sum")
    add("--for", dest="seconds", type=float, default=60.0, help="seconds of faults in each run")
    add("--json", type=Path, metavar="FILE", help="write the figures here")
    add("--kinds", nargs="*", metavar="WORD", help="only kinds of faults whose name has a word")
    add("--outages", action="store_true", help="Redis, RabbitMQ and PostgreSQL away for long instead")
    add("--nightly", action="store_true", help="a campaign with new seeds each day, then the outages")
    add(
        "--alerts",
        action="store_true",
        help="a Prometheus beside it: each kind must raise its alert (nightly: on)",
    )
    add("--list", action="store_true", help="name the kinds of faults")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse()
    if args.list:
        print(*DECK, sep="\n")
        sys.exit(0)
    try:
        sys.exit(0 if uvloop.run(main(args)) else 1)
    except asyncio.CancelledError:
        sys.exit(130)
    except ServerError as error:
        sys.exit(f"./dev faults: {error}")
