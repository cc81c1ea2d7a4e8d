"""`./dev bench payments`: from a gateway's webhook to the credits, open loop, over the whole path.

Webhook → inbox → streams → verification at the simulator → fraud windows → credit → invoice row → billing windows. The
orders are prepared (100,000 wallets drawn by Zipf 1.1, three lots each); 2 % of the webhooks come twice. A latency runs from the
scheduled send to the commit of the credit. `--rates` takes several; the knee is the highest at which 99 % take less than 2 s.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from bench import orders
from bench.frame import Rig, machine, passed, report, say, share
from bench.prepare import PRICE_PAISE, World, order_id, prepare
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "payments.sql").read_text())
NAME: Final = "payments"
RATES: Final = "833.34"
LIMIT_S: Final = 2.0
WARM_UP: Final = 2_000
WARM_UP_DOCUMENTED: Final = 100
"""As many as the documented limits let through in a quarter of a minute."""
_STUCK_S: Final = 15.0
_STAGES: Final = ("accepted", "signalled", "due", "verified", "decided", "credited")


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--for", dest="seconds", type=float, default=300.0, help="seconds at each rate")
    parser.add_argument("--rates", help="payments a second, one after the other (833.34)")
    parser.add_argument(
        "--orders",
        action="store_true",
        help="orders made over the API within the run, rates rising to the knee",
    )
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--documented", action="store_true", help="the gateway's limits as documented")
    parser.add_argument("--functions", action="store_true", help="time in PostgreSQL's functions")


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if anything was lost, doubled or out of balance."""
    if options.orders:
        return await orders.run(options)
    rates = [float(rate) for rate in (options.rates or RATES).split(",")]
    about, runs, settings = machine(), [], {}
    warm_up = WARM_UP_DOCUMENTED if options.documented else WARM_UP
    for _ in range(options.runs):
        counts = [round(rate * options.seconds) for rate in rates]
        rig = Rig(
            workers=options.workers,
            partitions=options.partitions,
            limits=None if options.documented else 60_000,
        )
        async with rig:
            say("preparing wallets and orders")
            world = await prepare(
                rig.admin_url, wallets=options.wallets, orders=warm_up + sum(counts), seed=options.seed
            )
            if options.functions:
                await rig.track_functions()
            await rig.start_services()
            await load_simulator(rig, world)
            settings = rig.settings | {
                "wallets": options.wallets,
                "lots_per_wallet": 3,
                "duplicates": 0.02,
                "email": "off",
            }
            await phase(rig, world, options, warm_up / 10, 1, warm_up)
            first = warm_up + 1
            for rate, count in zip(rates, counts, strict=True):
                found = await phase(rig, world, options, rate, first, count)
                show(found)
                runs.append(found)
                first += count
            await rig.show_functions()
            say("verifying")
            runs[-1]["violations"] = await rig.verify()
    knee = max((r["rate"] for r in runs if (r["p99_s"] or 9e9) < LIMIT_S and not r["lost"]), default=None)
    found = report(options, NAME, settings | {"knee_per_s": knee}, runs, about=about)
    say(
        f"knee {knee}/s; lost {found['lost']}, double posted {found['double_posted']}, violations {found['violations']}"
    )
    return 0 if passed(found) else 1


async def load_simulator(rig: Rig, world: World) -> None:
    """Tell the simulator of the prepared orders, paid."""
    say(f"telling the simulator of {len(world.orders)} orders")
    async with aiohttp.ClientSession() as session:
        for start in range(0, len(world.orders), 5_000):
            orders = [
                {
                    "order_id": order_id(number),
                    "amount_paise": PRICE_PAISE,
                    "cf_payment_id": 2_000_000_000 + number,
                    "upi_id": f"u{rank}@bench",
                }
                for number, rank in enumerate(world.orders[start : start + 5_000], start + 1)
            ]
            async with session.post(
                f"{rig.environment['SIMULATOR_URL']}/sim/orders/load", json=orders
            ) as answer:
                answer.raise_for_status()


async def phase(
    rig: Rig, world: World, options: argparse.Namespace, rate: float, first: int, count: int
) -> dict[str, Any]:
    """Send `count` webhooks at a rate, wait until what they began has ended, and say what it took."""
    directory = rig.stack.directory
    ranks, out = directory / "ranks.bin", directory / "scheduled.bin"
    ranks.write_bytes(array.array("I", world.orders).tobytes())
    job = {
        "url": rig.environment["WEB_URL"] + "/v1/webhooks/cashfree",
        "secret": rig.secret,
        "rate": rate,
        "first": first,
        "count": count,
        "ranks": str(ranks),
        "out": str(out),
        "seed": options.seed,
    }
    say(f"sending {count} webhooks at {rate:.0f}/s")
    before, at = rig.cpu(), datetime.now(UTC)
    sent = await rig.send(job)
    cpu_sent = rig.cpu()
    backlog = (await rig.ask(_Q["backlog"]))[0] if options.documented else {}
    credited = await drained(rig, first, count)
    after = rig.cpu()
    scheduled = array.array("d", out.read_bytes())
    return (
        {"rate": round(rate, 2), "count": count, "payments_per_min": round(credited / sent["seconds"] * 60)}
        | judge(await rig.ask(_Q["outcomes"], order_id(first), order_id(first + count - 1)), scheduled, first)
        | {f"backlog_{name}": value for name, value in backlog.items()}
        | {
            "cpu_ms": {name: round((after[name] - before[name]) / count * 1e3, 3) for name in before},
            "cpu_ms_total": round(sum(after[name] - before[name] for name in before) / count * 1e3, 3),
            "busy_cores": round(sum(cpu_sent[n] - before[n] for n in before) / sent["seconds"], 2),
            "generator_cpu_ms": round(sent["cpu_s"] / count * 1e3, 3),
            "generator": sent,
            "batches": await rig.batches_since(at),
        }
    )


async def drained(rig: Rig, first: int, count: int) -> int:
    """Wait until all are credited, or until nothing more happens; how many are."""
    last, still = -1, 0.0
    while still < _STUCK_S:
        now = (await rig.ask(_Q["progress"], order_id(first), order_id(first + count - 1)))[0]["credited"]
        if now == count:
            break
        still = 0.0 if now != last else still + 0.5
        last = now
        await asyncio.sleep(0.5)
    await asyncio.sleep(1.0)
    return int(now)


def judge(rows: list[dict[str, Any]], scheduled: array.array[float], first: int) -> dict[str, Any]:
    """Latencies and losses, from what the generator knows it sent and what the database says became of it."""
    latencies = [
        row["credited"] - scheduled[row["number"] - first] for row in rows if row["credited"] is not None
    ]
    stages: dict[str, float | None] = {}
    tenths: dict[str, list[float | None]] = {}
    for before, after in itertools.pairwise(_STAGES):
        taken = [
            row[after] - row[before] for row in rows if row[after] is not None and row[before] is not None
        ]
        stages[after], tenths[after] = share(taken, 0.5), _tenths(taken)
    return {
        "credited": len(latencies),
        "lost": sum(row["purchases"] == 0 for row in rows),
        "double_posted": sum(row["purchases"] > 1 for row in rows),
        "p50_s": share(latencies, 0.5),
        "p99_s": share(latencies, 0.99),
        "max_s": max(latencies, default=None),
        "p99_s_of_each_tenth": _tenths(latencies),
        "stages_p50_s": stages,
        "stages_p99_s_of_each_tenth": tenths,
    }


def _tenths(latencies: list[float]) -> list[float | None]:
    """The p99 over the run: `latencies` are in the order of sending."""
    size = max(1, -(-len(latencies) // 10))
    parts = (share(latencies[at : at + size], 0.99) for at in range(0, len(latencies), size))
    return [None if part is None else round(part, 3) for part in parts]


def show(found: dict[str, Any]) -> None:
    """One phase, for people."""
    table = Table(title=f"{found['rate']:.0f}/s", title_justify="left", show_header=False)
    for name, value in found.items():
        if name == "generator":
            value = {k: v for k, v in value.items() if k != "began"}
        table.add_row(
            name, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        )
    Console(width=160).print(table)
