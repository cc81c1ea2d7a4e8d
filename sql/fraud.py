"""Velocity windows and fraud decisions. The rows come folded (tables/fraud.py); here they meet the truth."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, cast
from uuid import UUID

import asyncpg
from msgspec import Struct

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database, Row
from sql.errors import DatabaseError
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("fraud")
CHAIN: Final = "fraud"
GROUP: Final = "core"

Counts = tuple[int, int, int, int, int, int]
"""Payments and paise of an entity in the minute, the hour and the day that end with a payment, which is one of them."""

Entity = tuple[str, str]
"""(kind, entity): user, device, ip or instrument, and which."""


_NOT_FOLDED: Final[Counts] = (0, 0, 0, 0, 0, 0)


class StaleWindows(DatabaseError):
    """What was folded is not what is stored: read the windows and the open checks again, fold again."""


class VelocitySignal(Struct, frozen=True):
    """One verified payment as one of its entities sees it."""

    payment_id: UUID
    kind: str
    entity: str
    amount_paise: int
    occurred_at: datetime
    offset: int


class WindowRow(Struct, frozen=True):
    """An entity's counters (JSON) and the (partition, offset) they are stored as of; None: not stored yet."""

    kind: str
    entity: str
    buckets: str
    last_at: datetime
    as_of: tuple[int, int] | None


async def get_windows(db: Database, entities: Sequence[Entity]) -> list[WindowRow]:
    """The rows of those entities that have one. Errors: Unavailable."""
    rows = await db.rows(
        _Q["get_windows"], [kind for kind, _ in entities], [entity for _, entity in entities]
    )
    return [_window(row) for row in rows]


async def get_partition_windows(db: Database, partition: int, *, limit: int) -> list[WindowRow]:
    """The newest rows that a partition of fraud.detection has written. Errors: Unavailable."""
    return [_window(row) for row in await db.rows(_Q["get_partition_windows"], partition, limit)]


def _window(row: Row) -> WindowRow:
    as_of = (row["as_of_partition"], row["as_of_offset"])
    return WindowRow(row["entity_kind"], row["entity"], row["buckets"], row["last_at"], as_of)


async def get_open_checks(
    db: Database, payments: Sequence[UUID]
) -> set[tuple[UUID, str, str, int, datetime]]:
    """(payment, kind, entity, amount, occurred_at) of each count still awaited. Errors: Unavailable."""
    return {tuple(row.values()) for row in await db.rows(_Q["get_open_checks"], list(payments))}


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of each signal: posted | exists | quarantined; None if found committed already."""

    outcomes: list[str] | None
    emitted: Emitted


async def commit_fraud(
    db: Database,
    head: Head,
    signals: Sequence[VelocitySignal],
    counts: Sequence[Counts | None],
    windows: Sequence[WindowRow],
    *,
    held_partition: int,
    partitions: int,
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Judged:
    """Commit a batch of signals with what was folded from them; a payment it completes is decided here.

    `counts` has each signal's counts, None for one that was not folded; `windows` the rows after
    the fold. `held_partition` is that of analytics.billing for 'status=held'; `partitions` is how many a topic has.
    Errors: StaleWindows, Fenced, Unavailable.
    """
    try:
        answer = await commit(
            db,
            _Q["commit_fraud"],
            head,
            *head_arguments(head, progress, bad),
            [s.payment_id for s in signals],
            [s.kind for s in signals],
            [s.entity for s in signals],
            [s.amount_paise for s in signals],
            [s.occurred_at for s in signals],
            [s.offset for s in signals],
            [c is not None for c in counts],
            [number for c in counts for number in c or _NOT_FOLDED],
            [w.kind for w in windows],
            [w.entity for w in windows],
            [w.buckets for w in windows],
            [w.last_at for w in windows],
            [None if w.as_of is None else w.as_of[0] for w in windows],
            [None if w.as_of is None else w.as_of[1] for w in windows],
            held_partition,
            partitions,
        )
    except asyncpg.PostgresError as error:
        if error.sqlstate == "LG006":
            raise StaleWindows(str(error)) from error
        raise
    if isinstance(answer, Emitted):
        return Judged(None, answer)
    return Judged(answer["r_outcome"] or [], emitted(answer, head.topic, head.partition, head.group))


async def decide_overdue(
    db: Database,
    *,
    shard: int,
    limit: int,
    age_s: float,
    hold_s: float,
    held_partition: int,
    partitions: int,
) -> tuple[int, int, Emitted | None]:
    """Decide payments that have waited `age_s` for an entity, or `hold_s` if they would be held only for it: how many such
    checks were found, how many payments decided, and what follows.
    """
    row = await db.row(_Q["decide_overdue"], uuid7(), shard, limit, age_s, hold_s, held_partition, partitions)
    assert row is not None
    follows = None if row["r_batch_no"] is None else emitted(row, CHAIN, shard, GROUP)
    return row["r_found"], row["r_decided"], follows


Review = Literal["released", "rejected", "exists", "conflict", "not_held", "unknown"]


async def review_payment(
    db: Database,
    payment_id: UUID,
    verdict: Literal["release", "reject"],
    actor: str,
    *,
    shard: int,
    rejected_partition: int,
    why: str | None = None,
) -> Review:
    """A person decides about a held payment, once; the relay publishes what follows.

    `rejected_partition` is that of analytics.billing for 'status=rejected'. Errors: Unavailable.
    """
    outcome = await db.value(
        _Q["review_payment"], uuid7(), shard, payment_id, verdict, actor, rejected_partition, why
    )
    return cast(Review, outcome)


async def purge_windows(db: Database, *, limit: int) -> int:
    """Delete windows that no signal reaches any more; how many. Errors: Unavailable."""
    return cast(int, await db.value(_Q["purge_fraud_windows"], limit))
