"""Credit notes: in the refund's own transaction, numbered in their own series, never more than the invoice."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import pytest

from domain.gst import GstSplit, refund_split

from .conftest import NOW, Seller, landed, split_of


async def refund_in_slices(seller: Seller, payment: UUID, slices: list[int]) -> list[GstSplit]:
    for amount_paise in slices:
        await seller.refund(payment, amount_paise)
    return [split_of(note) for note in await seller.notes(payment)]


async def test_w6_the_tax_of_four_equal_refunds_is_cumulative(seller: Seller) -> None:
    payment = await seller.paid(100_000)
    await seller.issue(payment)
    notes = await refund_in_slices(seller, payment, [25_000] * 4)
    assert [n.cgst_paise for n in notes] == [n.sgst_paise for n in notes] == [1907, 1907, 1906, 1907]
    assert sum(n.taxable_paise for n in notes) == 84_746
    assert await seller.violations() == []


async def test_w6_five_hundred_of_a_thousand_rupees_back_in_three_refunds(seller: Seller) -> None:
    payment = await seller.paid(100_000)
    await seller.issue(payment)
    notes = await refund_in_slices(seller, payment, [16_667, 16_667, 16_666])
    assert [n.cgst_paise for n in notes] == [1271, 1271, 1272]
    assert sum(n.total_paise for n in notes) == 50_000
    assert await seller.violations() == []


async def test_w4_three_hundred_rupees_back_in_three_refunds(seller: Seller) -> None:
    payment = await seller.paid(30_000, state="27")
    await seller.issue(payment)
    for credits in (1067, 1067, 1066):
        await seller.refund(payment, 10_000, credits=credits)
    notes = await seller.notes(payment)
    assert [n.document["lines"][0]["credits"] for n in notes] == [1067, 1067, 1066]
    assert sum(n.igst_paise for n in notes) == 4576
    assert [n.cgst_paise for n in notes] == [0, 0, 0]


@pytest.mark.parametrize("state", ["29", "27"])
async def test_slices_reverse_what_the_domain_says_and_in_full_exactly_the_invoices_tax(
    seller: Seller, state: str
) -> None:
    for slices in ([1, 49_998, 1], [33_333, 1, 16_666], [7] * 10, [50_000]):
        payment = await seller.paid(50_000, state=state)
        await seller.issue(payment)
        invoice = split_of(await seller.invoice(payment))
        expected, before = [], 0
        for amount_paise in slices:
            expected.append(refund_split(invoice, refunded_before_paise=before, refund_paise=amount_paise))
            before += amount_paise
        assert await refund_in_slices(seller, payment, slices) == expected
    assert await seller.violations() == []


async def test_a_credit_note_names_the_invoice_that_it_corrects(seller: Seller) -> None:
    payment = await seller.paid()
    await seller.issue(payment, partition=2)
    invoice = await seller.invoice(payment)
    refund, note_id = await seller.refund(payment, 25_000, credits=3000)
    [note] = await seller.notes(payment)
    assert (invoice.number, note.number) == ("CAC/26/000000001", "NAC/26/000000001")
    assert (note.id, note.refund_id, note.invoice_id, note.user_id) == (
        note_id,
        refund,
        invoice.id,
        invoice.user_id,
    )
    assert note.document["against"] == {
        "id": str(invoice.id),
        "number": invoice.number,
        "date": invoice.document["date"],
    }
    assert note.document["seller"] == invoice.document["seller"]
    assert note.document["buyer"] == invoice.document["buyer"]
    assert note.document["refund"]["reason"] == "Requested by the customer"
    assert note.document["amount_in_words"] == "Rupees Two Hundred Fifty Only"


async def test_a_refund_completed_twice_has_one_credit_note(seller: Seller) -> None:
    payment = await seller.paid()
    await seller.issue(payment)
    refund, note = await seller.refund(payment, 25_000)
    assert await seller.admin.fetchval("SELECT issue_credit_note($1, $2)", refund, NOW) == note
    assert len(await seller.notes(payment)) == 1


async def test_credit_notes_never_exceed_their_invoice(seller: Seller) -> None:
    payment = await seller.paid()
    await seller.issue(payment)
    await seller.refund(payment, 60_000)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await seller.refund(payment, 40_001)
    assert caught.value.sqlstate == "LG020"
    await seller.refund(payment, 40_000)
    assert [n.number for n in await seller.notes(payment)] == ["NAA/26/000000001", "NAA/26/000000002"]
    assert await seller.violations() == []


async def test_concurrent_refunds_of_one_payment_get_one_note_each_and_no_more_tax_than_there_was(
    seller: Seller,
) -> None:
    payment = await seller.paid()
    await seller.issue(payment)
    pool = await asyncpg.create_pool(seller.admin_url, min_size=6, max_size=6)

    refused: list[str | None] = []

    async def refund() -> bool:
        try:
            async with pool.acquire() as connection, connection.transaction():
                await landed(connection, payment, 10_000)
        except asyncpg.PostgresError as error:
            refused.append(error.sqlstate)
            return False
        return True

    done = await asyncio.gather(*(refund() for _ in range(25)))
    await pool.close()
    notes = [split_of(n) for n in await seller.notes(payment)]
    assert (sum(done), len(notes), refused) == (10, 10, ["LG020"] * 15)
    assert sum(n.cgst_paise for n in notes) == sum(n.sgst_paise for n in notes) == 7627
    assert await seller.violations() == []


async def test_a_refund_that_lands_before_its_invoice_gets_its_note_with_the_invoice(seller: Seller) -> None:
    payment = await seller.paid()
    assert [(await seller.refund(payment, amount))[1] for amount in (25_000, 50_000)] == [None, None]
    await seller.issue(payment)
    assert [n.gross_paise for n in await seller.notes(payment)] == [25_000, 50_000]
    assert await seller.admin.fetchval("SELECT count(*) FROM credit_notes_due") == 0
    assert await seller.violations() == []


async def test_a_refund_racing_its_invoice_always_ends_with_both(seller: Seller) -> None:
    payments = [await seller.paid() for _ in range(12)]

    async def refunds() -> None:
        for payment in payments:
            await seller.refund(payment, 25_000)

    async def issues() -> None:
        for payment in payments:
            await seller.issue(payment)

    await asyncio.gather(refunds(), issues())
    assert [len(await seller.notes(payment)) for payment in payments] == [1] * 12
    assert await seller.violations() == []


async def test_money_that_was_never_a_sale_has_no_credit_note(seller: Seller) -> None:
    payment = await seller.paid(credited=False)
    assert (await seller.refund(payment, 100_000))[1] is None
    assert await seller.admin.fetchval("SELECT count(*) FROM credit_notes_due") == 0


async def test_a_credit_note_of_the_next_financial_year_is_numbered_there(seller: Seller) -> None:
    payment = await seller.paid()
    await seller.issue(payment)
    await seller.refund(payment, 10_000, at=datetime(2027, 3, 31, 18, 29, 59, tzinfo=UTC))
    await seller.refund(payment, 10_000, at=datetime(2027, 3, 31, 18, 30, tzinfo=UTC))
    assert [n.number for n in await seller.notes(payment)] == ["NAA/26/000000001", "NAA/27/000000001"]
