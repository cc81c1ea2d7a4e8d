"""Senders that are killed with requests in the air: whoever comes after them sends what was not recorded."""

import asyncio
import os
import random
import sys
import time

from aiohttp import web

from tests.conftest import Database as Prepared

from .conftest import Came, Desk

EVENTS = 150
SENDER = """
import asyncio
from agents.outgoing import run
from sql.db import Database

async def main():
    async with Database() as db:
        await run(db)

asyncio.run(main())
"""


async def test_killed_senders_lose_nothing_and_a_repetition_has_the_same_id(
    desk: Desk, database: Prepared
) -> None:
    owner, receiver, chance = await desk.account(), await desk.receiver(), random.Random(2)
    endpoint = await desk.endpoint(owner, receiver.url)

    async def slowly(came: Came) -> web.StreamResponse:
        await asyncio.sleep(0.02 + chance.random() / 20)
        return web.Response()

    receiver.answer = slowly
    said = {
        "DATABASE_URL": database.url, "OUTGOING_LOCAL": "true", "OUTGOING_TIMEOUT_S": "1.0",
        "OUTGOING_BATCH": "8", "OUTGOING_LEASE_S": "3.2", "OUTGOING_ENDPOINTS": "4",
    }  # fmt: skip
    feeding = asyncio.create_task(desk.happen(owner, EVENTS))
    ends, kills = time.monotonic() + 80, 0
    while time.monotonic() < ends:
        sender = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SENDER, env={**os.environ, **said},
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        before = len(receiver.came)
        while len(receiver.came) < before + 25 and time.monotonic() < ends:
            if feeding.done() and {d.state for d in await desk.deliveries(endpoint)} == {"delivered"}:
                break
            await asyncio.sleep(0.02)
        sender.kill()
        await sender.wait()
        kills += 1
        found = await desk.deliveries(endpoint)
        if feeding.done() and len(found) == EVENTS and {d.state for d in found} == {"delivered"}:
            break
    await feeding
    assert kills >= 4
    assert set(receiver.sequences) == set(range(1, EVENTS + 1))
    ids = {(came.body["sequence"], came.headers["webhook-id"]) for came in receiver.came}
    assert len(ids) == EVENTS
    assert len(receiver.came) < 2 * EVENTS, "a killed turn is at most eight requests"
