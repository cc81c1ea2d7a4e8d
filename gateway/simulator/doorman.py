"""What every API call passes: fault, limit, version, credentials, body, idempotency key; then the
answer's faults.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from gateway.simulator import api, more_api
from gateway.simulator.api import Answer, Call
from gateway.simulator.book import Rejected
from gateway.simulator.faults import AFTER, IN_ANSWER, Fault
from gateway.simulator.sim import Simulator
from gateway.wire import Json, Malformed, decode

_VERSION: Final = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]")
_REMEMBERED: Final = 100_000
_STATUSES: Final = frozenset({"order_status", "payment_status", "refund_status"})
_AMOUNTS: Final = frozenset({"order_amount", "payment_amount", "refund_amount"})
_OPEN: Final = frozenset({"start_payment"})
"""Customers' browsers call these: the payment session is the credential."""
_CREATES: Final = frozenset({"create_order", "create_refund", "create_subscription", "charge_subscription"})


def add_routes(app: web.Application, sim: Simulator) -> None:
    """Every route of the API."""
    for method, path, endpoint, call in (*api.ROUTES, *more_api.ROUTES):
        app.router.add_route(method, path, _guard(sim, endpoint, call))


def _guard(sim: Simulator, endpoint: str, call: Call) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        sim.calls[endpoint] += 1
        fault = sim.faults.draw(endpoint)
        if fault is not None and fault.kind not in AFTER and fault.kind not in IN_ANSWER:
            broken = await _before(request, fault)
            if broken is not None:
                return broken
        wait_s = sim.faults.over_limit_s(endpoint)
        if wait_s > 0:
            return _too_many(sim.faults.limits[endpoint], int(wait_s) + 1)
        try:
            status, payload = 200, await _answer(sim, endpoint, call, request, fault)
        except Rejected as rejection:
            status, payload = rejection.status, msgspec.json.encode(rejection.answer)
        if fault is not None and fault.kind in AFTER:
            return await _after(request, fault)
        return web.Response(
            status=status,
            body=payload,
            content_type="application/json",
            headers={"x-api-version": request.headers.get("x-api-version", "2025-01-01")},
        )

    return handle


async def _answer(
    sim: Simulator, endpoint: str, call: Call, request: web.Request, fault: Fault | None
) -> bytes:
    if endpoint not in _OPEN:
        _authenticate(sim, request)
    raw = await request.read()
    body: Json = None
    if request.method in ("POST", "PATCH"):
        try:
            body = decode(raw)
        except Malformed as error:
            raise Rejected(
                400, "request_failed", "bad URL or body, please check API documentation"
            ) from error
    key = request.headers.get("x-idempotency-key") if endpoint in _CREATES else None
    fingerprint = hashlib.sha256(request.path.encode() + raw).digest()
    if key is not None and key in sim.remembered:
        before, kept_status, kept = sim.remembered[key]
        if before != fingerprint:
            raise Rejected(422, "request_invalid", "the idempotency key was used before", "idempotency_error")
        if kept_status == 200:
            return kept
    lag = fault is not None and fault.kind == "lag"
    payload = _encode(call(sim, {**request.query, **request.match_info}, body, lag), fault)
    if key is not None:
        sim.remembered[key] = (fingerprint, 200, payload)
        if len(sim.remembered) > _REMEMBERED:
            del sim.remembered[next(iter(sim.remembered))]
    return payload


def _authenticate(sim: Simulator, request: web.Request) -> None:
    version = request.headers.get("x-api-version")
    if version is None:
        raise Rejected(400, "request_failed", "version is missing in header")
    if _VERSION.fullmatch(version) is None:
        raise Rejected(400, "request_failed", "version is not valid")
    given = (request.headers.get("x-client-id", ""), request.headers.get("x-client-secret", ""))
    known = (sim.config.client_id, sim.config.client_secret)
    if not all(hmac.compare_digest(a.encode(), b.encode()) for a, b in zip(given, known, strict=True)):
        raise Rejected(401, "request_failed", "authentication Failed", "authentication_error")


def _encode(answer: Answer, fault: Fault | None) -> bytes:
    if fault is None or fault.kind not in IN_ANSWER:
        return msgspec.json.encode(answer)
    for node in answer if isinstance(answer, list) else [answer]:
        if fault.kind == "unknown_field":
            node["something_new"] = {"values": [1, None, "x"]}
        for key in tuple(node):
            value = node[key]
            if fault.kind == "unknown_enum" and key in _STATUSES:
                node[key] = "SOMETHING_NEW"
            elif fault.kind == "int_ids" and key.startswith("cf_") and isinstance(value, str):
                node[key] = int(value)
            elif fault.kind == "amount_mismatch" and key in _AMOUNTS:
                node[key] = msgspec.Raw(b"1.01")
    encoded = msgspec.json.encode(answer)
    return encoded[: len(encoded) // 2] if fault.kind == "truncated" else encoded


_RATE_BODY: Final = msgspec.json.encode(
    {
        "message": "Too many requests from IP. Check headers",
        "code": "request_failed",
        "type": "rate_limit_error",
    }
)


def _too_many(limit: int, retry_s: int) -> web.Response:
    headers = {
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-retry": str(retry_s),
        "x-ratelimit-type": "app_id",
    }
    return web.Response(status=429, body=_RATE_BODY, content_type="application/json", headers=headers)


async def _before(request: web.Request, fault: Fault) -> web.Response | None:
    """The answer of a call that fails before it did anything; None if it goes on."""
    if fault.kind in ("slow", "lag"):
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)
        return None
    if fault.kind in ("500", "502"):
        return _server_error(fault.kind)
    if fault.kind == "429":
        return _too_many(200, max(1, round(fault.seconds)))
    if fault.kind == "429_reset":
        headers = {"X-RateLimit-Limit": "200", "X-RateLimit-Reset": str(int(time.time() + fault.seconds) + 1)}
        return web.Response(status=429, body=_RATE_BODY, content_type="application/json", headers=headers)
    if fault.kind == "redirect":
        return web.Response(status=302, headers={"Location": str(request.url)})
    return await _vanish(request, fault)


async def _after(request: web.Request, fault: Fault) -> web.Response:
    """The answer of a call that was carried out and then failed."""
    if fault.kind in ("commit_then_500", "commit_then_502"):
        return _server_error(fault.kind.removeprefix("commit_then_"))
    return await _vanish(request, fault)


async def _vanish(request: web.Request, fault: Fault) -> web.Response:
    """No answer at all: silence for a while, or the connection reset at once."""
    if fault.kind.endswith("timeout"):
        await asyncio.sleep(fault.seconds)
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=504)


def _server_error(status: str) -> web.Response:
    if status == "502":
        return web.Response(
            status=502, text="<html><body>502 Bad Gateway</body></html>", content_type="text/html"
        )
    body = b'{"message":"internal Server Error","code":"internal_error","type":"api_error"}'
    return web.Response(status=500, body=body, content_type="application/json")
