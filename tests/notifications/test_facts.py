"""Every billing fact leaves one row, written by the transaction that makes it."""

from collections import Counter
from uuid import uuid4

import pytest

from agents import notifications_billing
from sql import notifications
from tests.payments.conftest import Shop, shop

__all__ = ["shop"]
TOPIC = notifications_billing.TOPIC


async def tell(shop: Shop) -> None:
    """Deliver every notice that was published, each twice."""
    for message in [m for m in shop.kept.sent if m.topic == TOPIC]:
        for _ in range(2):
            await notifications_billing.handle(
                shop.core, await shop.batch(TOPIC, message.partition, [message.value])
            )


async def facts(shop: Shop) -> Counter[str]:
    return Counter(r["kind"] for r in await shop.admin.fetch("SELECT kind FROM billing_events"))


async def test_a_credited_payment_leaves_its_facts_and_one_notice(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id, "FAILED", "1", minutes=2), shop.webhook(payment.order_id))
    await shop.settle()
    await tell(shop)
    assert await facts(shop) >= Counter(
        {"payment_created": 1, "payment_failed": 1, "payment_verified": 1, "credits_added": 1}
    )
    told = await notifications.list_notifications(shop.db, payment.user_id)
    assert [n.kind for n in told if n.kind == "credits_added"] == ["credits_added"]
    fact = await shop.admin.fetchrow("SELECT * FROM billing_events WHERE kind = 'credits_added'")
    assert fact is not None
    assert (fact["source"], fact["source_id"]) == ("payment", str(payment.id))
    assert (fact["credits"], fact["amount"]) == (
        payment.base_credits + payment.bonus_credits,
        payment.amount_paise,
    )


async def test_what_moves_credits_otherwise_is_a_fact_and_a_spend_is_none(shop: Shop) -> None:
    user, wallet = await shop.buyer()
    for seq, kind in enumerate(("grant", "expire", "refund", "chargeback", "spend", "hold", "release"), 1):
        await shop.admin.execute(
            "INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before,"
            " balance_after, locked_after, source, source_id, idempotency_key, request_hash, batch_id, ord, occurred_at)"
            " VALUES ($1, $2, $3, $4, 7, 7, 0, 7, 0, 'test', 't', $1::uuid::text, '', $1, 1, now())",
            uuid4(), wallet, seq, kind,
        )  # fmt: skip
    rows = await shop.admin.fetch("SELECT kind, user_id, wallet_id, credits FROM billing_events ORDER BY id")
    kinds = ("credits_granted", "credits_expired", "credits_refunded", "credits_charged_back")
    assert [tuple(row) for row in rows] == [(kind, user, wallet, 7) for kind in kinds]


async def test_a_fact_is_never_changed(shop: Shop) -> None:
    await shop.order()
    for statement in (
        "UPDATE billing_events SET kind = 'x'",
        "DELETE FROM billing_events",
        "TRUNCATE billing_events CASCADE",
    ):
        with pytest.raises(Exception, match="is refused: corrections are new transactions"):
            await shop.admin.execute(statement)
