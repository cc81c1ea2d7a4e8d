"""How the system is doing: migrations, work that waits, throughput, and the minute windows of the live page."""

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from sql.db import Database
from sql.queries import load

_Q: Final = load("status")
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


def known_migrations() -> frozenset[str]:
    """Versions of the migrations that this code was written for."""
    return frozenset(file.name.partition("_")[0] for file in _MIGRATIONS.glob("*.sql"))


async def missing_migrations(db: Database, known: Set[str]) -> list[str]:
    """Versions that the database lacks, in order. Errors: Unavailable."""
    applied = {row["version"] for row in await db.rows(_Q["get_applied_migrations"])}
    return sorted(known - applied)


async def get_gauges(db: Database) -> dict[str, int]:
    """Rows that wait, by kind. Errors: Unavailable."""
    row = await db.row(_Q["get_gauges"])
    return {} if row is None else dict(row)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Committed events that their topic has not applied, and the age of the oldest in seconds."""

    topic: str
    events: int
    oldest_s: float


async def get_backlog(db: Database, group: str) -> list[Backlog]:
    """Per topic that has any. Errors: Unavailable."""
    return [Backlog(*row.values()) for row in await db.rows(_Q["get_backlog"], group)]


@dataclass(frozen=True, slots=True)
class Throughput:
    """Records that a topic decided in some seconds, and how many of them were refused or quarantined."""

    topic: str
    records: int
    refused: int
    quarantined: int


async def get_throughput(db: Database, group: str, *, seconds: float) -> list[Throughput]:
    """Per topic that decided any. Errors: Unavailable."""
    return [Throughput(*row.values()) for row in await db.rows(_Q["get_throughput"], group, seconds)]


@dataclass(frozen=True, slots=True)
class Share:
    """How many partitions of a topic a worker owns."""

    topic: str
    owner: str
    partitions: int


async def get_owners(db: Database, group: str) -> list[Share]:
    """Which worker owns what. Errors: Unavailable."""
    return [Share(*row.values()) for row in await db.rows(_Q["get_owners"], group)]


@dataclass(frozen=True, slots=True)
class Sum:
    """A metric's sum for one dimension ('' for all of it); `minute` is None for a day's."""

    metric: str
    dimension: str
    count: int
    credits: int
    amount_paise: int
    minute: datetime | None = None


async def get_series(db: Database, since: datetime) -> list[Sum]:
    """Sums per minute since. Errors: Unavailable."""
    return [
        Sum(r["metric"], r["dimension"], r["count"], r["credits"], r["amount_paise"], r["window_start"])
        for r in await db.rows(_Q["get_series"], since)
    ]


async def get_today(db: Database) -> list[Sum]:
    """Today's sums, by IST. Errors: Unavailable."""
    return [Sum(*row.values()) for row in await db.rows(_Q["get_today"])]


async def get_recent_statuses(db: Database, *, limit: int) -> dict[str, int]:
    """How many of the newest payments stand where. Errors: Unavailable."""
    return {row["status"]: row["count"] for row in await db.rows(_Q["get_recent_statuses"], limit)}
