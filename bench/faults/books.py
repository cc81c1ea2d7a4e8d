"""What the judge reads: the books as rows, the broker's ends, the gateway's own truth."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from bench.faults.stack import GROUP, PARTITIONS, WORKERS, System
from bench.faults.web import Web
from sql.db import Database, Row
from sql.errors import Unavailable
from sql.queries import parse
from streams.address import Address
from streams.topics import TOPICS, partition_stream
from streams.wire import Refused, Wire

Q: Final = parse((Path(__file__).parent / "judge.sql").read_text())
Place = tuple[str, int]
"""A topic and a partition."""


async def positions(db: Database) -> dict[Place, Row]:
    """Epoch, incarnation and next_offset of every partition that is consumed."""
    return {(row["topic"], row["partition"]): row for row in await db.rows(Q["positions"], GROUP)}


async def whole(system: System) -> bool:
    """Whether every worker runs and owns a part of what is consumed, so that each has a stand-in."""
    try:
        async with system.database() as db:
            owners = {str(row["owner"]).rpartition(":")[2] for row in (await positions(db)).values()}
    except Unavailable:
        return False
    workers = [system.processes[name] for name in WORKERS]
    return all(worker.running and str(worker.pid) in owners for worker in workers)


async def open_work(db: Database) -> list[str]:
    """What is still on its way, in words; empty: all is done."""
    row = await db.row(Q["open_work"])
    work = [f"{count} {name}" for name, count in row.items() if count] if row is not None else []
    slices = await db.rows(Q["open_slices"], GROUP)
    return work + [
        f"{r['slices']} slices to {r['way']} after {r['applied']}, from {r['first']}" for r in slices
    ]


async def incidents(db: Database) -> Counter[Place]:
    """How many times the system has noticed that a partition's log was not what it should be."""
    return Counter({(r["topic"], r["partition"]): int(r["incidents"]) for r in await db.rows(Q["incidents"])})


async def ends(system: System, *, patience_s: float = 20.0) -> dict[Place, int]:
    """Offset after the last record of every partition of every topic; a broker that has just started is waited for.

    Errors: OSError, Refused when it does not answer in time.
    """
    places = {partition_stream(t, p): (t, p) for t in TOPICS for p in range(PARTITIONS)}
    deadline = time.monotonic() + patience_s
    while True:
        try:
            wire = await Wire.connect(Address.parse(system.broker.stream_url("core_worker")), name="judge")
            try:
                return {places[stream]: end for stream, end in (await wire.ends(places)).items()}
            finally:
                await wire.close()
        except (OSError, Refused):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.25)


async def firsts(system: System, places: list[Place]) -> dict[Place, int]:
    """Offset of the first record that the broker still has. Errors: as `ends`."""
    wire = await Wire.connect(Address.parse(system.broker.stream_url("core_worker")), name="judge")
    try:
        return {
            (topic, partition): max(0, (await wire.stats(partition_stream(topic, partition))).first_chunk_id)
            for topic, partition in places
        }
    finally:
        await wire.close()


async def gateway_orders(web: Web) -> dict[str, dict[str, Any]]:
    """Every order as the simulated gateway itself knows it, by id. Errors: RuntimeError if it does not answer."""
    found: dict[str, dict[str, Any]] = {}
    after = ""
    while True:
        answer = await web.simulated(f"/sim/orders?limit=500{after and '&after=' + after}")
        if not answer.ok:
            raise RuntimeError("the simulator does not tell its orders")
        if not answer.body:
            return found
        found |= {order["order_id"]: order for order in answer.body}
        after = answer.body[-1]["order_id"]
