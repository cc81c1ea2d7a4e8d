"""Holds past their time limit: the credits go back to the wallet, as if the caller had released them.

In     holds whose expires_at has passed and that nobody captured or released
Books  a release on the chain api/<shard>, once per hold; a hold that cannot be released becomes a case (I15)
Out    nothing
"""

import hashlib
from datetime import UTC, datetime
from typing import Final

import structlog

from agents.core import Core
from agents.pool import rounds
from sql import balances, ledger
from sql.balances import OverdueHold
from sql.ids import uuid7
from sql.ledger import LedgerCommand

log = structlog.get_logger("agents.overdue_holds")

POLL_S: Final = 5.0
LIMIT: Final = 200


async def run(core: Core) -> None:
    """Until cancelled. Two workers may release one hold at once: its key makes that one release."""
    await rounds("overdue holds", lambda: once(core), limit=LIMIT, pause_s=POLL_S)


async def once(core: Core) -> int:
    """Release what is overdue now; returns how many holds were found. Errors: Unavailable."""
    overdue = await balances.get_overdue_holds(core.db, limit=LIMIT)
    stuck = False
    for hold in overdue:
        decision = await ledger.call(
            core.db,
            core.partition(str(hold.wallet_id)),
            release(core, hold),
            expired_partition=core.partition(""),
        )
        if decision.outcome not in ("posted", "exists"):
            stuck = True
            log.error("an overdue hold cannot be released", hold_id=str(hold.id), why=decision.reason)
    if stuck:
        await balances.flag_overdue_holds(core.db)
    return len(overdue)


def release(core: Core, hold: OverdueHold) -> LedgerCommand:
    """All of a hold goes back. The clock decides only that it is due; who releases first is the ledger's to say."""
    return LedgerCommand(
        id=uuid7(),
        wallet_id=hold.wallet_id,
        kind="release",
        credits=hold.credits,
        key=f"core:overdue/{hold.id}",
        request_hash=hashlib.blake2b(hold.id.bytes, digest_size=16).digest(),
        occurred_at=datetime.now(UTC),
        source="hold",
        source_id=str(hold.id),
        analytics_partition=core.partition(""),
        extra={"hold_id": str(hold.id)},
    )
