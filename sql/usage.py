"""The inbox of usage: stored before the caller hears 200, debited by wallet.debit, answered by the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("usage")


@dataclass(frozen=True, slots=True)
class NewUsage:
    """One event to store. `id` is a UUIDv7, `event_id` the caller's own, `metadata` JSON text.

    `occurred_at` is clamped already: what is stored here is what every later reader folds.
    """

    id: UUID
    event_id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    community_id: UUID | None
    metadata: str | None
    request_hash: bytes
    occurred_at: datetime


Receipt = Literal["accepted", "replayed", "conflict", "unknown_wallet"]
Outcome = Literal["posted", "refused", "quarantined", "parked", "dead", "pending"]

UNDECIDED: Final[frozenset[Outcome]] = frozenset({"parked", "pending"})


@dataclass(frozen=True, slots=True)
class UsageOutcome:
    """A stored event and what became of it. `balance_credits` is the wallet's balance right after it."""

    key: str
    event_id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    occurred_at: datetime
    recorded_at: datetime
    outcome: Outcome
    reason: str | None
    transaction_id: UUID | None
    balance_credits: int | None


async def insert_usage(
    db: Database, principal: str, events: Sequence[NewUsage], *, traceparent: str | None = None
) -> list[Receipt]:
    """Store one caller's events in one statement; on return they are committed. `traceparent`: of a traced request.

    Send them again after an unknown outcome: they then answer replayed. Errors: Unavailable.
    """
    if not events:
        return []
    answer = await db.value(
        _Q["insert_usage"],
        principal,
        [e.id for e in events],
        [e.event_id for e in events],
        [e.wallet_id for e in events],
        [e.feature for e in events],
        [e.quantity for e in events],
        [e.credits for e in events],
        [e.community_id for e in events],
        [e.metadata for e in events],
        [e.request_hash for e in events],
        [e.occurred_at for e in events],
        traceparent,
    )
    return cast(list[Receipt], answer)


async def get_outcomes(db: Database, keys: Sequence[str]) -> dict[str, UsageOutcome]:
    """The stored events of those keys ('<principal>:<event id>') with their outcomes, by key."""
    rows = await db.rows(_Q["get_usage_outcomes"], list(keys))
    return {row["idempotency_key"]: UsageOutcome(*row.values()) for row in rows}


@dataclass(frozen=True, slots=True)
class Shown:
    """A traced request whose debits the dashboards' windows contain; `first_key` is the lowest of its events' keys."""

    traceparent: str
    first_key: str


async def get_shown(db: Database, group: str, since: datetime) -> list[Shown]:
    """Those that came since. Errors: Unavailable."""
    return [Shown(*row.values()) for row in await db.rows(_Q["get_shown"], since, group)]
