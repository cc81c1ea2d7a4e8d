"""One call, as often as it takes: the same request under the same Idempotency-Key, until it is answered or the time is over.

A lost answer leaves it open whether the call was done. The key makes asking again harmless, so a new key is never made for
the same call; a caller that outlives us passes its own. Pauses double from `base_s`, are cut at random (so that callers do
not come back all at once), and are never shorter than what Retry-After asks for.
"""

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID, uuid4

import aiohttp
import msgspec

from client.errors import BadAnswer, TimedOut, Unreachable, WaitsForApproval, of_status

T = TypeVar("T")
AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
IN_USE: Final = "idempotency_key_in_use"
_PROBLEM: Final = msgspec.json.Decoder(dict[str, Any])


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take in all, and one attempt of it; pauses in between. Seconds."""

    total_s: float = 60.0
    attempt_s: float = 15.0
    attempts: int = 8
    base_s: float = 0.1
    cap_s: float = 10.0

    def pause_s(self, attempt: int) -> float:
        """Before attempt number `attempt` + 1."""
        return min(self.cap_s, self.base_s * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


class Caller:
    """Speaks HTTP. One per process is enough; any number of tasks may use it at once."""

    def __init__(self, url: str, api_key: str, patience: Patience, *, connections: int) -> None:
        if not url.startswith(("https://", "http://")):
            raise ValueError("the address begins with https:// or http://")
        self._url = url.rstrip("/")
        self._key = api_key
        self._patience = patience
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections),
            headers={"Authorization": f"Bearer {self._key}", "User-Agent": "commdesk-client/1"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, kind: type[T], **query: object) -> T:
        """Ask. Errors: CoreError."""
        return _read(await self._until_answered("GET", path, None, query, None), kind)

    async def get_bytes(self, path: str) -> bytes:
        """A file. Errors: CoreError."""
        return (await self._until_answered("GET", path, None, {}, None)).raw

    async def post(
        self, path: str, kind: type[T], body: Mapping[str, object], *, key: str | None, **query: object
    ) -> T:
        """Do, once. `key`: the Idempotency-Key; a fresh one if None. Errors: CoreError."""
        raw = msgspec.json.encode({name: value for name, value in body.items() if value is not None})
        key = key or uuid4().hex
        answer = await self._until_answered("POST", path, raw, query, key)
        if answer.status == 202:
            waiting = _read(answer, _Waiting)
            raise WaitsForApproval(waiting.approval_id, waiting.summary, key)
        return _read(answer, kind)

    async def _until_answered(
        self,
        method: str,
        path: str,
        body: bytes | None,
        query: Mapping[str, object],
        key: str | None,
    ) -> "_Answer":
        said, ends = self._patience, time.monotonic() + self._patience.total_s
        attempt = 0
        while True:
            attempt += 1
            answer: _Answer | None = None
            error: Exception | None = None
            try:
                answer = await self._ask(
                    method, path, body, query, key, min(said.attempt_s, ends - time.monotonic())
                )
            except (aiohttp.ClientError, TimeoutError, OSError) as failed:
                error = failed
            if answer is not None and answer.status < 300:
                return answer
            wait_s = max(said.pause_s(attempt), 0.0 if answer is None else answer.retry_after_s)
            if (
                (answer is not None and not answer.may_be_tried_again)
                or attempt >= said.attempts
                or time.monotonic() + wait_s >= ends
            ):
                if answer is not None:
                    raise answer.problem()
                failure = TimedOut if isinstance(error, TimeoutError) else Unreachable
                raise failure(f"{method} {path}: {type(error).__name__} {error}", key=key) from error
            await asyncio.sleep(wait_s)

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        query: Mapping[str, object],
        key: str | None,
        timeout_s: float,
    ) -> "_Answer":
        if self._session is None:
            raise RuntimeError("the client is used inside `async with`")
        headers = {} if key is None else {"Idempotency-Key": key}
        if body is not None:
            headers["Content-Type"] = "application/json"
        asked = {name: _word(value) for name, value in query.items() if value is not None}
        async with (
            asyncio.timeout(max(0.001, timeout_s)),
            self._session.request(
                method, self._url + path, data=body, params=asked, headers=headers, allow_redirects=False
            ) as response,
        ):
            return _Answer(response.status, await response.read(), response.headers.get("Retry-After"))


class _Waiting(msgspec.Struct):
    approval_id: UUID
    summary: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    raw: bytes
    retry_after: str | None

    @property
    def retry_after_s(self) -> float:
        """What the core asks us to wait; 0 if it does not say."""
        if self.retry_after is None:
            return 0.0
        try:
            return max(0.0, float(self.retry_after))
        except ValueError:
            pass
        try:
            return max(0.0, parsedate_to_datetime(self.retry_after).timestamp() - time.time())
        except ValueError:
            return 0.0

    @property
    def may_be_tried_again(self) -> bool:
        return self.status in AGAIN or (self.status == 409 and self._said().get("code") == IN_USE)

    def problem(self) -> Exception:
        """What to raise."""
        said = self._said()
        if "code" not in said:
            return BadAnswer(f"{self.status}, and no problem of the API's: {self.raw[:200]!r}")
        return of_status(self.status)(
            self.status, str(said["code"]), str(said.get("detail", "")), said.get("request_id"), said
        )

    def _said(self) -> dict[str, Any]:
        try:
            return _PROBLEM.decode(self.raw)
        except msgspec.DecodeError:
            return {}


def _read(answer: _Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.raw, type=kind)
    except msgspec.DecodeError as error:
        raise BadAnswer(f"{answer.status}: {error}") from error


def _word(value: object) -> str:
    return "true" if value is True else "false" if value is False else str(value)
