"""The hosted page a customer pays on: choose a method, then what the bank should say.

It serves at Cashfree's own address for sessions (`/pg/view/sessions/checkout`) and at `/checkout/{session}`.
The redirect goes out once the webhook was delivered, or before it if the box is ticked.
"""

from __future__ import annotations

import asyncio
from html import escape
from importlib import resources
from string import Template
from typing import Final
from urllib.parse import quote

from aiohttp import web

from domain.money import format_rupees
from gateway.simulator.book import METHODS, Rejected
from gateway.simulator.control import Pay, pay
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import Order
from gateway.simulator.sim import Simulator

_EARLY_S: Final = 2.0
_WEBHOOK_PATIENCE_S: Final = 3.0
_LABELS: Final = {"upi": "UPI", "card": "Card", "netbanking": "Netbanking", "wallet": "Wallet"}
_WISHES: Final = {
    "success": Pay(outcome="success"),
    "twice": Pay(outcome="success", times=2),
    "failed": Pay(outcome="failed"),
    "dropped": Pay(outcome="dropped"),
    "pending": Pay(outcome="pending"),
}
_NOTES: Final = {
    "failed": ("bad", "The bank declined the payment. You can try again."),
    "dropped": ("warn", "You left before paying. You can try again."),
    "pending": ("warn", "The bank has not answered yet."),
}
_BUTTONS: Final = """
  <button class="pay" name="action" value="success">Pay {amount}</button>
  <div class="bank">
    <p>Or let it go another way</p>
    <div class="row">
      <button name="action" value="failed">Bank declines</button>
      <button name="action" value="dropped">Close the window</button>
      <button name="action" value="pending">Leave it pending</button>
      <button name="action" value="twice">Pay twice</button>
    </div>
  </div>
  <label class="early"><input type="checkbox" name="early" value="1">
    Return to the shop before its webhook</label>
</form>
"""


def add_routes(app: web.Application, sim: Simulator) -> None:
    """The page, and the form it posts."""
    page = _Checkout(sim)
    app.router.add_get("/pg/view/sessions/checkout", page.by_query)
    app.router.add_post("/pg/view/sessions/checkout", page.by_form)
    app.router.add_get("/checkout/{session}", page.show)
    app.router.add_post("/checkout/{session}", page.act)


class _Checkout:
    def __init__(self, sim: Simulator) -> None:
        self._sim = sim
        self._template = Template(
            resources.files("gateway.simulator").joinpath("checkout.html").read_text("utf-8")
        )

    async def by_query(self, request: web.Request) -> web.Response:
        raise web.HTTPSeeOther(f"/checkout/{quote(request.query.get('payment_session_id', ''), safe='')}")

    async def by_form(self, request: web.Request) -> web.Response:
        session = (await request.post()).get("payment_session_id", "")
        raise web.HTTPSeeOther(f"/checkout/{quote(str(session), safe='')}")

    async def show(self, request: web.Request) -> web.Response:
        return self._page(self._order(request), request.query.get("note", ""))

    async def act(self, request: web.Request) -> web.Response:
        order = self._order(request)
        form = await request.post()
        action, method = str(form.get("action", "")), str(form.get("method", "upi"))
        early = form.get("early") == "1"
        plan = WebhookPlan(delay_s=_EARLY_S) if early else WebhookPlan()
        try:
            if action in ("confirm", "decline"):
                self._resolve(order, action, plan)
            elif action in _WISHES and method in METHODS:
                wish = _WISHES[action]
                pay(self._sim.book, order, _with(wish, method, plan))
            else:
                raise web.HTTPBadRequest(text="no such action")
        except Rejected as rejection:
            raise web.HTTPConflict(text=str(rejection)) from rejection
        if not early:
            await self._webhook_out()
        return_url = order.meta.get("return_url")
        if order.status == "PAID" and isinstance(return_url, str):
            raise web.HTTPSeeOther(return_url.replace("{order_id}", order.order_id))
        note = {"decline": "failed"}.get(action, action)
        raise web.HTTPSeeOther(f"{request.path}?note={quote(note)}")

    def _order(self, request: web.Request) -> Order:
        try:
            return self._sim.book.order_of_session(request.match_info["session"])
        except Rejected as rejection:
            raise web.HTTPNotFound(text=str(rejection)) from rejection

    def _resolve(self, order: Order, action: str, plan: WebhookPlan) -> None:
        """The bank answers for the attempt that was left pending."""
        for attempt in order.attempts:
            if attempt.status == "PENDING":
                status = "SUCCESS" if action == "confirm" else "FAILED"
                self._sim.book.resolve(order, attempt, status, plan)
                return
        raise Rejected(400, "payment_not_found", "no payment is pending")

    async def _webhook_out(self) -> None:
        try:
            async with asyncio.timeout(_WEBHOOK_PATIENCE_S):
                await self._sim.deliveries.settled()
        except TimeoutError:
            return

    def _page(self, order: Order, note: str) -> web.Response:
        text = self._template.substitute(
            amount=format_rupees(order.amount_paise),
            order_id=escape(order.order_id),
            status=escape(order.status),
            customer=escape(
                str(order.customer.get("customer_name") or order.customer.get("customer_id") or "")
            ),
            note=self._note(order, note),
            content=self._content(order),
        )
        return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})

    def _note(self, order: Order, note: str) -> str:
        if order.status == "PAID":
            paid = sum(1 for attempt in order.attempts if attempt.status == "SUCCESS")
            times = "" if paid == 1 else f" {paid} times"
            return f'<p class="note good" role="status">Paid{times}. Thank you.</p>'
        if note not in _NOTES:
            return ""
        tone, words = _NOTES[note]
        return f'<p class="note {tone}" role="status">{words}</p>'

    def _content(self, order: Order) -> str:
        if order.status != "ACTIVE":
            return f"<section>{_back(order)}</section>"
        if any(attempt.status == "PENDING" for attempt in order.attempts):
            return (
                '<form method="post"><button class="pay" name="action" value="confirm">Bank confirms</button>'
                '<div class="bank"><button name="action" value="decline">Bank declines</button></div></form>'
            )
        choices = "".join(
            f'<label class="method"><input type="radio" name="method" value="{key}"'
            f"{' checked' if key == 'upi' else ''}>{_LABELS[key]}</label>"
            for key in METHODS
        )
        fieldset = f'<form method="post"><fieldset><legend>Pay with</legend>{choices}</fieldset>'
        return fieldset + _BUTTONS.replace("{amount}", format_rupees(order.amount_paise))


def _with(wish: Pay, method: str, plan: WebhookPlan) -> Pay:
    chosen = next(key for key in ("upi", "card", "netbanking", "wallet") if key == method)
    return Pay(outcome=wish.outcome, times=wish.times, method=chosen, webhook=plan)


def _back(order: Order) -> str:
    return_url = order.meta.get("return_url")
    if not isinstance(return_url, str):
        return "You can close this window."
    address = escape(return_url.replace("{order_id}", order.order_id), quote=True)
    return f'<a href="{address}">Back to the shop</a>'
