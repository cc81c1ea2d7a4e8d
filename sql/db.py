"""The connection pool. One call is one transaction and one statement, as a transaction pooler (Neon's PgBouncer) needs.

No session state: no SET, no LISTEN, no temporary tables, no prepared statements; settings live on roles and functions.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg
from pydantic import Field
from pydantic_settings import BaseSettings

from sql.errors import Unavailable, is_passing

Row = asyncpg.Record


class DatabaseSettings(BaseSettings):
    """Where PostgreSQL is. Connect time allows for a database that scales from zero."""

    database_url: str
    database_pool_size: int = Field(default=6, ge=1, le=100)
    database_connect_timeout_s: float = Field(default=15.0, gt=0)
    database_call_timeout_s: float = Field(default=30.0, gt=0)


class Database:
    """A pool and three verbs. Passing faults come out as `Unavailable`; everything else as asyncpg raised it."""

    def __init__(self, pool: "asyncpg.Pool[Row]", call_timeout_s: float) -> None:
        self._pool = pool
        self._call_timeout_s = call_timeout_s

    @classmethod
    async def connect(cls, settings: DatabaseSettings | None = None, *, attempts: int = 8) -> Self:
        """Open the pool, waiting for a database that is starting. Errors: Unavailable after `attempts`."""
        settings = settings or DatabaseSettings()
        for attempt in range(attempts):
            try:
                pool = await asyncpg.create_pool(
                    settings.database_url,
                    min_size=1,
                    max_size=settings.database_pool_size,
                    timeout=settings.database_connect_timeout_s,
                    statement_cache_size=0,
                    max_inactive_connection_lifetime=60.0,
                )
                return cls(pool, settings.database_call_timeout_s)
            except Exception as error:
                if not is_passing(error) or attempt == attempts - 1:
                    raise Unavailable(f"PostgreSQL cannot be reached: {error}") from error
                await asyncio.sleep(min(5.0, 0.2 * 2**attempt) * random.uniform(0.5, 1.5))  # noqa: S311
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the pool; connections still busy after 5 s are dropped."""
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
        try:
            return await self._pool.fetch(query, *args, timeout=self._call_timeout_s)
        except Exception as error:
            if is_passing(error):
                raise Unavailable(str(error) or type(error).__name__) from error
            raise

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
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("SET LOCAL idle_in_transaction_session_timeout = '20s'")
                await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", name)
                yield
        except Exception as error:
            if is_passing(error):
                raise Unavailable(str(error) or type(error).__name__) from error
            raise
