"""A hold that nobody ended in time gives its credits back, once."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from uuid_utils.compat import uuid7

from agents import overdue_holds
from sql import ledger
from sql.ledger import LedgerCommand

from .conftest import World


async def hold(world: World, wallet: UUID, credits: int, expires_at: datetime) -> None:
    made = LedgerCommand(
        uuid7(), wallet, "hold", credits, f"test:{expires_at}", b"", datetime.now(UTC), "hold", "h", 0,
        extra={"expires_at": expires_at.isoformat()},
    )  # fmt: skip
    assert (await ledger.call(world.core.db, 0, made)).outcome == "posted"


async def test_credits_of_an_overdue_hold_come_back_once_and_a_running_hold_stays(world: World) -> None:
    wallet = await world.wallet(1000)
    now = datetime.now(UTC)
    await hold(world, wallet, 300, now - timedelta(seconds=1))
    await hold(world, wallet, 200, now + timedelta(hours=1))
    assert await world.balance(wallet) == 500
    assert max(await asyncio.gather(*(overdue_holds.once(world.core) for _ in range(3)))) == 1
    assert await overdue_holds.once(world.core) == 0
    assert await world.balance(wallet) == 800
    assert await world.admin.fetchval("SELECT locked_credits FROM wallets WHERE id = $1", wallet) == 200
    released = await world.admin.fetchval(
        "SELECT count(*) FROM wallet_transactions WHERE transaction_type = 'release'"
    )
    assert released == 1
    assert await world.admin.fetchval("SELECT count(*) FROM reconciliation_cases") == 0
