"""Several writers at once: locks in one order, one posting per key, one owner per partition, lost answers."""

import asyncio
import random
from itertools import chain
from uuid import UUID

import pytest

from sql import invariants, ledger, offsets
from sql.batches import Progress, Watermark
from sql.db import Database, DatabaseSettings
from sql.errors import Fenced, RetryTaken, Unavailable, Waiting
from sql.ledger import Decision, LedgerCommand, Retry
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.desk import GROUP, Partition, command, fund, open_wallets
from tests.sql.proxy import proxy_before


async def _balance(admin: Connection, wallet: UUID) -> int:
    return int(await admin.fetchval("SELECT available_credits FROM wallets WHERE id = $1", wallet))


def _count(decisions: list[Decision], outcome: str) -> int:
    return sum(decision.outcome == outcome for decision in decisions)


async def _contend(url: str, readonly_url: str, admin: Connection) -> None:
    async with await Database.connect(DatabaseSettings(database_url=url)) as db:
        wallets = await open_wallets(admin, 30)
        await fund(db, wallets, 2_000)
        shared = [command(random.choice(wallets), "spend", 3) for _ in range(60)]

        async def write(number: int) -> list[tuple[LedgerCommand, Decision]]:
            rng, partition = random.Random(number), await Partition.claim(db, "wallet.debit", number)
            done: list[tuple[LedgerCommand, Decision]] = []
            for _ in range(12):
                commands = [command(rng.choice(wallets), "spend", rng.randint(1, 20)) for _ in range(40)]
                commands += [command(c.wallet_id, "spend", 3, key=c.key) for c in rng.sample(shared, 10)]
                commands += [command(w, "hold", 5) for w in rng.sample(wallets, 2)]
                rng.shuffle(commands)
                committed = await partition.commit(commands)
                done += zip(commands, committed.decisions or (), strict=True)
            return done

        told = list(chain.from_iterable(await asyncio.gather(*(write(number) for number in range(4)))))
    posted = [(c, d) for c, d in told if d.outcome == "posted"]
    assert {d.outcome for _, d in told} <= {"posted", "exists", "refused"}
    assert len({c.key for c, _ in posted}) == len(posted)
    for wallet in wallets:
        spent = sum(c.credits for c, _ in posted if c.wallet_id == wallet)
        assert await _balance(admin, wallet) == 2_000 - spent
    assert await invariants.check(readonly_url) == []


async def test_four_writers_on_the_same_wallets_neither_deadlock_nor_post_twice(
    database: Prepared, admin: Connection
) -> None:
    await _contend(database.url, database.readonly_url, admin)


async def test_four_writers_through_the_pooler_neither_deadlock_nor_post_twice(
    pooled_url: str, database: Prepared, admin: Connection
) -> None:
    await _contend(pooled_url, database.readonly_url, admin)


async def test_fencing_holds_through_the_pooler(pooled_url: str, admin: Connection) -> None:
    async with await Database.connect(DatabaseSettings(database_url=pooled_url)) as db:
        (wallet,) = await open_wallets(admin, 1)
        await fund(db, [wallet], 100)
        old = await Partition.claim(db)
        await old.commit([command(wallet)])
        new = await Partition.claim(db)
        with pytest.raises(Fenced):
            await old.commit([command(wallet)])
        await new.commit([command(wallet)])
        new.offset -= 1  # the same records again: their answer was lost
        assert (await new.commit([command(wallet)])).decisions is None
    assert await _balance(admin, wallet) == 98


async def test_a_key_used_for_two_wallets_at_once_is_posted_once_and_a_conflict_once(
    db: Database, database: Prepared, admin: Connection
) -> None:
    wallets = await open_wallets(admin, 2)
    await fund(db, wallets, 10_000)
    left, right = [await Partition.claim(db, "wallet.debit", number) for number in (0, 1)]
    for number in range(30):
        keys = [f"both:{number}/{n}" for n in range(5)]
        one, two = await asyncio.gather(
            left.commit([command(wallets[0], "spend", 1, key=key, request_hash=b"a") for key in keys]),
            right.commit([command(wallets[1], "spend", 1, key=key, request_hash=b"b") for key in keys]),
        )
        outcomes = [
            {a.outcome, b.outcome} for a, b in zip(one.decisions or (), two.decisions or (), strict=True)
        ]
        assert outcomes == [{"posted", "conflict"}] * 5
    assert sum([await _balance(admin, wallet) for wallet in wallets]) == 20_000 - 150
    assert await invariants.check(database.readonly_url) == []


async def test_an_owner_whose_epoch_is_over_is_fenced_and_writes_nothing(
    db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    old = await Partition.claim(db)
    await old.commit([command(wallet)])
    new = await Partition.claim(db)
    with pytest.raises(Fenced):
        await old.commit([command(wallet)])
    assert await _balance(admin, wallet) == 99
    await new.commit([command(wallet)])
    assert await _balance(admin, wallet) == 98


async def test_a_batch_that_does_not_begin_where_the_last_one_ended_is_fenced(
    db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    partition = await Partition.claim(db)
    await partition.commit([command(wallet)])
    partition.offset += 5
    with pytest.raises(Fenced):
        await partition.commit([command(wallet)])
    partition.offset = 0  # another batch over records that were committed in part
    with pytest.raises(Fenced):
        await partition.commit([command(wallet), command(wallet)])
    assert await _balance(admin, wallet) == 99


async def test_a_batch_sent_again_after_its_answer_was_lost_is_found_committed(
    database: Prepared, db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    async with (
        proxy_before(database.url) as (proxy, url),
        await Database.connect(DatabaseSettings(database_url=url)) as through,
    ):
        partition = await Partition.claim(through)
        first = await partition.commit([command(wallet, "spend", 5)])
        commands = [command(wallet, "spend", 7), command(wallet, "spend", 500)]
        proxy.lose_answer = True
        with pytest.raises(Unavailable):
            await partition.commit(commands)
        await proxy.answered.wait()
        again = await partition.commit(commands)
        assert again.decisions is None
        assert again.emitted.batch_no == first.emitted.batch_no + 1
        (told,) = again.emitted.slices
        assert (told.topic, told.prev_batch_no) == ("analytics.billing", first.emitted.batch_no)
        assert '"credits":7' in told.events
        assert await _balance(admin, wallet) == 88
        assert _count((await partition.commit([command(wallet)])).decisions or [], "posted") == 1


async def test_a_batch_whose_statement_was_lost_is_posted_when_sent_again(
    database: Prepared, db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    async with (
        proxy_before(database.url) as (proxy, url),
        await Database.connect(DatabaseSettings(database_url=url)) as through,
    ):
        partition = await Partition.claim(through)
        commands = [command(wallet, "spend", 7)]
        proxy.lose_statement = True
        with pytest.raises(Unavailable):
            await partition.commit(commands)
        assert await _balance(admin, wallet) == 100
        assert _count((await partition.commit(commands)).decisions or [], "posted") == 1
        assert await _balance(admin, wallet) == 93


async def test_a_lost_answer_is_fenced_once_somebody_else_owns_the_partition(
    database: Prepared, db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    async with (
        proxy_before(database.url) as (proxy, url),
        await Database.connect(DatabaseSettings(database_url=url)) as through,
    ):
        partition = await Partition.claim(through)
        proxy.lose_answer = True
        commands = [command(wallet, "spend", 7)]
        with pytest.raises(Unavailable):
            await partition.commit(commands)
        await proxy.answered.wait()
        await Partition.claim(db)
        with pytest.raises(Fenced):
            await partition.commit(commands)
    assert await _balance(admin, wallet) == 93


async def test_a_watermark_that_moved_fences_the_batch(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    partition = await Partition.claim(db)
    progress = Progress(watermarks=[Watermark("p", 0, GROUP, 0, 3)])
    await partition.commit([command(wallet)], progress)
    with pytest.raises(Fenced):
        await partition.commit([command(wallet)], progress)
    await partition.commit(
        [command(wallet)], Progress(watermarks=[Watermark("p", 0, GROUP, 3, 4)], dropped=2)
    )
    marks = await offsets.watermarks(db, "wallet.debit", 0, GROUP)
    assert list(marks.values()) == [4]
    assert await _balance(admin, wallet) == 98


async def test_of_a_hundred_concurrent_debits_of_100_on_5500_exactly_55_succeed(
    db: Database, database: Prepared, admin: Connection
) -> None:
    """W17"""
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 5_500)
    decisions = await asyncio.gather(
        *(ledger.call(db, number % 4, command(wallet, "spend", 100)) for number in range(100))
    )
    assert (_count(decisions, "posted"), _count(decisions, "refused")) == (55, 45)
    assert await _balance(admin, wallet) == 0
    assert await invariants.check(database.readonly_url) == []


async def test_a_hold_is_captured_in_part_once_and_the_rest_comes_back(
    db: Database, admin: Connection
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 1_000)
    hold = command(wallet, "hold", 400)
    assert (await ledger.call(db, 0, hold)).balance_credits == 600
    assert (await ledger.call(db, 1, hold)).outcome == "exists"
    attempts = [command(wallet, "capture", 150, extra={"hold_id": str(hold.id)}) for _ in range(4)]
    attempts += [command(wallet, "release", 1, extra={"hold_id": str(hold.id)}) for _ in range(4)]
    decisions = await asyncio.gather(*(ledger.call(db, n % 3, attempt) for n, attempt in enumerate(attempts)))
    assert _count(decisions, "posted") == 1
    assert {d.reason for d in decisions if d.outcome == "refused"} == {"hold_not_open"}
    captured = decisions[[d.outcome for d in decisions].index("posted")].balance_credits
    assert await _balance(admin, wallet) == captured
    assert captured in (850, 1_000)


async def test_a_call_that_would_wait_is_told_and_leaves_nothing(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    forged = command(wallet, "purchase", 100, extra={"payment_id": str(wallet)})
    with pytest.raises(Waiting) as told:
        await ledger.call(db, 0, forged)
    assert told.value.reason == "unverified_payment"
    assert await admin.fetchval("SELECT count(*) FROM batches") == 0


async def test_retries_and_batches_of_one_partition_never_deadlock(
    db: Database, database: Prepared, admin: Connection
) -> None:
    wallets = await open_wallets(admin, 8)
    await fund(db, wallets, 100)
    await admin.execute("UPDATE wallets SET pending_credits = 1000000")
    partition = await Partition.claim(db)
    parked = [command(wallet, "spend", 500) for wallet in wallets]
    assert _count((await partition.commit(parked)).decisions or [], "parked") == 8
    ids = [row["id"] for row in await admin.fetch("SELECT id FROM retries ORDER BY id")]

    async def retry(position: int) -> str:
        item = (Retry(ids[position], 0, True), parked[position])
        committed = await ledger.commit_retries(db, "wallet.debit", 0, GROUP, partition.epoch, [item])
        return (committed.decisions or [])[0].outcome

    async def batches() -> None:
        for _ in range(20):
            await partition.commit([command(wallet) for wallet in random.sample(wallets, 8)])

    *outcomes, _ = await asyncio.gather(*(retry(n) for n in range(8)), batches())
    assert outcomes == ["refused"] * 8
    with pytest.raises(RetryTaken):
        await retry(0)
    await Partition.claim(db)
    item = (Retry(ids[0], 0, True), parked[0])
    with pytest.raises(Fenced):
        await ledger.commit_retries(db, "wallet.debit", 0, GROUP, partition.epoch, [item])
    await admin.execute("UPDATE wallets SET pending_credits = 0")
    assert await invariants.check(database.readonly_url) == []
