"""Payments that nobody told us about: found, adopted, closed, or shown to a person."""

import asyncio

from gateway.requests import NewOrder
from sql import payments, reconciliation
from sql.payments import Payment

from .conftest import SILENT, Desk


async def unanswered(desk: Desk) -> Payment:
    """A payment whose order we asked for and got no answer about."""
    user, wallet = await desk.till.buyer()
    new = desk.till.new(user, wallet, 50_000)
    created = await payments.create_payment(desk.till.db, new, shard=0, created_partition=0)
    assert created.payment is not None
    return created.payment


def order_of(payment: Payment) -> NewOrder:
    """What the gateway was asked to make."""
    return NewOrder(
        order_id=payment.order_id,
        amount_paise=payment.amount_paise,
        customer_id="cust_1",
        customer_phone="9999999999",
    )


async def verification(desk: Desk, payment: Payment) -> tuple[str, str, int, str | None]:
    row = await desk.till.admin.fetchrow(
        "SELECT state, reason, attempt, result FROM verifications WHERE payment_id = $1", payment.id
    )
    assert row is not None
    return tuple(row)


async def test_payments_whose_webhooks_were_lost_are_found_and_credited_once(desk: Desk) -> None:
    lost = [await desk.lose() for _ in range(3)]
    assert await desk.poll(age_s=300) == 0, "five minutes are not over"
    await desk.till.admin.execute("UPDATE payments SET created_at = created_at - interval '6 minutes'")
    assert await desk.poll(age_s=300) == 3
    await desk.till.drain()
    assert await desk.poll() == 0
    for payment in lost:
        assert (await desk.till.payment(payment.id)).status == "credited"
        assert await desk.till.balance(payment.wallet_id) == (5_500, 0)


async def test_an_order_is_asked_about_at_once_after_an_hour_and_after_a_day_then_a_person_sees_it(
    desk: Desk,
) -> None:
    payment = await desk.till.place(50_000)
    await desk.poll()
    waits = []
    for _ in range(2):
        await desk.till.verifier.once()
        waits.append(
            await desk.till.admin.fetchval(
                "SELECT extract(epoch FROM next_at - now())::integer FROM verifications"
            )
        )
        await desk.later()
    assert 3_200 < waits[0] < 4_000
    assert 77_000 < waits[1] < 96_000
    await desk.till.verifier.once()
    assert await verification(desk, payment) == ("orphan", "no_webhook", 7, "orphan")
    assert (await reconciliation.get_waiting(desk.till.db)).orphans == 1
    await desk.reconcile()
    (case,) = await desk.cases()
    assert (case.kind, case.subject) == ("orphan_order", str(payment.id))


async def test_an_order_that_the_gateway_made_without_telling_us_is_adopted(desk: Desk) -> None:
    payment = await unanswered(desk)
    session = (await desk.till.client.create_order(order_of(payment))).payment_session_id
    await desk.poll()
    assert await verification(desk, payment) == ("due", "unknown_order", 4, None)
    await desk.till.verifier.once()
    await desk.poll()
    found = await desk.till.payment(payment.id)
    assert (found.status, found.payment_session_id) == ("active", session)
    desk.till.pay(found)
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "credited"


async def test_an_unanswered_order_that_was_paid_is_credited(desk: Desk) -> None:
    payment = await unanswered(desk)
    await desk.till.client.create_order(order_of(payment))
    desk.till.pay(payment, webhook=SILENT)
    await desk.poll()
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "credited"


async def test_an_order_that_was_never_made_is_given_up_after_an_hour(desk: Desk) -> None:
    payment = await unanswered(desk)
    await desk.poll()
    await desk.till.verifier.once()
    await desk.poll()
    assert (await desk.till.payment(payment.id)).status == "created", "a GET may lag behind its POST"
    await desk.later()
    await desk.till.verifier.once()
    await desk.poll()
    given_up = await desk.till.payment(payment.id)
    assert (given_up.status, given_up.failure) == ("failed", "never_created")
    assert (await verification(desk, payment))[0] == "closed"
    assert await desk.poll() == 0


async def test_an_expired_order_is_closed_and_a_success_after_that_is_credited(desk: Desk) -> None:
    payment = await desk.till.place(50_000)
    order = desk.till.sim.book.order(payment.order_id)
    order.expiry_ms = 0
    await desk.poll()
    await desk.till.verifier.once()
    await desk.poll()
    assert (await desk.till.payment(payment.id)).status == "expired"
    assert (await verification(desk, payment))[0] == "closed"
    order.status = "ACTIVE"
    order.expiry_ms = 2**45
    desk.till.pay(payment)
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "credited"
    assert await desk.till.balance(payment.wallet_id) == (5_500, 0)


async def test_an_expired_order_whose_success_a_webhook_claims_is_expired_and_still_asked_about(
    desk: Desk,
) -> None:
    payment = await desk.till.place(50_000)
    desk.till.sim.book.order(payment.order_id).expiry_ms = 0
    await desk.till.hear(desk.till.webhook(payment.order_id, "SUCCESS", "999"))
    await desk.till.drain()
    assert await desk.poll() == 1
    assert (await desk.till.payment(payment.id)).status == "expired"
    assert (await verification(desk, payment))[0] == "due"
    assert await desk.poll() == 0


async def test_an_order_that_the_last_look_finds_expired_is_closed_and_no_orphan(desk: Desk) -> None:
    payment = await desk.till.place(50_000)
    await desk.poll()
    for _ in range(2):
        await desk.till.verifier.once()
        await desk.later()
    desk.till.sim.book.order(payment.order_id).expiry_ms = 0
    await desk.till.verifier.once()
    await desk.poll()
    assert (await desk.till.payment(payment.id)).status == "expired"
    assert (await verification(desk, payment))[0] == "closed"


async def test_a_success_after_expiry_that_nobody_told_us_is_found_in_its_settlement(desk: Desk) -> None:
    payment = await desk.till.place(50_000)
    await desk.till.admin.execute("UPDATE payments SET status = 'expired'")
    desk.till.pay(payment, webhook=SILENT)
    desk.till.sim.book.settle()
    await desk.reconcile()
    await desk.till.drain()
    assert (await desk.till.payment(payment.id)).status == "credited"
    await desk.reconcile()
    assert "gateway_clearing" not in await desk.till.sums()
    assert await desk.kinds() == []


async def test_polling_adds_none_while_webhooks_wait(desk: Desk) -> None:
    for _ in range(3):
        await desk.lose()
    assert await reconciliation.poll_payments(desk.till.db, limit=10, most_due=2, age_s=0) == 2
    assert await reconciliation.poll_payments(desk.till.db, limit=10, most_due=2, age_s=0) == 0
    assert await reconciliation.poll_payments(desk.till.db, limit=10, most_due=3, age_s=0) == 1


async def test_pollers_at_the_same_time_ask_about_each_payment_once(desk: Desk) -> None:
    for _ in range(12):
        await desk.till.place(15_000)
    asked = await asyncio.gather(
        *(reconciliation.poll_payments(desk.till.db, limit=5, most_due=100, age_s=0) for _ in range(4))
    )
    while more := await reconciliation.poll_payments(desk.till.db, limit=5, most_due=100, age_s=0):
        asked.append(more)
    assert sum(asked) == 12


async def test_one_worker_at_a_time_polls_and_the_next_takes_over_when_it_dies(desk: Desk) -> None:
    db = desk.till.db
    assert await reconciliation.take_job(db, "poll", "a", lease_s=60)
    assert not await reconciliation.take_job(db, "poll", "b", lease_s=60)
    await desk.till.admin.execute(
        "UPDATE recon_jobs SET leased_until = now() - interval '1 second' WHERE job = 'poll'"
    )
    assert await reconciliation.take_job(db, "poll", "b", lease_s=60)
    await reconciliation.finish_job(db, "poll", "a", after_s=0)
    assert not await reconciliation.take_job(db, "poll", "a", lease_s=60), "it is b's"
    await reconciliation.finish_job(db, "poll", "b", after_s=60)
    assert not await reconciliation.take_job(db, "poll", "a", lease_s=60), "it is not due"
