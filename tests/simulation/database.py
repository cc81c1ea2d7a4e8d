"""The real database behind one connection: one statement at a time, when the run says so, at the run's time of day."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg

from deploy.migrations import CHECKOUT
from sql.db import Database, DatabaseSettings, Row
from sql.errors import Unavailable
from sql.queries import load
from tests.simulation.clock import EPOCH, VirtualLoop
from tests.simulation.schedule import Fate, Schedule, Trace

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
_SUBJECTS: Final = sorted(file.stem for file in (CHECKOUT / "sql").glob("*.sql"))
LABELS: Final = {text: name for subject in _SUBJECTS for name, text in load(subject).items()}
"""The name of each statement."""
_TIES: Final = {
    "lease_verifications": 1,
    "lease_refunds": 1,
    "lease_inquiries": 1,
    "due_retries": 1,
    "sweep_outbox": 6,
}
"""Statements whose order leaves ties, which a table decides by where its rows happen to lie: so many first columns
are unique, and order them here. What they mean does not depend on it."""
NOWHERE: Final = DatabaseSettings(database_url="postgresql://simulated")
"""No pool of a simulation ever connects."""


class Server:
    """The connections of a simulation: `app` for the code under test, `admin` to prepare, look and judge."""

    def __init__(self, loop: VirtualLoop, app: Connection, admin: Connection) -> None:
        self.loop = loop
        self.app = app
        self.admin = admin
        self.late: list[tuple[str, tuple[Any, ...]]] = []
        """Statements that were given up by their callers, and have not arrived yet."""
        self.locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._told: dict[Connection, str] = {}
        self._emptying = ""

    @classmethod
    async def open(cls, loop: VirtualLoop, app_url: str, admin_url: str) -> Server:
        """Connect, and learn how to bring the database back to what the migrations left."""
        server = cls(loop, await asyncpg.connect(app_url), await asyncpg.connect(admin_url))
        # Judging plans once, not per seed: the tables stay as small as they are.
        await server.admin.execute("SET plan_cache_mode = force_generic_plan")
        server._emptying = await _emptying(server.admin)
        return server

    async def close(self) -> None:
        for connection in (self.app, self.admin):
            await connection.close()

    async def fetch(self, query: str, *args: Any) -> list[Row]:
        """One statement of the code under test."""
        await self._tell_time(self.app)
        return await self.app.fetch(query, *args)

    async def look(self, query: str, *args: Any) -> list[Row]:
        """One statement of the judge or the nemesis."""
        await self._tell_time(self.admin)
        return await self.admin.fetch(query, *args)

    async def arrive(self, index: int, trace: Trace) -> None:
        """A statement believed lost reaches the server after all; nobody hears its answer."""
        query, args = self.late.pop(index)
        try:
            await self.fetch(query, *args)
            trace.note(f"late {_label(query)} is carried out")
        except asyncpg.PostgresError as error:
            trace.note(f"late {_label(query)} is refused: {error.sqlstate}")

    async def _tell_time(self, connection: Connection) -> None:
        now = self.loop.now.isoformat()
        if self._told.get(connection) != now:
            await connection.fetchval("SELECT set_config('simulation.now', $1, false)", now)
            self._told[connection] = now

    async def begin(self, seed: int) -> None:
        """A fresh database's state: no rows, first ids, the chance of this seed."""
        self.late.clear()
        for connection in (self.app, self.admin):
            await connection.fetchval("SELECT set_config('simulation.now', $1, false)", EPOCH.isoformat())
            self._told[connection] = EPOCH.isoformat()
            await connection.fetchval("SELECT setseed($1)", (seed % 1000) / 1000)
        await self.admin.execute(self._emptying)

    async def tidy(self) -> None:
        """Give the space of earlier runs' rows back."""
        await self.admin.execute("VACUUM")


def _label(query: str) -> str:
    return LABELS.get(query, query.partition("\n")[0][:40])


def _about(args: tuple[Any, ...]) -> str:
    """What a statement is about, as far as its first arguments say so: a topic, a partition."""
    return "".join(f" {arg}" for arg in args[:3] if isinstance(arg, str | int) and len(str(arg)) < 24)


async def _emptying(admin: Connection) -> str:
    """Statements that leave the rows that the migrations made, and no other.

    DELETE, not TRUNCATE: there are a few hundred rows, and the sessions keep their plans.
    """
    statements = ["SET session_replication_role = replica"]
    for row in await admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"):
        table = row["tablename"]
        if await admin.fetchval(f'SELECT count(*) FROM "{table}"'):
            await admin.execute(f'CREATE TABLE IF NOT EXISTS simulation."{table}" AS TABLE "{table}"')
            columns = await admin.fetchval(
                "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute"
                " WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
                f'public."{table}"',
            )
            statements += [
                f'DELETE FROM "{table}"',
                f'INSERT INTO "{table}" ({columns}) SELECT {columns} FROM simulation."{table}"',
            ]
        else:
            statements.append(f'DELETE FROM "{table}"')
    for row in await admin.fetch(
        "SELECT format('%I.%I', schemaname, sequencename) AS name FROM pg_sequences ORDER BY 1"
    ):
        statements.append(f"SELECT setval('{row['name']}', 1, false)")
    return ";".join([*statements, "SET session_replication_role = origin"])


class SimulatedDatabase(Database):
    """A process's pool: each statement waits for its turn, and may be lost, or its answer, or come late."""

    def __init__(self, server: Server, schedule: Schedule, actor: str) -> None:
        super().__init__(NOWHERE)
        self._server = server
        self._schedule = schedule
        self._actor = actor

    async def rows(self, query: str, *args: Any) -> list[Row]:
        label = f"{_label(query)}{_about(args)}"
        async with self._schedule.turn(self._actor, "database", label) as fate:
            if fate is Fate.LATE:
                self._server.late.append((query, args))
            if fate in (Fate.LATE, Fate.NOT_SENT):
                raise Unavailable("simulated: the connection was lost")
            try:
                rows = await self._server.fetch(query, *args)
            except asyncpg.PostgresError:
                if fate is Fate.NO_ANSWER:
                    raise Unavailable("simulated: the answer was lost") from None
                raise
            if fate is Fate.NO_ANSWER:
                raise Unavailable("simulated: the answer was lost")
            unique = _TIES.get(_label(query))
            return rows if unique is None else sorted(rows, key=lambda row: tuple(row)[:unique])

    @asynccontextmanager
    async def advisory_lock(self, name: str) -> AsyncIterator[None]:
        """Workers of one run join one at a time; a dead holder's lock is free."""
        async with self._schedule.turn(self._actor, "database", f"lock {name}") as fate:
            if fate is not Fate.FINE:
                raise Unavailable("simulated: the connection was lost")
        async with self._server.locks[name]:
            yield
