"""Dead letters over the API and by command: read, replayed, given up, with who and why; and their copies on a stream."""

import json
from uuid import uuid4

import asyncpg
import pytest

from agents.dead_letters import DeadLetters
from deploy import queue as cli
from sql.db import Database as Pool
from sql.db import DatabaseSettings
from streams.address import Address
from streams.dead import read_dead
from streams.topics import declare
from streams.wire import Refused
from tests.conftest import Broker
from tests.conftest import Database as Prepared
from tests.web.conftest import Api, api, gateway

__all__ = ["api", "gateway"]


async def die(admin: asyncpg.Connection, topic: str = "analytics.billing", **event: object) -> int:
    """A dead letter, as agents leave it."""
    payload = {
        "event": {"kind": "test"} | event,
        "publisher": None,
        "accepted_at": "2026-11-23T06:00:00+00:00",
    }
    return int(
        await admin.fetchval(
            "INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, state, attempt, next_at, reason,"
            " error, finished_at) VALUES ($1, 0, 1, 7, $2, $3, 'dead', 12, now(), 'failed', 'ValueError: x', now()) RETURNING id",
            topic,
            str(uuid4()),
            json.dumps(payload),
        )
    )


async def test_dead_letters_are_listed_by_page_and_topic(api: Api) -> None:
    ids = [await die(api.admin) for _ in range(3)] + [await die(api.admin, "wallet.debit")]
    page = await api.get("/v1/dead-letters?limit=2")
    assert [item["id"] for item in page.body["items"]] == ids[:1:-1]
    rest = await api.get(f"/v1/dead-letters?limit=2&cursor={page.body['next']}")
    assert [item["id"] for item in rest.body["items"]] == ids[1::-1]
    assert rest.body["next"] is None
    of_topic = await api.get("/v1/dead-letters?topic=wallet.debit")
    assert [item["topic"] for item in of_topic.body["items"]] == ["wallet.debit"]
    assert of_topic.body["items"][0]["error"] == "ValueError: x"


async def test_a_replay_and_a_purge_say_who_and_why_and_happen_once(api: Api) -> None:
    first, second = await die(api.admin), await die(api.admin)
    answer = await api.post(f"/v1/dead-letters/{first}/replay", {"why": "the bug is fixed"})
    assert answer.status == 200
    assert (answer.body["letter"]["state"], answer.body["letter"]["attempt"]) == ("due", 0)
    [deed] = answer.body["story"]
    assert (deed["actor"], deed["action"], deed["why"]) == ("local", "dead_letter.replay", "the bug is fixed")
    assert (await api.post(f"/v1/dead-letters/{first}/replay", {"why": "again"})).code == "not_dead"
    answer = await api.post(f"/v1/dead-letters/{second}/purge", {"why": "a test"})
    assert answer.body["letter"]["state"] == "purged"
    assert (await api.post(f"/v1/dead-letters/{second}/purge", {"why": "a test"})).code == "not_purgeable"
    assert (await api.post("/v1/dead-letters/999/replay", {"why": "x"})).status == 404
    assert (await api.get("/v1/dead-letters/nonsense")).status == 404
    assert (await api.post(f"/v1/dead-letters/{first}/replay", {"why": ""})).status == 422
    assert (await api.post(f"/v1/dead-letters/{first}/replay", {})).status == 422


async def test_all_of_a_topic_are_replayed_at_once(api: Api) -> None:
    ids = [await die(api.admin) for _ in range(3)]
    other = await die(api.admin, "wallet.debit")
    answer = await api.post(
        "/v1/dead-letters/replay", {"topic": "analytics.billing", "why": "fixed", "limit": 2}
    )
    assert answer.body == {"ids": ids[:2]}
    assert await api.admin.fetchval("SELECT state FROM retries WHERE id = $1", other) == "dead"


async def test_an_uncredited_purchase_is_not_given_up(api: Api) -> None:
    id = await die(api.admin, "wallet.credit", kind="purchase", payment_id=str(uuid4()))
    assert (await api.post(f"/v1/dead-letters/{id}/purge", {"why": "old"})).code == "not_purgeable"


async def test_nobody_without_a_token_reads_dead_letters(api: Api) -> None:
    assert (await api.get("/v1/dead-letters", Authorization="")).status == 401
    assert (await api.post("/v1/dead-letters/1/purge", {"why": "x"}, Authorization="Bearer no")).status == 401


async def test_the_command_lists_shows_replays_and_closes_breakers(
    database: Prepared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    admin = await asyncpg.connect(database.admin_url)
    first, second = await die(admin), await die(admin)
    assert await cli.main(cli.parse(["list"])) == 0
    assert await cli.main(cli.parse(["show", str(first)])) == 0
    assert await cli.main(cli.parse(["--actor", "asha", "replay", "--why", "fixed", str(first)])) == 0
    assert (
        await cli.main(cli.parse(["--actor", "asha", "purge", "--why", "test", str(second), str(first)])) == 1
    )
    await admin.execute("UPDATE breakers SET state = 'open', retry_at = now() WHERE topic = 'wallet.debit'")
    assert await cli.main(cli.parse(["breakers"])) == 0
    assert (
        await cli.main(
            cli.parse(["--actor", "asha", "breakers", "--close", "wallet.debit", "--why", "fixed"])
        )
        == 0
    )
    assert await cli.main(cli.parse(["incidents"])) == 0
    assert await cli.main(cli.parse(["archive"])) == 0
    rows = await admin.fetch("SELECT actor, action FROM audit_logs ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("asha", "dead_letter.replay"),
        ("asha", "dead_letter.purge"),
        ("asha", "breaker.close"),
    ]
    assert "1 of 2 are given up" in capsys.readouterr().out
    await admin.close()
    with pytest.raises(SystemExit):
        cli.parse(["replay", str(first)])


async def test_a_dead_letter_is_copied_once_to_its_topics_stream(database: Prepared, broker: Broker) -> None:
    await declare(broker.admin_url, 1)
    address = Address.parse(broker.url)
    admin = await asyncpg.connect(database.admin_url)
    async with await Pool.connect(DatabaseSettings(database_url=database.url)) as db:
        mirror = DeadLetters(db, address, holder="test")
        ids = [await die(admin), await die(admin)]
        assert await mirror.once() == 2
        assert await mirror.once() == 0
        letters = await read_dead(address, "analytics.billing")
        assert [(x.id, x.topic, x.error, x.attempt) for x in letters] == [
            (id, "analytics.billing", "ValueError: x", 12) for id in ids
        ]
        await admin.execute("UPDATE retries SET mirrored_at = NULL WHERE id = $1", ids[0])  # it died again
        assert await mirror.once() == 1
    await admin.close()
    assert await read_dead(address, "wallet.debit") == []
    with pytest.raises(Refused):  # services see nobody's dead letters
        await read_dead(Address.parse(broker.service_url), "analytics.billing")
