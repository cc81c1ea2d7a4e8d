"""The judge of a demo run's figures lets a good run pass and names every way a bad one is bad."""

import pytest

from deploy.figures import problems

GOOD = {
    "sent": 1000,
    "acknowledged": 1000,
    "posted": 950,
    "refused": 20,
    "exists": 30,
    "conflict": 0,
    "parked": 0,
    "quarantined": 0,
    "unknown": 0,
    "duplicates_injected": 30,
    "lost": 0,
    "double_posted": 0,
    "invariants_checked": 12,
    "invariants_violated": 0,
    "events_per_s": 812.5,
    "latency_ms": {"p50": 12.0, "p99": 80.0},
}


def test_a_good_run_has_no_problems() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lost", 1),
        ("double_posted", 1),
        ("unknown", 2),
        ("invariants_violated", 1),
        ("invariants_checked", 0),
        ("posted", 0),
        ("duplicates_injected", 19),
        ("latency_ms", {"p50": 12.0}),
        ("latency_ms", {"p50": 0.0, "p99": 0.0}),
        ("latency_ms", {"p50": None, "p99": None}),
    ],
)
def test_a_bad_figure_is_a_problem(name: str, value: object) -> None:
    assert len(problems({**GOOD, name: value})) == 1


def test_a_missing_figure_is_a_problem() -> None:
    assert problems({name: value for name, value in GOOD.items() if name != "lost"}) == ["missing: lost"]
