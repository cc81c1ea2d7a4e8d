"""Our client against the simulator: exact money, one outcome whatever breaks, and what it never does."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway.budget import LocalBudget, Rate
from gateway.client import CashfreeClient
from gateway.errors import (
    BadAnswer,
    BadRequest,
    ContentMismatch,
    NotFound,
    NotSent,
    OutcomeUnknown,
    OverBudget,
    RateLimited,
    Refused,
    Unauthorised,
    Unreachable,
)
from gateway.requests import NewRefund
from gateway.transport import Merchant, Transport
from tests.gateway.conftest import MakeOrder, Running, new_order, serving


def count(simulator: Running, endpoint: str) -> int:
    return simulator.sim.calls[endpoint]


async def test_an_order_is_created_found_paid_and_seen_with_exact_amounts(
    client: CashfreeClient, simulator: Running
) -> None:
    created = await client.create_order(
        new_order("order_exact", 17_001, customer_email="a@example.com", tags={"pack": "p1"})
    )
    assert (created.status, created.amount_paise, created.currency) == ("ACTIVE", 17_001, "INR")
    assert created.payment_session_id
    assert created.tags == {"pack": "p1"}
    await simulator.pay("order_exact", attempts_before=1, method="card")
    found = await client.get_order("order_exact")
    assert found.paid
    assert found.cf_order_id == created.cf_order_id
    payments = await client.get_payments("order_exact")
    assert sorted(payment.status for payment in payments) == ["FAILED", "SUCCESS"]
    success = next(payment for payment in payments if payment.status == "SUCCESS")
    assert (success.amount_paise, success.group, success.captured) == (17_001, "credit_card", True)
    assert await client.get_payment("order_exact", success.cf_payment_id) == success


async def test_the_amount_is_sent_as_a_number_with_two_decimals() -> None:
    wire = new_order("order_1", 17_000).to_wire()
    assert str(wire["order_amount"]) == "170.00"


async def test_creating_the_same_order_again_finds_it(client: CashfreeClient, simulator: Running) -> None:
    first = await client.create_order(new_order("order_twice"))
    again = await client.create_order(new_order("order_twice"))
    assert again == first
    assert len(simulator.sim.book.orders) == 1


async def test_an_id_that_stands_for_another_amount_is_a_mismatch(client: CashfreeClient) -> None:
    await client.create_order(new_order("order_taken", 50_000))
    with pytest.raises(ContentMismatch):
        await client.create_order(new_order("order_taken", 50_001))


@pytest.mark.parametrize(
    "kind", ["commit_then_500", "commit_then_502", "commit_then_reset", "500", "502", "reset"]
)
async def test_a_broken_creation_ends_in_exactly_one_order(
    client: CashfreeClient, simulator: Running, kind: str
) -> None:
    await simulator.fault("create_order", kind)
    order = await client.create_order(new_order("order_broken"))
    assert order.order_id == "order_broken"
    assert len(simulator.sim.book.orders) == 1
    assert count(simulator, "create_order") == (1 if kind.startswith("commit") else 2)


async def test_a_creation_that_timed_out_is_looked_up_and_not_sent_again(
    client: CashfreeClient, simulator: Running
) -> None:
    await simulator.fault("create_order", "commit_then_timeout", seconds=3)
    assert (await client.create_order(new_order("order_slow"))).order_id == "order_slow"
    assert count(simulator, "create_order") == 1


async def test_a_get_that_lags_behind_the_creation_still_ends_in_one_order(
    client: CashfreeClient, simulator: Running
) -> None:
    await simulator.fault("create_order", "commit_then_500")
    await simulator.fault("get_order", "lag")
    assert (await client.create_order(new_order("order_lag"))).order_id == "order_lag"
    assert len(simulator.sim.book.orders) == 1
    assert count(simulator, "create_order") == 2


async def test_a_creation_that_cannot_be_settled_says_that_its_outcome_is_unknown(
    client: CashfreeClient, simulator: Running
) -> None:
    await simulator.fault("create_order", "commit_then_500", times=None)
    await simulator.fault("get_order", "502", times=None)
    with pytest.raises(OutcomeUnknown):
        await client.create_order(new_order("order_dark"))
    await simulator.control("DELETE", "/faults")
    assert (await client.create_order(new_order("order_dark"))).order_id == "order_dark"
    assert len(simulator.sim.book.orders) == 1


@pytest.mark.parametrize("kind", ["commit_then_500", "commit_then_reset", "502", "reset"])
async def test_a_broken_refund_ends_in_exactly_one_refund(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder, kind: str
) -> None:
    await make_order("order_refund")
    await simulator.pay("order_refund")
    await simulator.fault("create_refund", kind)
    refund = await client.create_refund("order_refund", NewRefund(refund_id="refund_1", amount_paise=20_000))
    assert (refund.refund_id, refund.amount_paise, refund.type) == ("refund_1", 20_000, "MERCHANT_INITIATED")
    again = await client.create_refund("order_refund", NewRefund(refund_id="refund_1", amount_paise=20_000))
    assert again.cf_refund_id == refund.cf_refund_id
    assert simulator.sim.book.orders["order_refund"].refunded_paise == 20_000
    assert len(await client.get_refunds("order_refund")) == 1


async def test_a_refund_beyond_what_was_captured_is_refused(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_r")
    with pytest.raises(BadRequest):
        await client.create_refund("order_r", NewRefund(refund_id="ref_0", amount_paise=1))
    await simulator.pay("order_r")
    with pytest.raises(BadRequest):
        await client.create_refund("order_r", NewRefund(refund_id="ref_1", amount_paise=50_001))


@pytest.mark.parametrize("kind", ["500", "502", "reset"])
async def test_a_get_is_repeated_after_a_passing_fault(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder, kind: str
) -> None:
    await make_order("order_get")
    await simulator.fault("get_order", kind, times=2)
    assert (await client.get_order("order_get")).order_id == "order_get"
    assert count(simulator, "get_order") == 3


@pytest.mark.parametrize("kind", ["429", "429_reset"])
async def test_after_a_429_the_client_waits_as_long_as_it_is_told(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder, kind: str
) -> None:
    await simulator.fault("create_order", kind, seconds=1)
    started = time.monotonic()
    await make_order("order_429")
    assert time.monotonic() - started >= 0.9
    assert count(simulator, "create_order") == 2


async def test_an_impatient_client_says_when_to_come_back(client: CashfreeClient, simulator: Running) -> None:
    await simulator.fault("create_order", "429", seconds=30)
    with pytest.raises(RateLimited) as caught:
        await client.create_order(new_order("order_busy"))
    assert caught.value.retry_after_s == 30
    with pytest.raises(OverBudget) as paused:
        await client.create_order(new_order("order_busy"))
    assert paused.value.retry_after_s > 25
    assert count(simulator, "create_order") == 1
    assert isinstance(paused.value, NotSent)


async def test_unknown_statuses_and_fields_and_numeric_ids_are_read(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_new")
    await simulator.fault("get_order", "unknown_enum")
    assert (await client.get_order("order_new")).status == "SOMETHING_NEW"
    await simulator.fault("get_order", "unknown_field")
    plain = await client.get_order("order_new")
    await simulator.fault("get_order", "int_ids")
    assert await client.get_order("order_new") == plain


async def test_an_answer_that_cannot_be_read_leaves_the_outcome_unknown(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_cut")
    await simulator.fault("get_order", "truncated", times=3)
    with pytest.raises(BadAnswer):
        await client.get_order("order_cut")
    await simulator.fault("create_order", "truncated")
    assert (await client.create_order(new_order("order_cut2"))).order_id == "order_cut2"


async def test_a_redirect_is_never_followed_with_our_secret(
    client: CashfreeClient, simulator: Running
) -> None:
    await simulator.fault("get_order", "redirect", times=None)
    with pytest.raises(BadAnswer):
        await client.get_order("order_redirect")


async def test_wrong_credentials_and_unknown_orders_are_told_apart(
    client: CashfreeClient, make_order: MakeOrder
) -> None:
    with pytest.raises(NotFound):
        await client.get_order("order_nowhere")
    stranger = client.for_merchant(Merchant("TEST_CLIENT", "wrong"))
    with pytest.raises(Unauthorised):
        await stranger.get_order("order_nowhere")
    assert "wrong" not in repr(stranger)


@pytest.mark.parametrize("order_id", ["../settlements", "a/b", "ab", "x" * 46, "order 1", "order?1", ""])
async def test_an_id_that_could_change_the_path_is_never_sent(
    client: CashfreeClient, simulator: Running, order_id: str
) -> None:
    with pytest.raises(BadRequest):
        await client.get_order(order_id)
    assert sum(simulator.sim.calls.values()) == 0


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with aiohttp.ClientSession() as http:
        budget = LocalBudget(lambda endpoint: Rate(0.0, 10))
        away = CashfreeClient(Transport(http, "http://127.0.0.1:1/pg", Merchant("a", "b"), budget))
        with pytest.raises(Unreachable):
            await away.create_order(new_order("order_away"))


async def test_an_answer_about_another_order_is_not_believed() -> None:
    entity: dict[str, Any] = {
        "order_id": "order_other",
        "cf_order_id": 1,
        "order_status": "PAID",
        "order_amount": 5,
        "order_currency": "INR",
    }

    async def answer(request: web.Request) -> web.Response:
        return web.json_response(entity)

    app = web.Application()
    app.router.add_get("/pg/orders/{id}", answer)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        budget = LocalBudget(lambda endpoint: Rate(0.0, 10))
        wrong = CashfreeClient(Transport(http, url + "/pg", Merchant("a", "b"), budget))
        with pytest.raises(BadAnswer):
            await wrong.get_order("order_mine")
        assert (await wrong.get_order("order_other")).cf_order_id == "1"
        entity["order_amount"] = "5.005"
        with pytest.raises(BadAnswer):
            await wrong.get_order("order_other")


async def test_what_the_client_sends(simulator: Running) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.json_response({"message": "no", "code": "x", "type": "y"}, status=400)

    app = web.Application()
    app.router.add_post("/pg/orders", answer)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        budget = LocalBudget(lambda endpoint: Rate(0.0, 10))
        client = CashfreeClient(Transport(http, url + "/pg", Merchant("me", "mine"), budget))
        with pytest.raises(Refused):
            await client.create_order(new_order("order_wire", 17_000))
    headers, raw = seen[0]
    assert headers["x-api-version"] == "2025-01-01"
    assert (headers["x-client-id"], headers["x-client-secret"]) == ("me", "mine")
    assert "x-idempotency-key" not in headers
    assert b'"order_amount":170.00' in raw
    assert json.loads(raw)["order_id"] == "order_wire"


async def test_settlements_and_reconciliation_add_up_to_the_paisa(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    for number, amount in enumerate((50_000, 30_000, 15_000)):
        await make_order(f"order_s{number}", amount)
        await simulator.pay(f"order_s{number}")
    await client.create_refund("order_s1", NewRefund(refund_id="refund_s1", amount_paise=10_000))
    await simulator.control("POST", "/clock/advance", {"seconds": 1})
    settled = await simulator.control("POST", "/settle")
    assert settled["payments"] == 3
    first = (await client.get_order_settlements("order_s0"))[0]
    assert (first.service_charge_paise, first.service_tax_paise, first.settlement_amount_paise) == (
        975,
        176,
        48_849,
    )
    start, end = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
    whole = (await client.get_settlements(start, end))[0]
    assert whole.cf_settlement_id == settled["cf_settlement_id"]
    lines = [line async for line in client.settled_lines(start, end)]
    assert sorted(line.event_type for line in lines) == ["PAYMENT", "PAYMENT", "PAYMENT", "REFUND"]
    total = sum(
        (line.settlement_amount_paise or 0) * (1 if line.sale_type == "CREDIT" else -1) for line in lines
    )
    assert total == whole.settlement_amount_paise == settled["net_paise"]
    assert {line.cf_settlement_id for line in lines} == {whole.cf_settlement_id}
    assert len((await client.recon(start, end)).lines) == 4


async def test_an_order_is_terminated_once_and_a_paid_one_never(
    client: CashfreeClient, simulator: Running, make_order: MakeOrder
) -> None:
    await make_order("order_end")
    assert (await client.terminate_order("order_end")).status == "TERMINATED"
    assert (await client.terminate_order("order_end")).status == "TERMINATED"
    await make_order("order_paid")
    await simulator.pay("order_paid")
    with pytest.raises(BadRequest):
        await client.terminate_order("order_paid")


async def test_a_payment_begun_on_a_session_is_an_attempt_of_the_order(
    client: CashfreeClient, simulator: Running
) -> None:
    order = await client.create_order(new_order("order_session"))
    assert order.payment_session_id is not None
    started = await client.start_payment(order.payment_session_id, {"upi": {"channel": "qrcode"}})
    assert started.channel == "qrcode"
    assert started.url is not None
    await simulator.control("POST", f"/payments/{started.cf_payment_id}", {"status": "SUCCESS"})
    assert (await client.get_order("order_session")).paid


async def test_three_hundred_creations_under_faults_lose_nothing_and_double_nothing(
    client: CashfreeClient, simulator: Running
) -> None:
    for kind in ("commit_then_500", "commit_then_reset", "502", "reset"):
        await simulator.fault("create_order", kind, times=None, probability=0.05)
    await simulator.fault("get_order", "502", times=None, probability=0.05)
    gate = asyncio.Semaphore(32)

    async def one(number: int) -> str:
        async with gate:
            for _ in range(10):
                try:
                    return (await client.create_order(new_order(f"order_f{number}", 100 + number))).order_id
                except OutcomeUnknown:
                    continue
        raise AssertionError("ten unknown outcomes in a row")

    made = await asyncio.gather(*(one(number) for number in range(300)))
    orders = simulator.sim.book.orders
    assert set(made) == orders.keys()
    assert all(orders[f"order_f{number}"].amount_paise == 100 + number for number in range(300))
