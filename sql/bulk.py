"""Rows in and out of tables as binary COPY, and transactions of plain statements: for benchmarks and imports.

Needs a role that may write the tables; what serves requests is not one.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import asyncpg


@dataclass(frozen=True, slots=True)
class Bulk:
    """One connection."""

    _connection: "asyncpg.Connection[asyncpg.Record]"

    async def run(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """One statement, or several without arguments; its rows."""
        if args:
            return await self._connection.fetch(statement, *args)
        await self._connection.execute(statement)
        return []

    async def rows(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """The rows of one statement."""
        return await self._connection.fetch(statement, *args)

    async def read(self, query: str, *args: Any) -> bytes:
        """The rows of a query as COPY's binary format."""
        out = BytesIO()
        await self._connection.copy_from_query(query, *args, output=out, format="binary")
        return out.getvalue()

    async def write(self, table: str, rows: bytes, columns: Sequence[str] | None = None) -> None:
        """Rows that `read` returned, into a table."""
        await self._connection.copy_to_table(table, source=BytesIO(rows), columns=columns, format="binary")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """The block is one transaction."""
        async with self._connection.transaction():
            yield


@asynccontextmanager
async def bulk(url: str) -> AsyncIterator[Bulk]:
    """A connection of its own. Errors: what asyncpg raises."""
    connection = await asyncpg.connect(url)
    try:
        yield Bulk(connection)
    finally:
        await connection.close()
