"""A service charges only the wallets and features it was given; what it may not is set aside, whole."""

from uuid import uuid4

import pytest

from sql import publishers
from sql.db import Database
from tests.sql.books import Connection
from tests.sql.desk import Partition, command, fund, open_wallets


async def test_a_publisher_is_held_to_its_features_and_communities(db: Database, admin: Connection) -> None:
    community = uuid4()
    (ours,) = await open_wallets(admin, 1, community)
    (foreign,) = await open_wallets(admin, 1)
    await fund(db, [ours, foreign], 100)
    await publishers.register(db, "chat", b"x" * 32, features=["chat.message"], communities=[community])
    debit = await Partition.claim(db)
    committed = await debit.commit(
        [
            command(ours, publisher="chat", feature="chat.message"),
            command(ours, publisher="chat", feature="ai.summary"),
            command(foreign, publisher="chat", feature="chat.message"),
            command(ours, publisher="nobody", feature="chat.message"),
            command(foreign, feature="ai.summary"),
        ]
    )
    assert [(d.outcome, d.reason) for d in committed.decisions or ()] == [
        ("posted", None),
        ("quarantined", "outside_scope"),
        ("quarantined", "outside_scope"),
        ("quarantined", "unknown_publisher"),
        ("posted", None),
    ]
    kept = await admin.fetch("SELECT reason, payload FROM quarantine ORDER BY id")
    assert [row["reason"] for row in kept] == ["quarantined:outside_scope"] * 2 + [
        "quarantined:unknown_publisher"
    ]
    assert str(foreign).encode() in kept[1]["payload"]


@pytest.mark.parametrize("amount", [0, -1, 1_000_000_001, 2**62])
async def test_an_amount_out_of_range_is_set_aside_and_the_rest_is_posted(
    db: Database, admin: Connection, amount: int
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 100)
    debit = await Partition.claim(db)
    committed = await debit.commit([command(wallet, amount=amount), command(wallet)])
    assert [(d.outcome, d.reason) for d in committed.decisions or ()] == [
        ("quarantined", "bad_amount"),
        ("posted", None),
    ]


async def test_a_refused_debit_stays_refused_after_a_top_up(db: Database, admin: Connection) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 10)
    debit = await Partition.claim(db)
    asked = command(wallet, amount=50)
    first = await debit.commit([asked])
    await fund(db, [wallet], 1_000)
    again = await debit.commit([asked])
    assert [(d.outcome, d.reason) for d in first.decisions or ()] == [("refused", "insufficient_credits")]
    assert [(d.outcome, d.reason) for d in again.decisions or ()] == [("exists", "refused")]
    assert await admin.fetchval("SELECT available_credits FROM wallets WHERE id = $1", wallet) == 1_010
