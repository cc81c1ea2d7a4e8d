"""Around every request: an id, the time it took, one log line, and every failure as a problem."""

import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import structlog
from aiohttp import HttpVersion10, web
from aiohttp.web_request import BaseRequest
from opentelemetry.trace import Span

from sql.errors import Unavailable
from sql.ids import uuid7
from streams.telemetry import tracing
from web.headers import protect, refuse_repeated
from web.problems import Problem, unavailable
from web.services import EVENT_ID, SERVICES, STANDING

log = structlog.get_logger("web")

REQUEST_ID: Final = "X-Request-Id"
_FORM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_OF_HTTP: Final = {404: "unknown_route", 405: "method_not_allowed", 417: "expectation_failed"}
LEFT: Final = 499
"""The client left before its answer, as logs and metrics say it; nobody receives it."""
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics", "/v1/live"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer, whatever happens."""
    given = request.headers.get(REQUEST_ID, "")
    request_id = given if _FORM.fullmatch(given) else str(uuid7())
    started = time.perf_counter()
    response: web.StreamResponse
    with (
        structlog.contextvars.bound_contextvars(request_id=request_id),
        _span(request, request_id) if tracing.on() else nullcontext() as span,
    ):
        response = await _answer(request, handler, request_id)
        if span is not None:
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("ids", request.get(EVENT_ID, ""))
        _record(request, response.status, time.perf_counter() - started)
    if not response.prepared and not isinstance(response, _Unheard):
        response.headers[REQUEST_ID] = request_id
        if STANDING in request:
            response.headers.update(request[STANDING])
        protect(response.headers, tls=request.app[SERVICES].proxies.secure(request))
    return response


def _span(request: web.Request, request_id: str) -> AbstractContextManager[Span | None]:
    """A span around the request, if it is one of those that are traced."""
    route = _route(request)
    if route in _QUIET:
        return nullcontext()
    said = {"http.request.method": request.method, "http.route": route, "request_id": request_id}
    return tracing.request(f"{request.method} {route}", request.headers.get("traceparent"), said)


async def _answer(request: web.Request, handler: Handler, request_id: str) -> web.StreamResponse:
    try:
        refuse_repeated(request.headers)
        _refuse_odd(request)
        return await handler(request)
    except Problem as problem:
        return problem.response(request_id)
    except Unavailable as error:
        log.warning("the database is away", error=str(error))
        return unavailable().response(request_id)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        if error.status == 405 and request.method == "OPTIONS":
            return web.Response(status=204, headers=headers)
        code = _OF_HTTP.get(error.status, "malformed_request")
        return Problem(error.status, code, headers=headers).response(request_id)
    except Exception as error:
        if isinstance(error, ConnectionResetError) and _has_left(request):
            return _Unheard(status=LEFT)
        log.exception("a bug", method=request.method, route=_route(request))
        return Problem(500, "internal_error", "this is our fault; it is logged").response(request_id)


class _Unheard(web.Response):
    """What nobody hears is not written: a thousand who leave at once cost those who stay nothing more."""

    async def prepare(self, request: BaseRequest) -> None:
        """Errors: ConnectionResetError, always."""
        raise ConnectionResetError


def _has_left(request: web.Request) -> bool:
    """Whether nobody hears an answer any more. A reset may also be another's connection, and that is a bug."""
    return request.transport is None or request.transport.is_closing()


def _refuse_odd(request: web.Request) -> None:
    """What the parser lets through and no client of ours sends. Errors: Problem 400, 404."""
    if request.version < HttpVersion10:
        raise Problem(400, "malformed_request", "speak HTTP/1.1", headers={"Connection": "close"})
    if "\x00" in request.path:  # PostgreSQL cannot compare it with an id
        raise Problem(404, "unknown_route")


def _record(request: web.Request, status: int, seconds: float) -> None:
    route = _route(request)
    metrics = request.app[SERVICES].metrics
    metrics.requests.labels(request.method if route != "-" else "-", route, str(status)).inc()
    if route != "/v1/live":
        metrics.seconds.labels(request.method if route != "-" else "-", route).observe(seconds)
    if status != LEFT and (route not in _QUIET or status >= 500):
        ids = {"event_id": request[EVENT_ID]} if EVENT_ID in request else {}
        log.info(
            "request", method=request.method, route=route, status=status, ms=round(seconds * 1000, 2), **ids
        )


def _route(request: web.Request) -> str:
    """The path as the table writes it, so that a label takes few values; '-' for none."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "-"
