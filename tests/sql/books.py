"""What the database's books and the specification's say, in one shape, so that a difference is one line."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from domain.commands import Kind, Transaction
from domain.invariants import account_balances
from domain.ledger import Ledger
from domain.lots import Lot, Place
from domain.postings import Account, Asset

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Facts = dict[str, dict[Any, Any]]
_TAKEN = (Place.SPENT, Place.EXPIRED, Place.REVERSED)


def specified(ledger: Ledger) -> Facts:
    """The specification's books."""
    return {
        "wallets": {
            w.id: (
                w.available,
                w.locked,
                w.pending,
                w.debt,
                w.receivable_paise,
                w.lifetime_purchased,
                w.last_seq,
            )
            for w in ledger.wallets.values()
        },
        "lots": {lot.id: _lot(lot) for lot in ledger.lots.values()},
        "holds": {
            hold.id: (hold.wallet_id, hold.open, hold.credits, hold.parts) for hold in ledger.holds.values()
        },
        "transactions": {t.key: _transaction(t) for t in ledger.transactions},
        "accounts": {str(account): total for account, total in account_balances(ledger).items() if total},
        "waiting": {
            (topic, str(wallet)): [c.key for c in queue]
            for (topic, wallet), queue in ledger.parked.items()
            if queue
        },
    }


def _lot(lot: Lot) -> tuple[Any, ...]:
    earned = (lot.invoice.taxable_paise, lot.refunded_paise, lot.returned_paise, lot.recognised_paise)
    paise = (*earned, lot.offer_paise, lot.offer_returned_paise)
    places = (lot.free, lot.held, lot.spent, lot.expired, lot.reversed, lot.debt_paid)
    return (lot.wallet_id, lot.granted, lot.bonus, lot.priority, lot.promotional, places, paise)


def _transaction(t: Transaction) -> tuple[Any, ...]:
    # A spend's revenue may be posted once per batch: its legs are its credits, its moves what it earned.
    legs = [(leg.account.value, leg.amount) for leg in t.legs if not _by_batch(t.kind, leg.account)]
    moves = sorted((m.lot_id, m.credits, m.recognised_paise) for m in t.moves if m.target in _TAKEN)
    return (
        t.wallet_id,
        t.seq,
        t.kind.value,
        t.effect,
        t.credits,
        t.balance_before,
        t.locked_after,
        legs,
        moves,
    )


def _by_batch(kind: str, account: Account) -> bool:
    return kind == Kind.SPEND and account.asset is Asset.INR


async def booked(db: Connection) -> Facts:
    """The database's books."""
    legs = await _grouped(
        db, "SELECT transaction_id, account::text, amount FROM ledger_entries ORDER BY transaction_id, leg"
    )
    taken = await _grouped(
        db, "SELECT transaction_id, lot_id, credits, recognised_paise FROM lot_consumptions ORDER BY lot_id"
    )
    parts = await _grouped(db, "SELECT hold_id, lot_id, credits FROM hold_lots ORDER BY hold_id, place")
    waiting: dict[Any, list[str]] = {}
    for row in await db.fetch(
        "SELECT topic, key, payload ->> 'key' AS k FROM retries WHERE state = 'due' ORDER BY id"
    ):
        waiting.setdefault((row["topic"], row["key"]), []).append(row["k"])
    accounts = await db.fetch(
        "SELECT account::text, sum(amount)::bigint FROM ledger_entries GROUP BY 1 HAVING sum(amount) <> 0"
    )
    return {
        "wallets": {r[0]: tuple(r)[1:] for r in await db.fetch(_WALLETS)},
        "lots": {r[0]: (*tuple(r)[1:6], tuple(r)[6:12], tuple(r)[12:]) for r in await db.fetch(_LOTS)},
        "holds": {r[0]: (*tuple(r)[1:], tuple(parts.get(r[0], ()))) for r in await db.fetch(_HOLDS)},
        "transactions": {
            r["key"]: (*tuple(r)[2:], _own(r["kind"], legs.get(r["id"], [])), taken.get(r["id"], []))
            for r in await db.fetch(_TRANSACTIONS)
        },
        "accounts": {r[0]: r[1] for r in accounts},
        "waiting": waiting,
    }


def _own(kind: str, legs: Iterable[Any]) -> list[Any]:
    return [leg for leg in legs if not _by_batch(kind, Account(leg[0]))]


async def _grouped(db: Connection, query: str) -> dict[UUID, list[Any]]:
    found: dict[UUID, list[Any]] = {}
    for row in await db.fetch(query):
        found.setdefault(row[0], []).append(tuple(row)[1:])
    return found


def differences(ledger: Facts, database: Facts) -> list[str]:
    """What one says and the other does not, in words."""
    return [
        f"{what} {key}: specified {ledger[what].get(key)}, booked {database[what].get(key)}"
        for what in ledger
        for key in ledger[what].keys() | database[what].keys()
        if ledger[what].get(key) != database[what].get(key)
    ]


async def spent_as_told(db: Connection) -> Counter[str]:
    """Sums of what the outbox told analytics.billing: credits, and paise under 'revenue'."""
    rows = await db.fetch(
        """
        SELECT e ->> 'metric' AS metric, sum((e ->> 'credits')::bigint)::bigint AS credits,
               sum((e ->> 'amount_paise')::bigint)::bigint AS paise
          FROM outbox o, jsonb_array_elements(o.events::jsonb) e
         WHERE o.dest_topic = 'analytics.billing' GROUP BY 1
        """
    )
    return Counter({f"{row['metric']}.{name}": row[name] for row in rows for name in ("credits", "paise")})


_WALLETS = """
SELECT id, available_credits, locked_credits, pending_credits, debt_credits, debt_paise,
       lifetime_purchased_credits, seq
  FROM wallets
"""
_LOTS = """
SELECT id, wallet_id, granted_credits, bonus_credits, priority, promotional,
       free_credits, held_credits, spent_credits, expired_credits, reversed_credits, debt_paid_credits,
       taxable_paise, refunded_paise, returned_paise, recognised_paise, offer_paise, offer_returned_paise
  FROM lots
"""
_HOLDS = "SELECT id, wallet_id, state = 'held', credits FROM holds"
_TRANSACTIONS = """
SELECT id, idempotency_key AS key, wallet_id, seq, transaction_type::text AS kind, credits, amount_credits,
       balance_before, locked_after
  FROM wallet_transactions
"""
