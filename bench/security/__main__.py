"""`python -m bench.security [--seed N] [--json FILE]`: attack a system of its own; exit 1 if a bound is broken."""

import argparse
import sys
import time
from pathlib import Path

import uvloop

from bench.security.report import show, write
from bench.security.run import run
from deploy.local.process import ServerError
from deploy.local.stack import LOCAL


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev security", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="orders, addresses and secrets that are made up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser.parse_args()


async def main(args: argparse.Namespace) -> bool:
    """Attack, show, write; whether every bound holds."""
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {what}", flush=True)

    report = await run(args.seed, LOCAL / "security", tell)
    ratios = sorted(report.figures["limiter_ratios"].items(), key=lambda item: -item[1])
    show(report, [f"limiter {ratio:5.2f}  {name}" for name, ratio in ratios])
    if args.json is not None:
        write(report, args.json)
    return report.passed


if __name__ == "__main__":
    try:
        sys.exit(0 if uvloop.run(main(parse())) else 1)
    except ServerError as error:
        sys.exit(f"./dev security: {error}")
