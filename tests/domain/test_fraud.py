"""The first fraud score: rules are exceeded, not met; points add up; a missing entity is a reason."""

import pytest

from domain.fraud import HOLD_AT, RULES, Entity, Metric, Rule, Velocity, Window, score

QUIET = Velocity(1, 1, 1, 15_000, 15_000, 15_000)
ALL_QUIET = dict.fromkeys(Entity, QUIET)


def test_a_quiet_payment_scores_nothing() -> None:
    verdict = score(ALL_QUIET)
    assert (verdict.score, verdict.reasons, verdict.hold) == (0, (), False)


def at_threshold(rule: Rule, extra: int) -> Velocity:
    names = {Window.MINUTE: "1m", Window.HOUR: "1h", Window.DAY: "24h"}
    unit = "" if rule.metric is Metric.COUNT else "_paise"
    return Velocity(**{f"{rule.metric}_{names[rule.window]}{unit}": rule.threshold + extra})


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.code))
def test_each_rule_counts_above_its_threshold_and_not_at_it(rule: Rule) -> None:
    assert score(ALL_QUIET | {rule.entity: at_threshold(rule, 0)}).reasons == ()
    verdict = score(ALL_QUIET | {rule.entity: at_threshold(rule, 1)})
    assert (verdict.score, verdict.reasons) == (rule.points, (rule.code,))


def test_codes_are_unique_and_name_entity_metric_and_window() -> None:
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    assert "user_count_1m" in codes


def test_points_add_up_to_a_hold_and_stop_at_a_hundred() -> None:
    burst = Velocity(6, 6, 6, 90_000, 90_000, 90_000)
    verdict = score(ALL_QUIET | {Entity.USER: burst, Entity.DEVICE: burst})
    assert verdict.score == HOLD_AT
    assert verdict.hold
    flood = Velocity(10**6, 10**6, 10**6, 10**12, 10**12, 10**12)
    assert score(dict.fromkeys(Entity, flood)).score == 100


def test_an_entity_that_never_arrived_has_its_own_reason_unless_the_payment_had_none() -> None:
    known = {Entity.USER: QUIET, Entity.IP: QUIET}
    verdict = score(known)
    assert verdict.reasons == ("missing_device", "missing_instrument")
    assert verdict.score == 40
    assert score(known, expected=(Entity.USER, Entity.IP)).reasons == ()
    assert score({}).hold, "a payment of which nothing is known is not credited"
