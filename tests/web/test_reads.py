"""Aggregates, watermarks and the live page: what is true, and at which offset."""

import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from tests.web.conftest import Api, new_id
from web.snapshot import mask

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


async def windows(api: Api) -> None:
    """Twelve minutes of two features, each minute 10 + 1 credits for 100 + 10 paise."""
    for number in range(12):
        for feature, credits in (("chat.message", 10), ("ai.summary", 1)):
            await api.admin.execute(
                "INSERT INTO billing_windows (metric, resolution, dimension, window_start, count, credits, amount_paise,"
                " as_of_partition, as_of_offset) VALUES ('credits_spent', '1m', $1, $2, 2, $3, $4, 0, 7)",
                f"community=-,feature={feature}",
                NOON + timedelta(minutes=number),
                credits,
                credits * 10,
            )
    await api.admin.execute(
        "INSERT INTO consumer_offsets (topic, partition, consumer_group, last_offset) VALUES"
        " ('analytics.billing', 0, 'commdesk', 7), ('analytics.billing', 1, 'commdesk', NULL),"
        " ('analytics.billing', 0, 'another', 99)"
    )


async def test_minutes_are_summed_into_fives_and_the_answer_says_what_it_is_true_at(api: Api) -> None:
    await windows(api)
    span = "from=2026-03-01T12:00:00Z&to=2026-03-01T17:42:00%2B05:30"
    answer = await api.get(f"/v1/aggregates/credits_spent?window=5m&{span}")
    assert answer.status == 200, answer.body
    found = [
        (w["window_start"][11:16], w["count"], w["credits"], w["amount_paise"]) for w in answer.body["items"]
    ]
    assert found == [("12:00", 20, 55, 550), ("12:05", 20, 55, 550), ("12:10", 8, 22, 220)]
    true_at = [(t["partition"], t["offset"]) for t in answer.body["true_at"]]
    assert true_at == [(0, 7), (1, None)]
    minutes = await api.get(f"/v1/aggregates/revenue_recognised?window=1m&{span}")
    assert [w["amount_paise"] for w in minutes.body["items"]] == [110] * 12


async def test_a_dimension_filters_or_breaks_down(api: Api) -> None:
    await windows(api)
    span = "from=2026-03-01T12:00:00Z&to=2026-03-01T12:05:00Z"
    one = await api.get(f"/v1/aggregates/credits_spent?window=5m&{span}&dimension=feature=ai.summary")
    assert [(w["value"], w["credits"]) for w in one.body["items"]] == [(None, 5)]
    split = await api.get(f"/v1/aggregates/credits_spent?window=5m&{span}&by=feature")
    assert [(w["value"], w["credits"]) for w in split.body["items"]] == [
        ("ai.summary", 5),
        ("chat.message", 50),
    ]


async def test_an_impossible_question_is_a_400(api: Api) -> None:
    for query in (
        "window=2m",
        "from=yesterday",
        "from=2026-03-01T12:00:00",
        "from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z",
        "window=1m&from=2025-03-01T00:00:00Z&to=2026-03-01T00:00:00Z",
        "to=0001-01-01T00:00:00Z",
        "from=9999-12-31T23:59:59-12:00",
        "by=feature'--",
    ):
        answer = await api.get(f"/v1/aggregates/payments?{query}")
        assert (answer.status, answer.code[:8]) == (400, "invalid_"), query


async def test_a_publisher_learns_what_it_may_forget(api: Api) -> None:
    session = new_id()
    path = f"/v1/publishers/chat/sessions/{session}/watermarks"
    assert (await api.get(path)).body["items"] == []
    await api.admin.execute(
        "INSERT INTO publisher_watermarks (publisher, session, topic, partition, covered_seq) VALUES"
        " ('chat', $1, 'wallet.debit', 3, 9), ('chat', $1, 'wallet.debit', 0, 4), ('other', $1, 'wallet.debit', 0, 99)",
        session,
    )
    assert (await api.get(path)).body["items"] == [
        {"partition": 0, "covered_seq": 4},
        {"partition": 3, "covered_seq": 9},
    ]


async def test_the_live_stream_sends_one_snapshot_to_everyone(api: Api) -> None:
    user = await api.user()
    wallet = await api.wallet(owner=user)
    await api.post("/v1/payments/orders", {"user_id": user, "wallet_id": wallet, "pack_paise": 50_000})
    async with (
        api.http.get(f"{api.url}/v1/live") as one,
        api.http.get(f"{api.url}/v1/live") as two,
    ):
        first, second = await snapshot(one), await snapshot(two)
    assert one.content_type == "text/event-stream"
    assert first["payments"][0]["amount_paise"] == 50_000
    assert first["payments"][0]["customer"] == "a•••@example.com"
    assert "9999999999" not in json.dumps(first)
    assert first["topics"][0]["name"] == "webhook.processing"
    backlog = {t["name"]: t["backlog"] for t in first["topics"]}
    assert backlog["analytics.billing"] == 1
    assert len(first["series"]["minutes"]) == 60
    assert second["payments"] == first["payments"]


async def snapshot(response: aiohttp.ClientResponse) -> dict:  # type: ignore[type-arg]
    async for line in response.content:
        if line.startswith(b"data: "):
            return dict(json.loads(line[6:]))
    pytest.fail("the stream ended")


async def test_the_page_and_its_own_files_are_served_and_nothing_else(api: Api) -> None:
    page = await api.get("/", Authorization="")
    assert page.status == 200
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert (await api.get("/static/vendor/uplot.js", Authorization="")).status == 200
    for path in ("/static/../app.py", "/static/%2e%2e/app.py", "/static/index.html", "/static/nope.js"):
        assert (await api.get(path, Authorization="")).status == 404, path


async def test_the_page_is_not_local_to_a_foreign_name_or_a_proxy(api: Api) -> None:
    for headers in ({"Host": "evil.example"}, {"X_Forwarded_For": "203.0.113.9"}):
        for path in ("/", "/v1/live"):
            assert (await api.get(path, Authorization="", **headers)).status == 401
    token = await api.get("/", Authorization="", Host="evil.example", Cookie=f"core_token={api.token}")
    assert token.status == 200


def test_customers_are_masked() -> None:
    assert mask("asha@example.com", None) == "a•••@example.com"
    assert mask(None, "9876543210") == "••••••3210"
    assert mask(None, None) == "–"
