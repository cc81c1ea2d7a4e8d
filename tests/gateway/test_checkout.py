"""The hosted page: what a customer can do there and where it leads."""

from __future__ import annotations

import asyncio

import pytest

from gateway.client import CashfreeClient
from gateway.settings import GatewaySettings
from tests.gateway.conftest import Inbox, Running, new_order


@pytest.fixture
async def page(client: CashfreeClient, settings: GatewaySettings) -> str:
    """The address of the checkout of `order_page`."""
    order = await client.create_order(
        new_order("order_page", 50_000, return_url="http://127.0.0.1:9/back?order={order_id}")
    )
    assert order.payment_session_id is not None
    return settings.checkout_url(order.payment_session_id)


async def press(simulator: Running, page: str, **form: str) -> tuple[int, str, str]:
    """Open the page, press a button; status, place of redirection and text of what follows."""
    async with simulator.http.get(page) as shown:
        assert shown.status == 200
        address = shown.url
        assert "₹500.00" in await shown.text()
    async with simulator.http.post(address, data=form, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location", ""), await answer.text()


async def test_paying_sends_the_webhook_and_then_returns_to_the_shop(
    simulator: Running, inbox: Inbox, page: str, client: CashfreeClient
) -> None:
    status, location, _ = await press(simulator, page, action="success", method="card")
    assert (status, location) == (303, "http://127.0.0.1:9/back?order=order_page")
    assert [event.status for event in inbox.events()] == ["SUCCESS"]
    assert (await client.get_payments("order_page"))[0].group == "credit_card"


async def test_the_shop_may_see_the_customer_before_the_webhook(
    simulator: Running, inbox: Inbox, page: str
) -> None:
    status, _, _ = await press(simulator, page, action="success", method="upi", early="1")
    assert status == 303
    assert inbox.received == []
    await simulator.control("POST", "/clock/advance", {"seconds": 3})
    await inbox.wait_for(1)


@pytest.mark.parametrize(("action", "event"), [("failed", "FAILED"), ("dropped", "USER_DROPPED")])
async def test_a_failed_or_dropped_payment_can_be_tried_again(
    simulator: Running, inbox: Inbox, page: str, client: CashfreeClient, action: str, event: str
) -> None:
    status, location, _ = await press(simulator, page, action=action, method="upi")
    assert (status, location.split("?")[1]) == (303, f"note={action}")
    async with simulator.http.get(simulator.url + location) as again:
        assert "try again" in await again.text()
    assert [found.status for found in inbox.events()] == [event]
    assert (await client.get_order("order_page")).status == "ACTIVE"
    await press(simulator, page, action="success", method="upi")
    assert (await client.get_order("order_page")).paid


@pytest.mark.parametrize(("answer", "status"), [("confirm", "PAID"), ("decline", "ACTIVE")])
async def test_the_bank_can_answer_later(
    simulator: Running, inbox: Inbox, page: str, client: CashfreeClient, answer: str, status: str
) -> None:
    await press(simulator, page, action="pending", method="upi")
    assert inbox.received == []
    await press(simulator, page, action=answer)
    assert (await client.get_order("order_page")).status == status


async def test_paying_twice_takes_the_money_twice(simulator: Running, inbox: Inbox, page: str) -> None:
    await press(simulator, page, action="twice", method="upi")
    await inbox.wait_for(2)
    assert (await simulator.control("GET", "/orders/order_page"))["captured_paise"] == 100_000
    async with simulator.http.get(page) as shown:
        assert "Paid 2 times" in await shown.text()


async def test_what_a_merchant_writes_is_shown_as_text(
    simulator: Running, client: CashfreeClient, settings: GatewaySettings
) -> None:
    order = await client.create_order(new_order("order_html", customer_name="<script>alert(1)</script>"))
    async with simulator.http.get(settings.checkout_url(order.payment_session_id or "")) as shown:
        text = await shown.text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


async def test_an_unknown_session_or_action_is_refused(simulator: Running, page: str) -> None:
    async with simulator.http.get(f"{simulator.url}/checkout/session_none") as answer:
        assert answer.status == 404
    status, _, _ = await press(simulator, page, action="steal")
    assert status == 400
    statuses = await asyncio.gather(*(press(simulator, page, action="confirm") for _ in range(2)))
    assert {status for status, _, _ in statuses} == {409}
