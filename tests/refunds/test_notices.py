"""Whoever's money moved is told, once for each time, in the words of what happened."""

from __future__ import annotations

from sql import notifications, refunds
from sql.payments import Payment

from .conftest import Till
from .test_reversals import again, dispute


async def told(till: Till, payment: Payment) -> list[tuple[str, int | None, int | None]]:
    """(kind, credits, paise) of what the buyer was told in the app, the oldest first, but for the purchase."""
    found = await notifications.list_notifications(till.db, payment.user_id)
    bought = ("credits_added", "invoice_issued", "low_balance")
    return [(n.kind, n.credits, n.amount_paise) for n in reversed(found) if n.kind not in bought]


async def test_a_dispute_is_told_when_it_takes_the_money_and_when_it_is_won(till: Till) -> None:
    payment = await till.buy(50_000)
    charged = dispute(till, payment)
    await again(till)
    till.sim.disputes.move(charged, "MERCHANT_WON")
    await again(till)
    assert await told(till, payment) == [
        ("payment_reversed", 5_500, 50_000),
        ("dispute_won", 5_500, 50_000),
    ]
    facts = await till.admin.fetch(
        "SELECT kind FROM billing_events WHERE source IN ('dispute', 'wallet_transaction')"
    )
    assert sorted(row["kind"] for row in facts) == ["credits_charged_back", "credits_reinstated"]
    assert await till.violations() == []


async def test_two_disputes_seen_in_one_look_are_told_both(till: Till) -> None:
    payment = await till.buy(50_000)
    for _ in range(2):
        dispute(till, payment, amount_paise=10_000)
    await again(till)
    assert await told(till, payment) == [("payment_reversed", 1_100, 10_000)] * 2


async def test_money_paid_twice_is_told_when_it_is_returned(till: Till) -> None:
    payment = await till.buy(50_000)
    till.pay(payment)
    await again(till)
    assert await told(till, payment) == [("payment_returned", 0, 50_000)]


async def test_a_payout_that_is_declined_is_told(till: Till) -> None:
    payment = await till.buy(50_000)
    await till.admin.execute("UPDATE payments SET credited_at = now() - interval '7 months'")
    asked = await till.ask(payment, 50_000)
    assert asked.refund is not None
    status = await refunds.decide_payout(
        till.db,
        asked.refund.id,
        "decline",
        "asha",
        shard=0,
        partitions={
            "refunds": 0,
            "refunded": 0,
            "expired": 0,
            "notify": till.core.partition(str(payment.user_id)),
        },
    )
    assert status == "rejected"
    await till.drain()
    assert {kind for kind, _, _ in await told(till, payment)} == {"refund_initiated", "refund_declined"}
