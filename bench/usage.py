"""`./dev bench usage`: signed usage events on the stream → debits committed: lots, both assets, outbox, chain.

Closed: `--count` events wait on the stream, then the workers start; rate from the first commit to the last. In the same database
then the limit: the very same rows by binary COPY and set updates with no logic; and the same work row by row, one transaction an
event. Open: at each of `--rates`, latency from the scheduled publish to the commit. Hot: one wallet takes half of the traffic.
"""

from __future__ import annotations

import argparse
import array
import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.table import Table
from uuid_utils.compat import uuid7

from bench import ledger
from bench.frame import Rig, machine, passed, report, say, share
from bench.prepare import World, prepare, zipf
from sql import publishers
from sql.batches import Head
from sql.bulk import Bulk, bulk
from sql.db import Database, DatabaseSettings
from sql.queries import parse
from streams.topics import partition_of

_Q: Final = parse((Path(__file__).parent / "usage.sql").read_text())
NAME: Final = "usage"
PUBLISHER: Final = "bench"
_STUCK_S: Final = 20.0
_COMPARED: Final = 40_000
_ROW_S: Final = 8.0


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--count", type=int, default=400_000, help="events of the closed loop")
    parser.add_argument("--for", dest="seconds", type=float, default=30.0, help="seconds at each rate")
    parser.add_argument("--rates", default="1000,5000", help="events a second of the open loop; empty: none")
    parser.add_argument(
        "--hot-rate", type=float, default=2_000, help="events a second with a hot wallet; 0: none"
    )
    parser.add_argument("--wallets", type=int, default=100_000)
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--per-message", type=int, default=100)
    parser.add_argument("--functions", action="store_true", help="time in PostgreSQL's functions")


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if anything was lost, doubled or out of balance."""
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        async with Rig(workers=options.workers, partitions=options.partitions) as rig:
            say("preparing wallets")
            world = await prepare(rig.admin_url, wallets=options.wallets, seed=options.seed)
            bench = Bench(rig, world, options)
            await bench.set_up()
            if options.functions:
                await rig.track_functions()
            settings = rig.settings | {"wallets": options.wallets, "lots_per_wallet": 3, "duplicates": 0.02}
            found = await bench.closed()
            show("closed", found)
            found |= await bench.compared()
            found["open"] = []
            for rate in (float(rate) for rate in options.rates.split(",") if rate):
                found["open"].append(await bench.open(rate, 0.0))
                show(f"open {rate:.0f}/s", found["open"][-1])
            if options.hot_rate:
                found["plain"] = await bench.open(options.hot_rate, 0.0)
                found["hot"] = await bench.open(options.hot_rate, 0.5)
                show("hot", found["hot"])
            await rig.show_functions()
            say("verifying")
            found["violations"] = await rig.verify()
            found["lost"] = sum(part["lost"] for part in bench.parts)
            found["double_posted"] = sum(part["double_posted"] for part in bench.parts)
            runs.append(found)
    ratio = {
        name: sorted(run[name] for run in runs)[len(runs) // 2]
        for name in ("limit_ratio", "row_by_row_ratio")
    }
    found = report(options, NAME, settings, runs, about=about, ratio=ratio)
    say(
        f"{found['median']['events_per_s']}/s, {ratio}; lost {found['lost']}, double {found['double_posted']}"
    )
    return 0 if passed(found) else 1


class Bench:
    """One system under usage; `parts` collects what was lost or doubled in each part."""

    def __init__(self, rig: Rig, world: World, options: argparse.Namespace) -> None:
        self._rig = rig
        self._world = world
        self._options = options
        self._secret = secrets.token_hex(32)
        self._prefixes = (f"r{number}-" for number in itertools.count(1))
        self._closed_rate = 0.0
        self.parts: list[dict[str, Any]] = []

    async def set_up(self, *, compare: bool = True) -> None:
        """The publisher, the files that the generator reads, and the limit's tables as they are before the first event."""
        directory = self._rig.stack.directory
        (directory / "wallets.bin").write_bytes(b"".join(wallet.bytes for wallet in self._world.wallets))
        ranks = zipf(self._options.seed, self._options.wallets, 500_000)
        (directory / "ranks.bin").write_bytes(array.array("I", ranks).tobytes())
        settings = DatabaseSettings(database_url=self._rig.environment["DATABASE_URL"], database_pool_size=1)
        async with await Database.connect(settings) as db:
            await publishers.register(db, PUBLISHER, bytes.fromhex(self._secret))
        if not compare:
            return
        async with bulk(self._rig.admin_url) as admin:
            await admin.run(ledger.SCHEMA)
            await admin.run(ledger.Q["copy_wallets"])
            await admin.run(ledger.Q["copy_lots"])
            await admin.run("VACUUM (ANALYZE)")

    def _job(self, prefix: str, count: int, **more: Any) -> dict[str, Any]:
        directory = self._rig.stack.directory
        return {
            "url": self._rig.environment["STREAM_SERVICE_URL"],
            "publisher": PUBLISHER,
            "secret": self._secret,
            "wallets": str(directory / "wallets.bin"),
            "ranks": str(directory / "ranks.bin"),
            "out": str(directory / "sent.bin"),
            "prefix": prefix,
            "count": count,
            "partitions": self._options.partitions,
            "per_message": self._options.per_message,
            "seed": self._options.seed,
        } | more

    async def closed(self) -> dict[str, Any]:
        """As fast as it goes: everything waits when the workers begin."""
        prefix, count = next(self._prefixes), self._options.count
        say(f"publishing {count} events")
        at = datetime.now(UTC)
        sent = await self._rig.send(self._job(prefix, count), "bench.usage_sender")
        total = count + sent["duplicates"]
        self._rig.start_workers()
        while not (await self._decided(at))["batches"]:
            await asyncio.sleep(0.1)
        before = self._rig.cpu()
        begun = (await self._decided(at))["decided"]
        say("draining")
        done = await self._until(at, total)
        after = self._rig.cpu()
        found = {
            "events_per_s": round(done["decided"] / (done["last_at"] - done["first_at"]), 1),
            "batches": done["batches"],
            "events_per_batch": round(done["decided"] / done["batches"], 1),
            "cpu_us": _cpu_us(before, after, total - begun),
            "generator_cpu_us": round(sent["cpu_s"] / total * 1e6, 1),
        } | await self._count(prefix, count)
        self._closed_rate = found["events_per_s"]
        return found

    async def portion(self, count: int) -> dict[str, Any]:
        """Publish so many events at once and wait until they are decided."""
        prefix, at, began = next(self._prefixes), datetime.now(UTC), time.monotonic()
        sent = await self._rig.send(self._job(prefix, count), "bench.usage_sender")
        await self._until(at, count + sent["duplicates"])
        return {"events_per_s": round(count / (time.monotonic() - began), 1)} | await self._count(
            prefix, count
        )

    async def _count(self, prefix: str, count: int) -> dict[str, Any]:
        rows = (await self._rig.ask(_Q["counted"], prefix, len(prefix)))[0]
        refused = (await self._rig.ask(_Q["refused"], prefix, len(prefix)))[0]["n"]
        found = {
            "posted": rows["events"],
            "refused": refused,
            "lost": count - rows["events"] - refused,
            "double_posted": rows["n"] - rows["events"],
        }
        self.parts.append(found)
        return found

    async def open(self, rate: float, hot: float) -> dict[str, Any]:
        """At a rate; latencies of all events, and of those on other partitions than the hot wallet's."""
        prefix, count = next(self._prefixes), round(rate * self._options.seconds)
        at, before = datetime.now(UTC), self._rig.cpu()
        sent = await self._rig.send(self._job(prefix, count, rate=rate, hot=hot), "bench.usage_sender")
        await self._until(at, count + sent["duplicates"])
        raw = (self._rig.stack.directory / "sent.bin").read_bytes()
        scheduled, chosen = array.array("d", raw[: 8 * count]), array.array("I", raw[8 * count :])
        return {
            "rate": rate,
            "cpu_us": _cpu_us(before, self._rig.cpu(), count),
            "generator_cpu_us": round(sent["cpu_s"] / count * 1e6, 1),
            "batches": await self._rig.batches_since(at),
        } | await self._judge(prefix, scheduled, chosen)

    async def _judge(self, prefix: str, scheduled: Sequence[float], chosen: Sequence[int]) -> dict[str, Any]:
        found = await self._count(prefix, len(scheduled))
        rows = await self._rig.ask(_Q["committed"], prefix, len(prefix))
        partitions = self._options.partitions
        places = [partition_of(str(wallet), partitions) for wallet in self._world.wallets]
        latencies = [row["at"] - scheduled[row["number"]] for row in rows]
        others = [
            row["at"] - scheduled[row["number"]]
            for row in rows
            if places[chosen[row["number"]] - 1] != places[0]
        ]
        return found | {
            "p50_s": share(latencies, 0.5),
            "p99_s": share(latencies, 0.99),
            "other_partitions_p99_s": share(others, 0.99),
        }

    async def _decided(self, at: datetime) -> dict[str, Any]:
        return (await self._rig.ask(_Q["decided"], at))[0]

    async def _until(self, at: datetime, total: int) -> dict[str, Any]:
        """Wait until so many are decided, or nothing more happens."""
        seen, since = -1, time.monotonic()
        while True:
            now = await self._decided(at)
            if now["decided"] >= total:
                return now
            if now["decided"] != seen:
                seen, since = now["decided"], time.monotonic()
            elif time.monotonic() - since > _STUCK_S:
                return now
            await asyncio.sleep(0.25)

    async def compared(self) -> dict[str, Any]:
        """The limit and the row by row in the same database: events a second, and how far the closed loop is from each."""
        rows = await self._rig.ask(_Q["recent_batches"], 5_000)
        chosen = list(itertools.takewhile(_below(_COMPARED), rows))
        heads = [
            Head(r["topic"], r["partition"], r["consumer_group"], 0, 0, r["to_offset"], 0, b"")
            for r in chosen
        ]
        events = sum(row["posted"] for row in chosen)
        async with AsyncExitStack() as stack:
            admin = await stack.enter_async_context(bulk(self._rig.admin_url))
            targets = [await stack.enter_async_context(bulk(self._rig.admin_url)) for _ in range(4)]
            for target in targets:
                await target.run("SET search_path = bare, public")
            batches = [await ledger.bare(admin, head) for head in heads]
            say(f"the limit: {events} events in {len(batches)} batches")
            began = time.perf_counter()
            lanes = (ledger.write_all(targets[n], batches[n::2]) for n in range(2))
            await asyncio.gather(*lanes)
            limit = events / (time.perf_counter() - began)
            say("row by row")
            await targets[0].run("TRUNCATE wallet_transactions, ledger_entries, lot_consumptions, outbox")
            began, done = (
                time.perf_counter(),
                await asyncio.gather(*(self._rows(t, n) for n, t in enumerate(targets))),
            )
            by_row = sum(done) / (time.perf_counter() - began)
        rate = self._closed_rate
        return {
            "limit_per_s": round(limit, 1),
            "row_by_row_per_s": round(by_row, 1),
            "limit_ratio": round(rate / limit, 3),
            "row_by_row_ratio": round(rate / by_row, 2),
        }

    async def _rows(self, db: Bulk, lane: int) -> int:
        """Spends one by one, each its own transaction, as a ledger without batches does; how many in the time."""
        wallets = self._world.wallets[1_000 + lane :: 4]
        until, done = time.perf_counter() + _ROW_S, 0
        while time.perf_counter() < until:
            await spend(db, wallets[done % len(wallets)], lane, done)
            done += 1
        return done


async def spend(db: Bulk, wallet: UUID, lane: int, number: int) -> None:
    """One debit row by row, in a transaction of its own: all that `commit_batch` writes but the chain."""
    id_, key, credits_left = uuid7(), f"row:{lane}/{number}", 3
    async with db.transaction():
        [held] = await db.rows(_Q["lock_wallet"], wallet)
        if await db.rows(_Q["find_key"], key):
            return
        lots = await db.rows(_Q["lock_lots"], wallet)
        await db.rows(
            _Q["put_transaction"], id_, wallet, held["seq"] + 1, credits_left, held["available_credits"],
            held["locked_credits"], key, "chat.message", '{"model": "small", "tokens": 812}', key, b"h", id_,
        )  # fmt: skip
        await db.rows(_Q["put_entries"], id_, wallet, credits_left, 25)
        for lot in lots:
            take = min(credits_left, lot["free_credits"])
            if take:
                await db.rows(_Q["take_lot"], lot["id"], take)
                await db.rows(_Q["put_consumption"], id_, lot["id"], take)
                credits_left -= take
        await db.rows(_Q["take_credits"], wallet, 3)
        await db.rows(_Q["put_event"], lane * 10_000_000 + number, lane, '[{"metric":"credits_spent"}]')


def _below(most: int) -> Callable[[dict[str, Any]], bool]:
    total = 0

    def more(row: dict[str, Any]) -> bool:
        nonlocal total
        total += row["posted"]
        return bool(total <= most)

    return more


def _cpu_us(before: dict[str, float], after: dict[str, float], events: int) -> dict[str, float]:
    used = {name: after[name] - before.get(name, 0.0) for name in after}
    each = {name: round(seconds / max(1, events) * 1e6, 1) for name, seconds in used.items()}
    return each | {"all": round(sum(each.values()), 1)}


def show(title: str, found: dict[str, Any]) -> None:
    """One part, for people."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in found.items():
        table.add_row(
            name, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        )
    Console(width=140).print(table)
