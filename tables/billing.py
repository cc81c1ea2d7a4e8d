"""Billing deltas summed per metric, dimension and minute, so that a batch costs one row per window it touches."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime

from sql.windows import WindowDelta
from streams.events import Delta


def fold(deltas: Iterable[Delta]) -> list[WindowDelta]:
    """One delta per (metric, dimension, minute), in that order."""
    sums: defaultdict[tuple[str, str, datetime], list[int]] = defaultdict(lambda: [0, 0, 0])
    for delta in deltas:
        cell = sums[delta.metric, delta.key, delta.minute]
        cell[0] += delta.count
        cell[1] += delta.credits
        cell[2] += delta.amount_paise
    return [WindowDelta(*key, *cell) for key, cell in sorted(sums.items())]
