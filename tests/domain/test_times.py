"""An event's time is believed within a day back and five minutes ahead of its acceptance."""

from datetime import timedelta

import pytest

from domain.times import clamp_occurred_at
from tests.domain.worlds import NOW


@pytest.mark.parametrize(
    ("said", "believed"),
    [
        (timedelta(0), timedelta(0)),
        (timedelta(hours=-24), timedelta(hours=-24)),
        (timedelta(hours=-24, seconds=-1), timedelta(hours=-24)),
        (timedelta(minutes=5), timedelta(minutes=5)),
        (timedelta(days=400), timedelta(minutes=5)),
    ],
)
def test_a_time_outside_the_range_is_moved_to_its_edge(said: timedelta, believed: timedelta) -> None:
    assert clamp_occurred_at(NOW + said, NOW) == NOW + believed


def test_an_event_without_a_time_happened_when_it_was_accepted() -> None:
    assert clamp_occurred_at(None, NOW) == NOW
