"""One fact, one notification per channel: under duplicates, replays and wishes."""

import asyncio
import random
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest

from agents import letters, notifications_billing
from agents.intake import Taken
from sql import notifications
from streams.batches import Fenced

from .conftest import NOW, Office, notice


async def test_a_fact_is_told_once_per_channel(office: Office) -> None:
    user = await office.user()
    await office.tell(notice(user))
    assert await office.states("email") == {"queued": 1}
    assert await office.states("in_app") == {"sent": 1}
    assert await office.admin.fetchval("SELECT count(*) FROM billing_events") == 1


@pytest.mark.parametrize("seed", range(2))
async def test_what_happens_to_messages_on_the_way_tells_nothing_twice_and_loses_nothing(
    office: Office, seed: int
) -> None:
    chance = random.Random(seed)
    users = [await office.user() for _ in range(3)]
    facts = [notice(chance.choice(users)) for _ in range(20)]
    slices = [office.slice(*facts[i : i + 2]) for i in range(0, 20, 2)]
    delivered = [slice_ for slice_ in slices for _ in range(chance.randint(1, 3))]
    while delivered:
        taken = [delivered.pop(0) for _ in range(min(len(delivered), chance.randint(1, 4)))]
        await notifications_billing.handle(office.core, await office.batch(*taken))
        if chance.random() < 0.3:  # another worker, who begins with what is stored
            await office.own()
    # The producer tells all of it again under new numbers, in another order, as after a lost broker.
    chance.shuffle(facts)
    await office.tell(*facts, *facts)
    assert await office.states("email") == {"queued": 20}
    assert await office.states("in_app") == {"sent": 20}
    counted = await office.outcomes()
    assert counted["posted"] == 20
    assert counted["existing"] >= 40


async def test_two_partitions_telling_one_fact_at_once_tell_it_once(office: Office) -> None:
    user = await office.user()
    told = [notice(user) for _ in range(10)]
    rows = [notifications_billing.notice(Taken(event, 0, NOW)) for event in told]
    columns = (
        "user_id",
        "kind",
        "occurred_at",
        "payment_id",
        "wallet_id",
        "credits",
        "amount_paise",
        "source",
        "source_id",
    )

    async def book(shuffled: list[notifications.Notice]) -> list[str]:
        connection = await asyncpg.connect(office.admin_url)
        try:
            return list(
                await connection.fetchval(
                    "SELECT book_notices($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                    *([getattr(row, column) for row in shuffled] for column in columns),
                )
            )
        finally:
            await connection.close()

    outcomes = await asyncio.gather(*(book(random.Random(i).sample(rows, len(rows))) for i in range(4)))
    assert sum(o.count("posted") for o in outcomes) >= 10
    assert await office.states("email") == {"queued": 10}


async def test_an_unknown_user_is_quarantined_and_the_neighbours_are_told(office: Office) -> None:
    user = await office.user()
    await office.tell(notice(uuid4()), notice(user))
    assert await office.outcomes() == {"posted": 1, "quarantined": 1}
    [reason] = await office.admin.fetch("SELECT reason FROM quarantine")
    assert reason["reason"] == "unknown_user"
    assert await office.admin.fetchval("SELECT count(*) FROM billing_events") == 1


async def test_a_fact_of_one_user_is_not_told_to_another(office: Office) -> None:
    owner, other = await office.user(), await office.user()
    fact = notice(owner)
    await office.tell(fact)
    await office.tell(notice(other, payment_id=fact.payment_id))
    assert await office.outcomes() == {"posted": 1, "conflict": 1}
    assert {row["user_id"] for row in await office.rows("in_app")} == {owner}
    assert await office.admin.fetchval("SELECT reason FROM quarantine") == "conflict"


async def test_a_zombie_tells_nobody(office: Office) -> None:
    user = await office.user()
    batch = await office.batch(office.slice(notice(user)))
    await office.own()
    with pytest.raises(Fenced):
        await notifications_billing.handle(office.core, batch)
    assert await office.rows() == []


async def test_a_lost_answer_is_asked_for_again_and_books_nothing_twice(office: Office) -> None:
    user = await office.user()
    batch = await office.batch(office.slice(notice(user)))
    await notifications_billing.handle(office.core, batch)
    office.core.marks._marks.clear()  # the worker never learnt that it was committed
    await notifications_billing.handle(office.core, batch)
    assert await office.states("email") == {"queued": 1}
    assert await office.outcomes() == {"posted": 1}


async def test_a_channel_is_used_if_the_user_wishes(office: Office) -> None:
    wished: tuple[tuple[dict[str, object], int, int], ...] = (
        ({}, 2, 2),
        ({"email": False}, 0, 2),
        ({"in_app": False, "email": True}, 2, 0),
        ({"email": {"low_balance": False}}, 1, 2),
        ({"email": {"low_balance": False, "credits_added": False}, "in_app": {"credits_added": False}}, 0, 1),
    )
    for wishes, email, in_app in wished:
        user = await office.user(wishes=wishes)
        await office.tell(notice(user), notice(user, "low_balance", payment_id=None, wallet_id=str(uuid4())))
        rows = {c: sum(r["user_id"] == user for r in await office.rows(c)) for c in ("email", "in_app")}
        assert rows == {"email": email, "in_app": in_app}, wishes
    assert await office.admin.fetchval("SELECT count(*) FROM billing_events") == 2 * len(wished)


async def test_wishes_are_checked_and_stop_mails_that_wait(office: Office) -> None:
    user = await office.user()
    await office.tell(notice(user), notice(user, "low_balance"))
    for wrong in ({"sms": True}, {"email": 1}, {"email": {"low_balance": "no"}}, {"email": {"jokes": True}}):
        assert await notifications.set_preferences(office.db, user, wrong) == "malformed"
    assert await notifications.set_preferences(office.db, uuid4(), {}) == "unknown_user"
    wishes = {"email": {"low_balance": False}}
    assert await notifications.set_preferences(office.db, user, wishes) == "saved"
    assert await notifications.get_preferences(office.db, user) == wishes
    assert {row["kind"]: (row["state"], row["error"]) for row in await office.rows()} == {
        "credits_added": ("queued", None),
        "low_balance": ("suppressed", "preference"),
    }


async def test_without_an_address_the_mail_is_suppressed_and_the_app_tells(office: Office) -> None:
    user = await office.user(email=None)
    await office.tell(notice(user))
    [row] = await office.rows()
    assert (row["state"], row["error"]) == ("suppressed", "no_address")
    assert await office.states("in_app") == {"sent": 1}


async def test_a_kind_nobody_is_told_about_is_a_fact_all_the_same(office: Office) -> None:
    user = await office.user()
    await office.tell(notice(user, "hold_expired"))
    assert await office.admin.fetchval("SELECT kind FROM billing_events") == "hold_expired"
    assert await office.rows() + await office.rows("in_app") == []
    assert await office.outcomes() == {"posted": 1}


async def test_two_refunds_of_one_payment_are_two_facts(office: Office) -> None:
    user = await office.user()
    payment = str(uuid4())
    await office.tell(
        *(
            notice(user, "refund_done", payment_id=payment, occurred_at=NOW + timedelta(seconds=i))
            for i in (1, 2, 1)
        )
    )
    assert await office.states("email") == {"queued": 2}


async def test_the_app_lists_the_newest_first_in_pages_and_marks_only_its_own_as_read(office: Office) -> None:
    user, other = await office.user(), await office.user()
    for _ in range(5):
        await office.tell(notice(user))
    await office.tell(notice(other))
    first = await notifications.list_notifications(office.db, user, limit=3)
    rest = await notifications.list_notifications(office.db, user, after=first[-1].id, limit=3)
    assert [n.id for n in first + rest] == sorted((n.id for n in first + rest), reverse=True)
    assert (len(first), len(rest)) == (3, 2)
    assert first[0].amount_paise == 50_000
    assert await notifications.count_unread(office.db, user) == 5
    assert await notifications.mark_read(office.db, other, [n.id for n in first]) == 0
    assert await notifications.mark_read(office.db, user, [n.id for n in first]) == 3
    assert await notifications.mark_read(office.db, user, [n.id for n in first + rest]) == 2
    assert await notifications.count_unread(office.db, user) == 0


async def test_every_kind_that_is_mailed_has_its_words(office: Office) -> None:
    kinds = {row["kind"] for row in await office.admin.fetch("SELECT kind FROM notice_kinds WHERE email")}
    assert kinds == letters.KINDS


async def test_who_has_credits_that_lapse_soon_hears_of_it_once_per_day_of_expiry(office: Office) -> None:
    user, wallet = await office.user(), uuid4()
    await office.admin.execute(
        "INSERT INTO wallets (id, owner_id, request_hash) VALUES ($1, $2, '')", wallet, user
    )
    for days, credits in ((3, 10), (3, 5), (6, 7), (30, 9)):
        await office.admin.execute(
            "INSERT INTO lots (id, wallet_id, transaction_id, promotional, effective_at, expires_at, granted_credits,"
            " base_credits, bonus_credits, free_credits)"
            " VALUES ($1, $2, $1, true, now(), date_trunc('day', now()) + make_interval(days => $3, hours => 1), $4, 0, $4, $4)",
            uuid4(), wallet, days, credits,
        )  # fmt: skip
    assert await notifications.remind_expiring(office.db, days=7, limit=10) == 2
    assert await notifications.remind_expiring(office.db, days=7, limit=10) == 0
    told = await notifications.list_notifications(office.db, user)
    assert sorted(n.credits or 0 for n in told) == [7, 15]
