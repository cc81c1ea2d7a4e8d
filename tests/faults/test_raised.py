"""Which alerts a fault raised: what began to be so while it held, and nobody else's."""

import re
import time
from datetime import UTC, datetime

import yaml

from bench.faults import alerts, report
from bench.faults.alerts import GRACE_S, Seen, Span
from bench.faults.deck import DECK
from deploy.observability import watch
from deploy.observability.watch import Alert

BEGAN = time.monotonic()


def burns(name: str, since_s: float, until_s: float) -> tuple[Alert, float]:
    """An alert from `since_s` on, last seen at `until_s`, both seconds after BEGAN."""
    since = datetime.fromtimestamp(time.time() - time.monotonic() + BEGAN + since_s, UTC)
    return Alert(name, since, (("instance", name),)), BEGAN + until_s


def span(kind: str, began_s: float, ended_s: float, *expected: str) -> Span:
    return Span(kind, expected, BEGAN + began_s, BEGAN + ended_s)


def test_what_begins_while_a_fault_holds_or_just_after_is_its() -> None:
    seen = Seen(dict([burns("PostgresDown", 12, 20), burns("RedisDown", 15 + GRACE_S - 1, 40)]))
    found = alerts.figures(
        [
            span("postgres: kill -9", 10, 15, "PostgresDown"),
            span("valkey: kill -9", 10, 15, "RedisDown"),
            span("web: kill -9", 60, 65, "ProcessDown"),
            span("webhooks: lost", 10, 15),
        ],
        seen,
    )
    assert found["alerts_missing"] == ["web: kill -9"]
    assert found["alerts_raised"]["postgres: kill -9"] == {"PostgresDown": 1, "RedisDown": 1}
    assert "webhooks: lost" not in found["alerts_expected"]


def test_what_another_fault_left_burning_proves_nothing_for_this_one_and_nothing_against_it() -> None:
    before = Seen(dict([burns("StreamTruncated", -5, 12)]))
    again = span("rabbitmq: stream deleted", 10, 15, "StreamTruncated")
    assert alerts.figures([again], before) == {
        "alerts_expected": {"rabbitmq: stream deleted": ["StreamTruncated"]},
        "alerts_raised": {"rabbitmq: stream deleted": {}},
        "alerts_missing": [],
    }
    over = Seen(dict([burns("StreamTruncated", -5, 9)]))
    assert alerts.figures([again], over)["alerts_missing"] == ["rabbitmq: stream deleted"]


def test_several_runs_are_added_up_and_what_one_missed_is_missing() -> None:
    seen = Seen(dict([burns("PostgresDown", 12, 20)]))
    good = alerts.figures([span("postgres: kill -9", 10, 15, "PostgresDown")], seen)
    silent = alerts.figures([span("postgres: kill -9", 60, 65, "PostgresDown")], seen)
    assert alerts.together([good, good, {}])["alerts_raised"] == {"postgres: kill -9": {"PostgresDown": 2}}
    assert alerts.together([good, silent])["alerts_missing"] == ["postgres: kill -9"]
    assert alerts.together([{}]) == {}


def test_a_sum_of_runs_keeps_what_was_never_there() -> None:
    run = {"seed": 1, "lost": 0, "without_our_client": {"lost": 0, "sent": 3}, "recoveries": {}}
    assert report.together([run, run])["without_our_client"] == {"lost": 0, "sent": 6}


def test_a_kind_expects_alerts_that_there_are() -> None:
    rules = yaml.safe_load(watch.RULES.read_text())["groups"]
    known = {rule["alert"] for group in rules for rule in group["rules"]}
    assert {name for kind in DECK for name in kind.alerts} <= known
    struck = {"worker", "web", "postgres", "rabbitmq", "valkey"}
    assert all(
        kind.alerts for kind in DECK if kind.component in struck and kind.name in ("kill -9", "SIGSTOP")
    )


def test_a_minute_of_every_rule_is_a_second() -> None:
    text = watch.RULES.read_text()
    hurried = watch.hurried(text)
    assert "for: 5000ms" in hurried
    assert "[1440000ms] offset 15000ms" in hurried
    assert not re.search(r"(for: |\[|offset )\d+[smhd]\b", hurried)
    plain = re.compile(r"(for: |\[|offset )\d+(ms|[smhd])")
    assert plain.sub("", hurried) == plain.sub("", text), "nothing else is changed"
