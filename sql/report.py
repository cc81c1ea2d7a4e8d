"""Reads for reports: what the books say, to be compared with what a client knows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sql.db import Database, Row
from sql.queries import load

_Q: Final = load("report")


async def posted_usage(db: Database, since: datetime) -> list[Row]:
    """event_id, wallet_id, amount_credits, committed_at of every usage debit posted since."""
    return await db.rows(_Q["posted_usage"], since)


async def refused_usage(db: Database, since: datetime) -> list[Row]:
    """event_id, wallet_id, amount_credits of every debit refused since."""
    return await db.rows(_Q["refused_usage"], since)


async def quarantined_usage(db: Database, since: datetime) -> set[str]:
    """Ids of usage events that conflicted or were refused entry."""
    return {row["event_id"] for row in await db.rows(_Q["quarantined_usage"], since)}


async def payments_since(db: Database, since: datetime) -> list[Row]:
    """Payments made since, with what was posted for each and when its webhook came."""
    return await db.rows(_Q["payments_since"], since)


async def refunds_since(db: Database, since: datetime) -> list[Row]:
    """Refunds asked for since: the caller's key, how each stands, and its payment's price and credits."""
    return await db.rows(_Q["refunds_since"], since)


async def wallet_totals(db: Database, wallets: Sequence[UUID]) -> list[Row]:
    """id, available_credits, locked_credits, used and other (sums of posted effects) per wallet."""
    return await db.rows(_Q["wallet_totals"], list(wallets))


async def outcome_counts(db: Database, since: datetime) -> dict[str, int]:
    """Outcomes of the wallet topics since, by name."""
    row = await db.row(_Q["outcome_counts"], since)
    return _ints(row)


async def open_work(db: Database) -> dict[str, int]:
    """What is still on its way, by kind."""
    return _ints(await db.row(_Q["open_work"]))


def _ints(row: Row | None) -> dict[str, int]:
    found: dict[str, Any] = dict(row) if row is not None else {}
    return {name: int(value) for name, value in found.items()}
