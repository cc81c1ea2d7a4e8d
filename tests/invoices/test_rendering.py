"""Rendering: after the fact, from the frozen document alone, again and again until it is stored."""

import json
import re
import zlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import typst

from agents.invoice_render import TEMPLATE, Renderer, once, qr_code
from domain.invoices import payment_link, present, storage_key
from gateway.storage import Folder, Storage, StorageError
from sql.invoices import (
    Rendered,
    count_unrendered,
    get_invoice,
    lease_renderings,
    record_renderings,
    void_invoice,
)

from .conftest import Seller


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "invoices")


class Broken:
    """A storage that fails so many times, then works."""

    def __init__(self, storage: Storage, failures: int) -> None:
        self.storage, self.failures = storage, failures

    async def put(self, key: str, document: bytes) -> None:
        if self.failures > 0:
            self.failures -= 1
            raise StorageError("the storage answered 503")
        await self.storage.put(key, document)

    async def get(self, key: str) -> bytes | None:
        return await self.storage.get(key)


async def issued(seller: Seller, **more: Any) -> UUID:
    payment = await seller.paid(**more)
    await seller.issue(payment)
    return (await seller.invoice(payment)).id


def pages(pdf: bytes) -> int:
    """How many pages, by the page tree's own count; its objects may be compressed."""
    streams = (
        zlib.decompressobj().decompress(s)
        for s in re.findall(rb"stream\r?\n(\x78.*?)endstream", pdf, re.DOTALL)
    )
    return max(
        int(n) for text in (pdf, *streams) for n in re.findall(rb"/Type\s*/Pages[^>]*?/Count (\d+)", text)
    )


async def test_an_issued_document_is_rendered_and_stored_once(
    seller: Seller, renderer: Renderer, folder: Folder
) -> None:
    invoice_id = await issued(seller)
    assert (await count_unrendered(seller.db))[0] == 1
    assert await once(seller.core, folder, renderer) == 1
    assert await once(seller.core, folder, renderer) == 0
    invoice = await get_invoice(seller.db, invoice_id)
    assert invoice is not None
    assert invoice.rendered_at is not None
    assert invoice.storage_key == "tax_invoices/26/CAA/000000/CAA-26-000000001.pdf"
    pdf = await folder.get(invoice.storage_key)
    assert pdf is not None
    assert pdf.startswith(b"%PDF-1.7")
    assert pages(pdf) == 1
    assert pdf == renderer.render(invoice.document)


async def test_a_failing_storage_is_tried_again_with_growing_pauses_and_loses_nothing(
    seller: Seller, renderer: Renderer, folder: Folder
) -> None:
    invoice_id = await issued(seller)
    broken = Broken(folder, 3)
    pauses = []
    for _ in range(3):
        assert await once(seller.core, broken, renderer) == 1
        assert await once(seller.core, broken, renderer) == 0
        row = await seller.admin.fetchrow(
            "SELECT extract(epoch FROM render_after - now())::float8 AS pause, render_error FROM invoices"
        )
        assert row is not None
        assert row["render_error"] == "StorageError: the storage answered 503"
        pauses.append(row["pause"])
        await seller.admin.execute("UPDATE invoices SET render_after = now()")
    assert 1.0 < pauses[0] < pauses[1] < pauses[2] < 10.1
    await once(seller.core, broken, renderer)
    invoice = await get_invoice(seller.db, invoice_id)
    assert invoice is not None
    assert invoice.storage_key is not None
    assert await folder.get(invoice.storage_key) is not None


async def test_a_worker_that_dies_while_rendering_leaves_it_to_the_next(
    seller: Seller, renderer: Renderer, folder: Folder
) -> None:
    await issued(seller)
    [lease] = await lease_renderings(seller.db, limit=10, lease_s=0.0)
    assert await once(seller.core, folder, renderer) == 1
    late = Rendered(lease.id, lease.attempt, "elsewhere.pdf")
    assert await record_renderings(seller.db, [late]) == 0
    invoice = await get_invoice(seller.db, lease.id)
    assert invoice is not None
    assert invoice.storage_key == storage_key(invoice.document)


async def test_two_workers_never_render_the_same_document_at_once(seller: Seller) -> None:
    for _ in range(6):
        await issued(seller)
    first = await lease_renderings(seller.db, limit=4, lease_s=60)
    second = await lease_renderings(seller.db, limit=4, lease_s=60)
    assert [len(first), len(second)] == [4, 2]
    assert not {lease.id for lease in first} & {lease.id for lease in second}


async def test_a_void_invoice_is_rendered_again_and_says_so(
    seller: Seller, renderer: Renderer, folder: Folder
) -> None:
    invoice_id = await issued(seller)
    await once(seller.core, folder, renderer)
    [late] = [await get_invoice(seller.db, invoice_id)]
    assert late is not None
    assert late.storage_key is not None
    before = await folder.get(late.storage_key)
    await void_invoice(seller.db, invoice_id, actor="asha", reason="wrong buyer")
    assert await once(seller.core, folder, renderer) == 1
    after = await folder.get(late.storage_key)
    assert after != before
    assert after == renderer.render(late.document, voided=True)


async def test_a_document_that_cannot_be_rendered_holds_up_no_other(
    seller: Seller, renderer: Renderer, folder: Folder
) -> None:
    broken_id = await issued(seller)
    await seller.admin.execute("ALTER TABLE invoices DISABLE TRIGGER refuse_rewrite")
    await seller.admin.execute("UPDATE invoices SET document = document - 'buyer'")
    await seller.admin.execute("ALTER TABLE invoices ENABLE TRIGGER refuse_rewrite")
    fine_id = await issued(seller)
    assert await once(seller.core, folder, renderer) == 2
    broken, fine = [await get_invoice(seller.db, i) for i in (broken_id, fine_id)]
    assert broken is not None
    assert fine is not None
    assert broken.rendered_at is None
    assert fine.rendered_at is not None
    error = await seller.admin.fetchval("SELECT render_error FROM invoices WHERE id = $1", broken_id)
    assert error == "KeyError: 'buyer'"


async def test_the_three_kinds_of_document_render_without_a_warning(
    seller: Seller, renderer: Renderer
) -> None:
    """Compiled afresh with the compiler's own fonts alone; a missing glyph or font would be a warning."""
    intra, inter = await seller.paid(), await seller.paid(state="27")
    await seller.issue(intra, inter)
    await seller.refund(intra, 25_000, credits=3000)
    [note] = await seller.notes(intra)
    compiler = typst.Compiler(TEMPLATE, root=TEMPLATE.parent, ignore_system_fonts=True)
    for document in (
        (await seller.invoice(intra)).document,
        (await seller.invoice(inter)).document,
        note.document,
    ):
        inputs = {"document": json.dumps(present(document)), "qr": ""}
        pdf, warnings = compiler.compile_with_warnings(sys_inputs=inputs, format="pdf")
        assert warnings == []
        assert isinstance(pdf, bytes)
        assert pages(pdf) == 1
        assert renderer.render(document) == renderer.render(document)


async def test_an_amount_due_brings_its_upi_code(seller: Seller, renderer: Renderer) -> None:
    seller.terms["seller"]["upi"] = "commdesk@examplebank"
    payment = await seller.paid()
    await seller.issue(payment)
    document = (await seller.invoice(payment)).document
    assert payment_link(document) is None
    due = document | {"amount_due_paise": 100_000}
    link = payment_link(due)
    assert link == (
        "upi://pay?pa=commdesk@examplebank&pn=CommDesk%20Demo%20Private%20Limited&am=1000.00&cu=INR"
        "&tr=CAA26000000001&tn=Invoice%20CAA%2F26%2F000000001"
    )
    assert qr_code(link).startswith("<svg")
    assert len(renderer.render(due)) > len(renderer.render(document))
