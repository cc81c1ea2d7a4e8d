"""Money that came without a sale: what there is of it, and a person's word that returns it."""

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from sql import refunds, reversals
from web.calls import Call
from web.paging import PageQuery, Plain, after, cut
from web.problems import not_found
from web.replies import Reply
from web.resources.refunds import shown
from web.shapes import Answer, Nothing


class ReceiptsQuery(PageQuery, frozen=True):
    """A page of receipts; the rest filters."""

    payment_id: UUID | None = None
    state: Literal["open", "refunding", "refunded"] | None = None


class ReceiptAnswer(Answer, frozen=True):
    """A payment that is no sale. reason: paid_twice, rejected, mismatch. `refund_id` is what returns it."""

    cf_payment_id: str
    payment_id: UUID
    reason: str
    amount_paise: int
    state: str
    refund_id: UUID | None
    created_at: datetime
    updated_at: datetime


class ReceiptsPage(Answer, frozen=True):
    """The newest first. `next` is the cursor of the following page; null: this was the last one."""

    items: list[ReceiptAnswer]
    next: str | None


async def list_receipts(call: Call, query: ReceiptsQuery) -> Reply:
    """GET /v1/receipts."""
    last = after(query, "receipts", Plain)
    found = await reversals.get_receipts(
        call.services.db, query.payment_id, state=query.state, after=last, limit=query.limit + 1
    )
    page, following = cut(found, query, "receipts", lambda receipt: receipt.cf_payment_id)
    items = msgspec.convert(page, list[ReceiptAnswer], from_attributes=True)
    return Reply(ReceiptsPage(items=items, next=following))


async def above_limit(call: Call, _: Nothing) -> str | None:
    """What goes back above the limit of refunds needs a second person."""
    receipt = await reversals.get_receipt(call.services.db, call.path["id"])
    if receipt is None:
        raise not_found("receipt")
    if receipt.amount_paise <= call.services.settings.approval_refund_paise:
        return None
    return f"return {receipt.amount_paise} paise of {receipt.cf_payment_id}, {receipt.reason}"


async def return_receipt(call: Call, _: Nothing) -> Reply:
    """POST /v1/receipts/{id}/refund: staff. Exactly that payment goes back, once; again: the same refund."""
    db, cf_payment_id = call.services.db, call.path["id"]
    receipt = await reversals.get_receipt(db, cf_payment_id)
    if receipt is None:
        raise not_found("receipt")
    key = str(receipt.payment_id)
    outcome, refund_id = await refunds.refund_receipt(
        db,
        cf_payment_id,
        call.caller.principal,
        shard=call.services.chain(key),
        refund_partition=call.services.partition(key),
    )
    refund = None if refund_id is None else await refunds.get_refund(db, refund_id)
    if refund is None:
        raise not_found("receipt")
    return Reply(shown(refund), 201 if outcome == "created" else 200)
