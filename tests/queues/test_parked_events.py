"""Events that their agent cannot handle wait under their key, are tried again, die, and are brought back by people."""

import json
from datetime import timedelta
from functools import partial
from uuid import uuid4

import asyncpg
import pytest

from agents import analytics_billing, delays, retries, wallet_debit
from agents.breakers import Breakers
from agents.intake import MissingSlices
from agents.queues import blames
from sql import errors, invariants, queues
from streams.batches import Batch, Fenced, Held
from streams.events import Delta, RefundDue, encode
from tests.agents.conftest import World, signed, usage
from tests.conftest import Database as Prepared
from tests.queues.conftest import AT, Producer, deliver, due_now, queue_of


def delta(feature: str, count: int = 1) -> Delta:
    return Delta(
        metric="test",
        dimension={"feature": feature},
        minute=AT,
        count=count,
        credits=10 * count,
        amount_paise=0,
    )


async def counts(world: World) -> dict[str, int]:
    rows = await world.admin.fetch(
        "SELECT dimension, count FROM billing_windows WHERE resolution = '1m' AND metric = 'test'"
    )
    return {row["dimension"].removeprefix("feature="): row["count"] for row in rows}


async def row_of(world: World, query: str) -> asyncpg.Record:
    found = await world.admin.fetchrow(query)
    assert found is not None
    return found


async def states(world: World) -> list[tuple[str, str, str]]:
    rows = await world.admin.fetch("SELECT key, state, reason FROM retries ORDER BY id")
    return [tuple(row) for row in rows]


async def test_one_bad_event_waits_and_its_neighbours_of_the_same_record_do_not(world: World) -> None:
    queue, fragile = queue_of(
        world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad"
    )
    producer = Producer()
    values = [
        producer.slice([delta("a"), delta("b")]),
        producer.slice([delta("a"), delta("bad"), delta("c")]),
        producer.slice([delta("a")]),
    ]
    await deliver(world, queue, values)
    assert await world.outcomes("analytics.billing") == {"posted": 2, "parked": 4}
    assert await queue.retry_once() == 3  # a, c, and the bad one alone at last
    assert await queue.retry_once() == 1  # the a that came behind
    assert await counts(world) == {"a": 3, "b": 1, "c": 1}
    [bad] = [state for state in await states(world) if state[1] == "due"]
    assert bad == ("feature=bad", "due", "failed")
    fragile.poison.clear()
    await due_now(world)
    assert await queue.retry_once() == 1
    assert await counts(world) == {"a": 3, "b": 1, "c": 1, "bad": 1}
    assert await world.admin.fetchval("SELECT count(*) FROM retries WHERE state <> 'done'") == 0


async def test_what_comes_later_for_its_key_waits_behind_it_and_runs_in_order(world: World) -> None:
    order: list[str] = []

    async def agent(batch: Batch) -> None:
        intake = await world.core.marks.take_in(batch)
        order.extend(f"{taken.event.key[-1]}{taken.event.count}" for taken in intake.taken)
        await analytics_billing.handle(world.core, batch)

    queue, fragile = queue_of(world, "analytics.billing", agent, "count=1,", '"count":1,')
    producer = Producer()
    await deliver(world, queue, [producer.slice([delta("x", 1)])])
    for n in (2, 3):
        await deliver(world, queue, [producer.slice([delta("x", n), delta("y", n)])])
    await due_now(world)
    assert await queue.retry_once() == 1, "the lowest alone"
    assert order == ["y2", "y3"]
    fragile.poison.clear()
    await due_now(world)
    while await queue.retry_once():
        pass
    assert order == ["y2", "y3", "x1", "x2", "x3"]
    await deliver(world, queue, [producer.slice([delta("x", 4)])])
    assert order[-1] == "x4", "nothing waits any more"


async def test_a_wallets_debits_keep_their_order_behind_a_bad_one(
    world: World, service: tuple[str, bytes], database: Prepared
) -> None:
    name, secret = service
    queue, fragile = queue_of(
        world, "wallet.debit", partial(wallet_debit.handle, world.core), "poison", own_retries=False
    )
    wallet, other = await world.wallet(100), await world.wallet(100)
    sent = [
        signed([usage(wallet, "poison", 50)], name=name, secret=secret),
        signed([usage(wallet, "second", 40), usage(other, "other", 5)], name=name, secret=secret, seq=2),
        signed([usage(wallet, "third", 40)], name=name, secret=secret, seq=3),
    ]
    await deliver(world, queue, sent)
    assert (await world.balance(wallet), await world.balance(other)) == (100, 95)
    fragile.poison.clear()
    await due_now(world)
    await retries.once(world.core, world.ownership, "wallet.debit")
    rows = await world.admin.fetch(
        "SELECT source_id FROM wallet_transactions WHERE wallet_id = $1 AND source = 'usage' ORDER BY seq",
        wallet,
    )
    assert [row["source_id"] for row in rows] == ["poison", "second"]
    assert await world.admin.fetchval("SELECT reason FROM refusals") == "insufficient_credits"
    violated = {violation.name for violation in await invariants.check(database.admin_url)}
    assert violated <= {"i12_nothing_is_lost_between_producers_and_consumers"}, (
        "the test's producers have no outbox"
    )


async def test_a_parked_item_that_breaks_its_runner_stops_neither_it_nor_other_wallets(
    world: World, service: tuple[str, bytes]
) -> None:
    name, secret = service
    queue, _ = queue_of(
        world, "wallet.debit", partial(wallet_debit.handle, world.core), "poison", own_retries=False
    )
    wallets = [await world.wallet(100) for _ in range(5)]
    sent = [usage(wallet, f"poison{n}", 10) for n, wallet in enumerate(wallets)]
    await deliver(world, queue, [signed(sent, name=name, secret=secret)])
    await world.admin.execute(
        "UPDATE retries SET payload = jsonb_set(payload, '{event,credits}', '-5') WHERE key = $1",
        str(wallets[3]),
    )
    await due_now(world)
    await retries.once(world.core, world.ownership, "wallet.debit")
    assert [await world.balance(wallet) for wallet in wallets] == [90, 90, 90, 100, 90]
    row = await row_of(
        world, "SELECT attempt, error, next_at > now() AS later FROM retries WHERE state = 'due'"
    )
    assert row["attempt"] == 1
    assert "credits" in row["error"]
    assert row["later"]


async def test_pauses_double_up_to_a_cap_with_jitter_and_end_in_death(world: World) -> None:
    queue, _ = queue_of(world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad")
    await world.admin.execute(
        "UPDATE retry_policies SET base_s = 1, cap_s = 4, max_attempts = 6 WHERE topic = 'analytics.billing'"
    )
    await deliver(world, queue, [Producer().slice([delta("bad")])])
    pauses = []
    for attempt in range(1, 7):
        await due_now(world)
        assert await queue.retry_once() == 1
        row = await row_of(
            world, "SELECT state, attempt, extract(epoch FROM next_at - now())::float AS pause FROM retries"
        )
        assert (row["state"], row["attempt"]) == ("dead" if attempt == 6 else "due", attempt)
        pauses.append(row["pause"])
    for pause, base in zip(pauses[:5], (1, 2, 4, 4, 4), strict=True):
        assert base - 0.5 < pause <= 1.25 * base
    assert len({round(pause % 1, 4) for pause in pauses}) > 1, "jitter"


async def test_a_dead_event_releases_those_behind_it(world: World) -> None:
    queue, _ = queue_of(
        world, "analytics.billing", partial(analytics_billing.handle, world.core), '"count":7,', "count=7,"
    )
    await world.admin.execute("UPDATE retry_policies SET max_attempts = 1")
    producer = Producer()
    await deliver(world, queue, [producer.slice([delta("x", 7)]), producer.slice([delta("x", 1)])])
    await due_now(world)
    assert await queue.retry_once() == 1
    assert await counts(world) == {}
    assert await queue.retry_once() == 1
    assert await counts(world) == {"x": 1}
    assert [state for _, state, _ in await states(world)] == ["dead", "done"]


async def test_a_dead_refund_blocks_its_payment_until_a_person_decides(world: World) -> None:
    handled: list[str] = []

    async def agent(batch: Batch) -> None:
        intake = await world.core.marks.take_in(batch)
        handled.extend(taken.event.refund_id for taken in intake.taken)
        await queues.park_batch(world.core.db, world.core.head(batch), intake.progress)

    payment, first, second = str(uuid4()), str(uuid4()), str(uuid4())
    queue, fragile = queue_of(world, "refund.processing", agent, first)
    await world.admin.execute("UPDATE retry_policies SET max_attempts = 1")
    producer = Producer()
    for refund in (first, second):
        due = RefundDue(refund_id=refund, payment_id=payment, occurred_at=AT)
        await deliver(world, queue, [producer.slice([due])])
        await due_now(world)
        await queue.retry_once()
    await world.own("refund.processing", 0)  # another worker takes over: it must know, too
    third = RefundDue(refund_id=str(uuid4()), payment_id=payment, occurred_at=AT)
    await deliver(world, queue, [producer.slice([third])])
    await due_now(world)
    assert await queue.retry_once() == 0
    assert handled == []
    [dead] = await queues.get_dead_letters(world.core.db, limit=10, topic="refund.processing")
    fragile.poison.clear()
    assert await queues.replay_dead(world.core.db, [dead.id], actor="asha", why="fixed") == [dead.id]
    while await queue.retry_once():
        pass
    assert handled == [first, second, third.refund_id]


async def test_people_replay_and_purge_and_the_log_says_who_and_why(world: World) -> None:
    queue, fragile = queue_of(
        world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad"
    )
    await world.admin.execute("UPDATE retry_policies SET max_attempts = 1")
    producer = Producer()
    await deliver(world, queue, [producer.slice([delta("bad1")]), producer.slice([delta("bad2")])])
    await due_now(world)
    await queue.retry_once()
    db = world.core.db
    second, first = await queues.get_dead_letters(db, limit=10)
    assert (first.key, first.state, first.error) == (
        "feature=bad1",
        "dead",
        "ValueError: this event makes no sense",
    )
    assert await queues.replay_dead(db, [first.id], actor="asha", why="deployed a fix") == [first.id]
    assert await queues.replay_dead(db, [first.id], actor="asha", why="again") == [], (
        "it is not dead any more"
    )
    assert await queues.purge_dead(db, [second.id], actor="ravi", why="a test event") == [second.id]
    fragile.poison.clear()
    await queue.retry_once()
    assert await counts(world) == {"bad1": 1}
    rows = await world.admin.fetch(
        "SELECT actor, action, detail ->> 'why' AS why FROM audit_logs ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("asha", "dead_letter.replay", "deployed a fix"),
        ("ravi", "dead_letter.purge", "a test event"),
    ]
    [deed] = await queues.get_story(db, second.id)
    assert (deed.actor, deed.why) == ("ravi", "a test event")
    with pytest.raises(asyncpg.PostgresError, match="refused"):
        await world.admin.execute("UPDATE audit_logs SET actor = 'nobody'")


async def test_a_purchase_that_died_is_not_purged_and_a_grant_is(world: World) -> None:
    ids = [
        await world.admin.fetchval(
            "INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, state, next_at, reason)"
            " VALUES ('wallet.credit', 0, 1, 0, $1, $2, 'dead', now(), 'failed') RETURNING id",
            str(uuid4()),
            json.dumps(payload),
        )
        for payload in (
            {"event": {"kind": "purchase", "payment_id": str(uuid4())}},
            {"kind": "purchase", "extra": {"payment_id": str(uuid4())}},
            {"event": {"kind": "grant", "id": "g"}},
            {"kind": "grant"},
        )
    ]
    assert await queues.purge_dead(world.core.db, ids, actor="ravi", why="old") == ids[2:]


@pytest.mark.parametrize(
    "fault",
    [
        errors.Unavailable("away"),
        errors.Fenced("x"),
        Fenced("x"),
        MissingSlices("x"),
        ConnectionResetError(),
        TimeoutError(),
    ],
)
def test_passing_faults_blame_nobody(fault: Exception) -> None:
    assert not blames(fault)
    assert blames(KeyError("a field"))


@pytest.mark.parametrize(
    "state", ["53100", "53200", "53300", "57P01", "58030", "08006", "40001", "40P01", "XX001", "55P03"]
)
def test_no_state_of_the_database_or_its_disk_is_a_records_fault(state: str) -> None:
    fault = asyncpg.PostgresError.new({"C": state, "M": "x"})
    assert errors.is_passing(fault)
    assert not errors.is_passing(asyncpg.PostgresError.new({"C": "22P02", "M": "x"}))


async def test_what_cannot_even_be_sent_is_the_records_fault(world: World) -> None:
    with pytest.raises(asyncpg.DataError, match="out of int64 range") as unsendable:
        await world.core.db.value("SELECT $1::bigint", 2**70)
    assert blames(unsendable.value)


async def test_the_database_going_away_parks_nothing(world: World) -> None:
    queue, fragile = queue_of(
        world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad"
    )
    producer = Producer()
    await deliver(world, queue, [producer.slice([delta("bad")])])
    fragile.away = True
    with pytest.raises(errors.Unavailable):
        await queue.handle(await world.batch("analytics.billing", 0, [producer.slice([delta("a")])]))
    await due_now(world)
    with pytest.raises(errors.Unavailable):
        await queue.retry_once()
    row = await row_of(world, "SELECT count(*) AS n, max(attempt) AS attempt FROM retries")
    assert tuple(row) == (1, 0)


async def test_a_zombie_neither_parks_nor_retries(world: World) -> None:
    queue, _ = queue_of(world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad")
    producer = Producer()
    await deliver(world, queue, [producer.slice([delta("bad")])])
    batch = await world.batch("analytics.billing", 0, [producer.slice([delta("bad")])])
    await world.admin.execute("UPDATE consumer_offsets SET epoch = epoch + 1")
    with pytest.raises(Fenced):
        await queue.set_aside(batch, ValueError("x"))
    await due_now(world)
    await queue.retry_once()
    assert await world.admin.fetchval("SELECT max(attempt) FROM retries") == 0
    parked = await world.admin.fetchval("SELECT min(id) FROM retries")
    with pytest.raises(errors.Fenced):
        await queues.fail_retry(world.core.db, world.core.group, 1, parked, 0, "x")
    assert await queues.fail_retry(world.core.db, world.core.group, 2, parked, 9, "x") is None, (
        "another attempt"
    )


async def test_a_topic_of_which_too_much_fails_stops_and_goes_on_after_a_trial(world: World) -> None:
    breakers = Breakers(world.core.db, "one", pause_s=(60.0, 100.0))
    elsewhere = Breakers(world.core.db, "two")
    queue, fragile = queue_of(
        world, "analytics.billing", partial(analytics_billing.handle, world.core), "bad", breakers=breakers
    )
    producer = Producer()
    for n in range(5):
        assert breakers.flows("analytics.billing")
        await deliver(world, queue, [producer.slice([delta(f"bad{n}")])])
    await elsewhere.refresh()
    assert not breakers.flows("analytics.billing")
    assert not elsewhere.flows("analytics.billing")
    assert breakers.flows("wallet.debit")
    batch = await world.batch("analytics.billing", 0, [producer.slice([delta("badtrial")])])
    with pytest.raises(Held):
        await queue.handle(batch)
    await world.admin.execute("UPDATE breakers SET retry_at = now() WHERE state = 'open'")
    await breakers.refresh()
    await elsewhere.refresh()
    with pytest.raises(Held):
        await queue.handle(batch)  # the trial, which fails
    state = (await queues.get_breakers(world.core.db))["analytics.billing"]
    assert (state.state, state.pause_s, state.trips) == ("open", 100.0, 2)
    fragile.poison.clear()
    await world.admin.execute("UPDATE breakers SET retry_at = now() WHERE state = 'open'")
    await breakers.refresh()
    await queue.handle(batch)
    assert breakers.flows("analytics.billing")
    assert (await queues.get_breakers(world.core.db))["analytics.billing"].state == "closed"


async def test_one_failure_in_many_records_stops_nothing(world: World) -> None:
    breakers = Breakers(world.core.db, "one")
    await breakers.passed("wallet.debit", 1000)
    for _ in range(9):
        await breakers.failed("wallet.debit", "x")
    assert (await queues.get_breakers(world.core.db))["wallet.debit"].state == "closed"
    for _ in range(3):
        await breakers.failed("wallet.debit", "x")
    assert (await queues.get_breakers(world.core.db))["wallet.debit"].state == "open"


async def test_a_delayed_event_comes_once_at_its_time(world: World) -> None:
    db, event = world.core.db, encode(delta("later"))
    soon = await world.admin.fetchval("SELECT now()")
    assert await queues.delay_event(db, "a", "analytics.billing", 0, event, soon + timedelta(hours=1))
    assert not await queues.delay_event(db, "a", "analytics.billing", 0, event, soon)
    assert await delays.once(world.core, shard=1) == 0
    await world.admin.execute("UPDATE delayed_events SET run_at = now()")
    assert await delays.once(world.core, shard=1) == 1
    assert await delays.once(world.core, shard=1) == 0
    await analytics_billing.handle(
        world.core, await world.batch("analytics.billing", 0, world.kept.of("analytics.billing"))
    )
    assert await counts(world) == {"later": 1}
    assert await queues.delay_event(db, "b", "analytics.billing", 0, event, soon + timedelta(hours=1))
    assert await queues.cancel_delayed(db, "b")
    assert not await queues.cancel_delayed(db, "b")
