"""`./dev bench payments --orders`: order over the API → pay at the gateway → webhook → verification → credit, open loop.

Every order is made inside the run: POST /v1/payments/orders, create_order at the simulator, its payment, its webhook. A latency
runs from the scheduled order to the commit of the credit. 2 % of the webhooks come twice, 2 % of the orders are asked for twice
under the same key. The rates rise until 99 % no longer take less than 2 s, or orders are refused: the knee is the one before.
"""

from __future__ import annotations

import argparse
import array
import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.frame import RAISED_PER_MINUTE, Rig, machine, passed, report, say, share
from bench.prepare import prepare, zipf
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "orders.sql").read_text())
NAME: Final = "payments-orders"
RATES: Final = "50,100,150,200,250,300,350,400,500,600"
LIMIT_S: Final = 2.0
_WARM_UP: Final = 500
_STUCK_S: Final = 15.0
_WEB: Final = {"WEB_WRITES_PER_MINUTE": "1000000", "WEB_TRUSTED_PROXIES": "127.0.0.1/32"}
"""The generator is many customers: their addresses are in its forwarding header, and one token is not their limit."""


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if anything was lost, doubled or out of balance."""
    rates = [float(rate) for rate in (options.rates or RATES).split(",")]
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        rig = Rig(
            workers=options.workers,
            partitions=options.partitions,
            limits=None if options.documented else RAISED_PER_MINUTE,
            webhooks=True,
            extra=_WEB,
        )
        async with rig:
            say("preparing wallets")
            await prepare(rig.admin_url, wallets=options.wallets, seed=options.seed)
            if options.functions:
                await rig.track_functions()
            await rig.start_services()
            await write_people(rig, options)
            settings = rig.settings | {"wallets": options.wallets, "lots_per_wallet": 3, "duplicates": 0.02}
            await phase(rig, options, "warm", 50.0, _WARM_UP)
            for number, rate in enumerate(rates):
                found = await phase(rig, options, f"r{number}", rate, round(rate * options.seconds))
                say(", ".join(f"{name} {value}" for name, value in found.items() if value is not None))
                runs.append(found)
                if not _held(found):
                    break
            await rig.show_functions()
            say("verifying")
            runs[-1]["violations"] = await rig.verify()
    knee = max((run["rate"] for run in runs if _held(run)), default=None)
    written = report(options, NAME, settings | {"knee_per_s": knee}, runs, about=about)
    say(f"knee {knee}/s; lost {written['lost']}, double {written['double_posted']}, {written['violations']}")
    return 0 if passed(written) else 1


def _held(found: dict[str, Any]) -> bool:
    return bool((found["p99_s"] or 9e9) < LIMIT_S and not found["lost"] and found["made"] == found["count"])


async def write_people(rig: Rig, options: argparse.Namespace) -> None:
    """The files that the generator reads."""
    rows = await rig.ask(_Q["people"], options.wallets)
    directory = rig.stack.directory
    (directory / "people.bin").write_bytes(b"".join(r["user_id"].bytes + r["wallet_id"].bytes for r in rows))
    ranks = zipf(options.seed, options.wallets, 500_000)
    (directory / "ranks.bin").write_bytes(array.array("I", ranks).tobytes())


async def phase(
    rig: Rig, options: argparse.Namespace, prefix: str, rate: float, count: int
) -> dict[str, Any]:
    """Order `count` times at a rate, wait until all that were paid are credited or nothing more happens."""
    directory = rig.stack.directory
    out, ids = directory / "scheduled.bin", directory / "orders.txt"
    job = {
        "web": rig.environment["WEB_URL"],
        "simulator": rig.environment["SIMULATOR_URL"],
        "token": rig.environment["API_TOKEN"],
        "people": str(directory / "people.bin"),
        "ranks": str(directory / "ranks.bin"),
        "out": str(out),
        "ids": str(ids),
        "prefix": prefix,
        "rate": rate,
        "count": count,
        "seed": options.seed,
    }
    say(f"{count} orders at {rate:.0f}/s")
    before, at = rig.cpu(), datetime.now(UTC)
    sent = await rig.send(job, "bench.orders_sender")
    sent_cpu = rig.cpu()
    credited = await _drained(rig, at, sent["made"])
    after = rig.cpu()
    scheduled, order_ids = array.array("d", out.read_bytes()), ids.read_text().split("\n")
    rows = await rig.ask(_Q["outcomes"], [order_id for order_id in order_ids if order_id])
    due = dict(zip(order_ids, scheduled, strict=True))
    latencies = [row["credited"] - due[row["order_id"]] for row in rows if row["credited"] is not None]
    return {
        "rate": round(rate, 2),
        "count": count,
        "made": sent["made"],
        "credited": credited,
        "payments_per_min": round(credited / sent["seconds"] * 60),
        "lost": sum(row["purchases"] == 0 for row in rows),
        "double_posted": sum(row["purchases"] > 1 for row in rows) + sent["other_orders"],
        "p50_s": share(latencies, 0.5),
        "p99_s": share(latencies, 0.99),
        "max_s": max(latencies, default=None),
        "order_p50_s": sent["order_p50_s"],
        "order_p99_s": sent["order_p99_s"],
        "cpu_ms": {name: round((after[name] - before[name]) / count * 1e3, 3) for name in before},
        "cpu_ms_total": round(sum(after[n] - before[n] for n in before) / count * 1e3, 3),
        "busy_cores": round(sum(sent_cpu[n] - before[n] for n in before) / sent["seconds"], 2),
        "generator_cpu_ms": round(sent["cpu_s"] / count * 1e3, 3),
        "generator": sent,
    }


async def _drained(rig: Rig, at: datetime, count: int) -> int:
    last, still = -1, 0.0
    while still < _STUCK_S:
        now = int((await rig.ask(_Q["progress"], at))[0]["credited"])
        if now >= count:
            break
        still = 0.0 if now != last else still + 0.5
        last = now
        await asyncio.sleep(0.5)
    await asyncio.sleep(1.0)
    return now
