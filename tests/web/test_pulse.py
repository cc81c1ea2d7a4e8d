"""The live page's five-second steps: differences of running totals, never a spike after a pause."""

from web.snapshot import Pulse


def test_a_step_is_what_the_totals_rose_by_in_it() -> None:
    pulse = Pulse()
    for second, total in enumerate((100, 110, 110, 125, 130, 131, 140)):
        shown = pulse.sample(1_000.0 + second, {"credits_spent": total})
    assert shown["steps"][-2:] == [1_000, 1_005]
    assert shown["credits_spent"][-2:] == [30, 10]
    assert len(shown["steps"]) == len(shown["credits_spent"]) == Pulse.STEPS


def test_what_happened_while_nobody_looked_is_not_told_as_one_spike() -> None:
    pulse = Pulse()
    pulse.sample(1_000.0, {"credits_spent": 0})
    pulse.sample(1_060.0, {"credits_spent": 1_000_000})
    assert sum(pulse.sample(1_061.0, {"credits_spent": 1_000_007})["credits_spent"]) == 7


def test_a_new_day_starts_its_totals_again_without_a_step_below_zero() -> None:
    pulse = Pulse()
    pulse.sample(1_000.0, {"credits_spent": 900})
    assert min(pulse.sample(1_001.0, {"credits_spent": 3})["credits_spent"]) == 0
