"""Invoices and credit notes as issued, and their PDFs once rendered."""

from aiohttp import web

from gateway.storage import StorageError
from sql import invoices
from sql.invoices import Invoice
from web.auth import Caller
from web.calls import Call, Reply, read_query
from web.problems import Problem, not_found, unavailable
from web.services import SERVICES
from web.shapes import InvoiceAnswer, NoQuery


async def get_invoice(call: Call, _: NoQuery) -> Reply:
    """GET /v1/invoices/{id}."""
    found = await _found(call)
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
    return Reply(
        InvoiceAnswer(
            **{name: getattr(found, name) for name in same},
            pdf=f"/v1/invoices/{found.id}.pdf" if found.rendered_at else None,
        )
    )


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
