"""What people do over the API, in the audit log: before it is done, and what came of it.

A row `asked` is committed before the handler runs, so nothing is done that the log does not know of; a row `answered` says
how it ended. What the handler's own transaction logs has the same request id, and the same role and address.
"""

from typing import Final

import structlog
from aiohttp import web

from sql import audit
from sql.acting import acting
from sql.errors import Unavailable
from web.auth import STAFF, Caller, Scope
from web.calls import Route
from web.problems import Problem
from web.services import SERVICES

log = structlog.get_logger("web.trail")

ADMINISTRATIVE: Final = frozenset(
    {
        Scope.ACCESS_WRITE,
        Scope.APPROVALS_WRITE,
        Scope.ENDPOINTS_WRITE,
        Scope.QUEUES_WRITE,
        Scope.RECON_WRITE,
        Scope.REFUNDS_STAFF,
    }
)
"""Scopes whose writes are in the audit log by their own transactions, whoever calls."""


async def handle(route: Route, request: web.Request, caller: Caller) -> web.StreamResponse:
    """The route's handler, with what is known of the caller said to the audit log. Errors: the handler's; Unavailable."""
    by_people = caller.role in STAFF
    if route.method == "GET" or not (by_people or route.scope in ADMINISTRATIVE):
        return await route.handle(request, caller)
    address = request.app[SERVICES].proxies.client(request)
    request_id = structlog.contextvars.get_contextvars().get("request_id", "-")
    with acting(caller.role, source=None if address is None else str(address), request_id=request_id):
        if not by_people:
            return await route.handle(request, caller)
        return await _told(route, request, caller, request_id)


async def _told(route: Route, request: web.Request, caller: Caller, request_id: str) -> web.StreamResponse:
    path = dict(request.match_info)
    await _tell(request, caller, route, request_id, {"path": path, "state": "asked"})
    outcome: dict[str, object] = {"status": 500}
    try:
        response = await route.handle(request, caller)
        outcome = {"status": response.status}
    except Problem as problem:
        outcome = {"status": problem.status, "code": problem.code}
        raise
    except Unavailable:
        outcome = {"status": 503, "code": "database_unavailable"}
        raise
    finally:
        try:
            await _tell(request, caller, route, request_id, {"path": path, "state": "answered"} | outcome)
        except Unavailable:
            log.error("the audit log has the question and not the answer", route=route.name, **outcome)
    return response


async def _tell(
    request: web.Request, caller: Caller, route: Route, request_id: str, detail: dict[str, object]
) -> None:
    await audit.record(request.app[SERVICES].db, caller.principal, route.name, "request", request_id, detail)
