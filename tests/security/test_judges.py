"""The harness can fail: each judge is shown a system with a hole, and finds it."""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bench.security import payloads, tokens, webhooks
from bench.security.canaries import found_in
from bench.security.door import Due, Sent, Vector
from bench.security.edge import Edge
from bench.security.forge import Forge
from bench.security.forgeries import forgeries
from bench.security.issuer import Issuer
from bench.security.report import BOUNDS, Report
from bench.security.smuggling import smuggled
from gateway import signature
from tests.web.conftest import serving
from web.router import ROUTES

FORGE = Forge(b"secret", b"older", time.time_ns() // 1_000_000, "judge")
GOOD: dict[str, Any] = {
    "vectors": 244,
    "forged_accepted": 0,
    "genuine_sent": 1000,
    "genuine_accepted": 1000,
    "unexpected_5xx": 0,
    "jwt_attacks": 201,
    "jwt_accepted": 0,
    "rbac_cells": 900,
    "rbac_violations": 0,
    "rbac_route_coverage": 1.0,
    "canary_leaks": 0,
    "limiter_bypass_ratio": 1.0,
    "rss_before_mb": 110.0,
    "max_rss_mb": 150.0,
    "p99_alone_ms": 30.0,
    "p99_attacked_ms": 50.0,
}


@dataclass
class StandIn:
    """A door for webhooks that stores in a list. `checks`: whether it looks at the signature; `once`: at what it knows."""

    checks: bool = True
    once: bool = True
    stored: list[dict[str, Any]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        verdict = signature.verify(raw, request.headers, [FORGE.secret, FORGE.older], FORGE.now_ms)
        if self.checks and (signature.refused_unread(request.headers) or not verdict.ok):
            return web.Response(status=401)
        try:
            known = json.loads(raw)["data"]["payment"]["cf_payment_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return web.Response(status=200)
        if self.once and any(row["id"] == known for row in self.stored):
            return web.Response(status=200)
        self.stored.append(
            {"kind": "payment", "stale": verdict.stale, "deliveries": 1, "body": raw, "id": known}
        )
        return web.Response(status=200)

    async def rows(self, _: str, /, *args: Any) -> list[dict[str, Any]]:
        del args
        return self.stored


async def attacked(stand_in: StandIn) -> webhooks.Judged:
    """What the judge says of a stand-in."""
    app = web.Application()
    app.router.add_post("/v1/webhooks/cashfree", stand_in.take)
    vectors = [*forgeries(FORGE, retired=b"r", sandbox=b"s", client_id=b"c"), *smuggled(FORGE)]
    quick = [v for v in vectors if "bomb" not in v.name]
    async with serving(app) as url:
        found = [await webhooks.attack(url, quick, 1), await webhooks.replay(url, FORGE, 30)]
        return webhooks.judge(found, await webhooks.inbox(stand_in.rows), [], Counter())


async def test_without_the_check_of_the_signature_forgeries_are_found_accepted() -> None:
    judged = await attacked(StandIn(checks=False))
    assert judged.forged_accepted > 40
    assert any("a wrong secret" in line for line in judged.wrong)


async def test_a_door_that_checks_signatures_alone_is_told_from_one_that_does_not() -> None:
    judged = await attacked(StandIn())
    named = [line for line in judged.wrong if line.startswith("accepted")]
    # A signature that is good is all that this stand-in asks: it reads what the gateway would never send.
    assert all("well signed" in line or "no version" in line for line in named), named


async def test_a_replay_that_makes_a_second_row_is_found() -> None:
    judged = await attacked(StandIn(once=False))
    assert any("the same bytes, 30 times at once" in line and "accepted" in line for line in judged.wrong)


def test_a_genuine_webhook_that_is_missing_doubled_or_refused_is_found() -> None:
    row = webhooks.Row(actionable=True, stale=False, deliveries=1)
    stored = {"a": [row], "b": [], "c": [row, row]}
    judged = webhooks.judge([], stored, ["a", "b", "c"], Counter({200: 3}))
    assert (judged.genuine_sent, judged.genuine_accepted) == (3, 1)
    assert webhooks.judge([], {"a": [row]}, ["a"], Counter({429: 1})).genuine_accepted == 0


def test_a_stale_one_must_be_marked_and_an_error_of_ours_is_counted() -> None:
    vector = Vector("time a year old", (b"",), ("a",), Due.STALE)
    fresh = {"a": [webhooks.Row(actionable=True, stale=False, deliveries=1)]}
    one = webhooks.Attacked([(vector, Sent([200]))])
    assert webhooks.judge([one], fresh, [], Counter()).forged_accepted == 1
    refused = webhooks.judge([webhooks.Attacked([(vector, Sent([401]))])], {}, [], Counter())
    assert refused.forged_accepted == 0
    assert "not taken as stale" in refused.wrong[0]
    broken = webhooks.Attacked([(Vector("x", (b"",), ("b",)), Sent([500]))])
    assert webhooks.judge([broken], {}, [], Counter()).unexpected_5xx == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vectors", 59),
        ("forged_accepted", 1),
        ("genuine_accepted", 999),
        ("unexpected_5xx", 1),
        ("jwt_accepted", 1),
        ("rbac_violations", 1),
        ("rbac_route_coverage", 0.99),
        ("canary_leaks", 1),
        ("limiter_bypass_ratio", 1.06),
        ("limiter_bypass_ratio", 0.0),
        ("max_rss_mb", 401.0),
        ("max_rss_mb", 270.0),
        ("p99_attacked_ms", 61.0),
    ],
)
def test_each_bound_can_be_broken(name: str, value: float) -> None:
    assert Report(dict(GOOD)).passed
    report = Report(GOOD | {name: value})
    assert not report.passed
    assert [line.split()[0] for line in report.broken()] == [name]


def test_every_figure_of_the_report_has_a_bound_and_something_wrong_fails_it_too() -> None:
    assert set(GOOD) - {"rss_before_mb", "p99_alone_ms"} == set(BOUNDS)
    assert not Report(dict(GOOD), ["something"]).passed


@pytest.fixture
async def lenient() -> AsyncIterator[Edge]:
    """An API that lets anybody in, and says back what it is told, in a page."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=f"<p>{await request.text()}{request.path}</p>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Edge(url, http)


async def test_an_api_that_lets_every_token_in_is_found(lenient: Edge) -> None:
    figures = await tokens.measure(lenient, Issuer())
    assert figures.jwt_accepted == figures.jwt_attacks > 150


async def test_a_page_that_says_back_what_it_is_told_is_found(lenient: Edge) -> None:
    text = "<script>alert(1)</script>"
    answer = await lenient.post("/v1/users", {"name": text})
    made = payloads.Try(ROUTES[0], "name", "XSS", text, "/v1/users", None, {})
    assert payloads.reflected(answer, made) == "stands in a page"
    assert "the page's policy" in " ".join(await payloads.check_page(lenient, ""))


def test_a_log_that_can_be_written_to_from_outside_is_found() -> None:
    line = '{"event": "request"}'
    assert payloads.check_logs({"web": f"{line}\n{line}\n"}, ["web"]) == []
    for bad in ('{"event":"forged"}', "red \x1b[31m", "not JSON", '{"event": "a\x9b31m"}', '["a"]'):
        assert payloads.check_logs({"web": f"{line}\n{bad}\n"}, ["web"]), bad


async def test_a_text_that_is_stored_otherwise_than_it_was_sent_is_found() -> None:
    figures = payloads.Figures(sent={"inj000001x": "inj000001x<b>"})

    async def rows(statement: str, /, *args: Any) -> list[dict[str, str]]:
        del args
        if "pg_tables" in statement:
            return [{"tablename": "users", "statement": "look"}]
        return [{"row": json.dumps({"name": "inj000001x&lt;b&gt;"})}]

    await payloads.check_stored(rows, figures)
    assert len(figures.wrong) == 1


def test_a_canary_is_found_wherever_it_sits() -> None:
    sinks = {"the log": "a canary-vpa@upi b", "the spans": "nothing"}
    assert found_in(sinks, ("canary-vpa", "9812345670")) == [("the log", "canary-vpa")]


def test_the_vectors_are_many_differ_and_are_the_same_for_the_same_seed() -> None:
    def made() -> list[Vector]:
        forge = Forge(b"secret", b"older", 1_700_000_000_000, "same")
        return [*forgeries(forge, retired=b"r", sandbox=b"s", client_id=b"c"), *smuggled(forge)]

    first, second = made(), made()
    assert len({v.name for v in first}) == len(first) >= 200
    assert len({v.pieces for v in first}) == len(first)
    assert [v.name for v in first] == [v.name for v in second]
