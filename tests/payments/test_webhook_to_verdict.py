"""The path of a payment: webhook, signal, verification, verdict, credit; and every way in which the world tells it wrong."""

import asyncio
import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from agents import payment_processing
from gateway.errors import ServerFault, Unreachable
from sql import verifications
from sql.payments import get_attempts
from sql.verifications import Answer
from streams import messages
from streams.events import FraudSignal, PaymentSignal, WebhookReceived

from .conftest import Shop


async def test_a_paid_order_is_credited_once_and_every_status_is_counted(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.settle()
    after = await shop.payment(payment.id)
    assert (after.status, after.fraud_score, after.webhook_verified) == ("credited", 0, True)
    assert after.instrument == f"upi:{payment.order_id}@bank"
    assert await shop.balance(payment.wallet_id) == (5_500, 0)
    assert await shop.by_status() == {"created": 1, "verified": 1, "credited": 1}
    assert await shop.violations() == []


async def test_an_inbox_message_published_twice_is_acted_on_once(shop: Shop) -> None:
    payment = await shop.order()
    await shop.hear(shop.webhook(payment.order_id), shop.webhook(payment.order_id, "FAILED", "2"))
    await shop.relay.once()
    (message,) = [m for m in shop.kept.sent if m.topic == "webhook.processing"]
    for values in ([message.value, message.value], [message.value]):
        batch = await shop.batch("webhook.processing", message.partition, values)
        await shop.handlers()["webhook.processing"](batch)
    assert await shop.counts("webhook.processing") == {"posted": 2, "existing": 4}
    (signals,) = [m for m in shop.kept.sent if m.topic == "payment.processing"]
    assert signals.value.count(b"inbox_id") == 2


@pytest.mark.parametrize("seed", range(3))
async def test_messages_doubled_and_out_of_order_credit_each_success_once(shop: Shop, seed: int) -> None:
    chaos = random.Random(seed)
    orders = [await shop.order(price_paise=chaos.choice([15_000, 30_000])) for _ in range(24)]
    paid = set(chaos.sample(range(24), 16))
    news = []
    for i, order in enumerate(orders):
        if i in paid:
            shop.gateway.pays(order)
            news.append(shop.webhook(order.order_id, "SUCCESS", "9"))
        if i % 3 == 0 or i not in paid:
            news.append(
                shop.webhook(order.order_id, chaos.choice(["FAILED", "USER_DROPPED"]), "8", minutes=1)
            )
    chaos.shuffle(news)
    for i in range(0, len(news), 5):
        await shop.hear(*news[i : i + 5])
        await shop.settle(chaos)
    await shop.admin.execute(
        "UPDATE payment_webhooks SET published_at = now() - interval '1 hour', closed_at = NULL, outcome = NULL"
    )
    await shop.settle(chaos)
    states = [(await shop.payment(order.id)).status for order in orders]
    assert states == ["credited" if i in paid else "failed" for i in range(24)]
    for i, order in enumerate(orders):
        assert await shop.balance(order.wallet_id) == (order.credits if i in paid else 0, 0)
    counted = await shop.by_status()
    failures = await shop.admin.fetchval("SELECT count(*) FROM payments WHERE failed_at IS NOT NULL")
    assert counted == {"created": 24, "verified": 16, "credited": 16, "failed": failures}
    assert await shop.admin.fetchval("SELECT count(*) FROM quarantine") == 0
    assert await shop.violations() == []


async def test_a_failure_replayed_after_the_success_changes_nothing(shop: Shop) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id, "FAILED", "7", minutes=2))
    await shop.settle()
    assert (await shop.payment(payment.id)).status == "failed"
    await shop.hear(shop.webhook(payment.order_id, "SUCCESS", "8", minutes=1))
    await shop.settle()
    late = shop.webhook(payment.order_id, "FAILED", "8")
    await shop.hear(
        replace(late, business_key="in another version"), shop.webhook(payment.order_id, "USER_DROPPED", "9")
    )
    await shop.settle()
    assert (await shop.payment(payment.id)).status == "credited"
    attempts = {a.cf_payment_id: (a.status, a.seen) for a in await get_attempts(shop.db, payment.order_id)}
    assert attempts == {
        "7": ("FAILED", ["FAILED"]),
        "8": ("SUCCESS", ["SUCCESS", "FAILED"]),
        "9": ("USER_DROPPED", ["USER_DROPPED"]),
    }


@pytest.mark.parametrize(
    "told", list(itertools.permutations(["PENDING", "FAILED", "SUCCESS", "A_NEW_WORD"]))[::4]
)
async def test_an_attempt_ends_as_its_success_in_whatever_order_it_is_told(
    shop: Shop, told: tuple[str, ...]
) -> None:
    payment = await shop.order()
    for status in told:
        await shop.hear(shop.webhook(payment.order_id, status, "1"))
        await shop.relay.once()
        await shop.deliver("webhook.processing")
        await shop.deliver("payment.processing")
    (attempt,) = await get_attempts(shop.db, payment.order_id)
    assert (attempt.status, attempt.seen) == ("SUCCESS", list(told))


async def test_a_word_that_nobody_told_us_about_is_kept_and_moves_nothing(shop: Shop) -> None:
    payment = await shop.order()
    await shop.hear(
        shop.webhook(payment.order_id, "FAILED", "1", minutes=5),
        shop.webhook(payment.order_id, "A_NEW_WORD", "1"),
    )
    await shop.settle()
    (attempt,) = await get_attempts(shop.db, payment.order_id)
    assert (attempt.status, sorted(attempt.seen)) == ("FAILED", ["A_NEW_WORD", "FAILED"])
    assert shop.gateway.asked == []


@pytest.mark.parametrize(("amount_paise", "currency"), [(49_999, "INR"), (50_001, "INR"), (50_000, "USD")])
async def test_a_paid_order_of_another_amount_or_currency_is_a_case_and_no_credit(
    shop: Shop, amount_paise: int, currency: str
) -> None:
    payment = await shop.order()
    shop.gateway.pays(payment, amount_paise=amount_paise, currency=currency)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.settle()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id, "SUCCESS", "2"))
    await shop.settle()
    assert (await shop.payment(payment.id)).status == "mismatch"
    assert await shop.balance(payment.wallet_id) == (0, 0)
    assert await shop.admin.fetchval("SELECT array_agg(kind || state) FROM reconciliation_cases") == [
        "payment_mismatchopen"
    ]
    assert await shop.by_status() == {"created": 1, "mismatch": 1}
    assert await shop.violations() == []


async def test_forged_events_are_quarantined_and_move_nothing(shop: Shop) -> None:
    payment, other = await shop.order(), await shop.order()
    await shop.hear(shop.webhook(payment.order_id, "FAILED"))
    inbox = str(await shop.admin.fetchval("SELECT id FROM payment_webhooks"))
    now = datetime.now(UTC)

    def received(inbox_id: str, order_id: str) -> bytes:
        event = WebhookReceived(
            inbox_id=inbox_id,
            event_type="X",
            order_id=order_id,
            received_at=now,
            source_version="1",
            status="SUCCESS",
        )
        return messages.encode(messages.Inbox(v=1, events=[event]))

    def sliced(event: PaymentSignal | FraudSignal) -> bytes:
        producer = messages.Producer("forger", 0, "x")
        return messages.encode(
            messages.Slice(v=1, producer=producer, incarnation=1, batch_no=1, prev_batch_no=0, events=[event])
        )

    signal = PaymentSignal(order_id=other.order_id, inbox_id=inbox, kind="success", occurred_at=now)
    count = FraudSignal(
        payment_id=str(payment.id), entity_kind="user", entity="u", amount_paise=1, occurred_at=now
    )
    for topic, values in {
        "webhook.processing": [received(str(uuid4()), payment.order_id), received(inbox, other.order_id)],
        "payment.processing": [sliced(signal), b"{}"],
        "fraud.detection": [sliced(count)],
    }.items():
        await shop.handlers()[topic](await shop.batch(topic, 0, values))
        assert await shop.counts(topic) == {"quarantined": len(values)}
    await shop.verifier.once()
    assert shop.gateway.asked == []
    assert {(await shop.payment(p.id)).status for p in (payment, other)} == {"active"}
    assert await shop.admin.fetchval("SELECT count(*) FROM fraud_windows") == 0


async def test_what_is_not_a_payment_is_closed_with_what_it_was(shop: Shop) -> None:
    payment = await shop.order()
    refund = uuid4()
    await shop.admin.execute(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, requested_by, idempotency_key)"
        " VALUES ($1, 'rf_ours', $2, $3, 100, 'PRO_RATA', 'test', 'k')",
        refund,
        payment.id,
        payment.wallet_id,
    )
    await shop.hear(
        shop.webhook(payment.order_id, kind="refund", refund_id="rf_ours", business_key="a"),
        shop.webhook(payment.order_id, kind="refund", refund_id="rf_theirs", business_key="b"),
        shop.webhook(payment.order_id, kind="dispute", business_key="c"),
        shop.webhook(None, kind="settlement", cf_payment_id="", business_key="d"),
        shop.webhook(None, kind="unknown", business_key="e"),
    )
    await shop.settle()
    rows = await shop.admin.fetch("SELECT business_key, outcome FROM payment_webhooks ORDER BY 1")
    assert {row[0]: row[1] for row in rows} == {
        "a": "refund",
        "b": "noted",
        "c": "noted",
        "d": "noted",
        "e": "ignored",
    }
    (due,) = [m for m in shop.kept.sent if m.topic == "refund.processing"]
    assert str(refund).encode() in due.value
    assert due.partition == shop.core.partition(str(payment.id))


async def test_a_webhook_for_an_unknown_order_waits_for_its_row_and_then_counts(shop: Shop) -> None:
    new = shop.new(*await shop.buyer())
    await shop.hear(shop.webhook(new.order_id, "FAILED", "1", minutes=2))
    await shop.settle()
    payment = await shop.order((new.user_id, new.wallet_id), id=new.id, order_id=new.order_id)
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(new.order_id, "SUCCESS", "2"))
    await shop.settle()
    assert await shop.counts("payment.processing") == {"parked": 2}
    reasons = await shop.admin.fetch("SELECT reason FROM retries ORDER BY id")
    assert [row["reason"] for row in reasons] == ["unknown_order", "behind_parked"]
    assert shop.gateway.asked == []
    for _ in range(2):
        await shop.admin.execute("UPDATE retries SET next_at = now() WHERE state = 'due'")
        assert await payment_processing.retry_once(shop.core, shop.ownership) == 1
    assert await payment_processing.retry_once(shop.core, shop.ownership) == 0
    await shop.settle()
    assert (await shop.payment(new.id)).status == "credited"
    assert await shop.by_status() == {"created": 1, "failed": 1, "verified": 1, "credited": 1}
    assert [a.cf_payment_id for a in await get_attempts(shop.db, new.order_id)] == ["1", "2"]
    assert await shop.violations() == []


async def test_an_order_that_never_appears_is_dead_after_its_limit_and_retried_by_one(shop: Shop) -> None:
    await shop.hear(shop.webhook("not-ours"))
    await shop.settle()
    for _ in range(30):
        await shop.admin.execute("UPDATE retries SET next_at = now() WHERE state = 'due'")
        await asyncio.gather(*(payment_processing.retry_once(shop.core, shop.ownership) for _ in range(2)))
    row = await shop.admin.fetchrow("SELECT state, attempt, reason FROM retries")
    assert row is not None
    assert tuple(row) == ("dead", 21, "unknown_order")
    assert await shop.counts("retry/payment.processing") == {"parked": 21}


async def test_a_worker_that_lost_its_partition_decides_no_parked_item(shop: Shop) -> None:
    await shop.hear(shop.webhook("not-ours"))
    await shop.settle()
    (number,) = [n for topic, n in shop.positions if topic == "payment.processing"]
    await shop.admin.execute("UPDATE retries SET next_at = now()")
    await shop.admin.execute("UPDATE consumer_offsets SET epoch = epoch + 1 WHERE partition = $1", number)
    assert await payment_processing.retry_once(shop.core, shop.ownership) == 1
    assert await shop.admin.fetchval("SELECT attempt FROM retries") == 0


async def due(shop: Shop) -> verifications.Lease:
    """An order whose success was heard, leased."""
    payment = await shop.order()
    shop.gateway.pays(payment)
    await shop.hear(shop.webhook(payment.order_id))
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")
    (lease,) = await verifications.lease_verifications(shop.db, limit=10, lease_s=60)
    return lease


async def test_a_payment_verified_by_many_at_once_is_verified_once(shop: Shop) -> None:
    lease = await due(shop)
    answer = await shop.verifier.ask(lease)
    outcomes = await asyncio.gather(*(shop.verifier.record([answer]) for _ in range(6)))
    assert sorted(outcomes) == [["exists"]] * 5 + [["verified"]]
    assert await shop.balance(lease.wallet_id) == (0, 5_500)
    assert await shop.counts("verify") == {"posted": 1}
    assert len([m for m in shop.kept.sent if m.topic == "fraud.detection"]) <= 4
    await shop.settle()
    assert await shop.verifier.record([answer]) == ["exists"]
    assert await shop.balance(lease.wallet_id) == (5_500, 0)


async def test_an_unpaid_order_is_asked_again_by_the_schedule_and_a_later_success_revives_the_orphan(
    shop: Shop,
) -> None:
    lease = await due(shop)
    waits = []
    for attempt in range(7):
        unpaid = Answer(lease.payment_id, attempt, "order", 0, [], status="ACTIVE")
        outcomes = await shop.verifier.record([unpaid, unpaid])
        assert outcomes == ["unpaid" if attempt < 6 else "orphan", "exists"]
        wait = await shop.admin.fetchval("SELECT extract(epoch FROM next_at - now()) FROM verifications")
        waits.append(float(wait))
    for wait, planned in zip(waits, [5, 15, 60, 300, 3600, 86400], strict=False):
        assert 0.85 * planned <= wait <= 1.1 * planned
    assert (await verifications.get_backlog(shop.db)).orphans == 1
    await shop.hear(shop.webhook(lease.order_id, "SUCCESS", "2"))
    await shop.settle()
    assert await shop.balance(lease.wallet_id) == (5_500, 0)


async def test_a_gateway_that_is_down_costs_no_attempt(shop: Shop) -> None:
    lease = await due(shop)
    shop.gateway.orders[lease.order_id] = ServerFault("get_order", "bad gateway", status=502)
    for _ in range(8):
        assert await shop.verifier.record([await shop.verifier.ask(lease)]) == ["deferred"]
    shop.gateway.orders[lease.order_id] = Unreachable("get_order", "nobody", retry_after_s=120)
    assert await shop.verifier.record([await shop.verifier.ask(lease)]) == ["deferred"]
    row = await shop.admin.fetchrow(
        "SELECT attempt, deferrals, extract(epoch FROM next_at - now()) AS wait FROM verifications"
    )
    assert row is not None
    assert (row["attempt"], row["deferrals"]) == (0, 9)
    assert row["wait"] > 110
    shop.gateway.pays(await shop.payment(lease.payment_id))
    await shop.admin.execute("UPDATE verifications SET next_at = now()")
    await shop.settle()
    assert await shop.balance(lease.wallet_id) == (5_500, 0)


async def test_leases_go_by_deadline_then_amount_and_to_one_taker_each(shop: Shop) -> None:
    wanted = []
    for late, price in [(1, 15_000), (3, 15_000), (3, 100_000), (2, 50_000)]:
        payment = await shop.order(price_paise=price)
        wanted.append((-late, -price, payment.id))
        await shop.admin.execute(
            "INSERT INTO verifications (payment_id, order_id, reason, next_at, amount)"
            " VALUES ($1, $2, 'test', date_trunc('hour', now()) - $3 * interval '1 hour', $4)",
            payment.id,
            payment.order_id,
            late,
            price,
        )
    first = await verifications.lease_verifications(shop.db, limit=2, lease_s=60)
    rest = await verifications.lease_verifications(shop.db, limit=9, lease_s=60)
    assert [lease.payment_id for lease in [*first, *rest]] == [id for *_, id in sorted(wanted)]
    assert await verifications.lease_verifications(shop.db, limit=9, lease_s=60) == []
    await shop.admin.execute("UPDATE verifications SET leased_until = now() - interval '1 second'")
    takers = await asyncio.gather(
        *(verifications.lease_verifications(shop.db, limit=2, lease_s=60) for _ in range(4))
    )
    taken = [lease.payment_id for lease in itertools.chain(*takers)]
    assert len(taken) == len(set(taken)) == 4


async def test_the_pool_drains_by_itself_and_stops_when_told(shop: Shop) -> None:
    orders = [await shop.order() for _ in range(40)]
    for order in orders:
        shop.gateway.pays(order)
    await shop.hear(*(shop.webhook(order.order_id) for order in orders))
    await shop.relay.once()
    await shop.deliver("webhook.processing")
    await shop.deliver("payment.processing")
    pool = asyncio.create_task(shop.verifier.run())
    async with asyncio.timeout(10):
        while (await verifications.get_backlog(shop.db)).due:
            await asyncio.sleep(0.02)
    pool.cancel()
    await asyncio.gather(pool, return_exceptions=True)
    assert sorted(shop.gateway.asked) == sorted(order.order_id for order in orders)
    assert await shop.counts("verify") == {"posted": 40}
