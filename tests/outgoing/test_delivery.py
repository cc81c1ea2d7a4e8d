"""What is promised to receivers: signed, at least once under one id, numbered without a gap, nobody waits for another."""

import asyncio
import random
import time

import asyncpg
import pytest
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from deploy.migrations import CHECKOUT
from domain import outgoing as rules
from domain.outgoing import RETRY_S, show_secret
from sql import outgoing
from tests.conftest import Database as Prepared

from .conftest import SECRET, Came, Desk, hang, status


def verify(came: Came, secret: bytes = SECRET) -> object:
    """As a receiver does it, by code that is not ours."""
    return Webhook(show_secret(secret)).verify(came.raw, came.headers)


async def test_an_event_arrives_signed_as_the_standard_says(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    (event,) = await desk.happen(owner)
    await desk.send(sender)
    (came,) = receiver.came
    assert verify(came) == came.body
    assert came.headers["webhook-id"] == f"evt_{event.hex}"
    assert abs(int(came.headers["webhook-timestamp"]) - time.time()) < 10
    assert came.headers["content-type"] == "application/json"
    assert came.body["type"] == "credits_granted"
    assert (came.body["sequence"], came.body["previous_sequence"]) == (1, 0)
    assert came.body["data"]["credits"] == 7
    assert came.body["data"]["amount_paise"] == 1180
    (delivery,) = await desk.deliveries(endpoint)
    assert (delivery.state, delivery.attempts, delivery.status) == ("delivered", 1, 200)


async def test_a_changed_byte_is_refused_by_the_receiver(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    await desk.send(sender)
    (came,) = receiver.came
    came.raw = came.raw.replace(b'"credits":7', b'"credits":8')
    with pytest.raises(WebhookVerificationError):
        verify(came)


async def test_while_a_secret_rotates_receivers_with_either_accept(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    fresh = bytes(reversed(range(32)))
    assert await outgoing.rotate_secret(desk.db, endpoint, fresh, overlap_s=60, actor="test")
    await desk.happen(owner)
    await desk.send(sender)
    assert verify(receiver.came[0])
    assert verify(receiver.came[0], fresh)
    assert len(receiver.came[0].headers["webhook-signature"].split()) == 2
    assert await outgoing.rotate_secret(desk.db, endpoint, bytes(40), overlap_s=0, actor="test")
    await desk.happen(owner)
    await desk.send(sender)
    assert verify(receiver.came[1], bytes(40))
    for old in (SECRET, fresh):
        with pytest.raises(WebhookVerificationError):
            verify(receiver.came[1], old)


async def test_nobody_who_logs_in_reads_a_secret(desk: Desk, database: Prepared) -> None:
    for url in (database.url, database.readonly_url):
        connection = await asyncpg.connect(url)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM outgoing_secrets")
        await connection.close()


async def test_numbers_have_no_gap_however_transactions_overlap(desk: Desk, database: Prepared) -> None:
    owners = [await desk.account() for _ in range(3)]
    receiver, sender = await desk.receiver(), await desk.sender()
    for owner in owners:
        await desk.endpoint(owner, receiver.url)
    chance = random.Random(4)
    made = []

    async def work(seed: int) -> None:
        connection = await asyncpg.connect(database.admin_url)
        mine = random.Random(seed)
        for _ in range(25):
            transaction = connection.transaction()
            await transaction.start()
            ids = [await desk.event(connection, mine.choice(owners)) for _ in range(mine.randint(1, 3))]
            await asyncio.sleep(mine.random() / 200)
            if mine.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                made.extend(ids)
        await connection.close()

    async def number() -> None:
        while True:
            await outgoing.number(desk.db, limit=chance.randint(1, 20))
            await asyncio.sleep(0.001)

    numbering = [asyncio.create_task(number()) for _ in range(3)]
    await asyncio.gather(*(work(seed) for seed in range(6)))
    for task in numbering:
        task.cancel()
    await asyncio.gather(*numbering, return_exceptions=True)
    for _ in range(30):
        await desk.send(sender)
    rows = await desk.admin.fetch(
        "SELECT owner_id, array_agg(sequence ORDER BY sequence) AS n FROM outgoing_events GROUP BY owner_id"
    )
    assert {row["owner_id"] for row in rows} == set(owners)
    assert all(row["n"] == list(range(1, len(row["n"]) + 1)) for row in rows)
    assert sorted(came.body["data"]["event_id"] for came in receiver.came) == sorted(map(str, made))
    for owner in owners:
        mine = [c.body for c in receiver.came if c.body["data"]["user_id"] == str(owner)]
        chain = {(body["previous_sequence"], body["sequence"]) for body in mine}
        assert chain == {(n - 1, n) for n in range(1, len(mine) + 1)}


async def test_who_chose_kinds_sees_a_loss_too(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    await desk.endpoint(owner, receiver.url, kinds=["low_balance"])
    for kind in ("credits_granted", "low_balance", "credits_granted", "credits_granted", "low_balance"):
        await desk.happen(owner, kind=kind)
    await desk.send(sender)
    assert [(c.body["previous_sequence"], c.body["sequence"]) for c in receiver.came] == [(0, 2), (2, 5)]


async def test_events_of_other_accounts_and_from_before_stay_away(desk: Desk) -> None:
    owner, other = await desk.account(), await desk.account()
    receiver, sender = await desk.receiver(), await desk.sender()
    await desk.happen(owner)
    await desk.endpoint(owner, receiver.url)
    await desk.happen(other, 3)
    await desk.happen(owner)
    await desk.send(sender)
    assert receiver.sequences == [1]
    assert await desk.admin.fetchval("SELECT count(*) FROM outgoing_events") == 1


async def test_a_failed_attempt_is_tried_again_under_the_same_id_with_a_fresh_timestamp(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    receiver.answer = status(500)
    await desk.send(sender)
    (delivery,) = await desk.deliveries(endpoint)
    assert (delivery.state, delivery.attempts, delivery.error) == ("pending", 1, "http_500")
    receiver.answer = None
    await desk.send(sender)
    assert len(receiver.came) == 1, "not before its time"
    await asyncio.sleep(1.1)
    await desk.hurry()
    await desk.send(sender)
    first, second = receiver.came
    assert first.raw == second.raw
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] < second.headers["webhook-timestamp"]
    assert verify(second)
    assert (await desk.standing(endpoint)).failures == 0


async def test_pauses_follow_the_schedule_and_ten_attempts_are_the_end(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    receiver.answer = status(503)
    await desk.send(sender)
    for pause_s in RETRY_S:
        waits = await desk.admin.fetchval(
            "SELECT extract(epoch FROM next_at - now())::float8 FROM outgoing_deliveries"
        )
        assert 0.88 * pause_s < waits < 1.11 * pause_s
        await desk.hurry()
        await desk.send(sender)
    (delivery,) = await desk.deliveries(endpoint)
    assert (delivery.state, delivery.attempts) == ("failed", 10)
    await desk.hurry()
    await desk.send(sender)
    assert len(receiver.came) == 10
    assert 3 * 86_400 < sum(RETRY_S) < 3.5 * 86_400


async def test_an_endpoint_that_hangs_holds_nobody_up(desk: Desk) -> None:
    hanging, well = await desk.receiver(), await desk.receiver()
    hanging.answer = hang
    for _ in range(8):
        owner = await desk.account()
        await desk.endpoint(owner, hanging.url)
        await desk.happen(owner, 5)
    owner = await desk.account()
    await desk.endpoint(owner, well.url)
    while await desk.number():
        pass
    sender = await desk.sender(outgoing_endpoints=4, outgoing_timeout_s=1.0, outgoing_lease_s=10.0)
    running = asyncio.create_task(sender.run())
    await asyncio.sleep(3.0)
    began = time.monotonic()
    await desk.happen(owner, 40)
    while len(well.came) < 40 and time.monotonic() < began + 20:
        await desk.number()
        await asyncio.sleep(0.05)
    took = time.monotonic() - began
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sorted(well.sequences) == list(range(1, 41))
    assert took < 5.0, "the others' time-outs are not ours"


async def test_after_failures_in_a_row_an_endpoint_is_left_alone_for_a_while_then_probed_by_one(
    desk: Desk,
) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner, 30)
    receiver.answer = status(500)
    await desk.send(sender, rounds=20)
    asked = len(receiver.came)
    assert asked <= 8
    standing = await desk.standing(endpoint)
    assert standing.failures >= 5
    assert standing.blocked_until is not None
    await desk.admin.execute("UPDATE outgoing_endpoints SET blocked_until = '-infinity', due_at = now()")
    await desk.send(sender, rounds=5)
    assert len(receiver.came) == asked + 1, "one probe"
    receiver.answer = None
    await desk.admin.execute("UPDATE outgoing_endpoints SET blocked_until = '-infinity', due_at = now()")
    await desk.send(sender, rounds=5)
    await desk.hurry()
    await desk.send(sender, rounds=5)
    assert {d.state for d in await desk.deliveries(endpoint)} == {"delivered"}


async def test_a_sender_that_dies_in_the_middle_loses_nothing(desk: Desk) -> None:
    owner, receiver = await desk.account(), await desk.receiver()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner, 40)
    chance = random.Random(7)

    async def slowly(came: Came) -> web.StreamResponse:
        await asyncio.sleep(chance.random() / 50)
        return web.Response()

    receiver.answer = slowly
    sender = await desk.sender()
    for _ in range(12):
        await desk.number()
        turn = asyncio.create_task(sender.once())
        await asyncio.sleep(chance.random() / 20)
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)
        await desk.hurry()
    for _ in range(5):
        await desk.send(sender)
        await desk.hurry()
    assert set(receiver.sequences) == set(range(1, 41))
    assert {d.state for d in await desk.deliveries(endpoint)} == {"delivered"}
    ids = {came.body["sequence"]: set[str]() for came in receiver.came}
    for came in receiver.came:
        ids[came.body["sequence"]].add(came.headers["webhook-id"])
    assert all(len(known) == 1 for known in ids.values()), "what came twice came under one id"


async def test_a_turn_that_is_over_counts_no_failure(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    await desk.number()
    (old,) = await sender._lease(5, 5)
    await desk.hurry()
    (new,) = await sender._lease(5, 5)
    assert (new.turn, new.events[0].delivery_id) == (old.turn + 1, old.events[0].delivery_id)
    attempt = outgoing.Attempt(old.events[0].delivery_id, "failed", 500, "http_500", 3)
    patience = sender._settings.patience
    assert (await outgoing.record(desk.db, old, [attempt], patience)).failures == 0
    taken = outgoing.Attempt(old.events[0].delivery_id, "delivered", 200, None, 3)
    await outgoing.record(desk.db, old, [taken], patience)
    (delivery,) = await desk.deliveries(endpoint)
    assert delivery.state == "delivered", "what is delivered is delivered, whoever says it"


async def test_an_endpoint_that_fails_for_days_is_disabled_and_its_owner_told(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    receiver.answer = status(500)
    await desk.happen(owner)
    await desk.send(sender)
    await desk.admin.execute("UPDATE outgoing_endpoints SET failing_since = now() - interval '84 hours'")
    await desk.hurry()
    await desk.send(sender)
    standing = await desk.standing(endpoint)
    assert (standing.state, standing.why) == ("disabled", "failing")
    rows = await desk.admin.fetch("SELECT kind, channel, state FROM notifications ORDER BY channel")
    assert [tuple(row) for row in rows] == [
        ("endpoint_disabled", "email", "queued"),
        ("endpoint_disabled", "in_app", "sent"),
    ]
    asked = len(receiver.came)
    receiver.answer = None
    await desk.happen(owner)
    await desk.hurry()
    await desk.send(sender)
    assert len(receiver.came) == asked, "nothing goes to a disabled endpoint"
    assert await outgoing.switch(desk.db, endpoint, "enabled", actor="test")
    await desk.send(sender)
    states = [(d.sequence, d.kind, d.state) for d in await desk.deliveries(endpoint)]
    assert states == [
        (1, "credits_granted", "delivered"),
        (2, "endpoint_disabled", "delivered"),
        (3, "credits_granted", "delivered"),
    ]


async def test_who_answers_410_wants_no_more(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    receiver.answer = status(410)
    await desk.happen(owner, 3)
    await desk.send(sender, rounds=3)
    standing = await desk.standing(endpoint)
    assert (standing.state, standing.why) == ("disabled", "gone")


async def test_a_range_is_replayed_under_the_same_ids(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner, 6)
    await desk.send(sender)
    first = {came.body["sequence"]: came for came in receiver.came}
    receiver.came.clear()
    found = await outgoing.replay(
        desk.db, endpoint, from_sequence=2, to_sequence=4, only_failed=False, limit=100, actor="test"
    )
    assert found == (3, 4)
    await desk.send(sender)
    assert sorted(receiver.sequences) == [2, 3, 4]
    for came in receiver.came:
        assert came.raw == first[came.body["sequence"]].raw
        assert came.headers["webhook-id"] == first[came.body["sequence"]].headers["webhook-id"]
    again = await outgoing.replay(
        desk.db, endpoint, from_sequence=1, to_sequence=6, only_failed=True, limit=100, actor="test"
    )
    assert again == (0, None)


async def test_a_deleted_endpoint_gets_nothing_and_keeps_no_secret(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    await desk.number()
    assert await outgoing.switch(desk.db, endpoint, "deleted", actor="test")
    await desk.happen(owner)
    await desk.hurry()
    await desk.send(sender)
    assert not receiver.came
    assert await desk.admin.fetchval("SELECT count(*) FROM outgoing_secrets") == 0
    assert await outgoing.get_endpoint(desk.db, endpoint) is None


async def test_old_deliveries_are_forgotten_and_their_numbers_are_not(desk: Desk) -> None:
    owner, receiver, sender = await desk.account(), await desk.receiver(), await desk.sender()
    await desk.endpoint(owner, receiver.url)
    await desk.happen(owner, 3)
    await desk.send(sender)
    assert await outgoing.purge(desk.db, age_s=60, limit=100) == 0
    await desk.admin.execute("UPDATE outgoing_deliveries SET created_at = now() - interval '1 hour'")
    assert await outgoing.purge(desk.db, age_s=60, limit=100) == 3
    assert await desk.admin.fetchval("SELECT max(sequence) FROM outgoing_events") == 3


def test_every_kind_that_the_core_keeps_is_documented_to_receivers() -> None:
    statuses = {"created", "failed", "expired", "verified", "held", "rejected", "mismatch", "refunded"}
    assert {f"payment_{name}" for name in statuses} <= rules.EVENT_KINDS.keys()
    page = (CHECKOUT / "docs" / "webhooks.md").read_text()
    assert all(f"| `{kind}` | {meaning} |" in page for kind, meaning in rules.EVENT_KINDS.items())
