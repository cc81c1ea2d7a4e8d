"""Tax invoices and credit notes: issued in the offset's transaction, rendered when there is time, read by their owners."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

import asyncpg

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted, translate
from sql.db import Database, Row
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("invoices")


@dataclass(frozen=True, slots=True)
class InvoiceOrder:
    """A payment to invoice. `occurred_at` is the document's date and decides its financial year; `notify_partition`
    is that of notifications.billing for the payment's user, None if nobody knows the payment."""

    payment_id: UUID
    occurred_at: datetime
    offset: int
    notify_partition: int | None


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of each order: posted | exists | parked, and its invoice; None if found committed already."""

    outcomes: list[str] | None
    invoices: list[UUID | None]
    emitted: Emitted


async def commit_invoices(
    db: Database,
    head: Head,
    orders: Sequence[InvoiceOrder],
    *,
    series: str,
    terms: Mapping[str, Any],
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Issued:
    """Issue a batch of tax invoices and move the offset, in one transaction.

    `series` is the partition's own, three capitals; `terms` what the seller prints: {"seller": {...}, "sac",
    "item", "rate_bp"}. Errors: Fenced, Unavailable.
    """
    answer = await commit(
        db,
        _Q["commit_invoices"],
        head,
        *head_arguments(head, progress, bad),
        None,
        None,
        *_columns(orders),
        series,
        json.dumps(terms),
    )
    if isinstance(answer, Emitted):
        return Issued(None, [], answer)
    return _issued(answer, head.topic, head.partition, head.group)


async def retry_invoice(
    db: Database,
    topic: str,
    partition: int,
    group: str,
    *,
    epoch: int,
    retry: int,
    attempt: int,
    order: InvoiceOrder,
    series: str,
    terms: Mapping[str, Any],
) -> Issued:
    """Try a parked order of a partition we own. Errors: Fenced, RetryTaken, Unavailable."""
    chain = f"retry/{topic}"
    try:
        row = await db.row(
            _Q["commit_invoices"], uuid7(), chain, partition, group, epoch, None, None, None, None, None, None,
            retry, attempt, *_columns([order]), series, json.dumps(terms),
        )  # fmt: skip
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    assert row is not None
    return _issued(row, chain, partition, group)


def _columns(orders: Sequence[InvoiceOrder]) -> list[Any]:
    return [
        [uuid7() for _ in orders],
        [o.payment_id for o in orders],
        [o.occurred_at for o in orders],
        [o.offset for o in orders],
        [o.notify_partition for o in orders],
    ]


def _issued(row: Row, topic: str, partition: int, group: str) -> Issued:
    return Issued(row["r_outcome"] or [], row["r_id"] or [], emitted(row, topic, partition, group))


@dataclass(frozen=True, slots=True)
class Rendering:
    """A document to render, leased to us. `attempt` tells our lease from later ones."""

    id: UUID
    number: str
    attempt: int
    document: dict[str, Any]
    voided: bool


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became of a lease: the key that the picture is stored under, or the error."""

    id: UUID
    attempt: int
    storage_key: str | None
    error: str | None = None


async def lease_renderings(db: Database, *, limit: int, lease_s: float) -> list[Rendering]:
    """Documents without a picture, oldest first; no other worker gets them for `lease_s`. Errors: Unavailable."""
    return [
        Rendering(
            row["id"],
            row["number"],
            row["attempt"],
            json.loads(row["document"]),
            row["voided_at"] is not None,
        )
        for row in await db.rows(_Q["lease_renderings"], limit, lease_s)
    ]


async def record_renderings(db: Database, results: Sequence[Rendered]) -> int:
    """Close leases; what failed is due again after a growing pause. How many leases were still ours. Errors: Unavailable."""
    return int(
        await db.value(
            _Q["record_renderings"],
            [r.id for r in results],
            [r.attempt for r in results],
            [r.storage_key for r in results],
            [None if r.error is None else r.error[:500] for r in results],
        )
    )


async def count_unrendered(db: Database) -> tuple[int, float]:
    """How many documents have no picture yet, and for how long the oldest has waited, in seconds."""
    row = await db.row(_Q["count_unrendered"])
    assert row is not None
    return row["waiting"], row["oldest_s"]


Voided = Literal["voided", "exists", "refused", "unknown"]


async def void_invoice(db: Database, invoice_id: UUID, *, actor: str, reason: str) -> Voided:
    """Void a tax invoice; its number stays taken and its picture says so.

    refused: a credit note, or an invoice that has one. Errors: Unavailable.
    """
    return cast(Voided, await db.value(_Q["void_invoice"], invoice_id, actor, reason))


@dataclass(frozen=True, slots=True)
class Invoice:
    """A tax invoice or credit note as issued. Amounts are paise, times UTC; `document` is everything printed.

    `invoice_id` is what a credit note corrects. Its PDF lies under `storage_key` once `rendered_at` is set.
    """

    id: UUID
    kind: Literal["tax_invoice", "credit_note"]
    number: str
    payment_id: UUID
    user_id: UUID
    refund_id: UUID | None
    invoice_id: UUID | None
    place_of_supply: str
    gross_paise: int
    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int
    document: dict[str, Any]
    issued_at: datetime
    rendered_at: datetime | None
    storage_key: str | None
    voided_at: datetime | None
    void_reason: str | None


async def get_invoice(db: Database, invoice_id: UUID) -> Invoice | None:
    """A document by its id. Errors: Unavailable."""
    row = await db.row(_Q["get_invoice"], invoice_id)
    return None if row is None else _invoice(row)


async def get_invoices_of_payment(db: Database, payment_id: UUID) -> list[Invoice]:
    """A payment's tax invoice, then its credit notes in the order of issue. Errors: Unavailable."""
    return [_invoice(row) for row in await db.rows(_Q["get_invoices_of_payment"], payment_id)]


async def get_invoices_of_user(
    db: Database, user_id: UUID, *, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Invoice]:
    """The newest first; `before` continues after the (issued_at, id) of a page's last one. Errors: Unavailable."""
    issued_at, invoice_id = before or (None, None)
    rows = await db.rows(_Q["get_invoices_of_user"], user_id, issued_at, invoice_id, limit)
    return [_invoice(row) for row in rows]


def _invoice(row: Row) -> Invoice:
    return Invoice(*(json.loads(v) if k == "document" else v for k, v in row.items()))
