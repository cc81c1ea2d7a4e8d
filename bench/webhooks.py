"""`./dev bench webhooks`: the door alone: signed webhooks verified, committed to the inbox, answered; 2 % come twice.

First at 20 times the daily rate of a million (232/s, open loop, latency from the scheduled time), then `--count` of them as fast
as one web process takes them (closed loop, `--window` under way, on a connection each: HTTP/1.1 answers in order). No worker
runs, so the inbox only grows.
"""

from __future__ import annotations

import argparse
import array
from typing import Any, Final

from bench.frame import Rig, machine, passed, report, say

NAME: Final = "webhooks"
DAILY: Final = 1_000_000
_STORED: Final = "SELECT count(*) AS rows, coalesce(sum(deliveries), 0) AS deliveries FROM payment_webhooks"


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--for", dest="seconds", type=float, default=60.0, help="seconds of the open loop")
    parser.add_argument("--count", type=int, default=DAILY, help="webhooks of the closed loop")
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--rate", type=float, default=20 * DAILY / 86_400)


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if an accepted webhook is not in the inbox, or is there twice."""
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        async with Rig(workers=0) as rig:
            await rig.start_web()
            settings = rig.settings | {"web_processes": 1, "window": options.window}
            (rig.stack.directory / "ranks.bin").write_bytes(array.array("I", range(1, 50_001)).tobytes())
            await phase(rig, options, "warm", 1, 1_000, rate=200.0, window=0)
            paced = round(options.rate * options.seconds)
            slow = await phase(rig, options, "paced", 1_001, paced, rate=options.rate, window=0)
            fast = await phase(
                rig, options, "fast", 1_001 + paced, options.count, rate=1.0, window=options.window
            )
            found: dict[str, Any] = {
                "accepted_per_s": fast["accepted_per_s"],
                "p99_s": slow["p99_s"],
                "p50_s": slow["p50_s"],
                "fast_cpu_ms": fast["cpu_ms"],
                "paced_cpu_ms": slow["cpu_ms"],
                "lost": slow["lost"] + fast["lost"],
                "double_posted": slow["double_posted"] + fast["double_posted"],
                "violations": await rig.verify(),
            }
            runs.append(found | {"paced": slow, "fast": fast})
            say(", ".join(f"{name} {value}" for name, value in found.items()))
    return 0 if passed(report(options, NAME, settings, runs, about=about)) else 1


async def phase(
    rig: Rig, options: argparse.Namespace, name: str, first: int, count: int, *, rate: float, window: int
) -> dict[str, Any]:
    """Send, and count what is in the inbox after it."""
    say(f"{name}: {count} webhooks")
    directory = rig.stack.directory
    job = {
        "url": rig.environment["WEB_URL"] + "/v1/webhooks/cashfree",
        "secret": rig.secret,
        "rate": rate,
        "first": first,
        "count": count,
        "ranks": str(directory / "ranks.bin"),
        "out": str(directory / "scheduled.bin"),
        "seed": options.seed,
        "window": window,
        "connections": max(32, window),
    }
    before, stored = rig.cpu(), (await rig.ask(_STORED))[0]
    sent = await rig.send(job)
    after, now = rig.cpu(), (await rig.ask(_STORED))[0]
    rows, deliveries = now["rows"] - stored["rows"], int(now["deliveries"] - stored["deliveries"])
    accepted = sent["statuses"].get("200", 0)
    return {
        "sent": sent["sent"] + sent["duplicates"],
        "accepted_per_s": round(accepted / sent["seconds"], 1),
        "p50_s": sent["accept_p50_s"],
        "p99_s": sent["accept_p99_s"],
        "lost": max(0, accepted - deliveries),
        "double_posted": max(0, rows - sent["sent"]),
        "refused": sent["statuses"],
        "cpu_ms": {process: round((after[process] - before[process]) / count * 1e3, 4) for process in before},
        "generator_cpu_ms": round(sent["cpu_s"] / count * 1e3, 4),
    }
