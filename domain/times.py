"""When something happened, as we are willing to believe it."""

from datetime import datetime, timedelta
from typing import Final

OLDEST: Final = timedelta(hours=24)
NEWEST: Final = timedelta(minutes=5)


def clamp_occurred_at(occurred_at: datetime | None, accepted_at: datetime) -> datetime:
    """The time of an event: its own, within [-24 h, +5 min] of its first acceptance; that, if it names none.

    Decided once, where the event is accepted, and stored in it: whoever folds it later reads no clock.
    """
    if occurred_at is None:
        return accepted_at
    return min(max(occurred_at, accepted_at - OLDEST), accepted_at + NEWEST)
