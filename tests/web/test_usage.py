"""POST /v1/usage: committed before it answers, judged item by item, each id once and for ever."""

import asyncio
import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.web.conftest import Api, new_id, usage_event


async def statuses(api: Api, events: list[dict[str, Any]]) -> list[str]:
    answer = await api.post("/v1/usage", {"events": events})
    assert answer.status == 200, answer.body
    return [result["status"] for result in answer.body["results"]]


async def test_w30_same_body_is_replayed_another_quantity_conflicts_one_bad_of_25_spares_the_others(
    api: Api,
) -> None:
    wallet = await api.wallet()
    event = usage_event(wallet, id="w30", quantity=2)
    assert await statuses(api, [event]) == ["accepted"]
    assert await statuses(api, [event]) == ["replayed"]
    assert await statuses(api, [event | {"quantity": 3}]) == ["conflict"]
    assert await api.admin.fetchval("SELECT quantity FROM usage_metering") == 2
    batch = [usage_event(wallet) for _ in range(25)]
    batch[11]["credits"] = -1
    answer = await api.post("/v1/usage", {"events": batch})
    assert (answer.status, answer.body["accepted"], answer.body["invalid"]) == (200, 24, 1)
    bad = answer.body["results"][11]
    assert (bad["index"], bad["id"], bad["status"], bad["code"]) == (
        11,
        batch[11]["id"],
        "invalid",
        "invalid_request",
    )
    assert await api.count("usage_metering") == 25


async def test_an_event_that_comes_twice_in_one_batch_is_stored_once(api: Api) -> None:
    wallet = await api.wallet()
    event = usage_event(wallet, id="twice")
    assert await statuses(api, [event, event, event | {"credits": 11}]) == [
        "accepted",
        "replayed",
        "conflict",
    ]
    assert await api.count("usage_metering") == 1


async def test_batches_that_share_ids_and_race_store_each_event_once(api: Api) -> None:
    wallet = await api.wallet()
    events = [usage_event(wallet) for _ in range(60)]
    sends = [statuses(api, events if number % 2 else events[::-1]) for number in range(8)]
    found = [status for batch in await asyncio.gather(*sends) for status in batch]
    assert (found.count("accepted"), found.count("replayed")) == (60, 420)
    assert await api.count("usage_metering") == 60


BAD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"credits": -5}, "invalid_request"),
    ({"credits": 0}, "invalid_request"),
    ({"credits": 10**9 + 1}, "invalid_request"),
    ({"credits": 10**30}, "invalid_request"),
    ({"credits": 5.0}, "invalid_request"),
    ({"credits": "5"}, "invalid_request"),
    ({"credits": True}, "invalid_request"),
    ({"quantity": 0}, "invalid_request"),
    ({"feature": "Chat Message"}, "invalid_request"),
    ({"id": ""}, "invalid_request"),
    ({"id": "x" * 129}, "invalid_request"),
    ({"id": "a\x00b"}, "invalid_text"),
    ({"wallet_id": "17"}, "invalid_request"),
    ({"principal": "core"}, "invalid_request"),
    ({"v": 2}, "invalid_request"),
    ({"occurred_at": "2026-01-01T00:00:00"}, "invalid_request"),
    ({"occurred_at": 1700000000}, "invalid_request"),
    ({"metadata": {"a": "x" * 5000}}, "metadata_too_large"),
    ({"metadata": {"a": 10**25}}, "invalid_request"),
    ({"metadata": {"a": 1e200}}, "invalid_request"),
    ({"metadata": {"a": "\x00"}}, "invalid_text"),
    ({"metadata": {"a": [[[[[[[[[1]]]]]]]]]}}, "invalid_request"),
    ({"metadata": [1]}, "invalid_request"),
]


async def test_a_bad_event_is_reported_with_its_code_and_not_stored(api: Api) -> None:
    wallet = await api.wallet()
    for change, code in BAD_EVENTS:
        answer = await api.post(
            "/v1/usage", {"events": [usage_event(wallet, id="bad") | change, usage_event(wallet)]}
        )
        assert answer.status == 200, answer.body
        bad, other = answer.body["results"]
        assert (bad["status"], bad["code"], other["status"]) == ("invalid", code, "accepted"), change
        assert bad["reason"]
    assert await api.count("usage_metering") == len(BAD_EVENTS)
    assert await api.admin.fetchval("SELECT count(*) FROM usage_metering WHERE event_id = 'bad'") == 0


async def test_an_unknown_wallet_is_invalid_and_nothing_is_stored(api: Api) -> None:
    answer = await api.post("/v1/usage", {"events": [usage_event(new_id())]})
    assert (answer.status, answer.body["results"][0]["code"]) == (200, "unknown_wallet")
    assert await api.count("usage_metering") == 0


BAD_BODIES: list[tuple[bytes, int, str]] = [
    (b"", 422, "invalid_request"),
    (b"{", 400, "malformed_json"),
    (b'{"events": [}', 400, "malformed_json"),
    (b"[]", 422, "invalid_request"),
    (b'{"events": []}', 422, "invalid_request"),
    (b'{"events": {}}', 422, "invalid_request"),
    (b'{"v": 2, "events": [{}]}', 422, "invalid_request"),
    (b'{"events": [NaN]}', 400, "malformed_json"),
    (b'{"events": [{}], "events": [{}]}', 400, "duplicate_key"),
    (b'{"events": [{"id": "\xff"}]}', 400, "malformed_json"),
    (b'{"events": [' + b"[" * 5000 + b"]" * 5000 + b"]}", 400, "malformed_json"),
    (b'{"events": [' + b"{}," * 1000 + b"{}]}", 422, "invalid_request"),
]


async def test_a_body_that_is_no_batch_is_refused_whole(api: Api) -> None:
    for raw, status, code in BAD_BODIES:
        answer = await api.call("POST", "/v1/usage", raw=raw)
        assert (answer.status, answer.code) == (status, code), raw[:60]
    assert await api.count("usage_metering") == 0


async def test_a_duplicate_key_is_found_however_the_json_is_written(api: Api) -> None:
    wallet = (await api.wallet()).encode()
    for spaces in (b"", b" "):
        await duplicates(api, wallet, spaces)
    assert await api.count("usage_metering") == 0


async def duplicates(api: Api, wallet: bytes, spaces: bytes) -> None:
    event = b'{"id":"d","wallet_id":"%s","feature":"f","credits":1,%s"credits":1000}' % (wallet, spaces)
    nested = b'{"id":"n","wallet_id":"%s","feature":"f","credits":1,"metadata":{"a":1,%s"a":2}}' % (
        wallet,
        spaces,
    )
    answer = await api.call("POST", "/v1/usage", raw=b'{"events":[%s,%s]}' % (event, nested))
    assert [r["code"] for r in answer.body["results"]] == ["duplicate_key", "duplicate_key"]


async def test_a_megabyte_of_metadata_is_refused_and_a_longer_body_is_413(api: Api) -> None:
    wallet = await api.wallet()
    big = usage_event(wallet, metadata={"a": "x" * 1_000_000})
    answer = await api.post("/v1/usage", {"events": [big]})
    assert (answer.status, answer.body["results"][0]["code"]) == (200, "metadata_too_large")
    bigger = json.dumps({"events": [usage_event(wallet, metadata={"a": "x" * 1_048_576})]}).encode()
    async with api.http.post(
        f"{api.url}/v1/usage",
        data=io.BytesIO(bigger),
        headers={"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"},
    ) as response:
        assert (response.status, (await response.json())["code"]) == (413, "body_too_large")
    assert await api.count("usage_metering") == 0


async def test_when_it_happened_is_clamped_once_and_stays(api: Api) -> None:
    wallet = await api.wallet()
    now = datetime.now(UTC)
    said = {"old": now - timedelta(days=9), "new": now + timedelta(days=9), "now": now - timedelta(hours=1)}
    events = [usage_event(wallet, id=name, occurred_at=at.isoformat()) for name, at in said.items()]
    await statuses(api, events)
    rows = await api.admin.fetch("SELECT event_id, occurred_at FROM usage_metering")
    stored = {row["event_id"]: row["occurred_at"] for row in rows}
    assert abs(stored["old"] - (now - timedelta(hours=24))) < timedelta(seconds=10)
    assert abs(stored["new"] - (now + timedelta(minutes=5))) < timedelta(seconds=10)
    assert stored["now"] == said["now"]
    await asyncio.sleep(0.05)
    assert await statuses(api, events) == ["replayed"] * 3
    assert stored["old"] == await api.admin.fetchval(
        "SELECT occurred_at FROM usage_metering WHERE event_id = 'old'"
    )


async def test_an_outcome_is_asked_for_and_waited_for(api: Api) -> None:
    wallet = await api.wallet(credits=100)
    loop = asyncio.get_running_loop()
    started = loop.time()
    answer = await api.post("/v1/usage?wait=120", {"events": [usage_event(wallet, id="u/1 é")]})
    assert answer.body["results"][0]["outcome"]["outcome"] == "pending"
    assert 0.1 < loop.time() - started < 2
    waiting = asyncio.create_task(api.get("/v1/usage/u%2F1%20%C3%A9?wait=5000"))
    await asyncio.sleep(0.1)
    await api.admin.execute(
        "INSERT INTO refusals (idempotency_key, request_hash, wallet_id, transaction_type, amount_credits, reason,"
        " balance_credits, batch_id, ord, occurred_at) VALUES ('local:u/1 é', '', $1, 'spend', 10, 'insufficient_credits',"
        " 3, gen_random_uuid(), 1, now())",
        wallet,
    )
    found = await asyncio.wait_for(waiting, 2)
    outcome = found.body["outcome"]
    assert (outcome["outcome"], outcome["reason"], outcome["balance_credits"]) == (
        "refused",
        "insufficient_credits",
        3,
    )


async def test_a_wait_beyond_ten_seconds_is_refused(api: Api) -> None:
    answer = await api.get("/v1/usage/x?wait=10001")
    assert (answer.status, answer.code) == (400, "invalid_parameter")


async def test_a_thousand_events_are_one_statement(api: Api) -> None:
    wallet = await api.wallet()
    before = await api.admin.fetchval(
        "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    )
    assert before is not None
    events = [usage_event(wallet) for _ in range(1000)]
    assert await statuses(api, events) == ["accepted"] * 1000
    assert await api.admin.fetchval("SELECT count(DISTINCT xmin::text) FROM usage_metering") == 1
