"""Refunds: decided and held in one call, marked due from the stream, leased to be asked about, recorded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast
from uuid import UUID

import asyncpg

from domain.packs import PACKS, Pack
from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("refunds")
CHAIN: Final = "refund"
GROUP: Final = "core"

Policy = Literal["PRO_RATA", "RETIER"]
Partitions = Mapping[str, int]
"""Where what follows goes, by what it is: see the functions that take them."""


@dataclass(frozen=True, slots=True)
class Refund:
    """A refund as it stands. Amounts are paise; `credits` are held for it, or reversed once it is done.

    status: requested | due | pending | review | payout_requested | payout_approved | done | failed |
    cancelled | rejected | reversed (domain.refund_states); `failure` says why not.
    """

    id: UUID
    refund_id: str
    payment_id: UUID
    user_id: UUID
    wallet_id: UUID
    amount_paise: int
    policy: str
    status: str
    reason: str | None
    failure: str | None
    gateway_status: str | None
    credits: int
    requested_by: str
    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A refund to decide. `key` is '<principal>:<key>', `request_hash` what the same key must repeat."""

    id: UUID
    payment_id: UUID
    amount_paise: int
    policy: Policy
    requested_by: str
    key: str
    request_hash: bytes
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Requested:
    """The answer to a request: created | exists | conflict | refused | unknown_payment.

    Refused, now or for this key before, has its `reason`: not_refundable | insufficient_refundable |
    refund_too_small; `refund` is then the stored refusal (status rejected).
    """

    outcome: str
    reason: str | None
    refund: Refund | None


async def request_refund(
    db: Database, new: NewRefund, *, shard: int, partitions: Partitions, packs: Sequence[Pack] = PACKS
) -> Requested:
    """Decide a refund under the payment's lock and hold its credits; send it again after an unknown outcome.

    `shard` spreads the calls over the chains api/<shard>; `partitions`: "refund" of refund.processing for the
    payment, "notify" of its user, "expired" of analytics.billing for ''. The relay publishes what follows.
    Errors: ValueError for an amount that is not positive; Unavailable.
    """
    if new.amount_paise <= 0:
        raise ValueError("a refund is of a positive amount")
    args = (
        uuid7(),
        shard,
        new.id,
        new.payment_id,
        new.amount_paise,
        new.policy,
        new.requested_by,
        new.key,
        new.request_hash,
        new.reason,
        [pack.price_paise for pack in packs],
        [pack.credits for pack in packs],
        json.dumps(dict(partitions)),
    )
    try:
        row = await db.row(_Q["request_refund"], *args)
    except asyncpg.UniqueViolationError:
        # The key was used for another payment at the same moment: now it is there to be read.
        row = await db.row(_Q["request_refund"], *args)
    assert row is not None
    refund = None if row["r_refund"] is None else await get_refund(db, row["r_refund"])
    outcome, reason = row["r_outcome"], row["r_reason"]
    if outcome == "exists" and refund is not None and refund.status == "rejected":
        reason = refund.failure
    return Requested(outcome, reason, refund)


async def refund_receipt(
    db: Database, cf_payment_id: str, actor: str, *, shard: int, refund_partition: int
) -> tuple[Literal["created", "exists", "unknown"], UUID | None]:
    """A person returns money that never was a sale; the refund that does. Errors: Unavailable."""
    row = await db.row(_Q["refund_receipt"], uuid7(), shard, cf_payment_id, actor, refund_partition)
    assert row is not None
    return row["r_outcome"], row["r_refund"]


Verdict = Literal["approve", "decline", "paid"]


async def decide_payout(
    db: Database,
    refund_id: UUID,
    verdict: Verdict,
    actor: str,
    *,
    detail: str | None = None,
    shard: int,
    partitions: Partitions,
) -> str:
    """A person's word about a refund too old for the gateway: the status it has then, or 'unknown'.

    `detail` is the bank's reference of what was paid. `partitions` as `record_refund`. A verdict that does not
    fit where the refund is changes nothing. Errors: Unavailable.
    """
    parts = json.dumps(dict(partitions))
    return cast(
        str,
        await db.value(_Q["decide_refund_payout"], uuid7(), shard, refund_id, verdict, actor, detail, parts),
    )


async def get_refund(db: Database, id: UUID) -> Refund | None:
    """One refund by our id."""
    row = await db.row(_Q["get_refund"], id)
    return None if row is None else Refund(*row.values())


async def get_payment_refunds(db: Database, payment_id: UUID) -> list[Refund]:
    """Every refund of a payment, forced ones included, the oldest first."""
    return [Refund(*row.values()) for row in await db.rows(_Q["get_payment_refunds"], payment_id)]


async def get_refundable(db: Database, payment_id: UUID) -> int | None:
    """What a customer may still get back, in paise, as things stand; None if it was never credited."""
    return cast(int | None, await db.value(_Q["get_refundable"], payment_id))


@dataclass(frozen=True, slots=True)
class DueRefund:
    """A refund that the stream says is due."""

    id: UUID
    payment_id: UUID
    offset: int


@dataclass(frozen=True, slots=True)
class Marked:
    """What became of each: posted | exists | quarantined; None if found committed already."""

    outcomes: list[str] | None
    emitted: Emitted


async def commit_refunds(
    db: Database, head: Head, due: Sequence[DueRefund], *, progress: Progress, bad: Sequence[Bad] = ()
) -> Marked:
    """Mark refunds due and move the offset, in one transaction. Errors: Fenced, Unavailable."""
    answer = await commit(
        db,
        _Q["commit_refunds"],
        head,
        *head_arguments(head, progress, bad),
        [d.id for d in due],
        [d.payment_id for d in due],
        [d.offset for d in due],
    )
    if isinstance(answer, Emitted):
        return Marked(None, answer)
    return Marked(answer["r_outcome"] or [], emitted(answer, head.topic, head.partition, head.group))


@dataclass(frozen=True, slots=True)
class Lease:
    """A refund to ask the gateway about. `again`: a request may have reached it before. `known`: it has the
    refund, or we gave its credits back: ask, and send nothing.
    """

    id: UUID
    refund_id: str
    order_id: str
    payment_id: UUID
    user_id: UUID
    amount_paise: int
    currency: str
    policy: str
    reason: str | None
    attempt: int
    again: bool
    known: bool


async def lease_refunds(db: Database, *, limit: int, lease_s: float) -> list[Lease]:
    """Up to `limit` refunds, ours for `lease_s`. Errors: Unavailable."""
    return [Lease(*row.values()) for row in await db.rows(_Q["lease_refunds"], limit, lease_s)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the gateway said about one lease.

    `answer`: refund (with its `status`), refused (a definite no to our first request), mismatched (our id
    stands for something else there), no_answer, or not_sent (our request did not leave us).
    """

    answer: Literal["refund", "refused", "mismatched", "no_answer", "not_sent"]
    status: str | None = None
    cf_refund_id: str | None = None
    detail: str | None = None
    retry_s: float | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """The refund's status after an answer, and what follows if that was news."""

    status: str
    emitted: Emitted | None


async def record_refund(
    db: Database, lease: Lease, answer: Answer, *, shard: int, partitions: Partitions
) -> Recorded:
    """Record an answer on the chain refund/<shard>; send it again after an unknown outcome.

    `partitions`: "refunds" and "refunded" of analytics.billing for 'policy=<policy>' and 'status=refunded',
    "expired" for '', "notify" of the user. Errors: Unavailable.
    """
    row = await db.row(
        _Q["record_refund"],
        uuid7(),
        shard,
        lease.id,
        lease.attempt,
        answer.answer,
        lease.again,
        answer.status,
        answer.cf_refund_id,
        None if answer.detail is None else answer.detail[:500],
        answer.retry_s,
        json.dumps(dict(partitions)),
    )
    assert row is not None
    follows = None if row["r_batch_no"] is None else emitted(row, CHAIN, shard, GROUP)
    return Recorded(row["r_outcome"], follows)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Refunds to ask about now, the age of the oldest in seconds, and those that wait for a person."""

    due: int
    oldest_s: float
    for_a_person: int


async def get_backlog(db: Database) -> Backlog:
    """How far the refunder is behind."""
    row = await db.row(_Q["get_backlog"])
    assert row is not None
    return Backlog(*row.values())
