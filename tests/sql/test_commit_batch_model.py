"""commit_batch against its specification, over random batches of every kind of command.

CORE_MODEL_BATCHES is how many batches each seed plays (120), CORE_MODEL_SEEDS how many seeds (6).
"""

import os
import random

import pytest

from domain.commands import Kind, Status
from domain.lots import Place
from sql import invariants
from sql.db import Database, DatabaseSettings
from tests.conftest import Database as Prepared
from tests.sql.books import Connection, booked, differences, specified, spent_as_told
from tests.sql.worlds import World, same

BATCHES = int(os.environ.get("CORE_MODEL_BATCHES", "120"))
SEEDS = int(os.environ.get("CORE_MODEL_SEEDS", "6"))


async def play(world: World, batches: int) -> None:
    """Play so many batches, with retries and calls between them; every answer must be the specification's."""
    outcomes = dict.fromkeys(Status, 0)
    for number in range(batches):
        await world.life()
        told = await world.batch(world.rng.choice([1, 3, 8, 25]))
        if world.rng.random() < 0.2:
            told += await world.call()
        while world.rng.random() < 0.5:
            told += await world.retry()
        for command, outcome, decision in told:
            outcomes[outcome.status] += 1
            assert same(command, outcome, decision), (number, command, outcome, decision)
        if number % 25 == 0:
            assert differences(specified(world.model), await booked(world.admin)) == []
    assert differences(specified(world.model), await booked(world.admin)) == []
    posted = {transaction.kind for transaction in world.model.transactions}
    assert batches < 100 or (all(outcomes.values()) and posted == set(Kind)), (outcomes, posted)


async def told_what_happened(world: World) -> None:
    """The outbox tells exactly what was posted."""
    told = await spent_as_told(world.admin)
    moves = [(t.kind, m) for t in world.model.transactions for m in t.moves]
    spent = [m for kind, m in moves if kind in (Kind.SPEND, Kind.CAPTURE) and m.target is Place.SPENT]
    expired = [m for kind, m in moves if kind is Kind.EXPIRE]
    granted = [t for t in world.model.transactions if t.kind in (Kind.PURCHASE, Kind.GRANT)]
    assert told["credits_spent.credits"] == sum(m.credits for m in spent)
    assert told["credits_spent.paise"] == sum(m.recognised_paise for m in spent)
    assert told["credits_expired.credits"] == sum(m.credits for m in expired)
    assert told["credits_expired.paise"] == sum(m.recognised_paise for m in expired)
    assert told["credits_granted.credits"] == sum(t.credits for t in granted)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_commit_batch_answers_and_books_as_specified(
    db: Database, database: Prepared, admin: Connection, seed: int
) -> None:
    world = World(db, admin, random.Random(seed))
    await world.begin(random.Random(seed).choice([2, 6, 15]))
    await play(world, BATCHES)
    await told_what_happened(world)
    assert await invariants.check(database.readonly_url) == []


async def test_commit_batch_is_the_same_through_the_pooler(pooled_url: str, admin: Connection) -> None:
    async with await Database.connect(DatabaseSettings(database_url=pooled_url)) as db:
        world = World(db, admin, random.Random(99))
        await world.begin(6)
        await play(world, 40)


async def test_a_difference_is_noticed(db: Database, admin: Connection) -> None:
    world = World(db, admin, random.Random(7))
    await world.begin(3)
    await play(world, 10)
    await admin.execute(
        "UPDATE wallets SET pending_credits = pending_credits + 1 WHERE id = $1", world.wallets[0]
    )
    assert len(differences(specified(world.model), await booked(admin))) == 1
