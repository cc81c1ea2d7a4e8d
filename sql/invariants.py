"""MONEY's invariants, asked of a database: `sql/invariants.sql` has one query each, and good news is no rows.

All are read in one snapshot, so they hold while the system runs: what is still on its way is in the outbox.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from sql.queries import load

_MEANING: Final = re.compile(r"^-- name: (\w+)\(\)\n-- (.+)$", re.MULTILINE)
_Q: Final = load("invariants")
MEANINGS: Final = dict(_MEANING.findall((Path(__file__).parent / "invariants.sql").read_text()))
"""What each invariant says, by its query's name."""
NAMES: Final = tuple(_Q)


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold: which, what it says, and the first rows (at most 20) that contradict it."""

    name: str
    meaning: str
    rows: list[dict[str, Any]]

    def __str__(self) -> str:
        more = f", and {len(self.rows) - 1} more like it" if len(self.rows) > 1 else ""
        return f"{self.name}: {self.meaning} Not so: {self.rows[0]}{more}"


async def check(url: str) -> list[Violation]:
    """Every invariant, in one read-only snapshot. Empty: the books are right. Errors: what asyncpg raises."""
    connection = await asyncpg.connect(url, statement_cache_size=0, timeout=15.0)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(
                "SELECT set_config('work_mem', '128MB', true), set_config('jit', 'off', true)"
            )
            return await violations(connection)
    finally:
        await connection.close()


async def violations(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Violation]:
    """Every invariant, in the transaction that `connection` is in."""
    found = [(name, await connection.fetch(query)) for name, query in _Q.items()]
    return [Violation(name, MEANINGS[name], [dict(row) for row in rows]) for name, rows in found if rows]
