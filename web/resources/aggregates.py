"""Aggregates: windows of billing metrics, each answer with the offsets it is true at."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from sql import aggregates
from sql.aggregates import Resolution
from streams.events import Time
from web.calls import Call
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Query

TOPIC: Final = "analytics.billing"
MAX_WINDOWS: Final = 10_000


class AggregateQuery(Query, frozen=True, rename={"start": "from", "end": "to"}):
    """Windows that start in [from, to). `dimension` filters ('feature=chat.message', several joined by ','),
    `by` breaks down by one dimension's values.
    """

    window: Literal["1m", "5m", "1h", "1d"] = "1m"
    start: Time | None = None
    end: Time | None = None
    dimension: Annotated[str, Meta(min_length=3, max_length=400)] | None = None
    by: Annotated[str, Meta(pattern="^[a-z_]{1,32}$")] | None = None


class WindowAnswer(Answer, frozen=True):
    """One window; `value` is that of the dimension it is broken down by."""

    window_start: datetime
    value: str | None
    count: int
    credits: int
    amount_paise: int


class TrueAtAnswer(Answer, frozen=True):
    """The windows hold everything of this partition up to `offset`."""

    partition: int
    incarnation: int
    offset: int | None


class AggregateAnswer(Answer, frozen=True, rename={"start": "from", "end": "to"}):
    """Windows in order of time. A `1d` window is an IST day."""

    metric: str
    window: str
    start: datetime
    end: datetime
    items: list[WindowAnswer]
    true_at: list[TrueAtAnswer]


@dataclass(frozen=True, slots=True)
class Size:
    """How a window is stored, what it is summed into, and the longest and the usual range to ask for."""

    resolution: Resolution
    step_s: int
    longest: timedelta
    usual: timedelta


SIZES: Final = {
    "1m": Size("1m", 0, timedelta(days=2), timedelta(hours=1)),
    "5m": Size("1m", 300, timedelta(days=7), timedelta(hours=6)),
    "1h": Size("1h", 0, timedelta(days=92), timedelta(days=1)),
    "1d": Size("1d", 0, timedelta(days=1100), timedelta(days=30)),
}
METRICS: Final = {
    "credits_granted": "credits_granted",
    "credits_spent": "credits_spent",
    "credits_expired": "credits_expired",
    "revenue_recognised": "credits_spent",
    "payments": "payments",
}
"""Stored metric behind each: revenue is what spending recognised, in amount_paise."""


async def get_aggregate(call: Call, query: AggregateQuery) -> Reply:
    """GET /v1/aggregates/{metric}."""
    metric = call.request.match_info["metric"]
    if metric not in METRICS:
        raise not_found("metric")
    size = SIZES[query.window]
    start, end = _range(query, size)
    found = await aggregates.get_aggregates(
        call.services.db,
        METRICS[metric],
        size.resolution,
        start,
        end,
        step_s=size.step_s,
        pairs=query.dimension.split(",") if query.dimension else (),
        by=query.by,
        topic=TOPIC,
        group=call.services.settings.consumer_group,
        limit=MAX_WINDOWS + 1,
    )
    if len(found.windows) > MAX_WINDOWS:
        raise Problem(400, "too_many_windows", f"more than {MAX_WINDOWS}: ask for a shorter range")
    answer = AggregateAnswer(
        metric=metric,
        window=query.window,
        start=start,
        end=end,
        items=msgspec.convert(found.windows, list[WindowAnswer], from_attributes=True),
        true_at=msgspec.convert(found.true_at, list[TrueAtAnswer], from_attributes=True),
    )
    return Reply(answer)


def _range(query: AggregateQuery, size: Size) -> tuple[datetime, datetime]:
    """[from, to) in UTC; by default the usual range until now. Errors: Problem 400."""
    bad = Problem(
        400, "invalid_range", f"from comes before to, at most {size.longest.days} days for {query.window}"
    )
    try:
        end = (query.end or datetime.now(UTC)).astimezone(UTC)
        start = query.start.astimezone(UTC) if query.start else end - size.usual
    except OverflowError as error:
        raise bad from error
    if not timedelta(0) < end - start <= size.longest:
        raise bad
    return start, end
