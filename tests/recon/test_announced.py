"""settlements.processing: a settlement that the gateway's webhook tells of is fetched, posted and compared at once."""

import json
from datetime import UTC, datetime
from uuid import UUID

from agents.core import Outgoing
from sql import invariants, reconciliation
from streams import messages

from .conftest import Desk

TOPIC = "settlements.processing"


async def is_due(desk: Desk, holder: str) -> bool:
    return await reconciliation.take_job(desk.till.db, "reconcile", holder, lease_s=300)


async def test_a_settlement_that_is_told_of_does_not_wait_for_the_night(desk: Desk) -> None:
    await desk.till.buy(50_000)
    assert not await is_due(desk, "test")
    desk.till.sim.book.settle()
    await desk.till.drain()
    assert await desk.till.counts(TOPIC) == {"posted": 1}
    (settlement,) = desk.till.sim.book.settlements
    told = await desk.till.admin.fetchrow("SELECT id, net_paise FROM gateway_settlements")
    assert told is not None
    assert tuple(told) == (str(settlement), None), "a webhook's amounts are nobody's authority"

    assert await is_due(desk, "test")
    summary = await desk.reconciler().once()
    assert (summary.lines_new, summary.cases) == (1, {})
    assert "gateway_clearing" not in await desk.till.sums()
    assert not await is_due(desk, "another"), "done, until the night"
    assert await invariants.check(desk.till.readonly_url) == []


async def test_the_same_news_again_and_again_changes_nothing(desk: Desk) -> None:
    await desk.till.buy(50_000)
    desk.till.sim.book.settle()
    await desk.till.drain()
    await desk.reconcile()
    before = [row for row in await desk.everything() if row[0] not in ("batches", "audit_logs")]
    [sent] = [message for message in desk.till.kept.sent if message.topic == TOPIC]
    slices = json.loads(sent.value)
    again = messages.encode_slice(
        messages.Producer("another", 0, "commdesk"),
        incarnation=1,
        batch_no=1,
        prev_batch_no=0,
        events_json=json.dumps(slices["events"] * 2),
    )
    desk.till.kept.sent += [sent, Outgoing(TOPIC, sent.partition, sent.key, again, {})]
    await desk.till.deliver(TOPIC)
    assert await desk.till.counts(TOPIC) == {"posted": 1, "existing": 3}
    assert not await is_due(desk, "another")
    assert [row for row in await desk.everything() if row[0] not in ("batches", "audit_logs")] == before


async def test_a_settlement_of_which_no_webhook_tells_is_set_aside(desk: Desk) -> None:
    payment = await desk.till.buy(50_000)
    inbox = await desk.till.admin.fetchval(
        "SELECT id FROM payment_webhooks WHERE order_id = $1 LIMIT 1", payment.order_id
    )
    events = [
        {"settlement_id": "77", "inbox_id": str(id), "occurred_at": datetime.now(UTC).isoformat()}
        for id in (inbox, UUID(int=7))
    ]
    forged = messages.encode_slice(
        messages.Producer("another", 0, "commdesk"),
        incarnation=1,
        batch_no=1,
        prev_batch_no=0,
        events_json=json.dumps(events),
    )
    desk.till.kept.sent.append(Outgoing(TOPIC, 0, "77", forged, {}))
    await desk.till.deliver(TOPIC)
    assert await desk.till.counts(TOPIC) == {"quarantined": 2}
    assert not await is_due(desk, "another")
    assert await desk.till.admin.fetchval("SELECT count(*) FROM gateway_settlements") == 0
