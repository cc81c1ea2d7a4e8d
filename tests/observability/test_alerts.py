"""Alerts: each fires on what it is for and not on what is just short of it, reaches its people, and has its page."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import monitor
from deploy.local import prometheus
from deploy.local.prometheus import Programs
from deploy.local.stack import LOCAL
from deploy.migrations import CHECKOUT

from .alert_cases import CASES

RULES = CHECKOUT / "deploy" / "observability" / "alerts.yaml"
ROUTES = CHECKOUT / "deploy" / "observability" / "alertmanager.yaml"
RUNBOOKS = CHECKOUT / "docs" / "runbooks"


def alerts() -> dict[str, Any]:
    """Every rule by its name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture
async def programs() -> Programs:
    return await prometheus.fetch(LOCAL, print)


def run(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, check=False, timeout=100, **more
    )


def written(rule: dict[str, Any], labels: dict[str, str], value: str) -> dict[str, str]:
    """A rule's annotations as they are told."""
    said = {}
    for name, text in rule["annotations"].items():
        filled = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda m: labels.get(m[1], "?"), text)
        said[name] = filled.replace("{{ $value }}", value)
    return said


async def test_each_alert_fires_on_its_case_and_is_quiet_just_short_of_it(
    programs: Programs, tmp_path: Path
) -> None:
    rules = alerts()
    assert set(CASES) == set(rules), "an alert without a case proves nothing"
    tests = []
    for name, case in CASES.items():
        told = {
            "exp_labels": {**rules[name]["labels"], **case.labels},
            "exp_annotations": written(rules[name], case.labels, case.value),
        }
        for series, expected in ((case.fires, [told]), (case.quiet, [])):
            tests.append(
                {
                    "interval": "1m",
                    "input_series": [{"series": s, "values": " ".join(v.split())} for s, v in series.items()],
                    "alert_rule_test": [
                        {"eval_time": f"{case.at}m", "alertname": name, "exp_alerts": expected}
                    ],
                }
            )
    file = tmp_path / "cases.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    done = run(programs.promtool, "test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_prometheus_and_alertmanager_accept_the_configuration(programs: Programs) -> None:
    for command in (
        (programs.promtool, "check", "rules", "--lint-fatal", RULES),
        (programs.promtool, "check", "config", RULES.with_name("prometheus.yaml")),
        (programs.amtool, "check-config", ROUTES),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout + done.stderr


async def test_every_alert_reaches_the_people_it_is_for(programs: Programs) -> None:
    for name, rule in alerts().items():
        severity, owner = rule["labels"]["severity"], rule["labels"]["owner"]
        expected = f"{'pager' if severity == 'page' else 'tickets'}-{owner}"
        done = run(
            programs.amtool, "config", "routes", "test", f"--config.file={ROUTES}", f"--verify.receivers={expected}",
            f"alertname={name}", f"severity={severity}", f"owner={owner}",
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout} {done.stderr}"


def test_a_page_is_not_swallowed_by_an_alert_that_does_not_exist() -> None:
    text = ROUTES.read_text()
    named = {name for names in re.findall(r'alertname=~?"([^"]+)"', text) for name in names.split("|")}
    assert named <= set(alerts()), named - set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_every_alert_has_a_runbook_that_says_what_to_do(name: str) -> None:
    page = RUNBOOKS / f"{name}.md"
    assert alerts()[name]["annotations"]["runbook"] == f"docs/runbooks/{name}.md"
    text = page.read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Meaning", "Look at", "Do", "Done when"]
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert all(len(part.split()) >= 3 for part in parts), "a heading alone helps nobody"
    links = re.findall(r"\]\((\w+\.md)\)", text)
    assert all((RUNBOOKS / link).exists() for link in links), links


def test_no_runbook_is_about_an_alert_that_is_gone() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} - {"README"} == set(alerts())


def test_the_incidents_that_alert_are_ones_that_are_counted() -> None:
    kinds = set(re.findall(r"\w+", alerts()["StreamTruncated"]["expr"].split('kind=~"')[1].split('"')[0]))
    assert kinds <= set(monitor.INCIDENTS)
