"""Mails handed over at least once or given up with a reason, whatever the server and the worker do."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from agents import mailer
from agents.mail_settings import MailSettings
from agents.mailer import Unreachable
from sql import notifications
from sql.errors import Unavailable
from streams.events import BillingNotice

from .conftest import NOW, Office, notice

KINDS = ("credits_added", "payment_failed", "payment_held", "invoice_issued")


async def mails(office: Office, count: int, **user: Any) -> None:
    """So many mails that wait."""
    id = await office.user(**user)
    await office.tell(*(notice(id) for _ in range(count)))


async def test_a_mail_arrives_and_says_who_it_is(office: Office) -> None:
    await mails(office, 1)
    assert await office.mailer().once() == 1
    [row] = await office.rows()
    [mail] = office.mail.mails
    assert (row["state"], row["attempts"]) == ("sent", 1)
    assert mail["Message-ID"] == f"<{row['id']}@commdesk.example>"
    assert office.mail.recipients == ["asha@example.com"]
    assert mail["Subject"] == "5,000 credits added to your wallet"
    plain, html = mail.iter_parts()
    assert "₹500.00" in plain.get_content()
    assert "₹500.00" in html.get_content()
    assert await office.mailer().once() == 0
    assert office.mail.connections == 1


async def test_several_mailers_send_each_mail_once(office: Office) -> None:
    await mails(office, 60)
    workers = [office.mailer() for _ in range(4)]
    while sum(await asyncio.gather(*(w.once() for w in workers))):
        pass
    assert len(office.mail.ids()) == len(set(office.mail.ids())) == 60
    assert await office.states() == {"sent": 60}


async def test_a_worker_that_dies_between_handing_over_and_recording_sends_it_again_under_the_same_id(
    office: Office,
) -> None:
    await mails(office, 3)
    dying = asyncio.create_task(office.mailer().once())
    office.mail.accepted = dying.cancel  # at the moment the server has the first
    with pytest.raises(asyncio.CancelledError):
        await dying
    office.mail.accepted = lambda: None
    assert len(office.mail.mails) == 1
    assert await office.states() == {"queued": 3}
    assert await office.mailer().once() == 0  # until the lease is over
    await office.due_now()
    while await office.mailer().once():
        pass
    assert await office.states() == {"sent": 3}
    assert Counter(Counter(office.mail.ids()).values()) == {1: 2, 2: 1}
    twice = [mail for mail in office.mail.mails if office.mail.ids().count(str(mail["Message-ID"])) == 2]
    assert [mail["X-Attempt"] for mail in twice] == ["1", "2"]


@pytest.mark.parametrize("said", [None, "silence"])
async def test_an_answer_that_never_came_is_an_attempt_and_the_mail_goes_again(
    office: Office, said: str | None
) -> None:
    await mails(office, 1)
    if said is None:
        office.mail.answers["."] = [None]
        with pytest.raises(Unreachable, match="data:"):
            await office.mailer().once()
    else:
        stalled = asyncio.Event()
        office.mail.before_last_word = stalled
        with pytest.raises(Unreachable, match="data:SMTPReadTimeoutError"):
            await office.mailer(smtp_timeout_s=0.2).once()
        office.mail.before_last_word = None
    [row] = await office.rows()
    assert (row["state"], row["attempts"], row["error"]) == ("failed", 1, "unknown_outcome")
    await office.due_now()
    assert await office.mailer().once() == 1
    assert await office.states() == {"sent": 1}
    assert len(set(office.mail.ids())) == 1


async def test_a_server_that_is_down_costs_no_mail_an_attempt(office: Office) -> None:
    await mails(office, 5)
    await office.mail.stop()
    for _ in range(10):
        with pytest.raises(Unreachable, match="connect:"):
            await office.mailer(mail_attempts=2).once()
    assert {(r["state"], r["attempts"]) for r in await office.rows()} == {("queued", 0)}
    await office.mail.start()
    assert await office.mailer().once() == 5
    assert await office.states() == {"sent": 5}


async def test_a_server_lost_on_the_way_leaves_the_rest_as_it_was(office: Office) -> None:
    # Per way to be lost: how many of four mails have an attempt counted. Only an answer about that very mail counts.
    ways: tuple[tuple[str, str | None, int], ...] = (
        ("MAIL", "530 log in first", 1),
        ("MAIL", "451 too many", 1),
        ("MAIL", None, 1),
        ("RCPT", None, 1),
        ("RCPT", "421 closing", 2),
        ("DATA", "421 closing", 2),
        ("DATA", None, 2),
    )
    for verb, said, counted in ways:
        await office.admin.execute("DELETE FROM notifications")
        office.mail.mails.clear()
        await mails(office, 4)
        office.mail.answers[verb] = ["354 go on" if verb == "DATA" else "250 fine", said]
        with pytest.raises(Unreachable):
            await office.mailer().once()
        assert sum(r["attempts"] for r in await office.rows()) == counted, (verb, said)
        await office.due_now()
        assert await office.mailer().once() == 3
        assert await office.states() == {"sent": 4}
        assert len(set(office.mail.ids())) == len(office.mail.ids()) == 4


async def test_a_deferred_mail_waits_longer_each_time_and_is_dead_after_the_limit(office: Office) -> None:
    await mails(office, 1)
    waits = []
    for attempt in range(1, 6):
        office.mail.answers["RCPT"] = ["451 asha@example.com is busy"]
        assert (
            await office.mailer(mail_attempts=5, mail_retry_base_s=100.0, mail_retry_cap_s=500.0).once() == 1
        )
        [row] = await office.rows()
        assert (row["attempts"], row["error"]) == (attempt, "smtp_451")
        waits.append(
            await office.admin.fetchval(
                "SELECT extract(epoch FROM next_at - now())::float FROM notifications WHERE channel = 'email'"
            )
        )
        assert row["state"] == ("dead" if attempt == 5 else "failed")
        await office.due_now()
    for wait, meant in zip(waits, (100, 200, 400, 500, 500), strict=True):
        assert 0.74 * meant - 2 <= wait <= 1.26 * meant
    assert await office.mailer().once() == 0
    assert office.mail.mails == []


async def test_a_mail_refused_for_good_is_dead_at_once_and_its_neighbours_go(office: Office) -> None:
    for verb, said in (("RCPT", "550 no such user"), ("DATA", "554 no"), (".", "552 spam")):
        await office.admin.execute("DELETE FROM notifications")
        await mails(office, 3)
        office.mail.answers[verb] = [said]
        assert await office.mailer().once() == 3
        assert await office.states() == {"dead": 1, "sent": 2}
        assert {r["error"] for r in await office.rows()} == {None, f"smtp_{said[:3]}"}


async def test_an_address_nobody_can_mean_is_dead_without_asking_the_server(office: Office) -> None:
    await mails(office, 1, email="asha@example.com>\r\nRCPT TO:<mallory@example.com")
    assert await office.mailer().once() == 1
    [row] = await office.rows()
    assert (row["state"], row["error"]) == ("dead", "bad_address")
    assert office.mail.recipients == []


async def test_a_mail_that_kills_its_worker_each_time_is_given_up(office: Office) -> None:
    await mails(office, 1)
    for _ in range(3):
        assert len(await notifications.lease(office.db, limit=5, lease_s=0.0, attempts=3)) == 1
    assert await notifications.lease(office.db, limit=5, lease_s=0.0, attempts=3) == []
    [row] = await office.rows()
    assert (row["state"], row["error"]) == ("dead", "unknown_outcome")


async def test_a_late_record_of_a_lease_that_is_over_changes_nothing_but_what_is_out_is_out(
    office: Office,
) -> None:
    await mails(office, 1)
    [old] = await notifications.lease(office.db, limit=1, lease_s=0.0, attempts=9)
    [new] = await notifications.lease(office.db, limit=1, lease_s=60.0, attempts=9)
    backoff = notifications.Backoff(9, 1.0, 1.0)
    late = notifications.Delivery(old.id, old.attempt, "rejected", "smtp_550")
    assert await notifications.record(office.db, [late], backoff) == {}
    await office.admin.execute(
        "UPDATE notifications SET state = 'suppressed', error = 'preference' WHERE channel = 'email'"
    )
    sent = notifications.Delivery(new.id, new.attempt, "sent")
    assert await notifications.record(office.db, [sent], backoff) == {new.id: "sent"}


async def test_a_database_away_after_handing_over_is_waited_for_while_the_lease_lasts(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    await mails(office, 1)
    record, faults = notifications.record, [Unavailable("away"), Unavailable("away")]

    async def away(*args: Any) -> Any:
        if faults:
            raise faults.pop()
        return await record(*args)

    monkeypatch.setattr(notifications, "record", away)
    monkeypatch.setattr(mailer, "POLL_S", 0.01)
    assert await office.mailer().once() == 1
    assert await office.states() == {"sent": 1}
    assert len(office.mail.mails) == 1


async def test_without_a_server_mails_are_suppressed_and_it_is_said_once(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailer, "OFF_POLL_S", 0.01)
    await mails(office, 3)
    with capture_logs() as said:
        loop = asyncio.create_task(mailer.run(office.db, MailSettings(smtp_url="")))
        async with asyncio.timeout(5):
            while await office.states() != {"suppressed": 3}:
                await asyncio.sleep(0.02)
            await mails(office, 2)
            while await office.states() != {"suppressed": 5}:
                await asyncio.sleep(0.02)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    assert [line["event"] for line in said if "SMTP_URL" in line["event"]] == [
        "email is off: SMTP_URL is not set; mails are marked suppressed"
    ]
    assert {r["error"] for r in await office.rows()} == {"email_off"}
    assert office.mail.connections == 0
    ids = [r["id"] for r in await office.rows()]
    assert await notifications.requeue(office.db, ids, actor="ops") == 5
    assert await office.mailer().once() == 5
    assert await office.admin.fetchval("SELECT count(*) FROM audit_logs WHERE actor = 'ops'") == 5


async def test_the_loop_waits_longer_while_the_server_is_down_and_then_sends(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailer, "POLL_S", 0.01)
    await mails(office, 3)
    await office.mail.stop()
    with capture_logs() as said:
        loop = asyncio.create_task(
            mailer.run(office.db, office.mail_settings(mail_connections=1, smtp_timeout_s=1.0))
        )
        await asyncio.sleep(0.5)
        await office.mail.start()
        async with asyncio.timeout(5):
            while await office.states() != {"sent": 3}:
                await asyncio.sleep(0.02)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
    waited = [line["faults"] for line in said if line["event"] == "the mailer waits"]
    assert waited == list(range(1, len(waited) + 1))
    assert 3 <= len(waited) <= 8  # 0.01 s doubled, not a busy loop


async def test_nobodys_address_or_name_is_logged_or_kept(office: Office) -> None:
    await mails(office, 3, email="secret.person@private.example", name="Secretname")
    office.mail.answers["RCPT"] = ["550 <secret.person@private.example> unknown", "451 secret.person busy"]
    with capture_logs() as said:
        await office.mailer().once()
        office.mail.answers["MAIL"] = ["554 secret.person@private.example"]
        await office.due_now()
        with pytest.raises(Unreachable) as raised:
            await office.mailer().once()
    kept = [tuple(r.values()) for r in await office.rows()]
    for text in (repr(said), repr(kept), repr(raised.value)):
        assert "secret" not in text.lower()
    assert len(said) >= 3


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_fails_every_mail_is_out_or_dead_and_only_an_unknown_outcome_is_sent_twice(
    office: Office, seed: int
) -> None:
    chance = random.Random(seed)
    user = await office.user()
    facts = [notice(user, chance.choice(KINDS), occurred_at=NOW + timedelta(seconds=i)) for i in range(40)]
    await tell_badly(office, facts, chance)
    office.mail.answers = {
        "MAIL": [chance.choice(["250 fine", "250 fine", "250 fine", "451 later", None]) for _ in range(40)],
        "RCPT": [chance.choice(["250 fine"] * 5 + ["550 no", "450 later", None]) for _ in range(40)],
        ".": [chance.choice(["250 kept"] * 5 + ["451 later", None]) for _ in range(40)],
    }
    hung_up = office.mail.answers["."].count(None)
    for _ in range(400):
        try:
            if (
                not await office.mailer(mail_attempts=30).once()
                and "queued" not in (states := await office.states())
                and "failed" not in states
            ):
                break
        except Unreachable:
            pass
        await office.due_now()
    states = await office.states()
    assert sum(states.values()) == 40
    assert states.keys() <= {"sent", "dead"}
    sent = {f"<{r['id']}@commdesk.example>" for r in await office.rows() if r["state"] == "sent"}
    assert sent <= set(office.mail.ids())
    assert len(office.mail.ids()) - len(set(office.mail.ids())) <= hung_up


async def tell_badly(office: Office, facts: list[BillingNotice], chance: random.Random) -> None:
    """Everything at least twice, in disorder."""
    for _ in range(2):
        chance.shuffle(facts)
        for i in range(0, len(facts), 7):
            await office.tell(*facts[i : i + 7])
    assert len(await office.rows()) == len(facts)


def test_beyond_this_machine_the_connection_is_encrypted_and_the_url_is_checked() -> None:
    outside = MailSettings(smtp_url="smtp://user%40x:p%2Fw@mail.example", mail_from="a@b.example").server
    assert outside is not None
    assert (outside.port, outside.start_tls, outside.implicit_tls) == (587, True, False)
    assert (outside.username, outside.password) == ("user@x", "p/w")
    implicit = MailSettings(smtp_url="smtps://mail.example", mail_from="a@b.example").server
    assert implicit is not None
    assert (implicit.port, implicit.start_tls, implicit.implicit_tls) == (465, False, True)
    for wrong in (
        {"smtp_url": "http://mail.example"},
        {"smtp_url": "smtp://mail.example"},  # in whose name?
        {"mail_from": "a@b.example, c@d.example"},
        {"mail_lease_s": 10.0},
    ):
        with pytest.raises(ValueError, match="must"):
            MailSettings(**wrong)


def test_a_wrong_url_is_named_without_its_password() -> None:
    with pytest.raises(ValueError, match="SMTP_URL") as raised:
        MailSettings(smtp_url="smpt://user:hunter2@mail.example", mail_from="a@b.example")
    assert "hunter2" not in str(raised.value)
