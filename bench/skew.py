"""`./dev bench skew`: how unevenly wallets drawn by Zipf load the partitions, and what a hot wallet leaves of the whole."""

from __future__ import annotations

import argparse
import random
from typing import Any, Final
from uuid import UUID

from bench.frame import report, say
from streams.topics import partition_of

NAME: Final = "skew"


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--exponent", type=float, default=1.1)
    parser.add_argument(
        "--per-partition", type=float, default=30_000, help="events a second that one partition commits"
    )


async def run(options: argparse.Namespace) -> int:
    """Expected shares, no sampling of events: each wallet has its weight, each partition the sum of its wallets'."""
    source = random.Random(options.seed)
    weights = [rank**-options.exponent for rank in range(1, options.wallets + 1)]
    total = sum(weights)
    ids = [str(UUID(int=source.getrandbits(128), version=4)) for _ in weights]
    found: dict[str, Any] = {
        "first_wallet": round(weights[0] / total, 4),
        "first_ten_wallets": round(sum(weights[:10]) / total, 4),
    }
    for partitions in (2, 4, 16, 64, 256):
        shares = [0.0] * partitions
        for wallet, weight in zip(ids, weights, strict=True):
            shares[partition_of(wallet, partitions)] += weight / total
        fullest = max(shares)
        found[f"fullest_of_{partitions}"] = round(fullest, 4)
        found[f"limit_with_{partitions}_per_s"] = round(options.per_partition / fullest)
    for name, value in found.items():
        say(f"{name} {value}")
    report(options, NAME, {"wallets": options.wallets, "exponent": options.exponent}, [found])
    return 0
