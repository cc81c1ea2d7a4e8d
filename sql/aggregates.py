"""Billing windows as the API serves them: each answer says which offsets it is true at."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sql.db import Database
from sql.queries import load

_Q: Final = load("aggregates")

Resolution = Literal["1m", "1h", "1d"]


@dataclass(frozen=True, slots=True)
class Window:
    """One window of one metric. `value` is that of the dimension it was broken down by, if it was."""

    window_start: datetime
    value: str | None
    count: int
    credits: int
    amount_paise: int


@dataclass(frozen=True, slots=True)
class TrueAt:
    """The windows hold everything of this partition up to `offset` of its incarnation; None: nothing yet."""

    partition: int
    incarnation: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Aggregates:
    """Windows in order of time, and per partition the offset they are true at: one snapshot."""

    windows: list[Window]
    true_at: list[TrueAt]


async def get_aggregates(
    db: Database,
    metric: str,
    resolution: Resolution,
    start: datetime,
    end: datetime,
    *,
    step_s: int = 0,
    pairs: Sequence[str] = (),
    by: str | None = None,
    topic: str,
    group: str,
    limit: int,
) -> Aggregates:
    """Windows that start in [start, end). `step_s` sums them into coarser ones, 0 leaves them as they are.

    `pairs` ('name=value') filters by dimension; `by` breaks down by a dimension's values. At most `limit`
    windows. Errors: Unavailable.
    """
    row = await db.row(
        _Q["get_aggregates"], metric, resolution, step_s, start, end, list(pairs), by, topic, group, limit
    )
    assert row is not None
    columns = (row[name] or () for name in ("starts", "dim_values", "counts", "credits", "amounts"))
    positions = json.loads(row["positions"] or "[]")
    return Aggregates([Window(*w) for w in zip(*columns, strict=True)], [TrueAt(*p) for p in positions])
