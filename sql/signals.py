"""What the gateway says about attempts to pay: kept, and a reason to ask; never one to credit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted, translate
from sql.db import Database, Row
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("signals")


@dataclass(frozen=True, slots=True)
class AttemptSignal:
    """News of an order, found in an inbox row. `kind`: success | failed | dropped | other."""

    order_id: str
    inbox_id: UUID
    kind: str
    offset: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of each signal: posted | exists | parked | quarantined; None if found committed already."""

    outcomes: list[str] | None
    emitted: Emitted


async def commit_signals(
    db: Database,
    head: Head,
    signals: Sequence[AttemptSignal],
    *,
    failed_partition: int,
    partitions: int,
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Heard:
    """Book a batch of signals and move the offset, in one transaction.

    `failed_partition` is that of analytics.billing for 'status=failed'; `partitions` is how many a topic has.
    Errors: Fenced, Unavailable.
    """
    answer = await commit(
        db,
        _Q["commit_signals"],
        head,
        *head_arguments(head, progress, bad),
        None,
        None,
        *_columns(signals),
        failed_partition,
        partitions,
    )
    if isinstance(answer, Emitted):
        return Heard(None, answer)
    return _heard(answer, head.topic, head.partition, head.group)


async def retry_signal(
    db: Database,
    topic: str,
    partition: int,
    group: str,
    *,
    epoch: int,
    retry: int,
    attempt: int,
    signal: AttemptSignal,
    failed_partition: int,
    partitions: int,
) -> Heard:
    """Decide a parked signal of a partition we own. Errors: Fenced, RetryTaken, Unavailable."""
    chain = f"retry/{topic}"
    try:
        row = await db.row(
            _Q["commit_signals"], uuid7(), chain, partition, group, epoch, None, None, None, None, None, None,
            retry, attempt, *_columns([signal]), failed_partition, partitions,
        )  # fmt: skip
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    assert row is not None
    return _heard(row, chain, partition, group)


def _columns(signals: Sequence[AttemptSignal]) -> list[Any]:
    return [
        [s.order_id for s in signals],
        [s.inbox_id for s in signals],
        [s.kind for s in signals],
        [s.offset for s in signals],
    ]


def _heard(row: Row, topic: str, partition: int, group: str) -> Heard:
    return Heard(row["r_outcome"] or [], emitted(row, topic, partition, group))
