"""The lists of the API: pages of what there is, the newest first. Each takes where the page before ended."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sql.accounts import Hold, Transaction, Wallet
from sql.db import Database
from sql.invoices import Invoice
from sql.payments import Attempt, Payment
from sql.queries import load
from sql.refunds import Refund

_Q: Final = load("lists")
At = tuple[datetime, UUID] | None
"""The time and the id of a page's last row."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What usage was charged to a wallet: `credits` is signed, `event_id` the service's own id of the event."""

    transaction_id: UUID
    seq: int
    event_id: str
    feature: str | None
    community_id: UUID | None
    credits: int
    balance_credits: int
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Review:
    """A payment held for a person. state: pending | released | rejected; `missing` entities did not answer in time."""

    id: UUID
    payment_id: UUID
    user_id: UUID
    wallet_id: UUID
    amount_paise: int
    credits: int
    payment_status: str
    score: int
    reasons: list[str]
    missing: list[str]
    state: str
    decided_by: str | None
    decided_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Received:
    """A webhook in the inbox. `outcome` is what became of it; `deliveries` how often it came."""

    id: UUID
    event_type: str
    version: str
    order_id: str | None
    cf_payment_id: str | None
    refund_id: str | None
    status: str | None
    amount_paise: int | None
    deliveries: int
    stale: bool
    outcome: str | None
    occurred_at: datetime
    received_at: datetime
    published_at: datetime | None
    closed_at: datetime | None


async def list_payments(
    db: Database, *, user_id: UUID | None, wallet_id: UUID | None, status: str | None, before: At, limit: int
) -> list[Payment]:
    """Payments. One wallet's are looked for among its owner's: name both. Errors: Unavailable."""
    rows = await db.rows(_Q["list_payments"], user_id, wallet_id, status, *(before or (None, None)), limit)
    return [Payment(*row.values()) for row in rows]


async def list_attempts(db: Database, orders: Sequence[str]) -> dict[str, list[Attempt]]:
    """Every attempt to pay those orders. Errors: Unavailable."""
    found: defaultdict[str, list[Attempt]] = defaultdict(list)
    for order_id, *rest in map(tuple, await db.rows(_Q["list_attempts"], list(orders))):
        found[order_id].append(Attempt(*rest))
    return found


async def list_refunds(
    db: Database,
    *,
    user_id: UUID | None,
    payment_id: UUID | None,
    status: str | None,
    before: UUID | None,
    limit: int,
) -> list[Refund]:
    """Refunds. Errors: Unavailable."""
    rows = await db.rows(_Q["list_refunds"], user_id, payment_id, status, before, limit)
    return [Refund(*row.values()) for row in rows]


async def list_invoices(
    db: Database, *, user_id: UUID | None, payment_id: UUID | None, before: At, limit: int
) -> list[Invoice]:
    """Tax invoices and credit notes. Errors: Unavailable."""
    rows = await db.rows(_Q["list_invoices"], user_id, payment_id, *(before or (None, None)), limit)
    return [Invoice(*(json.loads(v) if k == "document" else v for k, v in row.items())) for row in rows]


async def list_holds(
    db: Database, wallet_id: UUID, *, state: str | None, before: UUID | None, limit: int
) -> list[Hold]:
    """A wallet's holds. Errors: Unavailable."""
    return [Hold(*row.values()) for row in await db.rows(_Q["list_holds"], wallet_id, state, before, limit)]


async def list_wallets(db: Database, owner_id: UUID, *, before: UUID | None, limit: int) -> list[Wallet]:
    """A user's wallets. Errors: Unavailable."""
    return [Wallet(*row.values()) for row in await db.rows(_Q["list_wallets"], owner_id, before, limit)]


async def get_transaction(db: Database, id: UUID) -> tuple[UUID, Transaction] | None:
    """The wallet of a transaction, and the transaction. Errors: Unavailable."""
    row = await db.row(_Q["get_transaction"], id)
    if row is None:
        return None
    *line, wallet_id = (json.loads(v) if k == "metadata" and v is not None else v for k, v in row.items())
    return wallet_id, Transaction(*line)


async def list_usage(
    db: Database,
    wallet_id: UUID,
    *,
    feature: str | None,
    start: datetime | None,
    end: datetime | None,
    before: int | None,
    limit: int,
) -> list[Charge]:
    """What a wallet was charged for usage, recorded in [start, end). Errors: Unavailable."""
    rows = await db.rows(_Q["list_usage"], wallet_id, feature, start, end, before, limit)
    return [
        Charge(*(json.loads(v) if k == "metadata" and v is not None else v for k, v in row.items()))
        for row in rows
    ]


async def list_reviews(db: Database, *, state: str | None, before: UUID | None, limit: int) -> list[Review]:
    """Payments that were held. Errors: Unavailable."""
    return [Review(*row.values()) for row in await db.rows(_Q["list_reviews"], state, before, limit)]


async def get_review(db: Database, payment_id: UUID) -> Review | None:
    """A payment that was held. Errors: Unavailable."""
    row = await db.row(_Q["get_review"], payment_id)
    return None if row is None else Review(*row.values())


async def list_received(db: Database, *, before: UUID | None, limit: int) -> list[Received]:
    """The inbox of webhooks. Errors: Unavailable."""
    return [Received(*row.values()) for row in await db.rows(_Q["list_received"], before, limit)]
