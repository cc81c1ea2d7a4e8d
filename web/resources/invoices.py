"""Invoices and credit notes as issued, and their PDFs once rendered."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from aiohttp import web

from gateway.storage import StorageError
from sql import invoices, lists, reversals
from sql.invoices import Invoice
from web.auth import Caller
from web.calls import Call, read_query
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found, unavailable
from web.replies import Reply
from web.services import SERVICES
from web.shapes import Answer, NoQuery, Nothing


class InvoiceAnswer(Answer, frozen=True):
    """A tax invoice or credit note as issued; `pdf` once it is rendered."""

    id: UUID
    kind: str
    number: str
    payment_id: UUID
    refund_id: UUID | None
    invoice_id: UUID | None
    document: dict[str, Any]
    issued_at: datetime
    voided_at: datetime | None
    pdf: str | None


class InvoicesQuery(PageQuery, frozen=True):
    """A page of documents: a user's, a payment's, or all."""

    user_id: UUID | None = None
    payment_id: UUID | None = None


class InvoicesPage(Answer, frozen=True):
    """The newest first."""

    items: list[InvoiceAnswer]
    next: str | None


class InvoiceRequest(Answer, frozen=True):
    """requested: it is being issued; issued: here it is."""

    state: Literal["requested", "issued"]
    invoice: InvoiceAnswer | None


async def get_invoice(call: Call, _: NoQuery) -> Reply:
    """GET /v1/invoices/{id}."""
    return Reply(_shown(await _found(call)))


async def list_invoices(call: Call, query: InvoicesQuery) -> Reply:
    """GET /v1/invoices."""
    found = await lists.list_invoices(
        call.services.db,
        user_id=query.user_id,
        payment_id=query.payment_id,
        before=after(query, "invoices", tuple[datetime, UUID]),
        limit=query.limit + 1,
    )
    page, following = cut(found, query, "invoices", lambda invoice: (invoice.issued_at, invoice.id))
    return Reply(InvoicesPage(items=[_shown(invoice) for invoice in page], next=following))


def _shown(found: Invoice) -> InvoiceAnswer:
    same = (
        "id",
        "kind",
        "number",
        "payment_id",
        "refund_id",
        "invoice_id",
        "document",
        "issued_at",
        "voided_at",
    )
    return InvoiceAnswer(
        **{name: getattr(found, name) for name in same},
        pdf=f"/v1/invoices/{found.id}.pdf" if found.rendered_at else None,
    )


async def request_invoice(call: Call, _: Nothing) -> Reply:
    """POST /v1/payments/{id}/invoice: the tax invoice of a credited payment. It is issued by itself; one that is late
    is asked for again. 200 with the invoice, 202 while it is issued, 409 before the payment is credited.
    """
    db, payment_id = call.services.db, call.uuid("id", "payment")
    shard, partition = call.services.chain(str(payment_id)), call.services.partition(str(payment_id))
    outcome = await reversals.request_invoice(db, payment_id, shard=shard, invoice_partition=partition)
    match outcome:
        case "unknown":
            raise not_found("payment")
        case "not_credited":
            raise Problem(409, "payment_not_credited", "an invoice is issued when the payment is credited")
        case "asked":
            return Reply(InvoiceRequest(state="requested", invoice=None), 202)
    found = await invoices.get_invoices_of_payment(db, payment_id)
    issued = next(invoice for invoice in found if invoice.kind == "tax_invoice")
    return Reply(InvoiceRequest(state="issued", invoice=_shown(issued)))


async def get_pdf(request: web.Request, caller: Caller) -> web.StreamResponse:
    """GET /v1/invoices/{id}.pdf. Issued and not yet rendered: 409, try again in a second."""
    read_query(request, NoQuery)
    call = Call(request, request.app[SERVICES], caller)
    found = await _found(call)
    if found.rendered_at is None or found.storage_key is None:
        raise Problem(409, "not_rendered_yet", "the document is issued; its PDF follows")
    try:
        pdf = await call.services.storage.get(found.storage_key)
    except StorageError as error:
        raise unavailable("the storage cannot answer now, try again") from error
    if pdf is None:
        raise unavailable("the storage does not have the PDF yet, try again")
    name = f"{found.number.replace('/', '-')}.pdf"
    headers = {"Content-Disposition": f'inline; filename="{name}"', "Cache-Control": "private, no-cache"}
    return web.Response(body=pdf, content_type="application/pdf", headers=headers)


async def _found(call: Call) -> Invoice:
    found = await invoices.get_invoice(call.services.db, call.uuid("id", "invoice"))
    if found is None:
        raise not_found("invoice")
    return found
