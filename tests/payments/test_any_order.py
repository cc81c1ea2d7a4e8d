"""News of one payment in any order ends in one state, and a claim is never put off by what was asked before it."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agents import payment_processing
from sql import payments, reconciliation, verifications
from sql.payments import get_attempts
from sql.verifications import Answer

from .conftest import Shop


async def told(shop: Shop) -> None:
    """What was heard becomes signals, and no answers yet."""
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")


@pytest.mark.parametrize("first", ["PENDING", None])
async def test_a_success_claimed_after_the_poller_asked_starts_the_schedule_anew(
    shop: Shop, first: str | None
) -> None:
    payment = await shop.order()
    if first is not None:  # then the success is not the first thing heard
        await shop.hear(shop.webhook(payment.order_id, first, "1", minutes=1))
        await told(shop)
    assert await reconciliation.poll_payments(shop.db, limit=10, most_due=10, age_s=0) == 1
    (lease,) = await verifications.lease_verifications(shop.db, limit=10, lease_s=60)
    unpaid = Answer(payment.id, lease.attempt, "order", 0, [], status="ACTIVE")
    assert await shop.verifier.record([unpaid]) == ["unpaid"]
    await shop.admin.execute("UPDATE verifications SET next_at = now()")
    (before,) = await verifications.lease_verifications(
        shop.db, limit=10, lease_s=60
    )  # in the middle of asking
    await shop.hear(shop.webhook(payment.order_id, "SUCCESS", "1"))
    await told(shop)
    assert await shop.verifier.record([replace(unpaid, attempt=before.attempt)]) == ["exists"]
    (lease,) = await verifications.lease_verifications(shop.db, limit=10, lease_s=60)
    assert lease.attempt == 0
    assert await shop.verifier.record([replace(unpaid, attempt=0)]) == ["unpaid"]
    wait = await shop.admin.fetchval("SELECT extract(epoch FROM next_at - now()) FROM verifications")
    assert wait < 6


@pytest.mark.parametrize("claim_first", [True, False])
async def test_a_failure_beside_a_claim_that_the_gateway_denies_is_a_failed_payment(
    shop: Shop, claim_first: bool
) -> None:
    payment = await shop.order()
    news = [shop.webhook(payment.order_id, "SUCCESS", "1"), shop.webhook(payment.order_id, "FAILED", "2")]
    for webhook in news if claim_first else reversed(news):
        await shop.hear(webhook)
        await told(shop)
    assert (await shop.payment(payment.id)).status == "failed"
    assert await shop.by_status() in ({"created": 1, "failed": 1}, {})


@pytest.mark.parametrize("order", list(itertools.permutations(["USER_DROPPED", "FAILED", "PENDING"])))
async def test_of_what_happened_in_one_second_what_is_further_on_stands(
    shop: Shop, order: tuple[str, ...]
) -> None:
    payment, now = await shop.order(), datetime.now(UTC)
    for status in order:
        await shop.hear(shop.webhook(payment.order_id, status, "1", occurred_at=now))
        await told(shop)
    (attempt,) = await get_attempts(shop.db, payment.order_id)
    assert attempt.status == "FAILED"


async def test_a_failure_that_waited_for_its_order_is_not_forgotten_when_the_order_opens(shop: Shop) -> None:
    new = shop.new(*await shop.buyer())
    await shop.hear(shop.webhook(new.order_id, "FAILED", "1"))
    await shop.settle()
    await payments.create_payment(shop.db, new, shard=0, created_partition=0)
    await shop.admin.execute("UPDATE retries SET next_at = now()")
    assert await payment_processing.retry_once(shop.core, shop.ownership) == 1
    await payments.order_created(shop.db, new.id, cf_order_id="c", session_id="s", expires_at=None)
    assert (await shop.payment(new.id)).status == "failed"
