"""Billing windows: deltas folded in the transaction that moves the offset."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database
from sql.heads import head_arguments
from sql.queries import load

_Q: Final = load("windows")


@dataclass(frozen=True, slots=True)
class WindowDelta:
    """What one minute adds to one dimension of one metric; `dimension` is canonical text, `minute` a whole minute (UTC)."""

    metric: str
    dimension: str
    minute: datetime
    count: int
    credits: int
    amount_paise: int


async def commit_windows(
    db: Database,
    head: Head,
    deltas: Sequence[WindowDelta],
    *,
    records: int,
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Emitted:
    """Fold `deltas` (of `records` events) and move the offset. Errors: Fenced, Unavailable."""
    answer = await commit(
        db, _Q["commit_windows"], head,
        *head_arguments(head, progress, bad), records,
        [d.metric for d in deltas], [d.dimension for d in deltas], [d.minute for d in deltas], [d.count for d in deltas],
        [d.credits for d in deltas], [d.amount_paise for d in deltas],
    )  # fmt: skip
    return answer if isinstance(answer, Emitted) else emitted(answer, head.topic, head.partition, head.group)
