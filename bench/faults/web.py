"""The web process and the simulator as their callers see them: an answer with its status, or none."""

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from uuid import uuid4

import aiohttp

from bench.faults.log import Log

PATIENCE_S: Final = 6.0


class Answer(NamedTuple):
    """`status` 0: no answer came; nobody knows what was done."""

    status: int
    body: Any

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Web:
    """Calls of the API with the development token, and of the simulator's own doors. Never raises for what is broken."""

    def __init__(self, url: str, simulator: str, token: str, log: Log) -> None:
        self.url, self.simulator = url, simulator
        self._token = token
        self._log = log
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str) -> Answer:
        """GET of the API."""
        return await self._call("GET", self.url, path, None, self._headers(None))

    async def post(
        self, path: str, body: Mapping[str, Any], *, key: str | None = None, patience_s: float = PATIENCE_S
    ) -> Answer:
        """POST of the API; the same `key` again repeats the same request."""
        return await self._call("POST", self.url, path, body, self._headers(key), patience_s)

    async def must(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST before any fault. Errors: RuntimeError unless it succeeds."""
        answer = await self.post(path, body)
        if not answer.ok:
            raise RuntimeError(f"POST {path} was answered {answer.status}: {answer.body}")
        found: dict[str, Any] = answer.body
        return found

    async def simulate(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST to the simulator's control door."""
        return await self._call("POST", self.simulator, path, body, {})

    async def simulate_surely(self, path: str, body: Mapping[str, Any] | None) -> None:
        """As `simulate` (None: DELETE), again until the simulator answers."""
        method = "DELETE" if body is None else "POST"
        while not (await self._call(method, self.simulator, path, body, {})).ok:
            await asyncio.sleep(0.2)

    async def simulated(self, path: str) -> Answer:
        """GET of the simulator's control door."""
        return await self._call("GET", self.simulator, path, None, {})

    async def deliver(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """POST of a signed webhook."""
        return await self._call("POST", self.url, "/v1/webhooks/cashfree", body, headers)

    def _headers(self, key: str | None) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}", "Idempotency-Key": key or str(uuid4())}

    async def _call(
        self,
        method: str,
        base: str,
        path: str,
        body: Mapping[str, Any] | bytes | None,
        headers: Mapping[str, str],
        patience_s: float = PATIENCE_S,
    ) -> Answer:
        assert self._session is not None
        route = "/".join(path.split("?")[0].split("/")[:3])
        began = time.monotonic()
        try:
            async with self._session.request(
                method,
                base + path,
                data=body if isinstance(body, bytes) else None,
                json=None if isinstance(body, bytes) else body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=patience_s),
            ) as response:
                answer = Answer(response.status, await response.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            answer = Answer(0, None)
        self._log.answered(f"{method} {route}", answer.status, time.monotonic() - began)
        return answer
