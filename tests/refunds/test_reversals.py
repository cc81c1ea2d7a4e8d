"""Money that moves without our asking: paid twice, turned down, of another amount, refunded by the gateway, disputed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.simulator.disputes import Dispute
from gateway.simulator.faults import Fault
from gateway.simulator.plan import WebhookPlan
from sql import fraud, reconciliation, refunds
from sql.invoices import get_invoices_of_payment
from sql.payments import Payment

from .conftest import Till


def dispute(
    till: Till, payment: Payment, kind: str = "CHARGEBACK", amount_paise: int | None = None
) -> Dispute:
    return till.sim.disputes.open(till.sim.book.order(payment.order_id), kind, amount_paise, None)


async def again(till: Till, times: int = 2) -> None:
    for _ in range(times):
        await till.hurry()
        await till.drain()


async def test_a_second_success_is_returned_once_though_told_again_and_though_its_refund_fails_first(
    till: Till,
) -> None:
    payment = await till.buy(50_000)
    till.sim.book.refund_outcome = "FAILED"
    (second,) = till.pay(payment, webhook=WebhookPlan(duplicate=3, two_versions=True))
    await till.drain()
    (receipt,) = await till.receipts(payment)
    assert (receipt.state, receipt.cf_payment_id) == ("open", second)
    assert await till.cases() == ["unapplied_receipt"]
    await till.admin.execute("SELECT inquire(ARRAY[$1::text], 'test')", payment.order_id)
    await till.drain()
    assert [status for status, _ in till.at_gateway(payment)] == ["FAILED"], "a person decides from here"
    till.sim.book.refund_outcome = "SUCCESS"

    async def give_back() -> Any:
        return await refunds.refund_receipt(
            till.db, second, "asha", shard=0, refund_partition=till.core.partition(str(payment.id))
        )

    told = await asyncio.gather(give_back(), give_back(), give_back())
    assert sorted(outcome for outcome, _ in told) == ["created", "exists", "exists"]
    await again(till)
    assert till.at_gateway(payment) == [("FAILED", 50_000), ("SUCCESS", 50_000)]
    assert [r.state for r in await till.receipts(payment)] == ["refunded"]
    assert (await till.payment(payment.id)).status == "credited"
    assert await till.violations() == []


async def test_a_payment_that_was_turned_down_goes_back_to_the_payer(till: Till) -> None:
    payment = await till.place(50_000)
    await till.admin.execute(
        "UPDATE fraud_rules SET threshold = 0, points = 100 WHERE code = 'user_count_1m'"
    )
    till.pay(payment)
    await till.drain()
    assert (await till.payment(payment.id)).status == "held"
    reviewed = await fraud.review_payment(
        till.db,
        payment.id,
        "reject",
        "asha",
        shard=0,
        rejected_partition=till.core.partition("status=rejected"),
    )
    assert reviewed == "rejected"
    await again(till)
    (receipt,) = await till.receipts(payment)
    assert (receipt.reason, receipt.state) == ("rejected", "refunded")
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("rejected", 50_000)
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.sums() == {}
    assert await till.violations() == []


async def test_a_mismatched_payment_is_set_aside_until_a_person_returns_it(till: Till) -> None:
    payment = await till.place(50_000)
    till.sim.book.order(payment.order_id).amount_paise = 40_000
    (attempt,) = till.pay(payment)
    await again(till)
    assert (await till.payment(payment.id)).status == "mismatch"
    (receipt,) = await till.receipts(payment)
    assert (receipt.reason, receipt.state, receipt.amount_paise) == ("mismatch", "open", 40_000)
    assert await till.sums() == {"gateway_clearing": 40_000, "unapplied_receipts": -40_000}
    assert await till.cases() == ["payment_mismatch", "unapplied_receipt"]
    await refunds.refund_receipt(
        till.db, attempt, "asha", shard=0, refund_partition=till.core.partition(str(payment.id))
    )
    await again(till)
    assert await till.sums() == {}
    for kind in ("payment_mismatch", "unapplied_receipt"):
        (case,) = await reconciliation.get_cases(till.db, limit=9, kind=kind)
        await reconciliation.resolve_case(till.db, case.id, "returned in full", actor="asha")
    assert await till.violations() == [], "a mismatch that was dealt with stays explained by its case"


async def test_a_refund_that_fails_again_opens_its_resolved_case_again(till: Till) -> None:
    payment = await till.buy(50_000)
    till.sim.book.refund_outcome = "FAILED"
    (second,) = till.pay(payment)
    await again(till)
    for event in ("opened", "reopened"):
        (case,) = await reconciliation.get_cases(till.db, limit=9, kind="unapplied_receipt")
        assert (case.subject, case.state, case.history[-1]["event"]) == (second, "open", event)
        await reconciliation.resolve_case(till.db, case.id, "tried again", actor="asha")
        await refunds.refund_receipt(
            till.db, second, "asha", shard=0, refund_partition=till.core.partition(str(payment.id))
        )
        await again(till)
    assert await till.cases() == ["unapplied_receipt"]
    assert await till.violations() == []


async def test_a_chargeback_while_our_refund_is_under_way_books_both_and_calls_a_person(till: Till) -> None:
    payment = await till.buy(100_000)
    till.sim.book.refund_outcome = "PENDING"
    asked = await till.refund(payment, 60_000)
    assert asked.status == "pending"
    dispute(till, payment)
    await again(till)
    order = till.sim.book.order(payment.order_id)
    till.sim.book.resolve_refund(order, order.refunds[asked.refund_id], "SUCCESS")
    await again(till)
    done = await refunds.get_refund(till.db, asked.id)
    assert done is not None
    assert done.status == "done"
    assert await till.cases() == ["dispute", "refunded_beyond_capture"]
    sums = await till.sums()
    assert (sums["gateway_clearing"], sums["unapplied_receipts"]) == (-60_000, 60_000)
    assert await till.violations() == []


async def test_an_enquiry_takes_nothing_until_it_is_lost(till: Till) -> None:
    payment = await till.buy(50_000)
    enquiry = dispute(till, payment, "RETRIEVAL", 20_000)
    await till.drain()
    assert await till.refunds(payment) == []
    till.sim.disputes.move(enquiry, "UNDER_REVIEW")
    await till.drain()
    assert await till.refunds(payment) == []
    till.sim.disputes.move(enquiry, "MERCHANT_LOST")
    await again(till)
    (forced,) = await till.refunds(payment)
    assert (forced.amount_paise, forced.credits, forced.status) == (20_000, 2_200, "done")
    assert await till.metric("refunds") == {"policy=FORCED": (1, 2_200, 20_000)}
    assert await till.violations() == []


async def test_a_dispute_won_while_in_debt_clears_the_debt_and_what_it_brings_back_can_be_refunded(
    till: Till,
) -> None:
    payment = await till.buy(100_000)
    await till.spend(payment.wallet_id, 11_000)
    charged = dispute(till, payment)
    await till.drain()
    till.sim.disputes.move(charged, "MERCHANT_WON")
    await again(till)
    row = await till.admin.fetchrow("SELECT available_credits, debt_credits, debt_paise FROM wallets")
    assert row is not None
    assert tuple(row) == (1_000, 0, 0)
    sums = await till.sums()
    assert sums["gateway_clearing"] == 100_000
    assert sums["deferred_revenue"] == -(84_746 - 77_683)
    assert "credit_debt_receivable" not in sums
    assert await till.metric("refunds") == {"policy=FORCED": (0, 0, 0)}
    assert (await till.ask(payment, 8_334)).reason == "insufficient_refundable"
    assert (await till.refund(payment, 8_333)).credits == 1_000
    assert await till.cases() == []
    first, second = [n for n in await get_invoices_of_payment(till.db, payment.id) if n.kind == "credit_note"]
    assert (first.gross_paise, first.voided_at is None) == (100_000, False), "the sale stands again"
    assert (second.gross_paise, second.voided_at) == (8_333, None)
    (booked,) = [f for f in await till.refunds(payment) if f.status == "done"]
    assert (second.cgst_paise, second.sgst_paise) == (booked.cgst_paise, booked.sgst_paise)
    assert await till.violations() == []


async def test_a_dispute_of_a_part_that_was_won_is_refunded_with_the_rest_to_exactly_the_invoices_tax(
    till: Till,
) -> None:
    payment = await till.buy(100_000)
    await till.refund(payment, 10_001)
    charged = dispute(till, payment, amount_paise=33_337)
    await again(till)
    await till.refund(payment, 20_003)
    till.sim.disputes.move(charged, "MERCHANT_WON")
    await again(till)
    while (left := await refunds.get_refundable(till.db, payment.id)) and left > 0:
        assert (await till.refund(payment, left)).status == "done"
    notes = [n for n in await get_invoices_of_payment(till.db, payment.id) if n.kind == "credit_note"]
    standing = [n for n in notes if n.voided_at is None]
    assert (len(notes), len(standing)) == (5, 4)
    assert sum(n.gross_paise for n in standing) == 100_000
    assert sum(n.cgst_paise for n in standing) == sum(n.sgst_paise for n in standing) == 7_627
    assert await till.sums() == {"credits_issued": 16_000, "credits_reversed": -16_000}
    assert await till.cases() == []
    assert await till.violations() == []


async def test_a_crash_or_a_lie_in_the_looking_books_nothing_twice(till: Till) -> None:
    payment = await till.buy(50_000)
    dispute(till, payment)
    await till.quiet()
    await till.relay.once()
    await till.deliver("webhook.processing")
    (inquiry,) = await till.watcher._lease(10)
    picture = await till.watcher.ask(inquiry)
    told = await asyncio.gather(*(till.watcher.record(inquiry, picture) for _ in range(5)))
    assert sum(t.news for t in told) == 1
    assert len(await till.refunds(payment)) == 1
    assert await till.violations() == []


@pytest.mark.parametrize("broken", ["get_payments", "get_refund", "get_dispute"])
async def test_an_order_that_cannot_be_seen_is_looked_at_again(till: Till, broken: str) -> None:
    payment = await till.buy(50_000)
    till.sim.faults.rules.append(Fault(endpoint=broken, kind="502", times=None))
    dispute(till, payment)
    await till.drain()
    assert await till.refunds(payment) == []
    till.sim.faults.rules.clear()
    await again(till)
    assert len(await till.refunds(payment)) == 1


async def test_a_lie_about_another_attempt_does_not_make_the_genuine_one_paid_twice(till: Till) -> None:
    payment = await till.place(50_000)
    await till.hear(till.webhook(payment.order_id, "SUCCESS", "999"))
    await till.drain()
    (genuine,) = till.pay(payment)
    for _ in range(2):
        await till.admin.execute("UPDATE verifications SET next_at = now() WHERE state = 'due'")
        await till.hurry()
        await till.drain()
    after = await till.payment(payment.id)
    assert (after.status, after.refund_paise) == ("credited", 0)
    own = await till.admin.fetchval("SELECT cashfree_payment_id FROM payments WHERE id = $1", payment.id)
    assert own == genuine
    assert await till.receipts(payment) == []
    assert till.at_gateway(payment) == []
    assert await till.violations() == []
