"""MONEY's worked cases W1 to W13, by name, through the whole path: order, gateway, ledger, invoice, refund, credit note."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from agents import poller
from agents.reconciler import Reconciler
from gateway.simulator.plan import WebhookPlan

from .conftest import Till

PARTS = {
    "payments": "SELECT taxable_amount, cgst_amount, sgst_amount, igst_amount, amount FROM payments",
    "invoices": "SELECT taxable_amount, cgst_amount, sgst_amount, igst_amount, gross_amount FROM invoices",
}


async def test_w1_a_500_rupee_pack_within_the_state_is_42372_and_twice_3814_in_books_and_invoice(
    till: Till,
) -> None:
    payment = await till.buy(50_000)
    assert await till.legs(f"core:purchase/{payment.id}") == {
        "gateway_clearing": 50_000,
        "cgst_payable": -3_814,
        "sgst_payable": -3_814,
        "deferred_revenue": -42_372,
        "credits_issued": 5_500,
        "wallet": -5_500,
    }
    for table in ("payments", "invoices"):
        parts = await till.admin.fetchrow(PARTS[table])
        assert tuple(parts or ()) == (42_372, 3_814, 3_814, 0, 50_000)
    assert await till.violations() == []


async def test_w3_a_partial_refund_reverses_base_and_bonus_and_leaves_500_rupees(till: Till) -> None:
    payment = await till.buy(100_000)
    await till.spend(payment.wallet_id, 3_000)
    done = await till.refund(payment, 25_000)
    assert (done.status, done.credits) == ("done", 3_000)
    assert await till.balance(payment.wallet_id) == (6_000, 0)
    assert (await till.ask(payment, 50_001)).reason == "insufficient_refundable"
    assert (await till.refund(payment, 50_000)).status == "done"
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("credited", 75_000)
    assert await till.violations() == []


async def test_w4_a_300_rupee_pack_in_three_thirds(till: Till) -> None:
    payment = await till.buy(30_000)
    done = [await till.refund(payment, 10_000) for _ in range(3)]
    assert [refund.credits for refund in done] == [1_067, 1_067, 1_066]
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("refunded", 30_000)
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.sums() == {"credits_issued": 3_200, "credits_reversed": -3_200}
    assert await till.metric("refunds") == {"policy=PRO_RATA": (3, 3_200, 30_000)}
    assert (await till.by_status())["refunded"] == 1
    assert await till.violations() == []


@pytest.mark.parametrize(("paise", "credits"), [(85_000, 10_500), (40_000, 5_500)])
async def test_w5_retier_leaves_what_the_net_amount_would_have_bought(
    till: Till, paise: int, credits: int
) -> None:
    payment = await till.buy(100_000)
    assert (await till.refund(payment, paise, "RETIER")).credits == credits
    assert await till.balance(payment.wallet_id) == (12_000 - credits, 0)
    assert await till.violations() == []


async def test_w5_retier_is_refused_when_the_credits_are_no_longer_free(till: Till) -> None:
    payment = await till.buy(100_000)
    await till.spend(payment.wallet_id, 1_501)
    refused = await till.ask(payment, 85_000, "RETIER", by="staff")
    assert (refused.outcome, refused.reason) == ("refused", "insufficient_refundable")


async def test_w6_tax_is_reversed_cumulatively_on_each_credit_note(till: Till) -> None:
    whole, thirds = await till.buy(100_000), await till.buy(100_000)
    slices = [await till.refund(whole, 25_000) for _ in range(4)]
    assert [refund.cgst_paise for refund in slices] == [1_907, 1_907, 1_906, 1_907]
    slices = [await till.refund(thirds, paise) for paise in (16_667, 16_667, 16_666)]
    assert [refund.cgst_paise for refund in slices] == [1_271, 1_271, 1_272]
    notes = await till.admin.fetch(
        "SELECT cgst_amount, sgst_amount, taxable_amount FROM invoices WHERE kind = 'credit_note' ORDER BY id"
    )
    assert [note["cgst_amount"] for note in notes] == [1_907, 1_907, 1_906, 1_907, 1_271, 1_271, 1_272]
    assert (await till.refund(thirds, 50_000)).cgst_paise == 7_627 - 3_814
    assert "cgst_payable" not in await till.sums()
    assert await till.violations() == []


async def test_w7_a_customers_refund_above_the_refundable_is_refused_without_a_gateway_call(
    till: Till,
) -> None:
    payment = await till.buy(50_000)
    await till.spend(payment.wallet_id, 5_000)
    refused = await till.ask(payment, 10_000, key="k")
    assert (refused.outcome, refused.reason) == ("refused", "insufficient_refundable")
    await till.drain()
    assert till.at_gateway(payment) == []
    assert till.sim.calls["create_refund"] == 0
    again = await till.ask(payment, 10_000, key="k")
    assert (again.outcome, again.reason) == ("exists", "insufficient_refundable")
    assert (await till.ask(payment, 1_000, key="k")).outcome == "conflict"
    assert await till.violations() == []


async def test_w8_a_chargeback_is_debt_that_the_next_pack_pays_and_a_won_dispute_brings_back(
    till: Till,
) -> None:
    payment = await till.buy(100_000)
    await till.spend(payment.wallet_id, 11_000)
    dispute = till.sim.disputes.open(till.sim.book.order(payment.order_id), "CHARGEBACK", None, None)
    await till.drain()
    (forced,) = await till.refunds(payment)
    assert (forced.policy, forced.status, forced.credits) == ("FORCED", "done", 12_000)
    assert await till.legs(f"core:refund/{forced.id}") == {
        "wallet": 1_000,
        "wallet_debt": 11_000,
        "credits_reversed": -12_000,
        "cgst_payable": 7_627,
        "sgst_payable": 7_627,
        "deferred_revenue": 7_063,
        "credit_debt_receivable": 77_683,
        "gateway_clearing": -100_000,
    }
    assert await till.spend(payment.wallet_id, 1) == "refused"
    assert (await till.payment(payment.id)).status == "refunded"
    assert await till.cases() == ["dispute"]
    assert await till.violations() == []

    await till.buy(100_000, (payment.user_id, payment.wallet_id))
    assert await till.balance(payment.wallet_id) == (1_000, 0)
    assert "credit_debt_receivable" not in await till.sums()
    assert await till.violations() == []

    till.sim.disputes.move(dispute, "MERCHANT_WON")
    await till.drain()
    (forced,) = await till.refunds(payment)
    assert forced.status == "reversed"
    assert await till.balance(payment.wallet_id) == (13_000, 0)
    assert (await till.payment(payment.id)).status == "credited"
    assert (await till.sums())["gateway_clearing"] == 200_000
    assert await till.cases() == []
    assert await till.violations() == []


async def test_w9_of_two_concurrent_600_rupee_refunds_of_1000_exactly_one_wins(till: Till) -> None:
    payment = await till.buy(100_000)
    asked = await asyncio.gather(till.ask(payment, 60_000), till.ask(payment, 60_000))
    assert sorted(a.outcome for a in asked) == ["created", "refused"]
    await till.drain()
    assert till.at_gateway(payment) == [("SUCCESS", 60_000)]
    assert (await till.payment(payment.id)).refund_paise == 60_000
    assert await till.violations() == []


async def test_w11_a_refund_heard_of_before_its_payment_waits_and_a_replayed_failure_changes_nothing(
    till: Till,
) -> None:
    payment = await till.place(50_000)
    till.pay(payment, webhook=WebhookPlan(drop=True))
    # Somebody refunds it in the gateway's own dashboard before we hear that it was paid.
    order = till.sim.book.order(payment.order_id)
    till.sim.book.refund(
        payment.order_id, refund_id="dashboard-1", amount_paise=50_000, note=None, speed="STANDARD"
    )
    await till.drain()
    assert await till.refunds(payment) == []
    assert await till.admin.fetchval("SELECT next_at < 'infinity' FROM order_inquiries")
    await till.hear(till.webhook(payment.order_id, "SUCCESS", str(order.attempts[0].cf_payment_id)))
    await till.drain()
    await till.hurry()
    await till.drain()
    (forced,) = await till.refunds(payment)
    assert (forced.policy, forced.status, forced.credits) == ("FORCED", "done", 5_500)
    await till.hear(till.webhook(payment.order_id, "FAILED", str(order.attempts[0].cf_payment_id)))
    await till.drain()
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("refunded", 50_000)
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.violations() == []


async def test_w11_a_failure_replayed_after_our_refunds_success_changes_nothing(till: Till) -> None:
    payment = await till.buy(50_000)
    done = await till.refund(payment, 20_000)
    await till.hear(
        till.webhook(
            payment.order_id, "FAILED", kind="refund", refund_id=done.refund_id, business_key="replayed"
        )
    )
    await till.drain()
    (after,) = await till.refunds(payment)
    assert after.status == "done"
    assert await till.balance(payment.wallet_id) == (3_300, 0)


@pytest.mark.parametrize("auto_refund", [False, True])
async def test_w12_an_order_paid_twice_is_credited_once_and_the_second_goes_back(
    till: Till, auto_refund: bool
) -> None:
    till.sim.book.auto_refund = auto_refund
    payment = await till.place(50_000)
    till.pay(payment, times=2)
    for _ in range(3):
        await till.drain()
        await till.hurry()
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("credited", 0)
    assert await till.balance(payment.wallet_id) == (5_500, 0)
    (receipt,) = await till.receipts(payment)
    assert (receipt.reason, receipt.amount_paise, receipt.state) == ("paid_twice", 50_000, "refunded")
    assert till.at_gateway(payment) == [("SUCCESS", 50_000)]
    clearing = await till.admin.fetch(
        "SELECT amount FROM ledger_entries WHERE account = 'gateway_clearing' ORDER BY amount"
    )
    assert [row["amount"] for row in clearing] == [-50_000, 50_000, 50_000]
    assert "unapplied_receipts" not in await till.sums()
    assert (await till.refund(payment, 50_000)).status == "done"
    assert await till.violations() == []


@pytest.mark.parametrize("told", [True, False])
async def test_w13_a_success_after_our_order_expired_is_credited_whether_or_not_a_webhook_tells_it(
    till: Till, told: bool
) -> None:
    payment = await till.place(50_000)
    order = till.sim.book.order(payment.order_id)
    attempt = till.sim.book.start_attempt(order, "upi", None)
    order.expiry_ms = 0
    for _ in range(2):  # the poller asks, hears that it is over, and closes it
        await poller.once(till.core, till.client, shard=0, age_s=0)
        await till.drain()
    assert (await till.payment(payment.id)).status == "expired"
    till.sim.book.resolve(order, attempt, "SUCCESS", None if told else WebhookPlan(drop=True))
    if not told:
        till.sim.book.settle()
        await Reconciler(till.core, till.client, holder="w13", age_s=0, now=soon).now()
    await till.drain()
    assert (await till.payment(payment.id)).status == "credited"
    assert await till.balance(payment.wallet_id) == (5_500, 0)
    assert await till.violations() == []


def soon() -> datetime:
    """After all that the simulator has settled."""
    return datetime.now(UTC) + timedelta(seconds=2)
