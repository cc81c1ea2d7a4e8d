"""Aggregates: windows of billing metrics, each answer with the offsets it is true at."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from sql import aggregates
from sql.aggregates import Resolution
from web.calls import Call, Reply
from web.problems import Problem, not_found
from web.shapes import AggregateAnswer, AggregateQuery, TrueAtAnswer, WindowAnswer

TOPIC: Final = "analytics.billing"
MAX_WINDOWS: Final = 10_000


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
