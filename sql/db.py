"""The connection pool. One call is one transaction and one statement, as a transaction pooler (Neon's PgBouncer) needs.

No session state: no SET, no LISTEN, no temporary tables; settings live on roles and functions. Prepared statements only
where the setting says that a connection stays ours (it saves a round trip and the parsing of each call).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, Self

import asyncpg
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sql import metrics
from sql.acting import said
from sql.errors import Unavailable, is_passing

Row = asyncpg.Record
Observer = Callable[[str], AbstractContextManager[object]]
_observer: Observer | None = None


def observe(observer: Observer | None) -> None:
    """From now on every statement of this process runs within `observer(its text)`; None: no more."""
    global _observer
    _observer = observer


class DatabaseSettings(BaseSettings):
    """Where PostgreSQL is. Connect time allows for a database that scales from zero."""

    model_config = SettingsConfigDict(hide_input_in_errors=True)

    database_url: str = Field(repr=False)
    database_pool_size: int = Field(default=6, ge=1, le=100)
    database_statement_cache_size: int = Field(
        default=0,
        ge=0,
        description="prepared statements per connection; only where connections are ours or the pooler keeps track",
    )
    database_connect_timeout_s: float = Field(default=15.0, gt=0)
    database_call_timeout_s: float = Field(default=30.0, gt=0)


class Database:
    """A pool and three verbs. Passing faults come out as `Unavailable`; everything else as asyncpg raised it."""

    def __init__(self, settings: DatabaseSettings | None = None) -> None:
        self._settings = settings or DatabaseSettings()
        self._opening = asyncio.Lock()
        self._pool: asyncpg.Pool[Row] | None = None
        self._waiting: dict[object, float] = {}
        metrics.POOLS.add(self)

    def connections(self) -> tuple[int, int, int]:
        """The pool's connections in use, idle, and at most."""
        if self._pool is None:
            return 0, 0, self._settings.database_pool_size
        idle = self._pool.get_idle_size()
        return self._pool.get_size() - idle, idle, self._settings.database_pool_size

    def waited_s(self) -> float:
        """How long the first of those has waited who wait for a connection now; 0 if nobody does."""
        for since in self._waiting.values():
            return time.monotonic() - since
        return 0.0

    @classmethod
    async def connect(cls, settings: DatabaseSettings | None = None, *, attempts: int = 8) -> Self:
        """Open the pool now, waiting for a database that is starting. Errors: Unavailable after `attempts`."""
        database = cls(settings)
        for attempt in range(attempts):
            try:
                await database._open()
                break
            except Unavailable:
                if attempt == attempts - 1:
                    raise
                await asyncio.sleep(min(5.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.5))
        return database

    async def _open(self) -> "asyncpg.Pool[Row]":
        """The pool, opened on first use. Errors: Unavailable."""
        async with self._opening:
            if self._pool is None:
                with passing_faults():
                    self._pool = await asyncpg.create_pool(
                        self._settings.database_url,
                        min_size=1,
                        max_size=self._settings.database_pool_size,
                        timeout=self._settings.database_connect_timeout_s,
                        statement_cache_size=self._settings.database_statement_cache_size,
                        max_inactive_connection_lifetime=60.0,
                        reset=_nothing_to_reset,
                    )
        return self._pool

    async def close(self) -> None:
        """Close the pool; connections still busy after 5 s are dropped."""
        if self._pool is None:
            return
        try:
            await asyncio.wait_for(self._pool.close(), 5.0)
        except TimeoutError:
            self._pool.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def rows(self, query: str, *args: Any) -> list[Row]:
        """All rows of one statement. Errors: Unavailable."""
        pool = self._pool or await self._open()
        with passing_faults():
            if _observer is None:
                return await self._fetch(pool, query, args)
            with _observer(query):
                return await self._fetch(pool, query, args)

    async def _fetch(self, pool: "asyncpg.Pool[Row]", query: str, args: tuple[Any, ...]) -> list[Row]:
        me = object()
        self._waiting[me] = time.monotonic()
        try:
            async with pool.acquire() as connection:
                del self._waiting[me]
                if (caller := said()) is not None:
                    async with connection.transaction():
                        await connection.execute("SELECT set_config('core.caller', $1, true)", caller)
                        return await connection.fetch(
                            query, *args, timeout=self._settings.database_call_timeout_s
                        )
                return await connection.fetch(query, *args, timeout=self._settings.database_call_timeout_s)
        finally:
            self._waiting.pop(me, None)

    async def row(self, query: str, *args: Any) -> Row | None:
        """The first row, or None. Errors: Unavailable."""
        found = await self.rows(query, *args)
        return found[0] if found else None

    async def value(self, query: str, *args: Any) -> Any:
        """The first column of the first row, or None. Errors: Unavailable."""
        found = await self.row(query, *args)
        return found[0] if found is not None else None

    @asynccontextmanager
    async def advisory_lock(self, name: str) -> AsyncIterator[None]:
        """Hold a cluster-wide lock for the block, in one short transaction (a pooler allows no session locks).

        Errors: Unavailable. The server ends the transaction after 20 s idle, so a frozen holder blocks nobody longer.
        """
        pool = self._pool or await self._open()
        with passing_faults():
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '20s'")
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
                yield


async def _nothing_to_reset(connection: Any) -> None:
    """A call leaves no session state behind (see above), so giving a connection back costs no round trip."""


@contextmanager
def passing_faults() -> Iterator[None]:
    """Passing faults of the block as `Unavailable`; anything else as it is."""
    try:
        yield
    except Exception as error:
        if is_passing(error):
            metrics.UNAVAILABLE.labels(getattr(error, "sqlstate", None) or type(error).__name__).inc()
            raise Unavailable(str(error) or type(error).__name__) from error
        raise
