"""A minute of faults on the whole system, as `./dev faults` plays it: nothing lost, doubled, out of order or out of balance,
and a real Prometheus raises the alert of every kind.
"""

from pathlib import Path

import pytest

from bench.faults import report
from bench.faults.deck import DECK
from bench.faults.load import Rates
from bench.faults.run import by_seed, run

SEED, SECONDS = 1, 60.0
KINDS = (
    "worker: kill -9",
    "worker: SIGSTOP",
    "worker: SIGTERM",
    "postgres: kill -9",
    "postgres: sessions ended mid-commit",
    "rabbitmq: tails cut",
    "rabbitmq: partition",
    "web: kill -9",
    "webhooks: lost",
    "webhooks: duplicated",
    "services: unreadable records",
    "services: poison event",
)


@pytest.mark.timeout(420)
async def test_a_minute_of_faults_leaves_nothing_wrong(tmp_path: Path) -> None:
    deck = [kind for kind in DECK if str(kind) in KINDS]
    assert len(deck) == len(KINDS)
    outcome = await run(SEED, SECONDS, by_seed(SEED, deck), tmp_path / "logs", rates=Rates(), watched=True)
    found = report.figures(outcome)
    assert set(found["faults"]) == set(KINDS)
    assert found["alerts_missing"] == [], found["alerts_raised"]
    assert {"DeadLetters", "ProcessDown", "PostgresDown", "Quarantined"} <= {
        name for names in found["alerts_raised"].values() for name in names
    }
    assert report.passed(found), (found, outcome.verdict.wrong(), outcome.violations, outcome.not_drained)
