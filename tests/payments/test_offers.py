"""What was paid against what was sold: when the order alone decides, and when its attempts must be looked at."""

import pytest

from agents.matching import PATIENCE
from domain.payments import Mismatch
from sql.payments import Payment
from sql.webhooks import NewWebhook

from .conftest import Shop, attempt

PRICE, PAID, OFFER = 50_000, 45_000, 5_000


def success(
    shop: Shop, payment: Payment, claimed_paise: int | None, id: str = "1", **more: object
) -> NewWebhook:
    return shop.webhook(payment.order_id, amount_paise=claimed_paise, cf_payment_id=id, **more)  # type: ignore[arg-type]


def redeemed(shop: Shop, payment: Payment, discount_paise: int = OFFER) -> NewWebhook:
    return success(shop, payment, PAID, offer_id="offer_1", discount_paise=discount_paise)


async def case(shop: Shop) -> dict[str, object]:
    row = await shop.admin.fetchrow("SELECT kind, actual ->> 'why' AS why FROM reconciliation_cases")
    return dict(row) if row else {}


async def ends(shop: Shop, payment: Payment) -> str:
    """Its status once nothing moves."""
    await shop.settle()
    assert await shop.violations() == []
    return (await shop.payment(payment.id)).status


async def test_a_success_of_the_whole_amount_costs_one_call(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(success(shop, payment, PRICE))
    assert await ends(shop, payment) == "credited"
    assert (shop.gateway.asked, shop.gateway.asked_payments) == ([payment.order_id], [])


@pytest.mark.parametrize("claimed", [None, PAID, PRICE + 1])
async def test_a_webhook_of_another_amount_is_checked_and_moves_no_money_itself(
    shop: Shop, claimed: int | None
) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(success(shop, payment, claimed))
    assert await ends(shop, payment) == "credited"
    assert shop.gateway.asked_payments == [payment.order_id]
    offer = await shop.admin.fetchrow("SELECT offer_amount, offer_id FROM payments")
    assert offer is not None
    assert tuple(offer) == (0, None), "the gateway says that everything was paid"


@pytest.mark.parametrize("first", ["FAILED", "USER_DROPPED", "PENDING"])
@pytest.mark.parametrize("before", [True, False])
async def test_several_attempts_are_looked_at(shop: Shop, first: str, before: bool) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (
        attempt(payment.order_id, PRICE, "0", first),
        attempt(payment.order_id, PRICE, "1"),
    )
    news = [shop.webhook(payment.order_id, first, "0", minutes=1), success(shop, payment, PRICE)]
    for webhook in news if before else reversed(news):
        await shop.hear(webhook)
        await shop.relay.once()
        await shop.deliver("webhook.processing")
        await shop.deliver("payment.processing")
    assert await ends(shop, payment) == "credited"
    assert shop.gateway.asked_payments == [payment.order_id]


async def test_an_offer_that_explains_the_amount_is_booked_with_the_sale(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PAID),)
    await shop.hear(redeemed(shop, payment))
    assert await ends(shop, payment) == "credited"
    rows = await shop.admin.fetch(
        "SELECT account::text, sum(amount)::bigint AS amount FROM ledger_entries GROUP BY 1"
    )
    sums = {row["account"]: row["amount"] for row in rows}
    assert (sums["gateway_clearing"], sums["offer_discount"]) == (PAID, OFFER)
    assert await shop.balance(payment.wallet_id) == (5_500, 0)


async def test_an_offer_that_the_gateway_lists_itself_needs_no_webhook(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (
        attempt(payment.order_id, PAID, offer_id="offer_1", discount_paise=OFFER),
    )
    await shop.admin.execute(
        "INSERT INTO verifications (payment_id, order_id, reason, next_at, amount) VALUES ($1, $2, 'poll', now(), $3)",
        payment.id,
        payment.order_id,
        PRICE,
    )
    assert await ends(shop, payment) == "credited"
    row = await shop.admin.fetchrow("SELECT offer_amount, offer_id, cashfree_payment_id FROM payments")
    assert row is not None
    assert tuple(row) == (OFFER, "offer_1", "1")


@pytest.mark.parametrize("discount", [None, OFFER - 1, OFFER + 1])
async def test_a_lower_amount_that_no_offer_explains_is_quarantined(shop: Shop, discount: int | None) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PAID),)
    await shop.hear(success(shop, payment, PAID) if discount is None else redeemed(shop, payment, discount))
    assert await ends(shop, payment) == "mismatch"
    assert await case(shop) == {"kind": "payment_mismatch", "why": Mismatch.PAID_AMOUNT}
    assert await shop.balance(payment.wallet_id) == (0, 0)


async def test_more_than_the_price_is_no_sale_either(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PRICE + 100),)
    await shop.hear(success(shop, payment, PRICE + 100))
    assert await ends(shop, payment) == "mismatch"


async def test_of_two_successes_the_one_that_matches_is_the_sale(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (
        attempt(payment.order_id, PAID, "1"),
        attempt(payment.order_id, PRICE, "2"),
    )
    await shop.hear(success(shop, payment, PAID, "1"))
    assert await ends(shop, payment) == "credited"
    assert await shop.admin.fetchval("SELECT cashfree_payment_id FROM payments") == "2"
    assert await shop.admin.fetchval("SELECT reason FROM order_inquiries") == "paid_twice"


async def test_an_order_that_is_paid_before_its_attempt_shows_is_asked_again(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = ()
    await shop.hear(success(shop, payment, PAID))
    assert await ends(shop, payment) == "active"
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PRICE),)
    await shop.admin.execute("UPDATE verifications SET next_at = now()")
    assert await ends(shop, payment) == "credited"


async def test_an_offer_may_be_told_after_the_order_was_asked_about(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PAID),)
    await shop.admin.execute(
        "INSERT INTO verifications (payment_id, order_id, reason, next_at, amount, attempt)"
        " VALUES ($1, $2, 'poll', now(), $3, $4)",
        payment.id,
        payment.order_id,
        PRICE,
        PATIENCE - 1,
    )
    assert await ends(shop, payment) == "active"
    await shop.hear(redeemed(shop, payment))
    assert await ends(shop, payment) == "credited"
    assert await shop.admin.fetchval("SELECT offer_amount FROM payments") == OFFER


async def test_a_success_told_after_another_was_verified_is_paid_twice(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    shop.gateway.attempts[payment.order_id] = (attempt(payment.order_id, PRICE, "1"),)
    await shop.admin.execute(
        "INSERT INTO verifications (payment_id, order_id, reason, next_at, amount) VALUES ($1, $2, 'poll', now(), $3)",
        payment.id,
        payment.order_id,
        PRICE,
    )
    assert await ends(shop, payment) == "credited"
    await shop.hear(success(shop, payment, PRICE, "2"))
    assert await ends(shop, payment) == "credited"
    assert await shop.admin.fetchval("SELECT cashfree_payment_id FROM payments") == "1"
    assert await shop.admin.fetchval("SELECT reason FROM order_inquiries") == "paid_twice"
