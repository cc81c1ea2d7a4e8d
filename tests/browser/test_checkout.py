"""A customer pays in a browser: what the checkout shows, what the wallet gets, what the live page tells."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from .conftest import OpenWindow, Order, Shop, Window, until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),  # the browser may have to be downloaded
]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def headline(page: Page, text: str) -> Locator:
    return page.get_by_role("heading", name=text, level=1)


async def press(page: Page, name: str) -> None:
    await page.get_by_role("button", name=name).click()


async def choose_upi(page: Page, how: str, upi_id: str | None = None) -> None:
    """UPI by QR code, UPI app or UPI ID."""
    await page.locator(".head", has_text="UPI").first.click()
    await page.locator(".tabs").get_by_text(how, exact=True).click()
    if upi_id is not None:
        await page.get_by_label("UPI ID", exact=True).last.fill(upi_id)


async def choose_card(page: Page, number: str = "4111111111111111") -> None:
    await page.locator(".head", has_text="Card").click()
    await page.get_by_label("Card number").fill("")
    await page.get_by_label("Card number").press_sequentially(number)
    await page.get_by_label("Expiry").press_sequentially("1230")
    await page.get_by_label("CVV").fill("123")


async def choose_bank(page: Page) -> None:
    await page.locator(".head", has_text="Netbanking").click()
    await page.get_by_label("Bank", exact=True).select_option(label="State Bank of India")


async def choose_wallet(page: Page) -> None:
    await page.locator(".head", has_text="Wallet").click()
    await page.get_by_text("MobiKwik").click()


async def credited_once(shop: Shop, order: Order) -> None:
    """The credits are in the wallet, by one entry."""
    assert await until(lambda: shop.credited(order), bool) == [order.credits], shop.told()
    assert await shop.balance(order) == order.credits
    assert (await shop.payment(order))["status"] == "credited"


async def no_wider_than_the_window(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def test_a_payment_is_credited_once_and_the_live_page_shows_it_without_a_reload(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order(50_000)
    live, checkout = await window.open(shop.web_url), await window.open(order.checkout)
    await expect(live.locator("#live")).to_have_text("Live")
    await expect(live.locator("#granted-today")).to_have_text("0")
    await live.evaluate("window.untouched = true")
    row = live.locator("#payments tr", has_text=order.customer)
    await expect(row).to_contain_text("active")

    await choose_card(checkout)
    await expect(checkout.get_by_label("Card number")).to_have_value("4111 1111 1111 1111")
    await press(checkout, "Pay ₹500.00")
    await expect(headline(checkout, "Waiting for your bank")).to_be_visible()
    await press(checkout, "Approve ₹500.00")
    await expect(headline(checkout, "Payment successful")).to_be_visible()
    await expect(checkout.locator(".facts")).to_contain_text("Card · •••• 1111")

    await expect(row).to_contain_text("credited")
    await expect(row).to_contain_text("₹500")
    await expect(row.locator("td").nth(4)).to_have_text("5,500")
    await expect(live.locator("#granted-today")).to_have_text("5,500")
    await expect(live.locator("#money-today")).to_have_text("₹500")
    assert await live.evaluate("window.untouched")
    await credited_once(shop, order)
    await checkout.wait_for_url(f"{shop.web_url}/")  # the shop's own page takes over by itself
    again = await window.open(order.checkout)
    await expect(headline(again, "Already paid")).to_be_visible()
    await expect(again.get_by_role("button")).to_have_count(0)


async def test_a_failed_payment_credits_nothing_and_can_be_paid_after_all(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order(15_000)
    live, page = await window.open(shop.web_url), await window.open(order.checkout)
    await choose_upi(page, "UPI ID", "asha@okaxis")
    await press(page, "Pay ₹150.00")
    await expect(headline(page, "Approve the request")).to_be_visible()
    await expect(page.locator(".stage")).to_contain_text("asha@okaxis")
    await press(page, "Decline")
    await expect(headline(page, "Payment failed")).to_be_visible()
    await shop.attempted(order, "FAILED")
    assert (await shop.credited(order), await shop.balance(order)) == ([], 0)
    row = live.locator("#payments tr", has_text=order.customer)
    await expect(row).to_contain_text("failed")
    await expect(row.locator("td").nth(4)).to_have_text("–")  # no credits

    await page.get_by_role("link", name="Try again").click()
    await choose_bank(page)
    await press(page, "Pay ₹150.00")
    await press(page, "Approve ₹150.00")
    await expect(headline(page, "Payment successful")).to_be_visible()
    await expect(page.locator(".facts")).to_contain_text("Netbanking · State Bank of India")
    await expect(row).to_contain_text("credited")
    await credited_once(shop, order)
    await shop.attempted(order, "FAILED", "SUCCESS")


async def test_a_dropped_payment_credits_nothing_and_the_order_stays_open(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order(30_000)
    page = await window.open(order.checkout)
    await choose_upi(page, "QR code")
    await press(page, "Pay ₹300.00")
    await expect(page.locator(".code svg")).to_be_visible()
    await press(page, "Leave")
    await expect(headline(page, "Payment not completed")).to_be_visible()
    await shop.attempted(order, "USER_DROPPED")
    assert (await shop.credited(order), await shop.balance(order)) == ([], 0)
    assert (await shop.simulator("GET", f"/orders/{order.order_id}"))["status"] == "ACTIVE"

    later = await window.open(order.checkout)
    await press(later, "Pay ₹300.00")
    await press(later, "Approve ₹300.00")
    await expect(headline(later, "Payment successful")).to_be_visible()
    await credited_once(shop, order)


async def test_paid_in_two_tabs_it_is_credited_once_and_the_second_payment_goes_back(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order(100_000)
    one, two = await window.open(order.checkout), await window.open(order.checkout)
    await choose_card(one)
    await press(one, "Pay ₹1,000.00")
    await expect(headline(one, "Waiting for your bank")).to_be_visible()
    await choose_upi(two, "UPI app")
    await two.get_by_text("BHIM").click()
    await press(two, "Pay ₹1,000.00")
    await expect(headline(two, "Approve in BHIM")).to_be_visible()
    await press(one, "Approve ₹1,000.00")
    await expect(headline(one, "Payment successful")).to_be_visible()
    await credited_once(shop, order)
    await press(two, "Approve ₹1,000.00")
    await expect(headline(two, "You have paid twice")).to_be_visible()

    refunds = await until(
        lambda: shop.refunds(order), lambda found: [refund["status"] for refund in found] == ["done"]
    )
    assert [(refund["amount_paise"], refund["status"]) for refund in refunds] == [(100_000, "done")]
    truth = await shop.simulator("GET", f"/orders/{order.order_id}")
    assert (truth["captured_paise"], truth["refunded_paise"]) == (200_000, 100_000)
    await credited_once(shop, order)
    await shop.attempted(order, "SUCCESS", "SUCCESS")


async def test_the_waiting_page_goes_on_when_the_bank_answers_elsewhere(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order()
    page = await window.open(order.checkout)
    await press(page, "Pay ₹500.00")
    await expect(headline(page, "Scan to pay")).to_be_visible()
    (attempt,) = (await shop.simulator("GET", f"/orders/{order.order_id}"))["attempts"]
    await shop.simulator("POST", f"/payments/{attempt['cf_payment_id']}", {"status": "SUCCESS"})
    await expect(headline(page, "Payment successful")).to_be_visible()
    await credited_once(shop, order)


@pytest.mark.parametrize(
    ("way", "waiting", "facts"),
    [
        ("QR code", "Scan to pay", "UPI · "),
        ("UPI app", "Approve in Google Pay", "UPI · "),
        ("UPI ID", "Approve the request", "UPI · on.phone@ybl"),
        ("card", "Waiting for your bank", "Card · •••• 4444"),
        ("netbanking", "Waiting for your bank", "Netbanking · State Bank of India"),
        ("wallet", "Confirm in MobiKwik", "Wallet · "),
    ],
)
async def test_every_method_can_be_tapped_on_a_phone(
    shop: Shop, open_window: OpenWindow, way: str, waiting: str, facts: str
) -> None:
    window, order = await open_window(**PHONE), await shop.order(15_000)
    page = await window.open(order.checkout)
    match way:
        case "card":
            await choose_card(page, "5555555555554444")
        case "netbanking":
            await choose_bank(page)
        case "wallet":
            await choose_wallet(page)
        case _:
            await choose_upi(page, way, "on.phone@ybl" if way == "UPI ID" else None)
    assert await no_wider_than_the_window(page)
    await page.get_by_role("button", name="Pay ₹150.00").tap()
    await expect(headline(page, waiting)).to_be_visible()
    assert await no_wider_than_the_window(page)
    await page.get_by_role("button", name="Approve ₹150.00").tap()
    await expect(headline(page, "Payment successful")).to_be_visible()
    await expect(page.locator(".facts")).to_contain_text(facts)
    assert await no_wider_than_the_window(page)
    await credited_once(shop, order)


FOCUS = """() => {
    const at = document.activeElement;
    const shown = [at, at.nextElementSibling, at.closest(".head")].filter(Boolean).map((el) => getComputedStyle(el));
    const ring = shown.some((style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2);
    return { tag: at.tagName, name: at.name, value: at.value, ring };
}"""


async def focused(page: Page) -> dict[str, Any]:
    """What has the focus, and whether a person can see that it has."""
    found: dict[str, Any] = await page.evaluate(FOCUS)
    return found


async def test_a_payment_needs_no_mouse(shop: Shop, open_window: OpenWindow) -> None:
    window, order = await open_window(), await shop.order(15_000)
    page = await window.open(order.checkout)
    keys = page.keyboard
    path = []
    for key in ("Tab", "Tab", "ArrowRight", "ArrowRight", "Tab", "Tab"):
        await keys.press(key)
        now = await focused(page)
        assert now["ring"], now
        path.append((now["name"], now["value"]))
    assert path[:4] == [("method", "upi"), ("channel", "qrcode"), ("channel", "link"), ("channel", "collect")]
    assert path[4][0] == "upi_id"
    assert path[5] == ("action", "pay")
    await keys.press("Enter")
    await expect(headline(page, "Approve the request")).to_be_focused()
    await keys.press("Tab")
    assert await focused(page) == {"tag": "BUTTON", "name": "action", "value": "approve", "ring": True}
    await keys.press("Enter")
    await expect(headline(page, "Payment successful")).to_be_focused()
    await credited_once(shop, order)


async def test_a_mistyped_card_is_shown_where_it_is_wrong_and_nothing_is_attempted(
    shop: Shop, open_window: OpenWindow
) -> None:
    window, order = await open_window(), await shop.order()
    page = await window.open(order.checkout)
    await choose_card(page, "4111111111111112")
    await press(page, "Pay ₹500.00")
    await expect(page.get_by_role("alert")).to_have_text("This is not a card number. Check its digits.")
    await expect(page.get_by_label("Card number")).to_be_focused()
    await expect(page.get_by_label("CVV")).to_have_value("")
    assert (await shop.simulator("GET", f"/orders/{order.order_id}"))["attempts"] == []
    said, console = window.problems.pop(), window.problems.pop()
    assert {"422" in said, "422" in console} == {True}  # the form's own answer, which the browser reports


INTRUDE = """async () => {
    const script = document.createElement("script");
    script.src = "https://elsewhere.example/x.js";
    script.textContent = "window.intruded = true";
    await new Promise((after) => { script.onerror = script.onload = after; document.head.append(script); });
    await fetch("https://elsewhere.example/").catch(() => null);
    document.body.insertAdjacentHTML("beforeend", "<p onclick='window.intruded = true' id='bait'>x</p>");
    document.getElementById("bait").click();
    return window.intruded === undefined;
}"""


async def violations(window: Window) -> list[str]:
    """The parts of a page's policy that something ran against."""
    return [problem.split()[1] for problem in window.problems if problem.startswith("policy ")]


async def test_neither_page_lets_another_script_run_or_anything_leave(
    shop: Shop, open_window: OpenWindow
) -> None:
    order = await shop.order()
    for address in (order.checkout, shop.web_url):
        window = await open_window()
        page = await window.open(address)
        assert window.problems == []
        assert await page.evaluate(INTRUDE)
        told = await until(partial(violations, window), lambda found: len(found) >= 3)
        assert told == ["script-src-elem", "connect-src", "script-src-attr"]
        window.problems.clear()


async def test_the_live_page_fits_a_phone(shop: Shop, open_window: OpenWindow) -> None:
    window = await open_window(**PHONE)
    live = await window.open(shop.web_url)
    await expect(live.locator("#live")).not_to_have_class(re.compile("off"))
    await expect(live.locator("#payments tr").first).to_contain_text("₹")
    assert await no_wider_than_the_window(live)
