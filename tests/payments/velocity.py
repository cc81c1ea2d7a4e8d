"""Hands for the velocity tests: a payment waiting for its judgement, its signals, and the judgement itself."""

from collections.abc import Sequence
from uuid import UUID

from sql import fraud
from sql.batches import Head, Progress
from sql.db import Database
from sql.fraud import VelocitySignal
from sql.payments import Payment
from streams import messages
from streams.events import FraudSignal
from tables.fraud import TOPIC, FraudWindows

from .conftest import Shop

KINDS = ("user", "device", "ip", "instrument")
MINUTES = {"1m": 1, "1h": 60}


async def verified(
    shop: Shop, buyer: tuple[UUID, UUID] | None = None, price: int = 15_000, **more: object
) -> Payment:
    """A payment that is verified and not judged."""
    payment = await shop.order(buyer, price, **more)
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")
    assert await shop.verifier.once() == 1
    return await shop.payment(payment.id)


async def signals_of(shop: Shop, *ids: UUID) -> list[VelocitySignal]:
    """What was sent about payments, by entity kind."""
    rows = await shop.admin.fetch(
        "SELECT c.payment_id, e.kind, e.entity, c.amount, c.occurred_at"
        " FROM fraud_checks c, unnest(entity_kinds(), c.entities) AS e (kind, entity)"
        " WHERE c.payment_id = ANY ($1) AND e.entity IS NOT NULL ORDER BY 1, 2",
        list(ids),
    )
    return [VelocitySignal(row[0], row[1], row[2], row[3], row[4], 0) for row in rows]


async def counted(shop: Shop) -> dict[tuple[UUID, str], dict[str, list[int]]]:
    """The counts that have arrived, of each payment and kind of entity: by window, payments and paise."""
    found = {}
    for payment, kinds, counts in await shop.admin.fetch(
        "SELECT payment_id, entity_kinds(), counts FROM fraud_checks"
    ):
        for n, kind in enumerate(kinds):
            if counts[6 * n] is not None:
                found[payment, kind] = {
                    window: counts[6 * n + 2 * w : 6 * n + 2 * w + 2]
                    for w, window in enumerate(("1m", "1h", "24h"))
                }
    return found


def sliced(signals: Sequence[VelocitySignal], batch_no: int) -> bytes:
    events = [
        FraudSignal(
            payment_id=str(s.payment_id),
            entity_kind=s.kind,  # type: ignore[arg-type]
            entity=s.entity,
            amount_paise=s.amount_paise,
            occurred_at=s.occurred_at,
        )
        for s in signals
    ]
    producer = messages.Producer("test", 0, "test")
    return messages.encode(
        messages.Slice(
            v=1,
            producer=producer,
            incarnation=1,
            batch_no=batch_no,
            prev_batch_no=batch_no - 1,
            events=events,
        )
    )


async def judge(
    windows: FraudWindows, db: Database, number: int, signals: Sequence[VelocitySignal]
) -> list[str]:
    """Fold and commit one batch on a partition, as its owner."""
    position = await db.row(
        "SELECT epoch, next_offset FROM consumer_offsets WHERE topic = $1 AND partition = $2", TOPIC, number
    )
    assert position is not None
    epoch, start = position
    folded = await windows.fold(number, signals)
    head = Head(TOPIC, number, "commdesk", epoch, start, start + 1, start, b"d")
    judged = await fraud.commit_fraud(
        db, head, signals, folded.counts, folded.rows, held_partition=0, partitions=1, progress=Progress()
    )
    windows.committed(number, folded, start)
    return judged.outcomes or []
