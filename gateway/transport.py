"""One request to Cashfree: paced, timed, never redirected, and its failure sorted into the error tree.

What is retried here is safe to repeat: a GET (with jitter), a request that was never sent, and a 429. A POST
whose outcome is unknown is never repeated here; `client.py` asks first.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field, replace
from typing import Final, Literal
from uuid import uuid4

import aiohttp
import msgspec

from gateway import metrics
from gateway.budget import Budget
from gateway.errors import (
    AlreadyExists,
    BadAnswer,
    BadRequest,
    ConnectionLost,
    GatewayError,
    KeyMismatch,
    NotFound,
    OutcomeUnknown,
    OverBudget,
    RateLimited,
    Refused,
    ServerFault,
    TimedOut,
    Unauthorised,
    Unreachable,
)
from gateway.wire import Json, Malformed, decode, prose
from streams.telemetry import tracing

API_VERSION: Final = "2025-01-01"
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_TRIES: Final = 3
_FIRST_BACKOFF_S: Final = 0.1
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")

Method = Literal["GET", "POST", "PATCH", "PUT"]


@dataclass(frozen=True, slots=True)
class Merchant:
    """Whose account a call is made on. The secret never shows in a representation."""

    client_id: str
    client_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Transport:
    """How calls of one merchant reach Cashfree. `patience_s` bounds the waiting for budget and after a
    429.
    """

    http: aiohttp.ClientSession
    base_url: str
    merchant: Merchant
    budget: Budget
    patience_s: float = 5.0
    api_version: str = API_VERSION

    def patient(self, patience_s: float) -> Transport:
        """The same way to Cashfree with another patience."""
        return replace(self, patience_s=patience_s)

    async def call(
        self, endpoint: str, method: Method, path: str, body: object = None, *, repeatable: bool = False
    ) -> Json:
        """The decoded answer of a 2xx. `endpoint` names the budget. Errors: see `errors.py`.

        A GET may always be repeated after an unknown outcome; anything else only if the caller says so.
        """
        deadline = time.monotonic() + self.patience_s
        failures = 0
        while True:
            await self._wait_for_budget(endpoint, deadline)
            try:
                return await self._once(endpoint, method, path, body)
            except RateLimited as error:
                await self.budget.pause(self.merchant.client_id, endpoint, error.retry_after_s)
                if time.monotonic() + error.retry_after_s > deadline:
                    raise
            except (Unreachable, OutcomeUnknown) as error:
                failures += 1
                may_have_happened = isinstance(error, OutcomeUnknown)
                if failures >= _TRIES or (may_have_happened and method != "GET" and not repeatable):
                    raise
                await asyncio.sleep(random.uniform(0, _FIRST_BACKOFF_S * 2**failures))

    async def _wait_for_budget(self, endpoint: str, deadline: float) -> None:
        while (wait_s := await self.budget.take(self.merchant.client_id, endpoint)) > 0:
            if time.monotonic() + wait_s > deadline:
                raise OverBudget(endpoint, f"next call in {wait_s:.2f} s", retry_after_s=wait_s)
            metrics.BUDGET_WAIT_SECONDS.labels(endpoint).inc(wait_s)
            await asyncio.sleep(wait_s)

    async def _once(self, endpoint: str, method: Method, path: str, body: object) -> Json:
        started = time.monotonic()
        outcome = "ok"
        try:
            with tracing.child(f"gateway {endpoint}", kind="client"):
                return await self._exchange(endpoint, method, path, body)
        except GatewayError as error:
            outcome = type(error).__name__
            raise
        finally:
            metrics.CALLS.labels(endpoint, outcome).inc()
            metrics.CALL_SECONDS.labels(endpoint).observe(time.monotonic() - started)

    async def _exchange(self, endpoint: str, method: Method, path: str, body: object) -> Json:
        headers = {
            "accept": "application/json",
            "x-api-version": self.api_version,
            "x-client-id": self.merchant.client_id,
            "x-client-secret": self.merchant.client_secret,
            "x-request-id": uuid4().hex,
        }
        data = None
        if body is not None:
            headers["content-type"] = "application/json"
            data = _ENCODER.encode(body)
        try:
            async with self.http.request(
                method, self.base_url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                raw = await _read(endpoint, response)
                status, answer_headers = response.status, dict(response.headers)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(endpoint, str(error)) from error
        except TimeoutError as error:
            raise TimedOut(endpoint, "no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(endpoint, f"{type(error).__name__}: {error}") from error
        if 200 <= status < 300:
            try:
                return decode(raw)
            except Malformed as error:
                raise BadAnswer(endpoint, str(error)) from error
        raise _failure(endpoint, status, answer_headers, raw)


async def _read(endpoint: str, response: aiohttp.ClientResponse) -> bytes:
    chunks = bytearray()
    async for chunk in response.content.iter_chunked(64 * 1024):
        chunks += chunk
        if len(chunks) > MAX_ANSWER_BYTES:
            raise BadAnswer(endpoint, f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(chunks)


def _failure(endpoint: str, status: int, headers: dict[str, str], raw: bytes) -> GatewayError:
    """The error a non-2xx answer stands for. Its body may be anything (a proxy's page, nothing at all)."""
    code, kind, message = "", "", ""
    try:
        node = decode(raw)
        if isinstance(node, dict):
            code, kind, message = (prose(node, key) or "" for key in ("code", "type", "message"))
    except Malformed:
        message = "an answer that is not JSON"
    if status == 429:
        return RateLimited(endpoint, message or "too many requests", retry_after_s=_retry_after_s(headers))
    if status >= 500:
        return ServerFault(endpoint, message or "server error", status=status)
    if status < 400:
        return BadAnswer(endpoint, f"an answer of status {status} is not followed")
    refusal = Refused
    if kind == "idempotency_error":
        refusal = KeyMismatch
    elif status == 409 or "already_exists" in code:
        refusal = AlreadyExists
    elif status in (401, 403):
        refusal = Unauthorised
    elif status == 404:
        refusal = NotFound
    elif status in (400, 422):
        refusal = BadRequest
    return refusal(endpoint, message, status=status, code=code, kind=kind)


def _retry_after_s(headers: dict[str, str]) -> float:
    """Seconds to wait after a 429, 1 to 60.

    `x-ratelimit-retry` and `Retry-After` are seconds. `X-RateLimit-Reset` is seconds in one source and a
    time in another: a value beyond a year is read as seconds (or milliseconds) since the epoch.
    """
    found = {name.lower(): value for name, value in headers.items()}
    for name in ("x-ratelimit-retry", "retry-after", "x-ratelimit-reset"):
        value = found.get(name, "").strip()
        if not (value.isascii() and value.isdigit()) or len(value) > 16:
            continue
        seconds = float(value)
        if seconds > 1e11:
            seconds /= 1000
        if seconds > 31_536_000:
            seconds -= time.time()
        if seconds > 0:
            return min(60.0, max(1.0, seconds))
    return 1.0
