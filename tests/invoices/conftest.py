"""A seller with paid orders: payments credited by hand, and invoice.generate fed by the test."""

import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from agents import invoice_generate
from agents.core import Core, PostgresOwnership
from agents.settings import InvoiceSettings
from domain.gst import GstSplit, split_inclusive
from domain.packs import pack_for
from sql import invariants
from sql.db import Database, DatabaseSettings
from sql.invoices import Invoice, get_invoices_of_payment
from streams import messages
from streams.batches import Batch, Record
from streams.events import InvoiceDue
from tests.kept import Kept

TOPIC = "invoice.generate"
NOW = datetime(2026, 11, 23, 6, 10, tzinfo=UTC)


@dataclass
class Seller:
    """A core over a real database; orders by hand, streams as lists."""

    core: Core
    kept: Kept
    ownership: PostgresOwnership
    admin: asyncpg.Connection
    admin_url: str
    readonly_url: str
    terms: dict[str, Any] = field(default_factory=lambda: InvoiceSettings().terms())
    positions: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    batches: int = 0

    @property
    def db(self) -> Database:
        return self.core.db

    async def user(self, state: str = "29", *, gstin: str | None = None, name: str = "Ananya Rao") -> UUID:
        """A customer."""
        user = uuid4()
        await self.admin.execute(
            "INSERT INTO users (id, external_id, name, email, state_code, gstin, request_hash)"
            " VALUES ($1, $2, $3, 'ananya@example.in', $4, $5, '')",
            user, str(user), name, state, gstin,
        )  # fmt: skip
        await self.admin.execute("INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $1, '')", user)
        return user

    async def paid(
        self,
        price_paise: int = 100_000,
        *,
        state: str = "29",
        user: UUID | None = None,
        credited: bool = True,
    ) -> UUID:
        """A payment of a customer in a State; the seller is in Karnataka (29)."""
        user = user or await self.user(state)
        pack = pack_for(price_paise)
        assert pack is not None
        split = split_inclusive(price_paise, inter_state=state != "29")
        payment = uuid7()
        await self.admin.execute(
            "INSERT INTO payments (id, user_id, wallet_id, order_id, cashfree_payment_id, payment_group, amount, base_credits,"
            " bonus_credits, credits_granted, taxable_amount, cgst_amount, sgst_amount, igst_amount, gst_amount, place_of_supply,"
            " idempotency_key, request_hash, status, verified_at, credited_at) VALUES"
            " ($1, $2, $2, $3, '14910233214', 'upi', $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $3, '',"
            " CASE WHEN $14 THEN 'credited' ELSE 'verified' END, now(), CASE WHEN $14 THEN now() END)",
            payment, user, f"cd_{payment.hex}", price_paise, pack.base, pack.bonus, pack.base + pack.bonus,
            split.taxable_paise, split.cgst_paise, split.sgst_paise, split.igst_paise, split.tax_paise, state, credited,
        )  # fmt: skip
        return payment

    def due(self, *payments: UUID, at: datetime = NOW) -> bytes:
        """A slice of a producer of its own."""
        self.batches += 1
        return messages.encode(
            messages.Slice(
                v=1,
                producer=messages.Producer("wallet.credit", 0, f"producer-{self.batches}"),
                incarnation=1,
                batch_no=1,
                prev_batch_no=0,
                events=[InvoiceDue(payment_id=str(p), occurred_at=at) for p in payments],
            )
        )

    async def batch(self, *values: bytes, partition: int = 0) -> Batch:
        """The next records of a partition."""
        if partition not in self.positions:
            claim = (await self.ownership.claim(TOPIC, [partition], "test"))[partition]
            await self.ownership.restore(TOPIC, partition, claim)
            self.positions[partition] = (claim.epoch, claim.incarnation, claim.next_offset)
        epoch, incarnation, start = self.positions[partition]
        records = [
            Record(offset, int(time.time() * 1000), None, value, {}, malformed=False)
            for offset, value in enumerate(values, start)
        ]
        end = start + len(records)
        self.positions[partition] = (epoch, incarnation, end)
        digest = hashlib.sha256(repr(records[-1]).encode()).digest()
        return Batch(TOPIC, partition, epoch, incarnation, start, end, end - 1, digest, records)

    async def issue(self, *payments: UUID, at: datetime = NOW, partition: int = 0) -> None:
        """Deliver InvoiceDue for payments, as one batch."""
        batch = await self.batch(self.due(*payments, at=at), partition=partition)
        await invoice_generate.handle(self.core, self.terms, batch)

    async def invoice(self, payment: UUID) -> Invoice:
        """The tax invoice of a payment."""
        [invoice, *_] = await get_invoices_of_payment(self.db, payment)
        assert invoice.kind == "tax_invoice"
        return invoice

    async def notes(self, payment: UUID) -> list[Invoice]:
        """The credit notes of a payment."""
        return [i for i in await get_invoices_of_payment(self.db, payment) if i.kind == "credit_note"]

    async def refund(
        self, payment: UUID, amount_paise: int, *, credits: int = 1, at: datetime = NOW
    ) -> tuple[UUID, UUID | None]:
        """A refund that landed: its row, and the credit note in the same transaction."""
        async with self.admin.transaction():
            return await landed(self.admin, payment, amount_paise, credits=credits, at=at)

    async def outcomes(self) -> dict[str, int]:
        """Counts over all batches of the topic and its retries."""
        row = await self.admin.fetchrow(
            "SELECT sum(posted) posted, sum(existing) existing, sum(parked) parked, sum(quarantined) quarantined"
            " FROM batches WHERE topic LIKE '%invoice.generate'"
        )
        assert row is not None
        return {key: int(value) for key, value in row.items() if value}

    async def violations(self) -> list[str]:
        """What the invariants of documents and of the hash chain say."""
        found = await invariants.check(self.readonly_url)
        return [str(v) for v in found if v.name.startswith(("i7", "i14", "i18"))]


async def landed(
    connection: Any, payment: UUID, amount_paise: int, *, credits: int = 1, at: datetime = NOW
) -> tuple[UUID, UUID | None]:
    """A refund's row with its split as the ledger books it, under the payment's lock, and its credit note."""
    refund = uuid7()
    await connection.execute("SELECT FROM payments WHERE id = $1 FOR NO KEY UPDATE", payment)
    await connection.execute(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, credits_reversed, policy, status, reason,"
        " requested_by, idempotency_key, cgst_amount, sgst_amount, igst_amount, taxable_amount)"
        " SELECT $1, $2, y.id, y.wallet_id, $4, $5, 'PRO_RATA', 'done', 'Requested by the customer', 'test', $2, t.c, t.s, t.i,"
        " $4 - t.c - t.s - t.i FROM payments y"
        " CROSS JOIN LATERAL (SELECT coalesce(sum(f.amount), 0)::bigint AS n FROM refunds f WHERE f.payment_id = y.id) b"
        " CROSS JOIN LATERAL (SELECT tax_reversed(y.cgst_amount, y.amount, b.n, $4) AS c,"
        " tax_reversed(y.sgst_amount, y.amount, b.n, $4) AS s,"
        " tax_reversed(y.igst_amount, y.amount, b.n, $4) AS i) t WHERE y.id = $3",
        refund, str(refund), payment, amount_paise, credits,
    )  # fmt: skip
    return refund, await connection.fetchval("SELECT issue_credit_note($1, $2)", refund, at)


def split_of(invoice: Invoice) -> GstSplit:
    return GstSplit(invoice.taxable_paise, invoice.cgst_paise, invoice.sgst_paise, invoice.igst_paise)


@pytest.fixture
async def seller(database) -> AsyncIterator[Seller]:  # type: ignore[no-untyped-def]
    db = await Database.connect(DatabaseSettings(database_url=database.url))
    admin = await asyncpg.connect(database.admin_url)
    kept = Kept()
    core = Core(db, kept, "commdesk", partitions=4)
    ownership = PostgresOwnership(db, "commdesk", [core.marks.restore])
    yield Seller(core, kept, ownership, admin, database.admin_url, database.readonly_url)
    assert kept.foreign == []
    await admin.close()
    await db.close()
