"""Verifications: payments leased to be asked about at the gateway, and what its answer does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from sql.batches import Emitted, emitted
from sql.db import Database
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("verifications")
CHAIN: Final = "verify"
GROUP: Final = "core"


@dataclass(frozen=True, slots=True)
class Lease:
    """A payment to ask about, and by what it will be judged. `attempt` counts answers that said not paid.

    `whole`: all that webhooks told is one success, of the order's whole amount. `cf_payment_id` is the attempt
    that a webhook called successful. `offers`, where not whole: by attempt whose success a webhook told, the
    offer on record (id, paise off), or None if it named none.
    """

    payment_id: UUID
    order_id: str
    attempt: int
    amount_paise: int
    user_id: UUID
    wallet_id: UUID
    device_id: str | None
    ip: str | None
    instrument: str | None
    whole: bool = False
    cf_payment_id: str | None = None
    offers: Mapping[str, tuple[str, int] | None] | None = None


async def lease_verifications(db: Database, *, limit: int, lease_s: float) -> list[Lease]:
    """Up to `limit` due payments, ours for `lease_s`. Errors: Unavailable."""
    leases = [Lease(*row.values()) for row in await db.rows(_Q["lease_verifications"], limit, lease_s)]
    return [
        lease if lease.offers is None else replace(lease, offers=_offers(lease.offers)) for lease in leases
    ]


def _offers(found: Any) -> dict[str, tuple[str, int] | None]:
    """The column's JSON, read."""
    return {attempt: offer and (offer[0], offer[1]) for attempt, offer in json.loads(found).items()}


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the gateway's own list of attempts shows of a PAID order; amounts are paise.

    `cf_payment_id` is the attempt that paid it (None: none succeeded), `offer` the one on record for it (id,
    paise off), `mismatch` why it must not be credited, `successes` how many attempts succeeded.
    """

    cf_payment_id: str | None
    paid_paise: int
    offer: tuple[str, int] | None
    mismatch: str | None
    successes: int


Asked = tuple[str, int] | None
"""An entity of a payment, and the fraud.detection partition that counts it; None if it has none of the kind."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway said about one lease.

    `answer`: order (with `status`, `paid`, amount and currency, and `evidence` where the attempts were looked
    at), unexplained (paid less, and the word about an offer may still come: asked again as if unpaid),
    not_found, or unavailable (it said nothing; ask again not before `retry_s`). `credit_partition` is that of
    wallet.credit for the payment's wallet, `asked` its user, device, address and instrument.
    """

    payment_id: UUID
    attempt: int
    answer: Literal["order", "unexplained", "not_found", "unavailable"]
    credit_partition: int
    asked: Sequence[Asked]
    status: str | None = None
    paid: bool = False
    amount_paise: int | None = None
    currency: str | None = None
    cf_order_id: str | None = None
    retry_s: float | None = None
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What each answer did: verified | mismatch | unpaid | orphan | deferred | exists; and what follows."""

    outcomes: list[str]
    emitted: Emitted | None


async def record_verifications(
    db: Database, answers: Sequence[Answer], *, shard: int, verified_partition: int, mismatch_partition: int
) -> Recorded:
    """Record answers on the chain verify/<shard>; send them again after an unknown outcome.

    The partitions are those of analytics.billing for 'status=verified' and 'status=mismatch'.
    Errors: Unavailable.
    """
    row = await db.row(
        _Q["record_verifications"],
        uuid7(),
        shard,
        msgspec.json.encode([_shown(answer) for answer in answers]).decode(),
        verified_partition,
        mismatch_partition,
    )
    assert row is not None
    follows = None if row["r_batch_no"] is None else emitted(row, CHAIN, shard, GROUP)
    return Recorded(row["r_outcome"] or [], follows)


def _shown(answer: Answer) -> dict[str, Any]:
    seen = answer.evidence
    more = seen and {
        "cf_payment_id": seen.cf_payment_id,
        "paid_amount": seen.paid_paise,
        "offer": seen.offer and {"id": seen.offer[0], "amount": seen.offer[1]},
        "mismatch": seen.mismatch,
        "successes": seen.successes,
    }
    return {
        "payment": str(answer.payment_id),
        "attempt": answer.attempt,
        "answer": answer.answer,
        "status": answer.status,
        "paid": answer.paid,
        "amount": answer.amount_paise,
        "currency": answer.currency,
        "cf_order_id": answer.cf_order_id,
        "retry_s": answer.retry_s,
        "credit_partition": answer.credit_partition,
        "entities": [asked and asked[0] for asked in answer.asked],
        "partitions": [asked and asked[1] for asked in answer.asked],
        **(more or {}),
    }


@dataclass(frozen=True, slots=True)
class Backlog:
    """Due verifications, the age of the oldest in seconds, and orphans that wait for a person."""

    due: int
    oldest_s: float
    orphans: int


async def get_backlog(db: Database) -> Backlog:
    """How far the verifier pool is behind."""
    row = await db.row(_Q["get_backlog"])
    assert row is not None
    return Backlog(*row.values())
