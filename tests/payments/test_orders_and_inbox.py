"""What the web process writes: payments once per key, webhooks once per fact."""

import asyncio
import random
from dataclasses import replace

import asyncpg
import pytest

from domain.gst import GstSplit
from sql import payments, webhooks

from .conftest import Shop


async def create(shop: Shop, new: payments.NewPayment) -> payments.Created:
    return await payments.create_payment(shop.db, new, shard=0, created_partition=1)


async def test_a_payment_is_created_once_per_key_and_another_body_conflicts(shop: Shop) -> None:
    new = shop.new(*await shop.buyer())
    again = replace(new, id=shop.new(*await shop.buyer()).id, order_id="cd_other")
    first = await create(shop, new)
    assert first.outcome == "created"
    assert first.payment is not None
    assert (first.payment.amount_paise, first.payment.credits, first.payment.status) == (
        50_000,
        5_500,
        "created",
    )
    assert (first.payment.taxable_paise, first.payment.cgst_paise, first.payment.sgst_paise) == (
        42_372,
        3_814,
        3_814,
    )
    second = await create(shop, again)
    assert (second.outcome, second.payment) == ("exists", first.payment)
    assert await create(shop, replace(again, request_hash=b"other")) == payments.Created("conflict", None)
    assert await shop.counts("api") == {"posted": 1}


async def test_of_eight_simultaneous_requests_with_one_key_one_creates(shop: Shop) -> None:
    new = shop.new(*await shop.buyer())
    twins = [replace(new, id=shop.new(new.user_id, new.wallet_id).id, order_id=f"cd_{i}") for i in range(8)]
    outcomes = [created.outcome for created in await asyncio.gather(*(create(shop, twin) for twin in twins))]
    assert sorted(outcomes) == ["created", *["exists"] * 7]


async def test_nobody_buys_into_a_wallet_of_somebody_else(shop: Shop) -> None:
    (user, _), (_, wallet) = await shop.buyer(), await shop.buyer()
    assert (await create(shop, shop.new(user, wallet))).outcome == "unknown_wallet"
    assert await payments.get_buyer(shop.db, user, wallet) is None


async def test_tax_that_does_not_sum_to_the_price_is_not_stored(shop: Shop) -> None:
    new = replace(shop.new(*await shop.buyer()), split=GstSplit(42_373, 3_814, 3_814))
    with pytest.raises(asyncpg.CheckViolationError, match="payment_tax"):
        await create(shop, new)
    assert await shop.admin.fetchval("SELECT count(*) FROM outbox") == 0


async def test_an_order_that_the_gateway_refused_failed_once(shop: Shop) -> None:
    new = shop.new(*await shop.buyer())
    await create(shop, new)
    answers = [
        await payments.fail_order(shop.db, new.id, "no", shard=0, failed_partition=0) for _ in range(2)
    ]
    assert answers == ["failed", "exists"]
    await shop.settle()
    assert await shop.by_status() == {"created": 1, "failed": 1}


async def test_recent_payments_come_newest_first_page_by_page(shop: Shop) -> None:
    made = [(await shop.order()).id for _ in range(5)]
    page = await payments.get_recent_payments(shop.db, limit=3)
    rest = await payments.get_recent_payments(shop.db, limit=3, before=(page[-1].created_at, page[-1].id))
    assert [payment.id for payment in [*page, *rest]] == made[::-1]


async def test_one_fact_is_one_inbox_row_however_often_it_is_told(shop: Shop) -> None:
    fact = shop.webhook("o1")
    older = replace(fact, id=shop.webhook("o1").id, version="2022-09-01")
    assert await shop.hear(fact, older, shop.webhook("o2")) == ["new", "replay", "new"]
    assert await shop.hear(older, shop.webhook("o3")) == ["replay", "new"]
    row = await shop.admin.fetchrow(
        "SELECT id, version, deliveries FROM payment_webhooks WHERE order_id = 'o1'"
    )
    assert row is not None
    assert tuple(row) == (fact.id, "2025-01-01", 3)


async def test_overlapping_sets_of_webhooks_arriving_together_are_each_new_once(shop: Shop) -> None:
    chaos = random.Random(1)
    sets = [[shop.webhook(f"o{i}") for i in chaos.sample(range(40), 30)] for _ in range(8)]
    answers = await asyncio.gather(*(webhooks.insert_webhooks(shop.db, told) for told in sets))
    told = {w.order_id for one in sets for w in one}
    assert sum(answer.count("new") for answer in answers) == len(told)
    assert await shop.admin.fetchval("SELECT sum(deliveries) FROM payment_webhooks") == 240


async def test_a_webhook_is_published_until_its_outcome_is_committed(shop: Shop) -> None:
    await shop.hear(shop.webhook("o1"), shop.webhook("o2"))
    assert len(await webhooks.take_webhooks(shop.db, limit=1, stale_s=30)) == 1
    assert len(await webhooks.take_webhooks(shop.db, limit=9, stale_s=30)) == 1
    assert await webhooks.take_webhooks(shop.db, limit=9, stale_s=30) == []
    assert len(await webhooks.take_webhooks(shop.db, limit=9, stale_s=0)) == 2
    await shop.admin.execute("UPDATE payment_webhooks SET closed_at = now() WHERE order_id = 'o1'")
    assert [row.order_id for row in await webhooks.take_webhooks(shop.db, limit=9, stale_s=0)] == ["o2"]


async def test_a_webhook_with_an_impossible_id_is_kept_and_poisons_no_message(shop: Shop) -> None:
    await shop.hear(shop.webhook("x" * 200, cf_payment_id="1"), shop.webhook((await shop.order()).order_id))
    await shop.settle()
    rows = await shop.admin.fetch("SELECT kind, outcome FROM payment_webhooks ORDER BY id")
    assert [tuple(row) for row in rows] == [("unknown", "ignored"), ("payment", "signalled")]
    assert await shop.admin.fetchval("SELECT count(*) FROM quarantine") == 0


async def test_the_time_of_a_webhook_is_believed_within_a_day(shop: Shop) -> None:
    await shop.hear(
        shop.webhook("old", minutes=60 * 48),
        shop.webhook("future", minutes=-60),
        shop.webhook("o", minutes=90),
    )
    rows = await shop.admin.fetch(
        "SELECT order_id, extract(epoch FROM created_at - occurred_at) / 60 AS ago FROM payment_webhooks"
    )
    assert {row["order_id"]: round(row["ago"]) for row in rows} == {"old": 1440, "future": -5, "o": 90}
