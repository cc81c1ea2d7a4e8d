"""A payment with an offer, from the simulator's checkout to the settlement and back: what the offer paid is ours to bear."""

import pytest

from domain.money import div_half_up
from sql import invariants, invoices, reconciliation
from sql.payments import Payment

from .conftest import SILENT, Desk
from .test_settlements import LONG_AGO

PRICE, OFFER = 50_000, 5_000


async def bought(desk: Desk, offer_paise: int = OFFER) -> Payment:
    """A ₹500 pack of which an offer paid a part; credited, invoiced, and nothing wrong with it."""
    payment = await desk.till.place(PRICE)
    desk.till.pay(payment, offer_paise=offer_paise)
    await desk.till.drain()
    payment = await desk.till.payment(payment.id)
    assert (payment.status, payment.amount_paise, payment.offer_paise) == ("credited", PRICE, offer_paise)
    assert await desk.till.violations() == []
    return payment


async def nothing_is_wrong(desk: Desk) -> None:
    assert await desk.kinds() == []
    assert await reconciliation.violations(desk.till.db, LONG_AGO) == []
    assert await invariants.check(desk.till.readonly_url) == []


async def test_an_offer_pays_its_part_of_the_price_and_the_settlement_closes(desk: Desk) -> None:
    payment = await bought(desk)
    assert await desk.till.balance(payment.wallet_id) == (5_500, 0)
    legs = await desk.till.legs(f"core:purchase/{payment.id}") or await desk.till.sums()
    assert (legs["gateway_clearing"], legs["offer_discount"]) == (45_000, 5_000)
    assert (legs["cgst_payable"], legs["sgst_payable"], legs["deferred_revenue"]) == (-3_814, -3_814, -42_372)
    desk.till.sim.book.settle()
    assert (await desk.reconcile()).cases == {}
    sums = await desk.till.sums()
    assert "gateway_clearing" not in sums
    assert sums["bank"] + sums["gateway_fee"] + sums["gst_input"] == 45_000
    await nothing_is_wrong(desk)


async def test_the_invoice_is_of_the_full_price_and_says_how_it_was_paid(desk: Desk) -> None:
    payment = await bought(desk)
    (invoice,) = await invoices.get_invoices_of_payment(desk.till.db, payment.id)
    assert (invoice.gross_paise, invoice.taxable_paise, invoice.cgst_paise) == (50_000, 42_372, 3_814)
    paid = invoice.document["payment"]
    assert (paid["paid_paise"], paid["offer_paise"], paid["offer_id"]) == (45_000, 5_000, "offer_5000")


@pytest.mark.parametrize("slices", [[45_000], [15_000, 15_000, 15_000], [1, 44_989, 10]])
async def test_refunds_in_any_slicing_give_up_exactly_the_offer_and_close_to_zero(
    desk: Desk, slices: list[int]
) -> None:
    payment = await bought(desk)
    gone = 0
    for paise in slices:
        refund = await desk.till.refund(payment, paise)
        assert refund.status == "done", refund
        gone += paise
        left = OFFER - div_half_up(gone * OFFER, PRICE - OFFER)
        assert (await desk.till.sums()).get("offer_discount", 0) == left
    assert await desk.till.sums() == {"credits_issued": 5_500, "credits_reversed": -5_500}, "no money is left"
    assert (await desk.till.payment(payment.id)).status == "refunded"
    assert await desk.till.balance(payment.wallet_id) == (0, 0)
    documents = await invoices.get_invoices_of_payment(desk.till.db, payment.id)
    notes = [document for document in documents if document.kind == "credit_note"]
    assert sum(note.gross_paise for note in notes) == PRICE
    assert sum(note.cgst_paise for note in notes) == 3_814
    desk.till.sim.book.settle()
    await desk.reconcile()
    assert not {"gateway_clearing", "offer_discount", "cgst_payable", "deferred_revenue"} & set(
        await desk.till.sums()
    )
    await nothing_is_wrong(desk)


async def test_no_more_than_the_buyer_paid_can_be_refunded(desk: Desk) -> None:
    payment = await bought(desk)
    asked = await desk.till.ask(payment, 45_001)
    assert asked.refund is not None
    assert (asked.refund.status, asked.refund.failure) == ("rejected", "insufficient_refundable")
    assert desk.till.at_gateway(payment) == []
    half = await desk.till.refund(payment, 22_500)
    assert (half.status, half.credits) == ("done", 2_750), "half of the money is half of the credits"
    await nothing_is_wrong(desk)


async def test_a_lower_amount_without_an_offer_is_set_aside_and_nothing_is_credited(desk: Desk) -> None:
    payment = await desk.till.place(PRICE)
    desk.till.pay(payment, amount_paise=45_000)
    await desk.till.drain()
    await desk.till.hurry()
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "mismatch"
    assert await desk.till.balance(payment.wallet_id) == (0, 0)
    assert await desk.till.sums() == {"gateway_clearing": 45_000, "unapplied_receipts": -45_000}
    cases = {case.kind: case for case in await desk.cases()}
    assert set(cases) == {"payment_mismatch", "unapplied_receipt"}
    said = cases["payment_mismatch"].actual
    assert (said["why"], said["paid_paise"], said["offer"]) == ("paid_amount_mismatch", 45_000, None)
    desk.till.sim.book.settle()
    await desk.reconcile()
    sums = await desk.till.sums()
    assert ("gateway_clearing" in sums, sums["unapplied_receipts"]) == (False, -45_000)
    assert await desk.till.violations() == []


async def test_an_offer_whose_webhook_is_lost_waits_for_it_and_then_for_a_person(desk: Desk) -> None:
    payment = await desk.till.place(PRICE)
    desk.till.pay(payment, offer_paise=OFFER, webhook=SILENT)
    assert await desk.poll() == 1
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "active", "it waits for an hour"
    await desk.later()
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "mismatch"
    assert await desk.till.balance(payment.wallet_id) == (0, 0)
