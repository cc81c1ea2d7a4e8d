"""Wallets: opening one, its balance, its history, promotional credits."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import accounts, lists
from sql.accounts import Transaction, Wallet
from sql.ids import uuid7
from streams.events import Credits, Reference, Time
from web.auth import STAFF
from web.calls import Call, made
from web.ledger_calls import decide, posted
from web.paging import PageQuery, Seq, after, cut
from web.problems import Problem, key_conflict, not_found
from web.replies import Reply
from web.services import request_hash
from web.shapes import Answer, Body, NoQuery


class NewWallet(Body, frozen=True):
    """POST /v1/wallets."""

    owner_id: UUID
    community_id: UUID | None = None


class WalletAnswer(Answer, frozen=True):
    """A wallet. Available and locked are its balance; pending is on its way, debt is owed apart from it."""

    id: UUID
    owner_id: UUID
    community_id: UUID | None
    available_credits: int
    locked_credits: int
    pending_credits: int
    debt_credits: int
    lifetime_purchased_credits: int
    auto_recharge_enabled: bool
    auto_recharge_threshold_credits: int
    created_at: datetime
    updated_at: datetime


class TransactionsQuery(PageQuery, frozen=True):
    """A page of transactions; `expand=lots` adds which lots each transaction consumed."""

    expand: Literal["lots"] | None = None


class ConsumptionAnswer(Answer, frozen=True):
    """What a transaction took from one lot."""

    lot_id: UUID
    credits: int
    recognised_paise: int
    promotional: bool
    payment_id: UUID | None


class TransactionAnswer(Answer, frozen=True):
    """One line of a wallet's history; `credits` is the signed effect on the available balance."""

    id: UUID
    wallet_id: UUID
    seq: int
    transaction_type: str
    credits: int
    amount_credits: int
    balance_before_credits: int
    balance_after_credits: int
    locked_after_credits: int
    source: str
    source_id: str
    feature: str | None
    community_id: UUID | None
    metadata: dict[str, Any] | None
    occurred_at: datetime
    recorded_at: datetime
    lots: list[ConsumptionAnswer] | None = None


class TransactionsPage(Answer, frozen=True):
    """Newest first. `next` is the cursor of the following page; null: this was the last one."""

    items: list[TransactionAnswer]
    next: str | None


class WalletsQuery(PageQuery, frozen=True, kw_only=True):
    """A page of a user's wallets."""

    owner_id: UUID


class WalletsPage(Answer, frozen=True):
    """The newest first."""

    items: list[WalletAnswer]
    next: str | None


class NewGrant(Body, frozen=True):
    """POST /v1/wallets/{id}/grants: promotional credits. Lower `priority` burns first."""

    credits: Credits
    reason: Reference
    priority: Annotated[int, Meta(ge=0, le=1000)] = 0
    expires_at: Time | None = None


async def create_wallet(call: Call, body: NewWallet) -> Reply:
    """POST /v1/wallets: once per Idempotency-Key."""
    digest = request_hash("wallet", body.owner_id, body.community_id)
    outcome, wallet_id = await accounts.create_wallet(
        call.services.db, call.key(), digest, uuid7(), owner_id=body.owner_id, community_id=body.community_id
    )
    if outcome == "conflict":
        raise key_conflict()
    if outcome == "unknown_owner":
        raise Problem(422, "unknown_owner", "there is no such user to own the wallet")
    assert wallet_id is not None
    return made(await _wallet(call, wallet_id), new=outcome == "created")


async def get_wallet(call: Call, _: NoQuery) -> Reply:
    """GET /v1/wallets/{id}."""
    return Reply(await _wallet(call, call.uuid("id", "wallet")))


async def _wallet(call: Call, wallet_id: UUID) -> WalletAnswer:
    wallet = await accounts.get_wallet(call.services.db, wallet_id)
    if wallet is None:
        raise not_found("wallet")
    return _shown(wallet)


def _shown(wallet: Wallet) -> WalletAnswer:
    same = {name: getattr(wallet, name) for name in WalletAnswer.__struct_fields__ if hasattr(wallet, name)}
    return WalletAnswer(**same, auto_recharge_threshold_credits=wallet.auto_recharge_threshold)


async def list_wallets(call: Call, query: WalletsQuery) -> Reply:
    """GET /v1/wallets: those of an owner."""
    found = await lists.list_wallets(
        call.services.db, query.owner_id, before=after(query, "wallets", UUID), limit=query.limit + 1
    )
    page, following = cut(found, query, "wallets", lambda wallet: wallet.id)
    return Reply(WalletsPage(items=[_shown(wallet) for wallet in page], next=following))


def _line(wallet_id: UUID, row: Transaction) -> TransactionAnswer:
    same = {name: getattr(row, name) for name in TransactionAnswer.__struct_fields__ if hasattr(row, name)}
    return TransactionAnswer(
        **same,
        wallet_id=wallet_id,
        balance_before_credits=row.balance_before,
        balance_after_credits=row.balance_after,
        locked_after_credits=row.locked_after,
    )


async def get_transaction(call: Call, _: NoQuery) -> Reply:
    """GET /v1/transactions/{id}: with the lots it took from."""
    db, id = call.services.db, call.uuid("id", "transaction")
    found = await lists.get_transaction(db, id)
    if found is None:
        raise not_found("transaction")
    lots = (await accounts.get_consumptions(db, [id])).get(id, [])
    shown = msgspec.convert(lots, list[ConsumptionAnswer], from_attributes=True)
    return Reply(msgspec.structs.replace(_line(*found), lots=shown))


async def list_transactions(call: Call, query: TransactionsQuery) -> Reply:
    """GET /v1/wallets/{id}/transactions: newest first, by keyset."""
    wallet_id = call.uuid("id", "wallet")
    db = call.services.db
    before = after(query, "transactions", Seq)
    rows = await accounts.get_transactions(db, wallet_id, before_seq=before, limit=query.limit + 1)
    if not rows and await accounts.get_wallet(db, wallet_id) is None:
        raise not_found("wallet")
    page, following = cut(rows, query, "transactions", lambda row: row.seq)
    items = [_line(wallet_id, row) for row in page]
    if query.expand == "lots":
        lots = await accounts.get_consumptions(db, [row.id for row in page])
        items = [
            msgspec.structs.replace(
                item,
                lots=msgspec.convert(lots.get(item.id, []), list[ConsumptionAnswer], from_attributes=True),
            )
            for item in items
        ]
    return Reply(TransactionsPage(items=items, next=following))


async def by_staff(call: Call, body: NewGrant) -> str | None:
    """Credits that a person gives, and no service by its rules, need a second person."""
    if call.caller.role not in STAFF:
        return None
    wallet = await _wallet(call, call.uuid("id", "wallet"))
    return f"grant {body.credits} credits to wallet {wallet.id}: {body.reason}"


async def grant(call: Call, body: NewGrant) -> Reply:
    """POST /v1/wallets/{id}/grants: free credits, a lot of their own."""
    wallet_id = call.uuid("id", "wallet")
    expires_at = None if body.expires_at is None else body.expires_at.isoformat()
    decision = await decide(
        call,
        "grant",
        wallet_id,
        body.credits,
        said=(body.reason, body.priority, expires_at),
        source=body.reason,
        analytics_key="source=grant",
        extra={"priority": body.priority, "expires_at": expires_at},
    )
    return posted(decision, wallet_id, body.credits)
