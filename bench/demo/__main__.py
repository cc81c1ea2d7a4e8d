"""`python -m bench.demo [--for SECONDS] [--json FILE]` on a running stack: traffic, progress, a judged report.

Exit 1 if anything was lost, posted twice, or out of balance. Ctrl-C ends the traffic early; the report follows.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from rich.console import Console
from rich.live import Live
from rich.table import Table

from bench.demo import report
from bench.demo.oracle import judge
from bench.demo.traffic import Rates, Traffic
from sql import invariants, publishers
from sql import report as books
from sql.db import Database, DatabaseSettings
from streams.publish import Publisher

PUBLISHER = "demo"
DRAIN_DEADLINE_S = 60.0


async def main(seconds: float | None, json_file: Path | None, seed: int, accounts: int, factor: float) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    gateway = urlsplit(os.environ["CASHFREE_BASE_URL"])
    rates = Rates(
        payments=6 * factor, refunds=1.5 * factor, api_usage=120 * factor, direct_usage=240 * factor
    )
    readonly = os.environ.get("DATABASE_READONLY_URL", os.environ["DATABASE_URL"])
    async with (
        await Database.connect(
            DatabaseSettings(database_url=os.environ["DATABASE_URL"], database_pool_size=2)
        ) as app,
        await Database.connect(DatabaseSettings(database_url=readonly, database_pool_size=2)) as db,
        Traffic(
            os.environ["WEB_URL"],
            f"{gateway.scheme}://{gateway.netloc}",
            os.environ["API_TOKEN"],
            rates,
            seed,
        ) as traffic,
    ):
        secret = os.urandom(32)
        await publishers.register(app, PUBLISHER, secret)
        await traffic.open_accounts(accounts)

        async def watermarks(session: str) -> dict[int, int]:
            return await publishers.watermarks(db, PUBLISHER, session, "wallet.debit")

        service_url = os.environ.get("STREAM_SERVICE_URL", os.environ["STREAM_URL"])
        began = time.monotonic()
        async with Publisher(service_url, name=PUBLISHER, secret=secret, watermarks=watermarks) as publisher:
            sending = asyncio.create_task(traffic.run(publisher))
            await progress(db, traffic, stopping, sending, None if seconds is None else began + seconds)
            traffic.stop()
            await sending
            await publisher.flush()
        sent_s = time.monotonic() - began
        await drained(db, traffic)
        verdict = await judge(db, traffic.log, await traffic.truth(), traffic.wallets)
        violations = await invariants.check(readonly)
        outcomes = await books.outcome_counts(db, traffic.log.began)
    found = report.figures(
        traffic.log,
        verdict,
        outcomes,
        checked=len(invariants.NAMES),
        violated=len(violations),
        seconds=sent_s,
    )
    report.show(found, verdict)
    for violation in violations:
        Console().print(f"[red]{violation}[/red]")
    if json_file is not None:
        report.write(found, json_file)
    return 0 if report.passed(found) else 1


async def progress(
    db: Database, traffic: Traffic, stopping: asyncio.Event, sending: asyncio.Task[None], until: float | None
) -> None:
    """Show how it goes once a second until it is time, or somebody stops it."""
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        last = 0.0
        while not stopping.is_set() and not sending.done() and (until is None or time.monotonic() < until):
            outcomes = await books.outcome_counts(db, traffic.log.began)
            table = Table("sent", "acknowledged", "twice", "orders", "refunds", *outcomes, "left")
            left = "Ctrl-C ends" if until is None else f"{max(0, until - time.monotonic()):.0f} s"
            log = traffic.log
            counts = (
                log.sent,
                log.acknowledged,
                log.duplicates_injected,
                len(log.orders),
                len(log.refunds),
                *outcomes.values(),
            )
            table.add_row(*map(str, counts), left)
            if console.is_terminal:
                live.update(table, refresh=True)
            elif time.monotonic() - last > 5:
                last = time.monotonic()
                console.print(
                    f"sent {log.sent}, acknowledged {log.acknowledged}, posted {outcomes['posted']}, {left}"
                )
            try:
                await asyncio.wait_for(stopping.wait(), 1.0)
            except TimeoutError:
                continue
    if sending.done():
        await sending


async def drained(db: Database, traffic: Traffic) -> None:
    """Wait until nothing is on its way any more, at most a minute: what is left then counts as lost."""
    deadline = time.monotonic() + DRAIN_DEADLINE_S
    quiet = 0
    before: dict[str, int] = {}
    while time.monotonic() < deadline and quiet < 4:
        await asyncio.sleep(0.5)
        now = await books.open_work(db) | await books.outcome_counts(db, traffic.log.began)
        still = not any(
            now[name]
            for name in (
                "usage_unpublished",
                "webhooks_open",
                "fraud_checks_open",
                "retries_due",
                "refunds_open",
            )
        )
        quiet = quiet + 1 if still and now == before else 0
        before = now


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--for", dest="seconds", type=float, help="end after so many seconds; else on Ctrl-C")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--factor", type=float, default=1.0, help="multiplies every rate")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse()
    sys.exit(uvloop.run(main(args.seconds, args.json, args.seed, args.accounts, args.factor)))
