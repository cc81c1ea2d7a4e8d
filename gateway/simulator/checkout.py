"""The hosted page a customer pays on: choose a method, then be the bank that answers.

It serves at Cashfree's own address for sessions (`/pg/view/sessions/checkout`) and at `/checkout/{session}`;
`?attempt=` shows one attempt. After success the browser returns to the shop, once the webhook was delivered
or, if the box is ticked, before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from aiohttp import web
from yarl import URL

from gateway.simulator import checkout_form, checkout_page
from gateway.simulator.book import Rejected
from gateway.simulator.checkout_form import Wrong
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import Attempt, Order
from gateway.simulator.sim import Simulator

_EARLY_S: Final = 2.0
_RETURN_S: Final = 3
_WEBHOOK_PATIENCE_S: Final = 3.0
_ANSWERS: Final = {"approve": "SUCCESS", "twice": "SUCCESS", "decline": "FAILED", "drop": "USER_DROPPED"}
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_routes(app: web.Application, sim: Simulator) -> None:
    """The page, its files, and the forms it posts."""
    page = _Checkout(sim)
    app.router.add_get("/pg/view/sessions/checkout", page.by_query)
    app.router.add_post("/pg/view/sessions/checkout", page.by_form)
    app.router.add_get("/checkout-files/{name}", _file)
    app.router.add_get("/checkout/{session}", page.show)
    app.router.add_post("/checkout/{session}", page.act)
    app.router.add_get("/checkout/{session}/status", page.status)


async def _file(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    if name not in checkout_page.FILES:
        raise web.HTTPNotFound
    kind = _TYPES[name.rpartition(".")[2]]
    headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=checkout_page.FILES[name], content_type=kind, charset="utf-8", headers=headers)


class _Checkout:
    def __init__(self, sim: Simulator) -> None:
        self._sim = sim

    async def by_query(self, request: web.Request) -> web.Response:
        raise web.HTTPSeeOther(f"/checkout/{quote(request.query.get('payment_session_id', ''), safe='')}")

    async def by_form(self, request: web.Request) -> web.Response:
        session = (await request.post()).get("payment_session_id", "")
        raise web.HTTPSeeOther(f"/checkout/{quote(str(session), safe='')}")

    async def show(self, request: web.Request) -> web.Response:
        order = self._order(request)
        attempt = self._attempt(order, request.query)
        if attempt is None:
            return _page(
                checkout_page.choose(order) if order.status == "ACTIVE" else checkout_page.closed(order)
            )
        if attempt.status == "PENDING":
            return _page(checkout_page.waiting(order, attempt))
        address = checkout_page.return_address(order)
        leaving = attempt is order.paid_by
        wait_s = 0 if "early" in request.query else _RETURN_S
        return _page(
            checkout_page.ended(order, attempt),
            refresh=f"{wait_s}; url={URL(address)}" if leaving and address else None,
        )

    async def status(self, request: web.Request) -> web.Response:
        """How the attempt stands, for the page that waits."""
        attempt = self._attempt(self._order(request), request.query)
        return web.json_response({"status": attempt.status if attempt else None}, headers=_HEADERS)

    async def act(self, request: web.Request) -> web.Response:
        order = self._order(request)
        form = {key: str(value) for key, value in (await request.post()).items()}
        action = form.get("action", "")
        if action == "pay":
            return self._begin(request, order, form)
        if action not in _ANSWERS:
            raise web.HTTPBadRequest(text="no such action")
        attempt = self._attempt(order, form)
        if attempt is None:
            raise web.HTTPBadRequest(text="which attempt?")
        early = form.get("early") == "1"
        plan = WebhookPlan(delay_s=_EARLY_S) if early else WebhookPlan()
        # A second click, or a bank that answered meanwhile, changes nothing: the page shows how it stands.
        if attempt.status == "PENDING":
            self._sim.book.resolve(order, attempt, _ANSWERS[action], plan)
            if action == "twice":
                attempt = self._again(order, attempt, plan)
            if not early:
                await self._webhook_out()
        raise _to(request, attempt, "&early=1" if early else "")

    def _begin(self, request: web.Request, order: Order, form: Mapping[str, str]) -> web.Response:
        """An attempt with the chosen method, or the page again with what is wrong."""
        if order.status != "ACTIVE":
            raise web.HTTPSeeOther(request.path)
        chosen = checkout_form.read(form, order)
        if isinstance(chosen, Wrong):
            return _page(checkout_page.choose(order, form, chosen), status=422)
        attempt = self._sim.book.start_attempt(order, chosen.method, chosen.instrument)
        for details in attempt.method.values():
            details.update(chosen.details)
        raise _to(request, attempt)

    def _again(self, order: Order, first: Attempt, plan: WebhookPlan) -> Attempt:
        """The same once more, as if the customer had paid in two windows."""
        second = self._sim.book.start_attempt(order, "upi", None)
        second.group = first.group
        second.method = {kind: dict(details) for kind, details in first.method.items()}
        self._sim.book.resolve(order, second, "SUCCESS", plan)
        return second

    def _order(self, request: web.Request) -> Order:
        try:
            return self._sim.book.order_of_session(request.match_info["session"])
        except Rejected as rejection:
            raise web.HTTPNotFound(text=str(rejection)) from rejection

    def _attempt(self, order: Order, said: Mapping[str, str]) -> Attempt | None:
        """The attempt that is named; None if none is."""
        if "attempt" not in said:
            return None
        try:
            return self._sim.book.attempt(order, said["attempt"])
        except Rejected as rejection:
            raise web.HTTPNotFound(text=str(rejection)) from rejection

    async def _webhook_out(self) -> None:
        try:
            async with asyncio.timeout(_WEBHOOK_PATIENCE_S):
                await self._sim.deliveries.settled()
        except TimeoutError:
            return


def _to(request: web.Request, attempt: Attempt, more: str = "") -> web.HTTPSeeOther:
    return web.HTTPSeeOther(f"{request.path}?attempt={attempt.cf_payment_id}{more}")


def _page(text: str, *, status: int = 200, refresh: str | None = None) -> web.Response:
    headers = _HEADERS if refresh is None else {**_HEADERS, "Refresh": refresh}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)
