"""`./dev bench wallet-10m`: ten million wallet transactions into one database: rate over time, size, verified at the end.

The events are published in portions while the workers commit, so that the stream never holds more than a few; the rate of each
portion shows what a growing ledger costs.
"""

from __future__ import annotations

import argparse
import itertools
from datetime import UTC, datetime
from typing import Any, Final

from bench.frame import Rig, machine, passed, report, say
from bench.prepare import prepare
from bench.usage import Bench
from bench.usage import options as usage_options

NAME: Final = "wallet-10m"
_SIZE: Final = "SELECT pg_database_size(current_database()) AS bytes"


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes: as `usage`, and the size of a portion."""
    usage_options(parser)
    parser.set_defaults(count=10_000_000)
    parser.add_argument("--portion", type=int, default=500_000)


async def run(options: argparse.Namespace) -> int:
    """Measure, write; 1 if anything was lost, doubled or out of balance."""
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        async with Rig(workers=options.workers, partitions=options.partitions) as rig:
            say("preparing wallets")
            world = await prepare(rig.admin_url, wallets=options.wallets, seed=options.seed)
            bench = Bench(rig, world, options)
            await bench.set_up(compare=False)
            if options.functions:
                await rig.track_functions()
            rig.start_workers()
            settings = rig.settings | {"wallets": options.wallets, "lots_per_wallet": 3, "duplicates": 0.02}
            portions = [options.portion] * (options.count // options.portion)
            rates: list[float] = []
            began = datetime.now(UTC)
            before = rig.cpu()
            for number, count in zip(itertools.count(1), portions, strict=False):
                rates.append((await bench.portion(count))["events_per_s"])
                size = (await rig.ask(_SIZE))[0]["bytes"]
                say(f"{number * options.portion} done, {rates[-1]:.0f}/s, {size / 2**30:.1f} GiB")
            seconds = (datetime.now(UTC) - began).total_seconds()
            after = rig.cpu()
            await rig.show_functions()
            say("verifying")
            verify_began = datetime.now(UTC)
            found: dict[str, Any] = {
                "events_per_s": round(options.count / seconds, 1),
                "minutes": round(seconds / 60, 2),
                "end_to_start": round(sum(rates[-2:]) / sum(rates[:2]), 3),
                "bytes_per_event": round(size / options.count),
                "cpu_us": {n: round((after[n] - before[n]) / options.count * 1e6, 1) for n in after},
                "violations": await rig.verify(),
                "lost": sum(part["lost"] for part in bench.parts),
                "double_posted": sum(part["double_posted"] for part in bench.parts),
                "rates": rates,
            }
            found["verify_s"] = round((datetime.now(UTC) - verify_began).total_seconds(), 1)
            runs.append(found)
            say(", ".join(f"{name} {value}" for name, value in found.items()))
    return 0 if passed(report(options, NAME, settings, runs, about=about)) else 1
