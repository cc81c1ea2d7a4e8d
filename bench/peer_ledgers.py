"""The ledgers of `./dev bench peers`: ours, the limit, the same work row by row, transfers row by row, pgledger's approach.

All in one durable database, case after case in short turns, round after round, so that a busy machine is busy for all.
`row by row` sends its statements one by one, one transaction an event; `same work` writes what our ledger writes (lots,
two assets, outbox), `transfer` two balances, a transfer and its entries. pgledger's approach is one function call a transfer.
`one account` lets every transfer end in the same account, as the money that customers spend does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from bench import ledger, usage
from bench.frame import durability, say, tree_cpu_s
from bench.ledger import Lane
from bench.prepare import prepare
from deploy.local.postgres import SUPERUSER, Postgres
from deploy.local.private import private_postgres
from sql import invariants, offsets
from sql.batches import Head
from sql.bulk import Bulk, bulk
from sql.db import Database, DatabaseSettings
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "peer_ledgers.sql").read_text())
OURS, LIMIT = "commit_batch", "limit (COPY + UPDATE)"
LANES: Final = 2
BATCH: Final = 500
ACCOUNTS: Final = 100_000
_CONNECTIONS: Final = 16
ROW_WALLETS: Final = 20_000
_METADATA: Final = '{"model": "small", "tokens": 812}'

One = Callable[[Bulk, random.Random, int], Awaitable[int]]
"""One transaction of a peer on a connection, with its number: how many events it was."""


class Peers:
    """The database that all share. `wallets` belong to our lanes, `row_wallets` to the row by row."""

    def __init__(self, postgres: Postgres, db: Database, admin: Bulk, connections: Sequence[Bulk]) -> None:
        self._postgres = postgres
        self._db = db
        self._admin = admin
        self._connections = connections
        self._targets = connections[:LANES]
        self._lanes: list[Lane] = []
        self._row_wallets: Sequence[UUID] = ()
        self._numbers = [0] * len(connections)

    async def set_up(self, wallets: int, seed: int) -> None:
        """Wallets, accounts, claims."""
        admin = self._admin
        world = await prepare(self._postgres.url(SUPERUSER), wallets=wallets + ROW_WALLETS, seed=seed)
        await admin.run(ledger.SCHEMA)
        for name in ("copy_wallets", "copy_lots"):
            await admin.run(ledger.Q[name])
        await admin.run(_Q["begin"])
        await admin.run(_Q["make_accounts"], ACCOUNTS)
        await admin.run(_Q["settle"])
        mine, self._row_wallets = world.wallets[:wallets], world.wallets[wallets:]
        claims = await offsets.claim(self._db, ledger.TOPIC, ledger.GROUP, "bench", range(LANES))
        await admin.run(ledger.Q["copy_offsets"])
        self._lanes = [
            Lane(
                n,
                mine[n::LANES],
                Head(ledger.TOPIC, n, ledger.GROUP, claims[n].epoch, 0, 0, 0, b""),
                random.Random(seed + n),
            )
            for n in range(LANES)
        ]
        for connection in self._connections:
            await connection.run("SET search_path = bare, public")

    async def round(self, seconds: float) -> dict[str, float]:
        """Every case for about so many seconds: events a second, and CPU µs an event of PostgreSQL and of the client."""
        await self._admin.run("CHECKPOINT")
        found: dict[str, float] = {}
        await self._ours(seconds, found)
        for name, connections, one in (
            ("row by row, same work", 8, self._same_work),
            ("row by row, transfer", 8, _client_transfer),
            ("row by row, one account", 8, _client_shared),
            ("pgledger, one a call", _CONNECTIONS, _transfer),
            ("pgledger, one account", _CONNECTIONS, _shared),
            ("pgledger, 500 a call", LANES, _transfers),
        ):
            await self._peer(name, connections, one, seconds, found)
        return found

    async def _ours(self, seconds: float, found: dict[str, float]) -> None:
        commands, spent, limit = 0, _Meter(self._postgres), _Meter(self._postgres)
        while spent.seconds < seconds:
            work = [[lane.batch(BATCH) for _ in range(ledger.TURN)] for lane in self._lanes]
            lanes = zip(self._lanes, work, strict=True)
            done = await spent.take(
                asyncio.gather(*(ledger.commit_all(self._db, lane, part) for lane, part in lanes))
            )
            rows = [[await ledger.bare(self._admin, head) for head in heads] for heads in done]
            pairs = zip(self._targets, rows, strict=True)
            await limit.take(asyncio.gather(*(ledger.write_all(target, part) for target, part in pairs)))
            commands += LANES * ledger.TURN * BATCH
        found |= spent.per(OURS, commands) | limit.per(LIMIT, commands)

    async def _peer(
        self, name: str, connections: int, one: One, seconds: float, found: dict[str, float]
    ) -> None:
        async def keep_going(place: int) -> int:
            db, rng, done = self._connections[place], random.Random(place), 0
            while time.perf_counter() < until:
                self._numbers[place] += 1
                done += await one(db, rng, place * 10_000_000 + self._numbers[place])
            return done

        meter, until = _Meter(self._postgres), time.perf_counter() + seconds
        done = await meter.take(asyncio.gather(*(keep_going(place) for place in range(connections))))
        found |= meter.per(name, sum(done))

    async def _same_work(self, db: Bulk, rng: random.Random, number: int) -> int:
        await usage.spend(db, rng.choice(self._row_wallets), number // 10_000_000, number % 10_000_000)
        return 1

    async def wrong(self) -> list[str]:
        """What is out of balance at the end, in any of the ledgers."""
        found = [str(violation) for violation in await invariants.check(self._postgres.url("core_readonly"))]
        [row] = await self._admin.rows(_Q["out_of_balance"])
        return [*found, *([f"{row['n']} of the peers' accounts or transfers"] if row["n"] else [])]


class _Meter:
    """Time, and CPU of PostgreSQL and of this process, over several pieces of work."""

    def __init__(self, postgres: Postgres) -> None:
        self._pid = postgres.process.pid
        self.seconds = self._server = self._client = 0.0

    async def take(self, work: Awaitable[Any]) -> Any:
        began, server, client = time.perf_counter(), tree_cpu_s(self._pid), time.process_time()
        found = await work
        self.seconds += time.perf_counter() - began
        self._server += tree_cpu_s(self._pid) - server
        self._client += time.process_time() - client
        return found

    def per(self, name: str, events: int) -> dict[str, float]:
        return {
            f"{name} per_s": round(events / self.seconds, 1),
            f"{name} postgres_us": round(self._server / events * 1e6, 1),
            f"{name} client_us": round(self._client / events * 1e6, 1),
        }


def _pair(rng: random.Random) -> tuple[str, str]:
    chosen = rng.sample(range(1, ACCOUNTS), 2)
    return f"account_{chosen[0]:08d}", f"account_{chosen[1]:08d}"


async def _transfer(db: Bulk, rng: random.Random, _: int) -> int:
    await db.rows(_Q["transfer"], *_pair(rng), 3, _METADATA)
    return 1


async def _shared(db: Bulk, rng: random.Random, _: int) -> int:
    await db.rows(_Q["transfer"], _pair(rng)[0], "account_00000000", 3, _METADATA)
    return 1


async def _transfers(db: Bulk, rng: random.Random, _: int) -> int:
    pairs = [_pair(rng) for _ in range(BATCH)]
    await db.rows(_Q["transfers"], [a for a, _ in pairs], [b for _, b in pairs], [3] * BATCH, _METADATA)
    return BATCH


async def _client_transfer(db: Bulk, rng: random.Random, _: int) -> int:
    return await _statements(db, *_pair(rng))


async def _client_shared(db: Bulk, rng: random.Random, _: int) -> int:
    return await _statements(db, _pair(rng)[0], "account_00000000")


async def _statements(db: Bulk, source: str, target: str) -> int:
    """A transfer as an application writes it: lock, look, write, one statement after the other."""
    async with db.transaction():
        held = {row["id"]: row for row in await db.rows(_Q["lock_accounts"], source, target)}
        [transfer] = await db.rows(_Q["put_transfer"], source, target, 3, _METADATA)
        for account, amount in ((source, -3), (target, 3)):
            before = held[account]
            await db.rows(
                _Q["put_entry"],
                account,
                transfer["id"],
                amount,
                before["balance"],
                before["version"] + 1,
            )
            await db.rows(_Q["move"], account, amount)
    return 1


async def measure(
    wallets: int, rounds: int, seconds: float, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rounds' figures, the last with what is out of balance at the end; and the server's settings."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(private_postgres())
        admin = await stack.enter_async_context(bulk(postgres.url(SUPERUSER)))
        settings = await durability(postgres.url(SUPERUSER))
        connections = [
            await stack.enter_async_context(bulk(postgres.url(SUPERUSER))) for _ in range(_CONNECTIONS)
        ]
        db = await stack.enter_async_context(
            await Database.connect(DatabaseSettings(database_url=postgres.url(), database_pool_size=LANES))
        )
        peers = Peers(postgres, db, admin, connections)
        say(f"preparing {wallets} wallets and {ACCOUNTS} accounts")
        await peers.set_up(wallets, seed)
        await peers.round(min(seconds, 0.5))
        found: list[dict[str, Any]] = []
        for number in range(rounds):
            say(f"ledgers, round {number + 1} of {rounds}")
            found.append({**await peers.round(seconds)})
        say("verifying")
        found[-1]["violations"] = await peers.wrong()
    return found, settings
