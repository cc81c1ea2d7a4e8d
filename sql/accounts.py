"""Users and wallets as the API creates and reads them. Balances change only through `sql.ledger`."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("accounts")


@dataclass(frozen=True, slots=True)
class User:
    """A person or company that owns wallets. `state_code` is the GST State of a B2C buyer."""

    id: UUID
    external_id: str
    name: str | None
    email: str | None
    phone: str | None
    state_code: str | None
    gstin: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Wallet:
    """A wallet as it stands. Amounts are credits; `seq` is its last transaction's number."""

    id: UUID
    owner_id: UUID
    community_id: UUID | None
    available_credits: int
    locked_credits: int
    pending_credits: int
    debt_credits: int
    lifetime_purchased_credits: int
    auto_recharge_enabled: bool
    auto_recharge_threshold: int
    seq: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Consumption:
    """What a transaction took from one lot, and the deferred revenue that it earned thereby."""

    lot_id: UUID
    credits: int
    recognised_paise: int
    promotional: bool
    payment_id: UUID | None


@dataclass(frozen=True, slots=True)
class Transaction:
    """One line of a wallet's history. `credits` is its signed effect on the available balance."""

    id: UUID
    seq: int
    transaction_type: str
    credits: int
    amount_credits: int
    balance_before: int
    balance_after: int
    locked_after: int
    source: str
    source_id: str
    feature: str | None
    community_id: UUID | None
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Hold:
    """Credits set aside. state: held | captured | released. `expires_at` is None if it never does.

    `lot_id` is the lot of a refund's hold, which only that refund may end.
    """

    id: UUID
    wallet_id: UUID
    credits: int
    captured_credits: int
    state: str
    reason: str | None
    lot_id: UUID | None
    expires_at: datetime | None
    created_at: datetime
    closed_at: datetime | None


@dataclass(frozen=True, slots=True)
class Known:
    """What a key already stands for in the ledger; `refused` is the reason if it was refused."""

    request_hash: bytes
    refused: str | None


UserOutcome = Literal["created", "exists", "conflict", "taken"]
WalletOutcome = Literal["created", "exists", "conflict", "unknown_owner"]


async def create_user(
    db: Database,
    key: str,
    request_hash: bytes,
    id: UUID,
    *,
    external_id: str,
    name: str | None = None,
    email: str | None = None,
    phone: str | None = None,
    state_code: str | None = None,
    gstin: str | None = None,
) -> tuple[UserOutcome, UUID | None]:
    """Create a user once per key ('<principal>:<key>'); send it again after an unknown outcome.

    Answers the outcome and the user that stands: taken means another key made one of that external id.
    Errors: Unavailable.
    """
    row = await db.row(
        _Q["create_user"], key, request_hash, id, external_id, name, email, phone, state_code, gstin
    )
    assert row is not None
    return cast(UserOutcome, row["o_outcome"]), row["o_id"]


async def create_wallet(
    db: Database, key: str, request_hash: bytes, id: UUID, *, owner_id: UUID, community_id: UUID | None = None
) -> tuple[WalletOutcome, UUID | None]:
    """Create a wallet once per key; send it again after an unknown outcome. Errors: Unavailable."""
    row = await db.row(_Q["create_wallet"], key, request_hash, id, owner_id, community_id)
    assert row is not None
    return cast(WalletOutcome, row["o_outcome"]), row["o_id"]


async def get_user(db: Database, user_id: UUID) -> User | None:
    """A user by id."""
    row = await db.row(_Q["get_user"], user_id)
    return None if row is None else User(*row.values())


async def get_wallet(db: Database, wallet_id: UUID) -> Wallet | None:
    """A wallet by id."""
    row = await db.row(_Q["get_wallet"], wallet_id)
    return None if row is None else Wallet(*row.values())


async def get_transactions(
    db: Database, wallet_id: UUID, *, before_seq: int | None, limit: int
) -> list[Transaction]:
    """A wallet's transactions, the newest first; `before_seq` continues after a page's last one."""
    rows = await db.rows(_Q["get_transactions"], wallet_id, before_seq, limit)
    return [
        Transaction(*(json.loads(v) if k == "metadata" and v is not None else v for k, v in row.items()))
        for row in rows
    ]


async def get_consumptions(db: Database, transactions: Sequence[UUID]) -> dict[UUID, list[Consumption]]:
    """Which lots each of those transactions took from."""
    found: defaultdict[UUID, list[Consumption]] = defaultdict(list)
    for transaction_id, *rest in map(tuple, await db.rows(_Q["get_consumptions"], list(transactions))):
        found[transaction_id].append(Consumption(*rest))
    return found


async def get_hold(db: Database, hold_id: UUID) -> Hold | None:
    """A hold by id."""
    row = await db.row(_Q["get_hold"], hold_id)
    return None if row is None else Hold(*row.values())


async def get_known_command(db: Database, key: str) -> Known | None:
    """What a key ('<principal>:<key>') already stands for in the ledger."""
    row = await db.row(_Q["get_known_command"], key)
    return None if row is None else Known(*row.values())
