"""The hosted page: what a customer can do there and where it leads."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

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


CARD = {
    "method": "card",
    "card_number": "4111 1111 1111 1111",
    "card_expiry": "12 / 30",
    "card_cvv": "123",
}


async def press(simulator: Running, page: str, **form: str) -> tuple[int, str, str]:
    """Press a button of the page; status, place of redirection and text of what follows."""
    async with simulator.http.get(page) as shown:
        assert shown.status == 200
        address = shown.url.with_query(None)
        assert "₹500.00" in await shown.text()
    async with simulator.http.post(address, data=form, allow_redirects=False) as answer:
        location = answer.headers.get("Location", "")
        return answer.status, simulator.url + location if location else "", await answer.text()


async def begin(simulator: Running, page: str, **form: str) -> tuple[str, str]:
    """Choose a method and pay; the address where the bank is waited for, and the attempt's id."""
    status, waiting, _ = await press(simulator, page, action="pay", **(form or {"method": "upi"}))
    assert status == 303
    return waiting, parse_qs(urlsplit(waiting).query)["attempt"][0]


async def pay(simulator: Running, page: str, answer: str, **form: str) -> str:
    """Pay, with this answer of the bank; the address of what the customer sees then."""
    waiting, attempt = await begin(simulator, page, **form)
    status, ended, _ = await press(simulator, waiting, action=answer, attempt=attempt)
    assert (status, ended) == (303, waiting)
    return ended


async def seen(simulator: Running, address: str) -> tuple[str, str]:
    """A page's text, and where it leads by itself."""
    async with simulator.http.get(address) as shown:
        assert shown.status == 200
        assert "default-src 'none'" in shown.headers["Content-Security-Policy"]
        return await shown.text(), shown.headers.get("Refresh", "")


async def test_paying_sends_the_webhook_and_then_returns_to_the_shop(
    simulator: Running, inbox: Inbox, page: str, client: CashfreeClient
) -> None:
    text, refresh = await seen(simulator, await pay(simulator, page, "approve", **CARD))
    assert "Payment successful" in text
    assert refresh == "3; url=http://127.0.0.1:9/back?order=order_page"
    assert [event.status for event in inbox.events()] == ["SUCCESS"]
    assert [event.instrument for event in inbox.events()] == ["card:XXXXXXXXXXXX1111"]
    assert (await client.get_payments("order_page"))[0].group == "credit_card"


async def test_the_shop_may_see_the_customer_before_the_webhook(
    simulator: Running, inbox: Inbox, page: str
) -> None:
    waiting, attempt = await begin(simulator, page)
    status, ended, _ = await press(simulator, waiting, action="approve", attempt=attempt, early="1")
    assert status == 303
    _, refresh = await seen(simulator, ended)
    assert refresh.startswith("0; ")
    assert inbox.received == []
    await simulator.control("POST", "/clock/advance", {"seconds": 3})
    await inbox.wait_for(1)


@pytest.mark.parametrize(("answer", "event"), [("decline", "FAILED"), ("drop", "USER_DROPPED")])
async def test_a_failed_or_dropped_payment_can_be_tried_again(
    simulator: Running, inbox: Inbox, page: str, client: CashfreeClient, answer: str, event: str
) -> None:
    text, refresh = await seen(simulator, await pay(simulator, page, answer))
    assert "Try again" in text
    assert refresh == ""
    assert [found.status for found in inbox.events()] == [event]
    assert (await client.get_order("order_page")).status == "ACTIVE"
    await pay(simulator, page, "approve")
    assert (await client.get_order("order_page")).paid


async def test_the_page_that_waits_is_told_what_the_bank_answered_elsewhere(
    simulator: Running, inbox: Inbox, page: str
) -> None:
    waiting, attempt = await begin(simulator, page)
    status = waiting.replace("?", "/status?")
    assert inbox.received == []
    async with simulator.http.get(status) as answer:
        assert await answer.json() == {"status": "PENDING"}
    await simulator.control("POST", f"/payments/{attempt}", {"status": "SUCCESS"})
    async with simulator.http.get(status) as answer:
        assert await answer.json() == {"status": "SUCCESS"}


async def test_charging_twice_takes_the_money_twice(simulator: Running, inbox: Inbox, page: str) -> None:
    waiting, attempt = await begin(simulator, page)
    _, ended, _ = await press(simulator, waiting, action="twice", attempt=attempt)
    await inbox.wait_for(2)
    assert (await simulator.control("GET", "/orders/order_page"))["captured_paise"] == 100_000
    assert "You have paid twice" in (await seen(simulator, ended))[0]
    assert "Already paid" in (await seen(simulator, page))[0]


async def test_of_two_windows_the_one_that_was_approved_first_paid_the_order(
    simulator: Running, page: str
) -> None:
    (first, one), (second, two) = await begin(simulator, page), await begin(simulator, page)
    assert "still with your bank" in (await seen(simulator, page))[0]
    await press(simulator, second, action="approve", attempt=two)
    await simulator.control("POST", "/clock/advance", {"seconds": 1})
    await press(simulator, first, action="approve", attempt=one)
    assert "Payment successful" in (await seen(simulator, second))[0]
    assert "You have paid twice" in (await seen(simulator, first))[0]


async def test_a_second_click_changes_nothing(simulator: Running, inbox: Inbox, page: str) -> None:
    waiting, attempt = await begin(simulator, page)
    await press(simulator, waiting, action="decline", attempt=attempt)
    await press(simulator, waiting, action="approve", attempt=attempt)
    assert [event.status for event in inbox.events()] == ["FAILED"]


@pytest.mark.parametrize(
    ("form", "kind", "details"),
    [
        ({"method": "upi", "channel": "qrcode"}, "upi", {"channel": "qrcode", "upi_id": "9999999999@upi"}),
        ({"method": "upi", "channel": "link", "app": "bhim"}, "upi", {"channel": "link", "app": "bhim"}),
        ({"method": "upi", "channel": "collect", "upi_id": "a.b@okaxis"}, "upi", {"upi_id": "a.b@okaxis"}),
        (CARD, "card", {"card_number": "XXXXXXXXXXXX1111", "card_network": "visa"}),
        ({"method": "netbanking", "bank": "3044"}, "netbanking", {"netbanking_bank_name": "State Bank of India"}),
        ({"method": "wallet", "wallet": "paytm"}, "app", {"provider": "paytm", "phone": "9999999999"}),
    ],
)  # fmt: skip
async def test_each_method_is_reported_as_it_was_chosen(
    simulator: Running, page: str, form: dict[str, str], kind: str, details: dict[str, str]
) -> None:
    await pay(simulator, page, "approve", **form)
    (attempt,) = simulator.sim.book.order("order_page").attempts
    assert set(attempt.method) == {kind}
    assert details.items() <= attempt.method[kind].items()


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "upi", "channel": "collect", "upi_id": "nobody"},
        {"method": "upi", "channel": "pigeon"},
        {"method": "upi", "channel": "link", "app": "other"},
        CARD | {"card_number": "4111 1111 1111 1112"},
        CARD | {"card_expiry": "13 / 30"},
        CARD | {"card_cvv": "12"},
        {"method": "netbanking", "bank": "0"},
        {"method": "wallet", "wallet": "sock"},
        {"method": "wallet", "phone": "123"},
        {"method": "cheque"},
    ],
)
async def test_what_cannot_be_paid_with_is_said_and_nothing_is_attempted(
    simulator: Running, page: str, wrong: dict[str, str]
) -> None:
    status, _, text = await press(simulator, page, action="pay", **wrong)
    assert status == 422
    assert 'role="alert"' in text
    assert f'value="{wrong.get("card_cvv")}"' not in text  # verification values never come back
    assert simulator.sim.book.order("order_page").attempts == []


async def test_what_a_merchant_or_a_customer_writes_is_shown_as_text(
    simulator: Running, client: CashfreeClient, settings: GatewaySettings
) -> None:
    order = await client.create_order(new_order("order_html", customer_name="<script>alert(1)</script>"))
    page = settings.checkout_url(order.payment_session_id or "")
    _, _, again = await press(
        simulator, page, action="pay", method="upi", channel="collect", upi_id='"><script>alert(2)</script>'
    )
    for text in ((await seen(simulator, page))[0], again):
        assert "<script>" not in text
        assert "&lt;script&gt;" in text


async def test_an_expired_order_says_so(simulator: Running, page: str) -> None:
    await simulator.control("POST", "/clock/advance", {"seconds": 40 * 86_400})
    text, _ = await seen(simulator, page)
    assert "The time to pay this order is over" in text
    status, _, _ = await press(simulator, page, action="pay", method="upi")
    assert status == 303
    assert simulator.sim.book.order("order_page").attempts == []


async def test_an_unknown_session_attempt_file_or_action_is_refused(simulator: Running, page: str) -> None:
    waiting, _ = await begin(simulator, page)
    for path in ("checkout/session_none", "checkout-files/frame.html"):
        async with simulator.http.get(f"{simulator.url}/{path}") as answer:
            assert answer.status == 404
    async with simulator.http.get(waiting.partition("?")[0] + "?attempt=1") as answer:
        assert answer.status == 404
    for form in ({"action": "steal"}, {"action": "approve"}):
        status, _, _ = await press(simulator, page, **form)
        assert status == 400
