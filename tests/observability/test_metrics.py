"""Metrics: documented is what real processes show; dashboards and alerts ask a real Prometheus for nothing else."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agents.monitor import Board
from deploy.migrations import CHECKOUT
from deploy.observability import boards, grafana, metrics

from .house import House
from .watcher import scraping

OBSERVABILITY = CHECKOUT / "deploy" / "observability"
_THEIRS = re.compile(r"(process|python)_\w+|up")
# What a calm, young system has nothing to tell about.
_CALM = re.compile(
    r"case|[Rr]efund|Parked|Set aside|Quarantined|Away|check|unchecked|reconciliation|budget|Incidents|Refused|failed"
    r"|Usage|Held|Retention|Without an outcome|Age of the oldest|Events not applied"
)
_WORDS = frozenset(
    """sum max min count avg by without and or unless on ignoring offset bool rate increase vector absent
    histogram_quantile""".split()  # noqa: SIM905
)


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of every panel and every alert."""
    yield from boards.expressions()
    for group in yaml.safe_load((OBSERVABILITY / "alerts.yaml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def names_in(expr: str) -> set[str]:
    """The metrics that an expression asks for, as documented: a histogram without its suffix, without the client's own."""
    bare = re.sub(r'"[^"]*"', '""', expr)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\boffset \w+|\b(by|without)\s*\([^)]*\)", " ", bare)
    found = set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b", bare)) - _WORDS
    histograms = {m.name for m in metrics.metrics() if m.kind == "histogram"}
    suffixes = {f"{name}{end}": name for name in histograms for end in ("_bucket", "_sum", "_count")}
    return {suffixes.get(name, name) for name in found if not _THEIRS.fullmatch(name)}


def test_the_page_of_metrics_is_current() -> None:
    assert metrics.FILE.read_text() == metrics.page(), "run python -m deploy.observability.metrics"


def test_names_and_units_keep_the_rules() -> None:
    for metric in metrics.metrics():
        assert re.fullmatch(r"(core|stream|sql|gateway|web)_[a-z_]+", metric.name), metric.name
        assert (metric.kind == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.text, metric.name
        assert not re.search(r"_(ms|millis|kb|mb|minutes)\b", metric.name), f"{metric.name}: base units"


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.uid)
def test_the_dashboards_are_current(board: boards.Board) -> None:
    file = grafana.FOLDER / f"{board.uid}.json"
    assert file.read_text() == grafana.built(board), "run python -m deploy.observability.grafana"
    targets = [t["expr"] for p in json.loads(file.read_text())["panels"] for t in p.get("targets", [])]
    assert set(targets) == {line.expr for panels in board.rows.values() for p in panels for line in p.lines}


@pytest.mark.parametrize(("where", "expr"), list(expressions()))
def test_expressions_ask_for_documented_metrics_alone(where: str, expr: str) -> None:
    asked = names_in(expr)
    assert asked or _THEIRS.search(expr), f"{where}: nothing is asked"
    assert asked <= {m.name for m in metrics.metrics()}, f"{where}: {asked}"


def test_a_counter_of_the_whole_system_never_falls_and_is_gone_with_the_duty() -> None:
    board = Board()
    board.show({"core_monitor_up": {(): 1}})
    board.count("core_refunds", ("FORCED",), total=5)
    board.count("core_refunds", ("FORCED",), total=4)
    board.count("core_outcomes", ("wallet.debit", "posted"), more=2)
    board.count("core_outcomes", ("wallet.debit", "posted"), more=3)

    def shown() -> dict[str, float]:
        return {s.name: s.value for family in board.collect() for s in family.samples}

    assert shown()["core_refunds_total"] == 5
    assert shown()["core_outcomes_total"] == 5
    board.clear()
    assert shown() == {}


async def scraped(house: House) -> dict[str, str]:
    """Type by name, over the /metrics of web and worker, once the worker measures."""
    texts: list[str] = []

    async def measures() -> bool:
        texts.clear()
        for url in (f"{house.url}/metrics", house.metrics_url):
            async with house.http.get(url) as answer:
                texts.append(await answer.text())
        return "core_monitor_up 1.0" in texts[1]

    await house.until(measures, what="nobody measured\n")
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for text in texts
        for family in text_string_to_metric_families(text)
        if not _THEIRS.fullmatch(family.name)
    }


async def test_real_processes_show_what_is_documented_and_nothing_else(observed: House) -> None:
    user, wallet = await observed.customer()
    order = await observed.pay(user, wallet)
    await observed.credited(order["payment_id"])
    real = await scraped(observed)
    documented = {m.name: m.kind for m in metrics.metrics()}
    assert real == documented


async def test_a_real_prometheus_answers_every_expression(observed: House, tmp_path: Path) -> None:
    user, wallet = await observed.customer()
    async with scraping(observed, tmp_path) as url:

        async def ask(expr: str) -> Any:
            async with observed.http.get(f"{url}/api/v1/query", params={"query": expr}) as answer:
                return await answer.json()

        async def is_scraped() -> bool:
            try:
                up = await ask('count(up{job=~"commdesk-.*"} == 1) == 2 and on () core_monitor_up == 1')
            except aiohttp.ClientError:
                return False
            return bool(up.get("data", {}).get("result"))

        await observed.until(is_scraped, what="Prometheus did not scrape\n")

        async def is_counted(expr: str) -> bool:
            return bool((await ask(expr))["data"]["result"])

        # A counter that is first scraped at its last value has no rate: the second payment makes it grow.
        for expr in ("sum(core_outcomes_total) > 0", "sum(rate(core_outcomes_total[1m])) > 0"):
            order = await observed.pay(user, wallet)
            await observed.credited(order["payment_id"])
            await observed.until(partial(is_counted, expr), what=f"{expr} is not so\n")
        answers = {(where, expr): await ask(expr) for where, expr in expressions()}
        wrong = {key: answer for key, answer in answers.items() if answer["status"] != "success"}
        assert not wrong
        empty = sorted(
            where
            for (where, _), answer in answers.items()
            if where.startswith("commdesk-") and not answer["data"]["result"]
        )
        assert not (strange := [where for where in empty if not _CALM.search(where)]), strange
        async with observed.http.get(f"{url}/api/v1/rules") as rules:
            groups = (await rules.json())["data"]["groups"]
        unhealthy = [r["name"] for g in groups for r in g["rules"] if r["health"] == "err"]
        assert not unhealthy
        firing = [
            r["name"]
            for g in groups
            for r in g["rules"]
            if r["state"] == "firing" and r["labels"]["severity"] == "page"
        ]
        assert not firing, f"a calm system pages nobody: {firing}"
