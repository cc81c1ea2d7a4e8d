"""Velocity windows: exact whatever happens to the worker, bounded, and written by their owner alone."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from agents import fraud_detection
from sql import fraud
from sql.fraud import StaleWindows, VelocitySignal
from tables.fraud import TOPIC, Buckets, FraudWindows

from .conftest import Shop
from .velocity import KINDS, MINUTES, counted, judge, sliced


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
        "INSERT INTO fraud_checks (payment_id, entities, amount, occurred_at, awaited) VALUES ($1, $2, $3, $4, 1)",
        [
            (
                s.payment_id,
                [s.entity if s.kind == kind else None for kind in KINDS],
                s.amount_paise,
                s.occurred_at,
            )
            for s in signals
        ],
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

    found = await counted(shop)
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
        "UPDATE fraud_checks SET entities = $2 WHERE payment_id = $1",
        changed.payment_id,
        [changed.entity if changed.kind == kind else None for kind in KINDS],
    )
    await shop.windows.fold(0, [signals[2]])
    await shop.admin.execute("UPDATE fraud_windows SET as_of_offset = 99")
    with pytest.raises(StaleWindows):
        await judge(other, shop.db, 0, [changed])
    shop.positions[TOPIC, 0] = (*shop.positions[TOPIC, 0][:2], 2)
    batch = await shop.batch(TOPIC, 0, [sliced([changed], 1)])
    await fraud_detection.handle(shop.core, other, batch)
    counts = (await counted(shop))[changed.payment_id, changed.kind]
    same = [s for s in [*signals[:4], changed] if (s.kind, s.entity) == (changed.kind, changed.entity)]
    assert counts == recount(same, changed)


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
    counts = (await counted(shop))[signals[1].payment_id, signals[1].kind]
    assert counts == recount(signals[1:2], signals[1])


async def test_the_app_may_not_write_what_functions_write(shop: Shop) -> None:
    for statement in (
        "UPDATE payments SET status = 'verified', verified_at = now()",
        "INSERT INTO fraud_windows VALUES ('user', 'x', '{}', now(), 0, 0)",
        "DELETE FROM fraud_checks",
        "SELECT decide_payments('{}', 0, 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await shop.db.rows(statement)
