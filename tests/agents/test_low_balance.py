"""A wallet that falls below its threshold is told of once per fall."""

import json
from uuid import UUID

import pytest

from agents import wallet_credit, wallet_debit
from streams import messages
from streams.events import GrantCommand

from .conftest import NOW, World, signed, usage


def told(world: World) -> list[int]:
    """The balances of the notices so far."""
    events = [
        event for m in world.kept.of("notifications.billing") for event in json.loads(m.value)["events"]
    ]
    assert {event["kind"] for event in events} <= {"low_balance"}
    return [event["credits"] for event in events]


async def grant(world: World, wallet: UUID, credits: int, id: str) -> None:
    command = GrantCommand(
        id=id, wallet_id=str(wallet), credits=credits, priority=0, occurred_at=NOW, reason="test"
    )
    producer = messages.Producer("test", 0, id)
    value = messages.encode(
        messages.Slice(v=1, producer=producer, incarnation=1, batch_no=1, prev_batch_no=0, events=[command])
    )
    await wallet_credit.handle(world.core, await world.batch("wallet.credit", 0, [value]))


@pytest.mark.parametrize("one_by_one", [False, True])
async def test_each_fall_below_the_threshold_is_told_once(
    world: World, service: tuple[str, bytes], one_by_one: bool
) -> None:
    name, secret = service
    wallet = await world.wallet(1000)
    number = 0

    async def spend(*credits: int) -> None:
        nonlocal number
        events = [usage(wallet, f"e{number + i}", c) for i, c in enumerate(credits, 1)]
        number += len(credits)
        message = signed(events, name=name, secret=secret, seq=number)
        # A key that comes twice in a batch keeps its wallet out of the set.
        values = [message] * (2 if one_by_one else 1)
        await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, values))

    await spend(300, 500)
    assert (await world.balance(wallet), told(world)) == (200, [])  # the threshold itself is not below it
    await spend(1, 50)
    assert told(world) == [199]
    await spend(40)
    assert told(world) == [199]
    await grant(world, wallet, 1000, "more")
    await spend(800, 300, 9)
    assert (await world.balance(wallet), told(world)) == (0, [199, 9])
    await spend(1)  # refused
    assert told(world) == [199, 9]
