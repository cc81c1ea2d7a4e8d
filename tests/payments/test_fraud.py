"""Velocity: windows exact whatever happens to the worker, one decision whoever comes last, and a person's word."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from uuid import UUID, uuid4

import asyncpg
import pytest

from agents import fraud_detection, fraud_timer
from domain.fraud import HOLD_AT, MISSING_POINTS, RULES, Entity, Velocity, Window, score
from sql import fraud
from sql.batches import Head, Progress
from sql.db import Database, DatabaseSettings
from sql.fraud import StaleWindows, VelocitySignal
from sql.payments import Payment
from streams import messages
from streams.events import FraudSignal
from tables.fraud import TOPIC, Buckets, FraudWindows

from .conftest import Shop

KINDS = ("user", "device", "ip", "instrument")
MINUTES = {"1m": 1, "1h": 60}


async def verified(
    shop: Shop, buyer: tuple[UUID, UUID] | None = None, price: int = 15_000, **more: object
) -> Payment:
    """A payment that is verified and not judged."""
    payment = await shop.order(buyer, price, **more)
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")
    assert await shop.verifier.once() == 1
    return await shop.payment(payment.id)


async def signals_of(shop: Shop, *ids: UUID) -> list[VelocitySignal]:
    """What was sent about payments, by entity kind."""
    rows = await shop.admin.fetch(
        "SELECT payment_id, entity_kind, entity, amount, occurred_at FROM fraud_checks WHERE payment_id = ANY ($1) ORDER BY 1, 2",
        list(ids),
    )
    return [VelocitySignal(row[0], row[1], row[2], row[3], row[4], 0) for row in rows]


def sliced(signals: Sequence[VelocitySignal], batch_no: int) -> bytes:
    events = [
        FraudSignal(
            payment_id=str(s.payment_id),
            entity_kind=s.kind,  # type: ignore[arg-type]
            entity=s.entity,
            amount_paise=s.amount_paise,
            occurred_at=s.occurred_at,
        )
        for s in signals
    ]
    producer = messages.Producer("test", 0, "test")
    return messages.encode(
        messages.Slice(
            v=1,
            producer=producer,
            incarnation=1,
            batch_no=batch_no,
            prev_batch_no=batch_no - 1,
            events=events,
        )
    )


async def judge(
    windows: FraudWindows, db: Database, number: int, signals: Sequence[VelocitySignal]
) -> list[str]:
    """Fold and commit one batch on a partition, as its owner."""
    position = await db.row(
        "SELECT epoch, next_offset FROM consumer_offsets WHERE topic = $1 AND partition = $2", TOPIC, number
    )
    assert position is not None
    epoch, start = position
    folded = await windows.fold(number, signals)
    head = Head(TOPIC, number, "commdesk", epoch, start, start + 1, start, b"d")
    judged = await fraud.commit_fraud(
        db, head, signals, folded.counts, folded.rows, held_partition=0, partitions=1, progress=Progress()
    )
    windows.committed(number, folded, start)
    return judged.outcomes or []


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
            await shop.admin.execute(
                "UPDATE fraud_checks SET counts = $3, requested_at = '-infinity' WHERE payment_id = $1 AND entity_kind = $2",
                payment.id,
                str(entity),
                json.dumps({str(w): [n[i], a[i]] for i, w in enumerate(Window)}),
            )
        if len(counts) == len(Entity):
            del counts[Entity.IP]
            await shop.admin.execute(
                "UPDATE fraud_checks SET counts = NULL WHERE payment_id = $1 AND entity_kind = 'ip'",
                payment.id,
            )
        expected[payment.id] = score(counts)
    assert await fraud_timer.once(shop.core, shard=0, age_s=-1) == 30
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
            fraud_timer.once(shop.core, shard=0, age_s=0),
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
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_checks WHERE counts IS NULL") == 0
    assert await fraud_timer.once(shop.core, shard=0, age_s=0) == 0


async def test_timers_that_run_together_decide_each_payment_once(shop: Shop) -> None:
    payments = [await verified(shop) for _ in range(40)]
    decided = await asyncio.gather(*(fraud_timer.once(shop.core, shard=i % 2, age_s=-1) for i in range(12)))
    assert sum(decided) == len(payments)
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_events") == len(payments)
    assert (await shop.counts("fraud"))["posted"] == len(payments)


async def test_the_timer_decides_only_what_has_waited_and_marks_what_is_missing(shop: Shop) -> None:
    payment = await verified(shop)
    assert await fraud_timer.once(shop.core, shard=0) == 0
    await shop.admin.execute("UPDATE fraud_checks SET requested_at = now() - interval '3 seconds'")
    assert await fraud_timer.once(shop.core, shard=0) == 1
    row = await shop.admin.fetchrow("SELECT score, missing, verdict FROM fraud_events")
    assert row is not None
    assert tuple(row) == (80, sorted(KINDS), "hold")
    await shop.settle()
    assert (await shop.payment(payment.id)).status == "held"
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_checks WHERE counts IS NULL") == 0
    assert await shop.by_status() == {"created": 1, "verified": 1, "held": 1}


async def held(shop: Shop) -> Payment:
    payment = await verified(shop)
    assert await fraud_timer.once(shop.core, shard=0, age_s=-1) == 1
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


def recount(folded: Sequence[VelocitySignal], s: VelocitySignal) -> dict[str, list[int]]:
    """The specification: payments of the entity in the window that ends with this one, among those folded so far."""

    def inside(at: datetime, window: str) -> bool:
        if window == "24h":
            newest, size = s.occurred_at.replace(minute=0, second=0, microsecond=0), timedelta(hours=1)
            return newest - 23 * size <= at.replace(minute=0, second=0, microsecond=0) <= newest
        newest = s.occurred_at.replace(second=0, microsecond=0)
        first = newest - timedelta(minutes=MINUTES[window] - 1)
        return first <= at.replace(second=0, microsecond=0) <= newest

    same = [f for f in folded if (f.kind, f.entity) == (s.kind, s.entity)]
    return {
        window: [
            sum(inside(f.occurred_at, window) for f in same),
            sum(f.amount_paise for f in same if inside(f.occurred_at, window)),
        ]
        for window in ("1m", "1h", "24h")
    }


async def asked(shop: Shop, chaos: random.Random, n: int, hours: int = 6) -> list[VelocitySignal]:
    """Checks of verified payments of few entities, in nearly the order of time, without orders around them."""
    user, wallet = await shop.buyer()
    payment = await shop.order((user, wallet))
    start = datetime.now(UTC) - timedelta(hours=30)
    signals = []
    for i in range(n):
        at = start + timedelta(
            minutes=60 * hours * i / n - chaos.choice([0, 0, 0, 1, 20, 90]), seconds=chaos.randrange(60)
        )
        signals += [
            VelocitySignal(uuid4(), kind, f"{kind}-{chaos.randrange(3)}", chaos.randrange(1, 9999), at, 0)
            for kind in chaos.sample(KINDS, 2)
        ]
    await shop.admin.executemany(
        "INSERT INTO fraud_checks (payment_id, entity_kind, entity, amount, occurred_at) VALUES ($1, $2, $3, $4, $5)",
        [(s.payment_id, s.kind, s.entity, s.amount_paise, s.occurred_at) for s in signals],
    )
    assert payment.status == "active"
    return signals


@pytest.mark.parametrize(("seed", "hours"), [(0, 6), (1, 6), (2, 60), (3, 60)])
async def test_windows_are_exact_after_kills_replays_doubles_and_a_small_memory(
    shop: Shop, seed: int, hours: int
) -> None:
    chaos = random.Random(seed)
    signals = await asked(shop, chaos, 120, hours)
    sent: list[bytes] = []
    order: list[VelocitySignal] = []
    i = 0
    while i < len(signals):
        size = chaos.randrange(1, 12)
        news = signals[i : i + size]
        told = [
            *news,
            *chaos.sample(order, k=min(len(order), chaos.choice([0, 0, 3]))),
            *chaos.sample(news, k=len(news) // 4),
        ]
        order += news
        i += size
        sent.append(sliced(told, len(sent) + 1))
    for n, value in enumerate(sent):
        if chaos.random() < 0.2:
            shop.windows = FraudWindows(
                shop.db, limit=chaos.choice([3, 100])
            )  # a kill -9: its memory is gone
            shop.ownership._restore = [shop.core.marks.restore, shop.windows.restore]
            await shop.own(TOPIC, 0)
        values = [value, *sent[max(0, n - 2) : n]] if chaos.random() < 0.3 else [value]
        batch = await shop.batch(TOPIC, 0, values)
        await fraud_detection.handle(shop.core, shop.windows, batch)
        if chaos.random() < 0.1:
            await fraud_detection.handle(shop.core, shop.windows, batch)  # its answer was lost

    stored = await shop.admin.fetch("SELECT payment_id, entity_kind, counts FROM fraud_checks")
    found = {(row["payment_id"], row["entity_kind"]): json.loads(row["counts"]) for row in stored}
    for n, s in enumerate(order):
        assert found[s.payment_id, s.kind] == recount(order[: n + 1], s)
    for row in await shop.admin.fetch("SELECT entity_kind, entity, buckets, last_at FROM fraud_windows"):
        same = [s for s in order if (s.kind, s.entity) == (row["entity_kind"], row["entity"])]
        buckets = Buckets.decode(row["buckets"])
        if hours < 24:
            assert sum(count for _, count, _ in buckets.hours) == len(same)
            assert sum(amount for _, _, amount in buckets.hours) == sum(s.amount_paise for s in same)
        assert row["last_at"] == max(s.occurred_at for s in same)
        for kept in (buckets.minutes, buckets.hours):
            starts = [start for start, _, _ in kept]
            assert starts == sorted(set(starts))
        assert len(buckets.minutes) <= 181
        assert len(buckets.hours) <= 27
    assert (await shop.counts(TOPIC))["posted"] == len(order)


async def test_a_memory_that_is_wrong_is_found_out_by_the_commit(shop: Shop) -> None:
    signals = await asked(shop, random.Random(0), 3)
    await shop.own(TOPIC, 0)
    await judge(shop.windows, shop.db, 0, signals[:2])
    other = FraudWindows(shop.db)
    await judge(other, shop.db, 0, signals[2:4])
    changed = replace(signals[4], kind=signals[2].kind, entity=signals[2].entity)
    await shop.admin.execute(
        "UPDATE fraud_checks SET entity_kind = $2, entity = $3 WHERE payment_id = $1 AND entity_kind = $4",
        changed.payment_id, changed.kind, changed.entity, signals[4].kind,
    )  # fmt: skip
    await shop.windows.fold(0, [signals[2]])
    await shop.admin.execute("UPDATE fraud_windows SET as_of_offset = 99")
    with pytest.raises(StaleWindows):
        await judge(other, shop.db, 0, [changed])
    shop.positions[TOPIC, 0] = (*shop.positions[TOPIC, 0][:2], 2)
    batch = await shop.batch(TOPIC, 0, [sliced([changed], 1)])
    await fraud_detection.handle(shop.core, other, batch)
    counts = await shop.admin.fetchval(
        "SELECT counts FROM fraud_checks WHERE payment_id = $1", changed.payment_id
    )
    same = [s for s in [*signals[:4], changed] if (s.kind, s.entity) == (changed.kind, changed.entity)]
    assert json.loads(counts) == recount(same, changed)


async def test_the_memory_is_bounded_and_forgets_the_least_used_and_the_silent_first(shop: Shop) -> None:
    windows = FraudWindows(shop.db, limit=3)
    now = datetime.now(UTC)

    async def see(number: int, entity: str, hours_ago: int, offset: int) -> None:
        signal = VelocitySignal(uuid4(), "user", entity, 1, now - timedelta(hours=hours_ago), 0)
        windows.committed(number, await windows.fold(number, [signal]), offset)

    for offset, (entity, hours_ago) in enumerate([("a", 1), ("b", 1), ("a", 1), ("c", 1), ("d", 1)]):
        await see(0, entity, hours_ago, offset)
    assert [entity for _, entity in windows._rows[0]] == ["a", "c", "d"]
    await see(1, "e", 1, 9)
    assert [entity for _, entity in windows._rows[0]] == ["c", "d"]
    await see(0, "c", -30, 10)
    assert [entity for _, entity in windows._rows[0]] == ["c"]
    assert len(windows) == 2


async def test_a_fenced_owner_writes_no_window(shop: Shop) -> None:
    signals = await asked(shop, random.Random(0), 2)
    await shop.own(TOPIC, 0)
    batch = await shop.batch(TOPIC, 0, [sliced(signals, 1)])
    await shop.ownership.claim(TOPIC, [0], "another")
    with pytest.raises(Exception, match="fenced"):
        await fraud_detection.handle(shop.core, shop.windows, batch)
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_windows") == 0


async def test_windows_out_of_reach_are_purged_and_an_owner_who_remembers_them_reads_again(
    shop: Shop,
) -> None:
    signals = [
        s for s in await asked(shop, random.Random(0), 40) if s.kind == "user" and s.entity == "user-1"
    ]
    await shop.own(TOPIC, 0)
    await judge(shop.windows, shop.db, 0, signals[:1])
    await shop.admin.execute("UPDATE fraud_windows SET last_at = now() - interval '4 days'")
    assert await fraud.purge_windows(shop.db, limit=10) == 1
    shop.positions[TOPIC, 0] = (*shop.positions[TOPIC, 0][:2], 1)
    await fraud_detection.handle(
        shop.core, shop.windows, await shop.batch(TOPIC, 0, [sliced(signals[1:2], 1)])
    )
    counts = await shop.admin.fetchval(
        "SELECT counts FROM fraud_checks WHERE payment_id = $1", signals[1].payment_id
    )
    assert json.loads(counts) == recount(signals[1:2], signals[1])


async def test_the_app_may_not_write_what_functions_write(shop: Shop) -> None:
    for statement in (
        "UPDATE payments SET status = 'verified', verified_at = now()",
        "INSERT INTO fraud_windows VALUES ('user', 'x', '{}', now(), 0, 0)",
        "DELETE FROM fraud_checks",
        "SELECT decide_payments('{}', 0, 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shop.db.rows(statement)
