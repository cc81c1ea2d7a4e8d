"""The simulator: its state machines, its webhooks in every version and mishap, its clock, its seeds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.client import CashfreeClient
from gateway.requests import NewRefund
from gateway.signature import Reason
from gateway.simulator.app import SIMULATOR, make_app
from gateway.simulator.journal import Journal
from gateway.simulator.sim import SimConfig, Simulator
from gateway.webhooks import WebhookEvent
from tests.gateway.conftest import Inbox, MakeOrder, Running, new_order, serving

PG = {
    "x-client-id": "TEST_CLIENT",
    "x-client-secret": "test-secret-of-the-merchant",
    "x-api-version": "2025-01-01",
}


async def test_a_payment_reaches_us_as_an_authentic_webhook(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_w", 17_001, customer_email="a@example.com")
    paid = await simulator.pay("order_w", method="upi", instrument="Someone@UPI")
    await inbox.wait_for(1)
    event = inbox.events()[0]
    assert (event.kind, event.status, event.order_id) == ("payment", "SUCCESS", "order_w")
    assert (event.amount_paise, event.order_amount_paise, event.currency) == (17_001, 17_001, "INR")
    assert event.cf_payment_id == paid["payments"][0]["cf_payment_id"]
    assert event.instrument == "upi:someone@upi"
    assert event.customer_email == "a@example.com"
    headers = {name.lower(): value for name, value in inbox.received[0].headers}
    assert headers["x-webhook-version"] == "2025-01-01"
    assert headers["x-webhook-attempt"] == "1"
    assert headers["x-idempotency-key"]
    assert b"170.01" in inbox.received[0].body


async def test_failures_come_before_the_success_and_only_the_success_pays(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_f")
    await simulator.pay("order_f", outcome="failed")
    await simulator.pay("order_f", outcome="dropped")
    assert (await client.get_order("order_f")).status == "ACTIVE"
    await simulator.pay("order_f", attempts_before=1)
    await inbox.wait_for(4)
    assert sorted(event.status for event in inbox.events()) == ["FAILED", "FAILED", "SUCCESS", "USER_DROPPED"]
    assert len({event.cf_payment_id for event in inbox.events()}) == 4
    assert (await client.get_order("order_f")).paid


async def test_one_attempt_may_succeed_after_it_failed(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_late")
    await simulator.pay("order_late", late=True)
    await inbox.wait_for(2)
    assert {event.status for event in inbox.events()} == {"FAILED", "SUCCESS"}
    assert len({event.cf_payment_id for event in inbox.events()}) == 1
    assert (await client.get_order("order_late")).paid


async def test_an_order_can_be_paid_twice_and_the_second_can_come_back_by_itself(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await simulator.control("POST", "/refund-policy", {"auto_refund": True, "delay_s": 0})
    await make_order("order_two")
    await simulator.pay("order_two", times=2)
    await inbox.wait_for(3)
    assert sorted(event.kind for event in inbox.events()) == ["auto_refund", "payment", "payment"]
    truth = await simulator.control("GET", "/orders/order_two")
    assert (truth["captured_paise"], truth["refunded_paise"]) == (100_000, 50_000)
    refunds = await client.get_refunds("order_two")
    assert [refund.type for refund in refunds] == ["PAYMENT_AUTO_REFUND"]


async def test_a_pending_payment_waits_for_the_bank(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_p")
    paid = await simulator.pay("order_p", outcome="pending")
    number = paid["payments"][0]["cf_payment_id"]
    assert (await simulator.control("GET", "/orders/order_p"))["status"] == "ACTIVE"
    await simulator.control("POST", f"/payments/{number}", {"status": "SUCCESS"})
    await inbox.wait_for(1)
    async with simulator.http.post(
        f"{simulator.url}/sim/payments/{number}", json={"status": "FAILED"}
    ) as answer:
        assert answer.status == 400


async def test_get_may_lag_behind_the_webhook(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_behind")
    await simulator.pay("order_behind", get_lag_s=60)
    await inbox.wait_for(1)
    assert (await client.get_order("order_behind")).status == "ACTIVE"
    assert await client.get_payments("order_behind") == ()
    await simulator.control("POST", "/clock/advance", {"seconds": 61})
    assert (await client.get_order("order_behind")).paid


async def test_a_refund_is_pending_until_the_clock_finishes_it(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await simulator.control("POST", "/refund-policy", {"outcome": "SUCCESS", "delay_s": 86_400})
    await make_order("order_r")
    await simulator.pay("order_r")
    refund = await client.create_refund("order_r", NewRefund(refund_id="refund_r", amount_paise=10_000))
    assert refund.status == "PENDING"
    await simulator.control("POST", "/clock/advance", {"seconds": 86_401})
    await inbox.wait_for(2)
    event = next(event for event in inbox.events() if event.kind == "refund")
    assert (event.refund_id, event.status, event.amount_paise) == ("refund_r", "SUCCESS", 10_000)
    assert (await client.get_refund("order_r", "refund_r")).arn


@pytest.mark.parametrize("outcome", ["ONHOLD", "CANCELLED", "FAILED", "PENDING"])
async def test_a_refund_can_end_otherwise_and_then_leaves_the_money_refundable(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder, outcome: str
) -> None:
    await simulator.control("POST", "/refund-policy", {"outcome": outcome, "delay_s": 0})
    await make_order("order_o")
    await simulator.pay("order_o")
    await client.create_refund("order_o", NewRefund(refund_id="refund_o", amount_paise=50_000))
    await simulator.control("POST", "/clock/advance", {"seconds": 1})
    assert (await client.get_refund("order_o", "refund_o")).status == outcome
    truth = await simulator.control("GET", "/orders/order_o")
    assert truth["refunded_paise"] == (50_000 if outcome in ("ONHOLD", "PENDING") else 0)


async def test_an_order_expires_on_its_clock_and_a_late_success_still_pays_it(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_x")
    pending = await simulator.pay("order_x", outcome="pending")
    await simulator.control("POST", "/clock/advance", {"seconds": 31 * 86_400})
    assert (await client.get_order("order_x")).status == "EXPIRED"
    number = pending["payments"][0]["cf_payment_id"]
    await simulator.control("POST", f"/payments/{number}", {"status": "SUCCESS"})
    assert (await client.get_order("order_x")).paid


@pytest.mark.parametrize(
    ("plan", "reasons"),
    [
        ({"bad_signature": True}, [Reason.SIGNATURE]),
        ({"old_secret": True}, [Reason.SIGNATURE]),
        ({"stale": True}, [Reason.OK]),
        ({"duplicate": 2}, [Reason.OK] * 3),
    ],
)
async def test_webhooks_go_wrong_as_told(
    simulator: Running, inbox: Inbox, make_order: MakeOrder, plan: dict[str, Any], reasons: list[Reason]
) -> None:
    await make_order("order_plan")
    await simulator.pay("order_plan", webhook=plan)
    received = await inbox.wait_for(len(reasons))
    assert [item.verdict.reason for item in received] == reasons
    assert received[0].verdict.stale == ("stale" in plan)
    assert len({item.body for item in received}) == 1


async def test_one_event_in_two_versions_has_one_business_key(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_v")
    await simulator.pay("order_v", webhook={"two_versions": True})
    await inbox.wait_for(2)
    events = inbox.events()
    assert {event.version for event in events} == {"2022-09-01", "2025-01-01"}
    assert len({event.business_key for event in events}) == 1
    kinds = {type(json.loads(item.body)["data"]["payment"]["cf_payment_id"]) for item in inbox.received}
    assert kinds == {int, str}


async def test_a_dropped_webhook_is_counted_and_never_sent(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_d1")
    await make_order("order_d2")
    await simulator.pay("order_d1", webhook={"drop": True})
    await simulator.pay("order_d2")
    await inbox.wait_for(1)
    assert [event.order_id for event in inbox.events()] == ["order_d2"]
    assert (await simulator.control("GET", "/stats"))["webhooks"]["dropped"] == 1


async def test_a_webhook_may_lie_about_the_amount_or_bring_what_is_new(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_l")
    await simulator.pay("order_l", webhook={"amount_paise": 1, "unknown_field": True, "unknown_status": True})
    await inbox.wait_for(1)
    event = inbox.events()[0]
    assert (event.amount_paise, event.order_amount_paise, event.status) == (1, 50_000, "SOMETHING_NEW")


async def test_a_refused_webhook_comes_again_after_two_ten_and_thirty_minutes(
    simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    inbox.answer = 500
    await make_order("order_again")
    await simulator.pay("order_again")
    for number, minutes in enumerate((2, 10, 30), start=2):
        await inbox.wait_for(number - 1)
        await simulator.sim.deliveries.settled()
        await simulator.control("POST", "/clock/advance", {"seconds": minutes * 60 - 5})
        assert len(inbox.received) == number - 1
        await simulator.control("POST", "/clock/advance", {"seconds": 6})
    received = await inbox.wait_for(4)
    await simulator.sim.deliveries.settled()
    assert [item.verdict.attempt for item in received] == ["1", "2", "3", "4"]
    assert len({item.verdict.delivery_key for item in received}) == 1
    assert (await simulator.control("GET", "/stats"))["webhooks"]["given_up"] == 1


async def test_chances_from_a_seed_repeat_themselves(inbox: Inbox) -> None:
    async def run() -> dict[str, int]:
        app = make_app(SimConfig(webhook_url=inbox.url, seed=11))
        headers = {
            "x-client-id": "simulator",
            "x-client-secret": "simulator-secret",
            "x-api-version": "2025-01-01",
        }
        async with serving(app) as url, aiohttp.ClientSession() as http:
            chances = {
                "duplicate": 0.2,
                "two_versions": 0.2,
                "drop": 0.1,
                "reorder": 0.3,
                "reorder_window_s": 0.02,
            }
            await http.post(f"{url}/sim/webhooks", json=chances)
            for number in range(50):
                body = new_order(f"order_{number}").to_wire() | {"order_amount": 5}
                await http.post(f"{url}/pg/orders", json=body, headers=headers)
                await http.post(f"{url}/sim/orders/order_{number}/pay", json={})
            counts = app[SIMULATOR].deliveries.counts
            return {"dropped": counts.dropped, "duplicated": counts.duplicated, "reordered": counts.reordered}

    first = await run()
    assert first == await run()
    assert all(first.values())


async def test_limits_are_enforced_when_asked_for(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_lim")
    await simulator.control("POST", "/limits", {"get_order": 3})
    url = f"{simulator.url}/pg/orders/order_lim"
    statuses = []
    for _ in range(4):
        async with simulator.http.get(url, headers=PG) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 200, 200, 429]
    assert 1 <= int(answer.headers["x-ratelimit-retry"]) <= 60


async def test_an_idempotency_key_replays_its_answer_and_refuses_another_request(simulator: Running) -> None:
    url = f"{simulator.url}/pg/orders"
    customer = {"customer_id": "cust_1", "customer_phone": "9999999999"}
    body = {"order_amount": 5, "order_currency": "INR", "customer_details": customer}
    headers = PG | {"x-idempotency-key": "6f2b3c0e-8a9f-4e57-8f6c-0d9a3f1c2b4d"}
    answers = []
    for amount in (5, 5, 6):
        async with simulator.http.post(url, json=body | {"order_amount": amount}, headers=headers) as answer:
            answers.append((answer.status, (await answer.json()).get("order_id")))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
    assert answers[2][0] == 422
    assert len(simulator.sim.book.orders) == 1


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"x-api-version": ""}, 400, "version is not valid"),
        ({"x-client-secret": "guess"}, 401, "authentication Failed"),
    ],
)
async def test_the_door_is_guarded(
    simulator: Running, headers: dict[str, str], status: int, message: str
) -> None:
    async with simulator.http.get(f"{simulator.url}/pg/orders/order_1", headers=PG | headers) as answer:
        assert answer.status == status
        assert (await answer.json())["message"] == message


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"order_id": "a b"}, "order_id_invalid"),
        ({"order_id": "x" * 46}, "order_id_invalid"),
        ({"order_amount": 0.99}, "order_amount_invalid"),
        ({"order_amount": 1.001}, "order_amount_invalid"),
        ({"order_amount": "5"}, "order_amount_invalid"),
        ({"order_currency": 5}, "order_currency_invalid"),
        ({"customer_details": None}, "customer_details_invalid"),
        ({"customer_details": {"customer_id": "c12"}}, "customer_phone_invalid"),
        ({"order_expiry_time": "2021-07-29T00:00:00.000Z"}, "order_expiry_time_invalid"),
        ({"order_tags": {str(n): "x" for n in range(16)}}, "order_tags_invalid"),
        ({"order_meta": {"return_url": "javascript:alert(1)"}}, "order_meta_return_url_invalid"),
        ({"order_splits": [{"vendor_id": "v", "amount": 6}]}, "order_splits_invalid"),
    ],
)
async def test_a_wrong_order_is_refused_by_field(
    simulator: Running, change: dict[str, Any], code: str
) -> None:
    customer = {"customer_id": "cust_1", "customer_phone": "9999999999"}
    body = {"order_id": "order_1", "order_amount": 5, "order_currency": "INR", "customer_details": customer}
    async with simulator.http.post(f"{simulator.url}/pg/orders", json=body | change, headers=PG) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == code


async def test_the_truth_can_be_listed_page_by_page(simulator: Running, make_order: MakeOrder) -> None:
    for number in range(5):
        await make_order(f"order_{number}")
    first = await simulator.control("GET", "/orders?limit=3")
    rest = await simulator.control("GET", f"/orders?limit=3&after={first[-1]['order_id']}")
    assert [order["order_id"] for order in first + rest] == [f"order_{number}" for number in range(5)]


async def test_settlements_are_announced(simulator: Running, inbox: Inbox, make_order: MakeOrder) -> None:
    await make_order("order_s")
    await simulator.pay("order_s", webhook={"drop": True})
    await simulator.control("POST", "/settle")
    await inbox.wait_for(1)
    event = inbox.received[0].event
    assert isinstance(event, WebhookEvent)
    assert (event.kind, event.amount_paise, event.order_amount_paise) == ("settlement", 48_849, 50_000)


async def test_a_simulator_with_a_journal_forgets_no_order_when_it_dies(tmp_path: Path) -> None:
    config = SimConfig(journal=tmp_path / "journal")
    before = Simulator(config)
    made = before.book.create_order(
        order_id="o1", amount_paise=50_000, currency="INR", customer={}, meta={}, tags=None, note=None, splits=[],
        expiry_ms=None,
    )  # fmt: skip
    before.book.resolve(made, before.book.start_attempt(made, "upi", None), "SUCCESS")
    before.book.refund_outcome = "PENDING"
    before.book.refund("o1", refund_id="r1", amount_paise=10_000, note=None, speed="STANDARD")
    before.remembered["key"] = (b"print", 200, b"{}")
    Journal(before, tmp_path / "journal").save()
    after = Simulator(config)
    after.book.refund_delay_s = 0.0
    Journal(after, tmp_path / "journal").restore()
    await asyncio.sleep(0.05)
    order = after.book.order("o1")
    assert order.attempts == made.attempts
    assert order.status == "PAID"
    assert order.refunds["r1"].status == "SUCCESS"
    assert after.remembered == before.remembered
