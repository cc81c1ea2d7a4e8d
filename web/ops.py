"""Health for whoever runs us: alive, ready, and numbers for Prometheus."""

import asyncio
from typing import Final

from aiohttp import web

from sql import status
from sql.errors import Unavailable
from web.auth import Caller
from web.calls import respond
from web.problems import Problem
from web.replies import Reply
from web.services import SERVICES, Services

_ASK_S: Final = 3.0
_KNOWN: Final = status.known_migrations()


async def healthz(request: web.Request, _: Caller) -> web.StreamResponse:
    """200 while the process can answer at all."""
    return respond(Reply({"status": "ok"}))


async def readyz(request: web.Request, _: Caller) -> web.StreamResponse:
    """200 if the database answers and has every migration; 503 with the reason otherwise, or when stopping."""
    services = request.app[SERVICES]
    if services.draining:
        raise Problem(503, "stopping", "this process is shutting down")
    try:
        async with asyncio.timeout(_ASK_S):
            missing = await status.missing_migrations(services.db, _KNOWN)
    except (Unavailable, TimeoutError) as error:
        raise Problem(503, "database_unavailable", str(error) or "no answer in time") from error
    if missing:
        raise Problem(503, "migrations_missing", f"not applied: {', '.join(missing)}", missing=missing)
    return respond(Reply({"status": "ready", "migrations": len(_KNOWN)}))


async def metrics(request: web.Request, _: Caller) -> web.StreamResponse:
    """Prometheus' text format: this process alone (agents/monitor.py measures the whole)."""
    services = request.app[SERVICES]
    await _ask_database(services)
    return web.Response(
        body=services.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


async def _ask_database(services: Services) -> None:
    try:
        async with asyncio.timeout(_ASK_S):
            await status.missing_migrations(services.db, _KNOWN)
    except (Unavailable, TimeoutError):
        services.metrics.database_up.set(0)
    else:
        services.metrics.database_up.set(1)
