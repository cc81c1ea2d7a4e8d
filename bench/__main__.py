"""`./dev bench NAME [--json FILE] [--runs N] [--seed N] ...`: one bench of those in this folder."""

import argparse
import sys
from pathlib import Path
from typing import Any

import uvloop

from bench import (
    api,
    gateway_faults,
    growth,
    months,
    payments,
    peers,
    skew,
    stages,
    usage,
    wallet_10m,
    webhooks,
    windows,
)
from bench.frame import NotFair, say
from bench.others import LEDGER, TRANSPORT

_ALL = (
    payments,
    stages,
    usage,
    webhooks,
    wallet_10m,
    gateway_faults,
    peers,
    api,
    windows,
    growth,
    months,
    skew,
    LEDGER,
    TRANSPORT,
)
_BENCHES: dict[str, Any] = {bench.NAME: bench for bench in _ALL}


def parser() -> argparse.ArgumentParser:
    """Each bench with its own options; these three are everybody's."""
    root = argparse.ArgumentParser(
        prog="./dev bench", description="Measure one thing on a private, durable system."
    )
    add = root.add_subparsers(dest="bench", required=True, metavar="NAME").add_parser
    for name, module in _BENCHES.items():
        one = add(name, help=(module.__doc__ or "").splitlines()[0].replace("%", "%%"))
        one.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
        one.add_argument("--runs", type=int, default=1, help="how often; the figures are medians")
        one.add_argument("--seed", type=int, default=1)
        module.options(one)
    return root


if __name__ == "__main__":
    chosen = parser().parse_args()
    try:
        sys.exit(uvloop.run(_BENCHES[chosen.bench].run(chosen)))
    except NotFair as error:
        say(str(error))
        sys.exit(1)
