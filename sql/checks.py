"""The invariants, asked of what was added since the last time, in one snapshot; what came of it stays in a table.

`sql/checks.sql` has the queries; they are named as in `sql/invariants.sql`, which asks the same of everything.
"""

import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import asyncpg

from sql import invariants
from sql.db import Database, passing_faults
from sql.invariants import MEANINGS, Violation
from sql.queries import load

_Q: Final = load("checks")
NAMES: Final = tuple(name for name in _Q if re.match(r"i\d+_", name))
"""Invariants that can be asked of a part of the ledger."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One run. `scope`: new | all; `behind`: batches that were not checked yet when it began."""

    scope: str
    batches: int
    behind: int
    violations: list[Violation]
    took_s: float
    heads: list[tuple[str, int, str, int]] = field(default_factory=list)


async def check_new(url: str, *, limit: int, timeout_s: float) -> Checked:
    """Ask the invariants of at most `limit` fresh batches, in one snapshot. Errors: Unavailable, also after `timeout_s`."""
    began = time.monotonic()
    async with _snapshot(url, timeout_s) as connection:
        behind = int(await connection.fetchval(_Q["count_fresh"]))
        if not behind:
            return Checked("new", 0, 0, [], time.monotonic() - began)
        fresh = await connection.fetch(_Q["get_fresh"], limit)
        ids: list[UUID] = sorted(row["id"] for row in fresh)
        found = []
        for name in NAMES if ids else ():
            rows = await connection.fetch(_Q[name], ids, ids[0], ids[-1])
            if rows:
                found.append(Violation(name, MEANINGS[name], [dict(row) for row in rows]))
    heads: dict[tuple[str, int, str], int] = {}
    for row in fresh:
        chain = (row["topic"], row["partition"], row["consumer_group"])
        heads[chain] = max(heads.get(chain, 0), row["batch_no"])
    return Checked(
        "new", len(fresh), behind, found, time.monotonic() - began, [(*c, n) for c, n in heads.items()]
    )


async def check_all(url: str, *, timeout_s: float) -> Checked:
    """Every invariant of everything, in one snapshot. Errors: Unavailable, also after `timeout_s`."""
    began = time.monotonic()
    async with _snapshot(url, timeout_s) as connection:
        batches = int(await connection.fetchval("SELECT count(*) FROM batches"))
        found = await invariants.violations(connection)
    return Checked("all", batches, 0, found, time.monotonic() - began)


@asynccontextmanager
async def _snapshot(url: str, timeout_s: float) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    with passing_faults():
        connection = await asyncpg.connect(url, statement_cache_size=0, timeout=15.0)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                await connection.execute(
                    "SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off', true),"
                    " set_config('work_mem', '64MB', true), set_config('max_parallel_workers_per_gather', '0', true)",
                    f"{timeout_s:.3f}s",
                )
                yield connection
        finally:
            await connection.close(timeout=5.0)


async def record(db: Database, holder: str, checked: Checked) -> None:
    """Keep what came of a run; its watermarks move. Errors: Unavailable."""
    columns: Sequence[Sequence[Any]] = list(zip(*checked.heads, strict=True)) or [(), (), (), ()]
    detail = {violation.name: violation.rows for violation in checked.violations}
    await db.rows(
        _Q["record_check"],
        checked.scope,
        holder,
        checked.batches,
        checked.behind,
        list(detail),
        json.dumps(detail, default=_text),
        checked.took_s,
        *(list(column) for column in columns),
    )


async def full_check_age_s(db: Database) -> float | None:
    """How long ago everything was checked; None: never. Errors: Unavailable."""
    age = await db.value(_Q["get_full_check_age_s"])
    return None if age is None else float(age)


def _text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
