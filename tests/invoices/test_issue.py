"""Tax invoices: one per credited payment, numbered without gaps, of exactly the payment's amounts."""

import asyncio
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from agents import invoice_generate
from domain.gst import split_inclusive
from domain.money import amount_in_words
from sql.invoices import get_invoice, get_invoices_of_payment, get_invoices_of_user, void_invoice
from streams.batches import Fenced

from .conftest import NOW, Seller, landed, split_of


async def test_a_credited_payment_gets_one_invoice_and_its_user_a_notice(seller: Seller) -> None:
    user = await seller.user(name="Ananya Rao")
    payment = await seller.paid(50_000, user=user)
    await seller.issue(payment)
    invoice = await seller.invoice(payment)
    assert (invoice.number, invoice.user_id, invoice.issued_at) == ("CAA/26/000000001", user, NOW)
    document = invoice.document
    assert document["seller"]["gstin"] == seller.terms["seller"]["gstin"]
    assert document["buyer"]["name"] == "Ananya Rao"
    assert (document["place_of_supply"], document["date"], document["financial_year"]) == (
        "29",
        "2026-11-23",
        "26-27",
    )
    assert document["amount_in_words"] == "Rupees Five Hundred Only"
    assert [(line["credits"], line["gross_paise"]) for line in document["lines"]] == [
        (5000, 50_000),
        (500, 0),
    ]
    assert document["payment"]["gateway_payment_id"] == "14910233214"
    [notice] = seller.kept.events()
    assert notice["topic"] == "notifications.billing"
    assert (notice["event"].kind, notice["event"].user_id, notice["event"].amount_paise) == (
        "invoice_issued",
        str(user),
        50_000,
    )
    assert [i.id for i in await get_invoices_of_user(seller.db, user, limit=10)] == [invoice.id]
    assert await seller.violations() == []


@pytest.mark.parametrize("price_paise", [15_000, 30_000, 50_000, 100_000])
@pytest.mark.parametrize("state", ["29", "27"])
async def test_w1_an_invoice_has_exactly_the_amounts_of_its_payment(
    seller: Seller, price_paise: int, state: str
) -> None:
    payment = await seller.paid(price_paise, state=state)
    await seller.issue(payment)
    invoice = await seller.invoice(payment)
    assert split_of(invoice) == split_inclusive(price_paise, inter_state=state != "29")
    assert invoice.gross_paise == price_paise == split_of(invoice).total_paise
    assert invoice.document["inter_state"] is (state != "29")
    totals = invoice.document["totals"]
    for head in ("taxable", "cgst", "sgst", "igst", "gross"):
        key = f"{head}_paise"
        assert totals[key] == getattr(invoice, key) == sum(line[key] for line in invoice.document["lines"])


async def test_a_repeated_event_changes_nothing(seller: Seller) -> None:
    payment, other = await seller.paid(), await seller.paid()
    await seller.issue(payment, payment, other)
    before = await get_invoices_of_payment(seller.db, payment)
    await seller.issue(other, payment, at=NOW + timedelta(days=200))
    assert await get_invoices_of_payment(seller.db, payment) == before
    assert await seller.outcomes() == {"posted": 2, "existing": 3}
    assert len(seller.kept.events()) == 2
    assert await seller.violations() == []


async def test_the_same_batch_sent_again_after_a_lost_answer_is_told_what_it_emitted(seller: Seller) -> None:
    batch = await seller.batch(seller.due(await seller.paid()))
    await invoice_generate.handle(seller.core, seller.terms, batch)
    seller.core.marks = type(seller.core.marks)(seller.db, "commdesk")  # a worker that forgot it was answered
    await invoice_generate.handle(seller.core, seller.terms, batch)
    first, again = seller.kept.sent
    assert first == again
    assert await seller.outcomes() == {"posted": 1}


async def test_a_zombie_issues_nothing(seller: Seller) -> None:
    batch = await seller.batch(seller.due(await seller.paid()))
    await seller.ownership.claim("invoice.generate", [0], "another")
    with pytest.raises(Fenced):
        await invoice_generate.handle(seller.core, seller.terms, batch)
    assert await seller.admin.fetchval("SELECT count(*) FROM invoices") == 0
    assert await seller.admin.fetchval("SELECT count(*) FROM invoice_series") == 0


async def test_the_financial_year_ends_at_midnight_in_india(seller: Seller) -> None:
    last, first, later = [await seller.paid() for _ in range(3)]
    midnight = datetime(2027, 3, 31, 18, 30, tzinfo=UTC)
    values = [
        seller.due(last, at=midnight - timedelta(seconds=1)),
        seller.due(first, at=midnight),
        seller.due(later, at=midnight + timedelta(seconds=1)),
    ]
    await invoice_generate.handle(seller.core, seller.terms, await seller.batch(*values))
    numbers = [(await seller.invoice(p)).number for p in (last, first, later)]
    assert numbers == ["CAA/26/000000001", "CAA/27/000000001", "CAA/27/000000002"]
    documents = [(await seller.invoice(p)).document for p in (last, first)]
    assert [(d["financial_year"], d["date"]) for d in documents] == [
        ("26-27", "2027-03-31"),
        ("27-28", "2027-04-01"),
    ]
    assert await seller.violations() == []


async def test_numbers_have_no_gap_when_a_hundred_invoices_are_issued_at_once(seller: Seller) -> None:
    payments = [await seller.paid() for _ in range(100)]
    shares: dict[int, list[UUID]] = defaultdict(list)
    for place, payment in enumerate(payments):
        shares[place % 4].append(payment)

    async def partition(number: int, share: list[UUID]) -> None:
        # Batches of one to four with duplicates, so that the counters move often and unevenly.
        for start in range(0, len(share), 1 + number):
            part = share[start : start + 1 + number]
            await seller.issue(*part, part[0], partition=number)

    await asyncio.gather(*(partition(number, share) for number, share in shares.items()))
    rows = await seller.admin.fetch("SELECT series, serial, payment_id FROM invoices ORDER BY series, serial")
    assert len({r["payment_id"] for r in rows}) == 100
    for number, series in enumerate(("CAA", "CAB", "CAC", "CAD")):
        mine = [(r["serial"], r["payment_id"]) for r in rows if r["series"] == series]
        assert mine == list(enumerate(shares[number], 1))
    assert await seller.violations() == []


async def test_one_series_is_gapless_for_a_hundred_at_once_of_which_a_third_fails(seller: Seller) -> None:
    """A sequence would leave gaps here: every third transaction rolls back after it took its number."""
    invoices = [await seller.paid() for _ in range(100)]
    await seller.issue(*invoices)
    pool = await asyncpg.create_pool(seller.admin_url, min_size=25, max_size=25)

    async def note(place: int, payment: UUID) -> None:
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await landed(connection, payment, 1_000)
            await (transaction.rollback() if place % 3 == 0 else transaction.commit())

    await asyncio.gather(*(note(place, payment) for place, payment in enumerate(invoices)))
    await pool.close()
    serials = await seller.admin.fetch(
        "SELECT serial FROM invoices WHERE kind = 'credit_note' ORDER BY serial"
    )
    assert [r["serial"] for r in serials] == list(range(1, 67))
    assert await seller.violations() == []


async def test_a_payment_that_is_not_credited_yet_waits_and_is_then_invoiced(seller: Seller) -> None:
    early, unknown, fine = await seller.paid(credited=False), uuid4(), await seller.paid()
    await seller.issue(early, unknown, fine)
    assert await seller.outcomes() == {"posted": 1, "parked": 2}
    await seller.admin.execute("UPDATE retries SET next_at = now()")
    assert await invoice_generate.retry_once(seller.core, seller.ownership, seller.terms) == 2
    assert await get_invoices_of_payment(seller.db, early) == []
    await seller.admin.execute(
        "UPDATE payments SET status = 'credited', credited_at = now() WHERE id = $1", early
    )
    await seller.issue(early)  # behind what waits
    assert await get_invoices_of_payment(seller.db, early) == []
    await seller.admin.execute("UPDATE retries SET next_at = now()")
    await invoice_generate.retry_once(seller.core, seller.ownership, seller.terms)
    invoice = await seller.invoice(early)
    assert (invoice.number, invoice.issued_at) == ("CAA/26/000000002", NOW)
    await seller.admin.execute("UPDATE retries SET next_at = now()")
    await invoice_generate.retry_once(seller.core, seller.ownership, seller.terms)
    states = await seller.admin.fetch("SELECT key, state FROM retries ORDER BY id")
    assert [tuple(r) for r in states] == [(str(early), "done"), (str(unknown), "due"), (str(early), "done")]
    assert len(seller.kept.events()) == 2
    assert await seller.violations() == []


async def test_a_malformed_event_is_kept_and_its_neighbours_are_invoiced(seller: Seller) -> None:
    payment = await seller.paid()
    batch = await seller.batch(b"{", seller.due(payment))
    await invoice_generate.handle(seller.core, seller.terms, batch)
    assert (await seller.invoice(payment)).number == "CAA/26/000000001"
    assert await seller.outcomes() == {"posted": 1, "quarantined": 1}


async def test_a_void_invoice_keeps_its_number_and_nothing_replaces_it(seller: Seller) -> None:
    payment, following = await seller.paid(), await seller.paid()
    await seller.issue(payment)
    invoice = await seller.invoice(payment)
    assert await void_invoice(seller.db, invoice.id, actor="asha", reason="wrong buyer") == "voided"
    assert await void_invoice(seller.db, invoice.id, actor="asha", reason="again") == "exists"
    assert await void_invoice(seller.db, uuid4(), actor="asha", reason="none") == "unknown"
    await seller.issue(payment, following)
    void = await get_invoice(seller.db, invoice.id)
    assert void is not None
    assert (void.number, void.void_reason, void.document) == (invoice.number, "wrong buyer", invoice.document)
    assert void.voided_at is not None
    assert (await seller.invoice(following)).number == "CAA/26/000000002"
    assert (
        await seller.admin.fetchval("SELECT actor FROM audit_logs WHERE object_id = $1", invoice.number)
        == "asha"
    )
    assert (await seller.refund(payment, 1000))[1] is None
    assert await seller.violations() == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE invoices SET document = '{}'",
        "UPDATE invoices SET serial = serial + 1",
        "UPDATE invoices SET gross_amount = gross_amount + 1, taxable_amount = taxable_amount + 1",
        "DELETE FROM invoices",
        "TRUNCATE invoices",
        "DELETE FROM invoice_series",
    ],
)
async def test_what_was_issued_cannot_be_rewritten_even_by_the_owner(seller: Seller, statement: str) -> None:
    await seller.issue(await seller.paid())
    with pytest.raises(asyncpg.PostgresError, match="refused"):
        await seller.admin.execute(statement)


async def test_the_app_may_write_no_invoice_by_itself(seller: Seller) -> None:
    await seller.issue(await seller.paid())
    for statement in (
        "UPDATE invoice_series SET last_number = 0",
        "SELECT issue_credit_note(NULL, now())",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await seller.db.value(statement)


async def test_amounts_in_words_are_the_domains(seller: Seller) -> None:
    amounts = [
        0,
        1,
        99,
        100,
        101,
        1999,
        15_000,
        50_005,
        100_000,
        12_345_678,
        99_999_999_99,
        10**9,
        10**12 + 7,
        2_147_483_647,
    ]
    amounts += [
        n * 100 for n in (*range(130), 1000, 1001, 99_999, 100_000, 10_00_001, 1_00_00_000, 12_34_56_789)
    ]
    rows = await seller.admin.fetch(
        "SELECT amount_in_words(x) words FROM unnest($1::bigint[]) WITH ORDINALITY u (x, o) ORDER BY o",
        amounts,
    )
    assert [r["words"] for r in rows] == [amount_in_words(a) for a in amounts]
