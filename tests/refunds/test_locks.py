"""Locks in one order: whoever takes a wallet and a chain takes the wallet first."""

import asyncio
import itertools
from datetime import UTC, datetime

from uuid_utils.compat import uuid7

from sql import ledger
from sql.ledger import Decision, LedgerCommand
from tests.refunds.conftest import Till


async def test_calls_and_refunds_of_one_wallet_and_one_chain_never_deadlock(till: Till) -> None:
    payment = await till.buy(100_000)
    till.shards = itertools.repeat(0)

    async def spend() -> Decision:
        id = uuid7()
        command = LedgerCommand(
            id, payment.wallet_id, "spend", 1, f"test:{id}", b"h", datetime.now(UTC), "test", str(id), 0
        )
        return await ledger.call(till.db, 0, command)

    for _ in range(6):
        calls = [spend() for _ in range(8)]
        asked = [till.ask(payment, 100) for _ in range(8)]
        spent, refunds = await asyncio.gather(asyncio.gather(*calls), asyncio.gather(*asked))
        assert {decision.outcome for decision in spent} == {"posted"}
        assert {refund.outcome for refund in refunds} == {"created"}
    assert await till.violations() == []
