"""Balances against what they are made of: a difference is a case for a person, never a correction."""

import json
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("ledger")


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a wallet's row states and what its entries and lots add up to.

    `outcome` is agrees | differs | unknown_wallet; both pictures have available_credits, locked_credits,
    debt_credits, debt_paise, free_credits and held_credits; `case_id` is the open reconciliation case of a difference.
    """

    outcome: str
    stated: dict[str, int]
    booked: dict[str, int]
    case_id: UUID | None


async def sync_balance(db: Database, wallet_id: UUID) -> Comparison:
    """Recompute a wallet under its lock; a difference opens (or is added to) its case. Errors: Unavailable."""
    row = await db.row(_Q["sync_balance"], wallet_id)
    assert row is not None
    pictures = [json.loads(row[name] or "{}") for name in ("o_stated", "o_booked")]
    return Comparison(row["o_outcome"], pictures[0], pictures[1], row["o_case"])


async def flag_overdue_holds(db: Database, *, limit: int = 1_000) -> int:
    """Open a case for each hold past its time limit, once; returns how many are new (I15). Errors: Unavailable."""
    return int(await db.value(_Q["flag_overdue_holds"], limit))


@dataclass(frozen=True, slots=True)
class OverdueHold:
    """A hold that nobody captured or released in time."""

    id: UUID
    wallet_id: UUID
    credits: int


async def get_overdue_holds(db: Database, *, limit: int) -> list[OverdueHold]:
    """Holds past their time limit, the oldest first. Errors: Unavailable."""
    return [OverdueHold(*row.values()) for row in await db.rows(_Q["get_overdue_holds"], limit)]
