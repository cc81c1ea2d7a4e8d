"""Messages between agents, lost, doubled and reordered; and what services may not do on wallet.debit."""

from uuid import uuid4

import pytest

from agents import analytics_billing, wallet_credit, wallet_debit
from agents.core import Core, Outgoing
from sql import relay
from streams import messages
from streams.batches import Fenced
from streams.events import CreditCommand, GrantCommand

from .conftest import NOW, World, sign, signed, usage


async def windows(world: World) -> dict[str, tuple[int, int]]:
    rows = await world.admin.fetch(
        "SELECT metric, resolution, sum(count) n, sum(credits) c FROM billing_windows GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return {f"{r['metric']}/{r['resolution']}": (int(r["n"]), int(r["c"])) for r in rows}


async def test_a_debit_reaches_the_windows(world: World, service: tuple[str, bytes]) -> None:
    name, secret = service
    wallet = await world.wallet(1000)
    events = [usage(wallet, f"e{i}", 7) for i in range(10)]
    await wallet_debit.handle(
        world.core, await world.batch("wallet.debit", 0, [signed(events, name=name, secret=secret)])
    )
    assert await world.balance(wallet) == 930
    await analytics_billing.handle(
        world.core, await world.batch("analytics.billing", 0, world.kept.of("analytics.billing"))
    )
    expected = {f"credits_granted/{r}": (1, 1000) for r in ("1d", "1h", "1m")}
    assert await windows(world) == expected | {f"credits_spent/{r}": (10, 70) for r in ("1d", "1h", "1m")}


@pytest.mark.parametrize("mishap", ["doubled", "lost", "reordered", "all lost but the last"])
async def test_what_happens_to_messages_between_agents_changes_no_window(
    world: World, service: tuple[str, bytes], mishap: str
) -> None:
    name, secret = service
    wallet = await world.wallet(1000)
    for i in range(6):
        message = signed([usage(wallet, f"e{i}", 7)], name=name, secret=secret)
        await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [message]))
    sent = world.kept.of("analytics.billing")
    assert len(sent) == 7
    delivered = {
        "doubled": [m for m in sent for _ in range(2)],
        "lost": [*sent[:2], *sent[4:]],
        "reordered": [sent[0], sent[3], sent[1], sent[2], *sent[4:]],
        "all lost but the last": [sent[0], sent[-1]],
    }[mishap]
    for message in delivered:
        await analytics_billing.handle(world.core, await world.batch("analytics.billing", 0, [message]))
    found = await windows(world)
    assert found["credits_spent/1m"] == (6, 42)
    assert found["credits_granted/1m"] == (1, 1000)


async def test_a_gap_that_was_filled_by_a_commit_whose_answer_was_lost_is_left_to_a_new_claim(
    world: World, service: tuple[str, bytes]
) -> None:
    """What was applied is swept from the outbox; the batch, tried again, must not look for it there for ever."""
    name, secret = service
    wallet = await world.wallet(1000)
    for i in range(3):
        message = signed([usage(wallet, f"e{i}", 7)], name=name, secret=secret)
        await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [message]))
    sent = world.kept.of("analytics.billing")
    batch = await world.batch("analytics.billing", 0, [sent[0], sent[-1]])
    unaware = Core(world.core.db, world.kept, world.core.group, partitions=1)
    await analytics_billing.handle(world.core, batch)
    await relay.sweep_outbox(world.core.db, world.core.group, limit=100, stale_s=0)
    booked = await windows(world)
    with pytest.raises(Fenced):
        await analytics_billing.handle(unaware, batch)
    assert await windows(world) == booked


async def test_a_usage_event_sent_again_exists_and_another_body_conflicts(
    world: World, service: tuple[str, bytes]
) -> None:
    name, secret = service
    wallet = await world.wallet(100)
    session = str(uuid4())
    batches = [
        signed([usage(wallet, "a", 10)], name=name, secret=secret, session=session, seq=1),
        signed([usage(wallet, "a", 10)], name=name, secret=secret, session=session, seq=2),
        signed([usage(wallet, "a", 11)], name=name, secret=secret, session=session, seq=3),
        signed([usage(wallet, "b", 200)], name=name, secret=secret, session=session, seq=4),
    ]
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, batches))
    assert await world.balance(wallet) == 90
    assert await world.outcomes("wallet.debit") == {"posted": 1, "existing": 1, "conflict": 1, "refused": 1}
    covered = await world.admin.fetchval(
        "SELECT covered_seq FROM publisher_watermarks WHERE session = $1", session
    )
    assert covered == 4


async def test_what_a_lost_batch_left_out_of_turn_waits_for_it(
    world: World, service: tuple[str, bytes]
) -> None:
    """The broker lost batch 2 of 4. Its publisher keeps all and sends 2 to 4 again: the wallet's order is that of the calls."""
    name, secret = service
    wallet = await world.wallet(100)
    session = str(uuid4())
    sent = []
    for seq in range(1, 5):
        batch = signed([usage(wallet, f"e{seq}", seq)], name=name, secret=secret, session=session, seq=seq)
        sent.append(Outgoing(batch.topic, 0, "", batch.value, {**batch.headers, messages.KEPT: "1"}))
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [sent[0], sent[2]]))
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [sent[3]]))
    assert await world.balance(wallet) == 99
    await world.own("wallet.debit", 0)
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [sent[3], *sent[1:]]))
    booked = await world.admin.fetch(
        "SELECT source_id FROM wallet_transactions WHERE source = 'usage' ORDER BY seq"
    )
    assert [row["source_id"] for row in booked] == ["e1", "e2", "e3", "e4"]
    told = await world.admin.fetch("SELECT kind, expected_offset, found_offset FROM stream_incidents")
    assert [tuple(row) for row in told] == [("out_of_turn", 2, 3)]
    covered = await world.admin.fetchval(
        "SELECT covered_seq FROM publisher_watermarks WHERE session = $1", session
    )
    assert covered == 4


async def test_a_gap_of_a_publisher_that_keeps_nothing_holds_nobody_up(
    world: World, service: tuple[str, bytes]
) -> None:
    name, secret = service
    wallet = await world.wallet(100)
    session = str(uuid4())
    batches = [
        signed([usage(wallet, f"e{seq}", 1)], name=name, secret=secret, session=session, seq=seq)
        for seq in (1, 3)
    ]
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, batches))
    assert await world.balance(wallet) == 98


async def test_a_refused_debit_stays_refused_after_a_top_up(world: World, service: tuple[str, bytes]) -> None:
    name, secret = service
    wallet = await world.wallet()
    message = signed([usage(wallet, "a", 10)], name=name, secret=secret)
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [message]))
    rich = await world.wallet(50)
    assert await world.balance(rich) == 50
    grant = messages.Slice(
        v=1,
        producer=messages.Producer("top-up", 0, "g"),
        incarnation=1,
        batch_no=1,
        prev_batch_no=0,
        events=[
            GrantCommand(id="g", wallet_id=str(wallet), credits=50, priority=0, occurred_at=NOW, reason="x")
        ],
    )
    await wallet_credit.handle(world.core, await world.batch("wallet.credit", 0, [messages.encode(grant)]))
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, [message]))
    assert await world.balance(wallet) == 50
    assert await world.outcomes("wallet.debit") == {"refused": 1, "existing": 1}


async def test_a_forged_credit_without_a_verified_payment_posts_nothing(world: World) -> None:
    wallet = await world.wallet()
    forged = CreditCommand(payment_id=str(uuid4()), wallet_id=str(wallet), credits=12000, occurred_at=NOW)
    slice_ = messages.Slice(
        v=1,
        producer=messages.Producer("forger", 0, "g"),
        incarnation=1,
        batch_no=1,
        prev_batch_no=0,
        events=[forged],
    )
    await wallet_credit.handle(world.core, await world.batch("wallet.credit", 0, [messages.encode(slice_)]))
    assert await world.balance(wallet) == 0
    assert await world.outcomes("wallet.credit") == {"parked": 1}
    assert await world.admin.fetchval("SELECT reason FROM retries") == "unverified_payment"


async def test_only_a_known_publisher_within_its_scope_may_charge(
    world: World, service: tuple[str, bytes]
) -> None:
    name, secret = service
    community = uuid4()
    await world.admin.execute(
        "INSERT INTO publishers (name, secret, features, communities) VALUES ('narrow', $1, '{chat.message}', ARRAY[$2::uuid])",
        secret, community,
    )  # fmt: skip
    mine, other = await world.wallet(100, community), await world.wallet(100)
    records: list[Outgoing | bytes] = [
        signed([usage(mine, "ok")], name="narrow", secret=secret),
        signed([usage(other, "foreign wallet")], name="narrow", secret=secret),
        signed([usage(mine, "wrong secret")], name=name, secret=b"x" * 32),
        signed([usage(mine, "unknown")], name="nobody", secret=secret),
        signed([usage(mine, "for another", principal="api")], name=name, secret=secret),
        signed([usage(mine, "unsigned")], name=name, secret=secret).value,
    ]
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, records))
    assert (await world.balance(mine), await world.balance(other)) == (90, 100)
    assert await world.outcomes("wallet.debit") == {"posted": 1, "quarantined": 5}
    assert sorted(r.split(":")[0] for r in await world.quarantined()) == ["forged"] * 4 + ["quarantined"]


BAD = {
    "not JSON": b"{",
    "unknown version": b'{"type":"usage.batch","v":2,"session":"%s","seq":1,"events":[%s]}',
    "unknown type": b'{"type":"usage","v":1,"session":"%s","seq":1,"events":[%s]}',
    "negative": b'{"id":"a","wallet_id":"W","feature":"f","credits":-5}',
    "huge": b'{"id":"a","wallet_id":"W","feature":"f","credits":99999999999999999999}',
    "float": b'{"id":"a","wallet_id":"W","feature":"f","credits":5.0}',
    "duplicate key": b'{"id":"a","wallet_id":"W","feature":"f","credits":5,"credits":6}',
    "1 MB of metadata": b'{"id":"a","wallet_id":"W","feature":"f","credits":5,"metadata":{"x":"'
    + b"y" * 1_000_000
    + b'"}}',
    "unknown wallet": b'{"id":"a","wallet_id":"00000000-0000-0000-0000-000000000000","feature":"f","credits":5}',
}


@pytest.mark.parametrize("kind", BAD)
async def test_bad_input_is_kept_with_its_reason_and_its_neighbours_are_booked(
    world: World, service: tuple[str, bytes], kind: str
) -> None:
    name, secret = service
    wallet = await world.wallet(100)
    body = BAD[kind].replace(b"W", str(wallet).encode(), 1) if b'"W"' in BAD[kind] else BAD[kind]
    session = str(uuid4()).encode()
    good = b'{"id":"good","wallet_id":"%s","feature":"f","credits":5}' % str(wallet).encode()
    if body.startswith(b'{"id"'):
        value = b'{"type":"usage.batch","v":1,"session":"%s","seq":1,"events":[%s]}' % (session, body)
    elif b"%s" in body:
        value = body % (session, good)
    else:
        value = body
    after = b'{"type":"usage.batch","v":1,"session":"%s","seq":2,"events":[%s]}' % (session, good)
    records = [sign(value, name=name, secret=secret), sign(after, name=name, secret=secret)]
    await wallet_debit.handle(world.core, await world.batch("wallet.debit", 0, records))
    assert await world.balance(wallet) == 95
    assert await world.outcomes("wallet.debit") == {"posted": 1, "quarantined": 1}
    [reason] = await world.quarantined()
    assert reason.split(":")[0] in ("malformed", "quarantined"), reason


async def test_a_zombie_commits_nothing(world: World, service: tuple[str, bytes]) -> None:
    name, secret = service
    wallet = await world.wallet(100)
    batch = await world.batch("wallet.debit", 0, [signed([usage(wallet, "a")], name=name, secret=secret)])
    await world.own("wallet.debit", 0)  # somebody else takes over
    with pytest.raises(Fenced):
        await wallet_debit.handle(world.core, batch)
    assert await world.balance(wallet) == 100
