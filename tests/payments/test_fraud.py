"""Velocity: one decision whoever comes last, the timer for what is missing, and a person's word."""

import asyncio
import random
from datetime import timedelta
from ipaddress import ip_address
from uuid import uuid4

import pytest

from agents import fraud_timer
from domain.fraud import HOLD_AT, MISSING_POINTS, RULES, Entity, Metric, Velocity, Window, score
from sql import fraud
from sql.db import Database, DatabaseSettings
from sql.payments import Payment
from tables.fraud import TOPIC, FraudWindows

from .conftest import Shop
from .velocity import KINDS, judge, signals_of, verified


async def test_the_rules_of_the_database_are_those_of_the_domain(shop: Shop) -> None:
    rows = await shop.admin.fetch(
        "SELECT code, entity_kind, resolution, measure, threshold, points FROM fraud_rules WHERE enabled"
    )
    assert {tuple(row) for row in rows} == {
        (r.code, str(r.entity), str(r.window), str(r.metric), r.threshold, r.points) for r in RULES
    }


async def test_random_counts_score_in_the_database_as_in_the_domain(shop: Shop) -> None:
    chaos = random.Random(5)
    payments = [await verified(shop) for _ in range(30)]
    expected = {}
    for payment in payments:
        counts: dict[Entity, Velocity] = {}
        for entity in Entity:
            if chaos.random() < 0.2:
                continue
            n = [chaos.choice([0, 3, 4, 6, 21, 60, 201]) for _ in range(3)]
            a = [chaos.choice([0, 999_999, 1_000_001, 2_500_001, 10_000_001]) for _ in range(3)]
            counts[entity] = Velocity(*n, *a)
        if len(counts) == len(Entity):
            del counts[Entity.IP]
        stored = [
            counts[entity].value(window, metric) if entity in counts else None
            for entity in Entity
            for window in Window
            for metric in Metric
        ]
        await shop.admin.execute(
            "UPDATE fraud_checks SET counts = $2, awaited = $3, overdue_at = '-infinity' WHERE payment_id = $1",
            payment.id,
            stored,
            len(Entity) - len(counts),
        )
        expected[payment.id] = score(counts)
    assert await overdue(shop) == 30
    for row in await shop.admin.fetch("SELECT payment_id, score, reasons, verdict FROM fraud_events"):
        verdict = expected.pop(row["payment_id"])
        assert row["score"] == verdict.score
        assert sorted(row["reasons"]) == sorted(verdict.reasons)
        assert row["verdict"] == ("hold" if verdict.hold else "allow")
    assert expected == {}
    held = await shop.admin.fetchval(
        "SELECT count(*) FROM payments WHERE status = 'held' AND fraud_score >= $1", HOLD_AT
    )
    assert 0 < held < 30


async def test_four_entities_on_four_connections_bring_one_decision(shop: Shop) -> None:
    payments = [await verified(shop) for _ in range(8)]
    settings = DatabaseSettings(database_url=shop.app_url, database_pool_size=1)
    owners = [await Database.connect(settings) for _ in KINDS]
    await shop.ownership.claim(TOPIC, range(4), "test")
    windows = [FraudWindows(db) for db in owners]
    try:
        for payment in payments:
            signals = await signals_of(shop, payment.id)
            assert [s.kind for s in signals] == sorted(KINDS)
            # All four begin before any ends: each waits for its own row, which somebody looks at.
            async with shop.admin.transaction():
                await shop.admin.execute(
                    "SELECT FROM fraud_checks WHERE payment_id = $1 FOR UPDATE", payment.id
                )
                work = [asyncio.create_task(judge(windows[i], owners[i], i, [signals[i]])) for i in range(4)]
                await asyncio.sleep(0.1)
            assert await asyncio.gather(*work) == [["posted"]] * 4
    finally:
        for db in owners:
            await db.close()
    events = await shop.admin.fetch("SELECT payment_id, missing FROM fraud_events")
    assert sorted(row["payment_id"] for row in events) == sorted(p.id for p in payments)
    assert {tuple(row["missing"]) for row in events} == {()}
    credits = await shop.admin.fetchval("SELECT sum(n_events) FROM outbox WHERE dest_topic = 'wallet.credit'")
    assert credits == 8


async def test_the_timer_and_a_late_signal_decide_once_between_them(shop: Shop) -> None:
    await shop.ownership.claim(TOPIC, range(2), "test")
    late, timer = 0, 0
    for _ in range(15):
        payment = await verified(shop)
        signals = await signals_of(shop, payment.id)
        await judge(shop.windows, shop.db, 0, signals[:3])
        outcomes, _ = await asyncio.gather(
            judge(FraudWindows(shop.db), shop.db, 1, signals[3:]),
            overdue(shop, age_s=0),
        )
        assert outcomes == ["posted"]
        missing = await shop.admin.fetchval(
            "SELECT missing FROM fraud_events WHERE payment_id = $1", payment.id
        )
        after = await shop.payment(payment.id)
        if missing:
            timer += 1
            assert (missing, after.fraud_score) == (["user"], MISSING_POINTS)
        else:
            late += 1
            assert after.fraud_score == 0
    assert late + timer == await shop.admin.fetchval("SELECT count(*) FROM fraud_events") == 15
    assert (
        await shop.admin.fetchval("SELECT sum(n_events) FROM outbox WHERE dest_topic = 'wallet.credit'") == 15
    )
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_checks WHERE awaited > 0") == 0
    assert await overdue(shop, age_s=0) == 0


async def test_timers_that_run_together_decide_each_payment_once(shop: Shop) -> None:
    payments = [await verified(shop) for _ in range(40)]
    decided = await asyncio.gather(*(overdue(shop, shard=i % 2) for i in range(12)))
    assert sum(decided) == len(payments)
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_events") == len(payments)
    assert (await shop.counts("fraud"))["posted"] == len(payments)


async def test_the_timer_decides_only_what_has_waited_and_marks_what_is_missing(shop: Shop) -> None:
    payment = await verified(shop)
    first = (await signals_of(shop, payment.id))[:2]
    await shop.ownership.claim(TOPIC, range(1), "test")
    await judge(shop.windows, shop.db, 0, first)
    assert await fraud_timer.once(shop.core, shard=0) == (0, 0)
    await waited(shop, 3)
    assert await fraud_timer.once(shop.core, shard=0) == (1, 1)
    row = await shop.admin.fetchrow("SELECT score, missing, verdict FROM fraud_events")
    assert row is not None
    assert tuple(row) == (40, sorted(set(KINDS) - {signal.kind for signal in first}), "allow")
    assert await fraud_timer.once(shop.core, shard=0) == (0, 0)


async def test_a_standstill_holds_a_payment_only_after_minutes_and_its_end_lets_it_go(shop: Shop) -> None:
    soon, late = [await verified(shop) for _ in range(2)]
    await waited(shop, 3)
    assert await fraud_timer.once(shop.core, shard=0) == (2, 0)
    assert await fraud_timer.once(shop.core, shard=0) == (0, 0), "nobody looks at them again and again"
    await shop.ownership.claim(TOPIC, range(1), "test")
    await judge(shop.windows, shop.db, 0, await signals_of(shop, soon.id))
    await waited(shop, 310)
    assert await fraud_timer.once(shop.core, shard=0) == (1, 1)
    rows = await shop.admin.fetch("SELECT payment_id, score, missing, verdict FROM fraud_events ORDER BY id")
    assert [tuple(row) for row in rows] == [
        (soon.id, 0, [], "allow"),
        (late.id, 80, sorted(KINDS), "hold"),
    ]
    credits = await shop.admin.fetchval("SELECT sum(n_events) FROM outbox WHERE dest_topic = 'wallet.credit'")
    assert credits == 1
    await shop.settle()
    assert (await shop.payment(late.id)).status == "held"
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_checks WHERE awaited > 0") == 0
    assert await shop.by_status() == {"created": 2, "verified": 2, "held": 1}


async def overdue(shop: Shop, *, shard: int = 0, age_s: float = -1) -> int:
    """How many payments the timer decides whose patience has ended."""
    _, decided = await fraud_timer.once(shop.core, shard=shard, age_s=age_s, hold_s=-1)
    return decided


async def waited(shop: Shop, seconds: int) -> None:
    """Let so much time pass for what is awaited."""
    await shop.admin.execute(
        "UPDATE fraud_checks SET requested_at = requested_at - $1::interval, overdue_at = overdue_at - $1::interval",
        timedelta(seconds=seconds),
    )


async def held(shop: Shop) -> Payment:
    payment = await verified(shop)
    assert await overdue(shop) == 1
    return await shop.payment(payment.id)


@pytest.mark.parametrize(
    ("verdict", "outcome", "status", "balance"),
    [("release", "released", "credited", (1_500, 0)), ("reject", "rejected", "rejected", (0, 0))],
)
async def test_a_person_decides_about_a_held_payment_once(
    shop: Shop, verdict: str, outcome: str, status: str, balance: tuple[int, int]
) -> None:
    payment = await held(shop)
    assert (payment.status, await shop.balance(payment.wallet_id)) == ("held", (0, 1_500))

    async def review(word: str) -> str:
        return await fraud.review_payment(shop.db, payment.id, word, "staff:1", shard=0, rejected_partition=0)  # type: ignore[arg-type]

    answers = await asyncio.gather(*(review(verdict) for _ in range(4)))
    assert sorted(answers) == sorted([outcome, "exists", "exists", "exists"])
    assert await review("reject" if verdict == "release" else "release") == "conflict"
    await shop.settle()
    assert (await shop.payment(payment.id)).status == status
    assert await shop.balance(payment.wallet_id) == balance
    assert await shop.admin.fetchval("SELECT count(*) FROM audit_logs") == 1
    assert await shop.violations() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.9", "::1", "fd00::7"])
async def test_an_address_that_everybody_shares_is_no_entity(shop: Shop, address: str) -> None:
    payment = await verified(shop, ip=ip_address(address))
    assert [s.kind for s in await signals_of(shop, payment.id)] == ["device", "instrument", "user"]


async def test_only_a_held_payment_is_reviewed(shop: Shop) -> None:
    payment = await verified(shop)
    for id, outcome in ((payment.id, "not_held"), (uuid4(), "unknown")):
        found = await fraud.review_payment(shop.db, id, "release", "staff:1", shard=0, rejected_partition=0)
        assert found == outcome


async def test_a_user_who_pays_too_often_is_held_by_velocity(shop: Shop) -> None:
    buyer = await shop.buyer()
    orders = [await shop.order(buyer, 15_000, ip=None) for _ in range(8)]
    for order in orders:
        shop.gateway.pays(order)
        await shop.hear(shop.webhook(order.order_id, instrument="upi:same@bank"))
    await shop.settle()
    states = [(await shop.payment(order.id)).status for order in orders]
    assert sorted(states) == ["credited"] * 5 + ["held"] * 3
    assert await shop.balance(buyer[1]) == (7_500, 4_500)
    assert await shop.violations() == []
