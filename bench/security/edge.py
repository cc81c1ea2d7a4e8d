"""Hands to call the API with, and the database below it: what every attack is given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import aiohttp
from yarl import URL


class Rows(Protocol):
    """Asks the database as its superuser."""

    async def __call__(self, statement: str, /, *args: Any) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read: JSON as what it says, anything else as text."""

    status: int
    body: Any
    headers: Mapping[str, str]
    raw: bytes

    @property
    def code(self) -> str:
        """The problem's code; empty where it is none."""
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""


@dataclass(slots=True)
class Edge:
    """The API of one system. `answers` counts by status all that this hand was told."""

    url: str
    http: aiohttp.ClientSession
    token: str = ""
    answers: dict[int, int] = field(default_factory=dict)

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call; a body that is not bytes is sent as JSON, a POST has a fresh Idempotency-Key unless one is given."""
        sent = dict(headers or {})
        credential = self.token if token is None else token
        if credential:
            sent.setdefault("Authorization", f"Bearer {credential}")
        if method == "POST":
            sent.setdefault("Idempotency-Key", f"edge-{uuid4()}")
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, data=data, headers=sent) as response:
            raw = await response.read()
            self.answers[response.status] = self.answers.get(response.status, 0) + 1
            return Answer(response.status, _read(response.content_type, raw), response.headers, raw)

    async def get(self, path: str, **more: Any) -> Answer:
        """GET."""
        return await self.call("GET", path, **more)

    async def post(self, path: str, body: object = None, **more: Any) -> Answer:
        """POST."""
        return await self.call("POST", path, {} if body is None else body, **more)


def _read(kind: str, raw: bytes) -> Any:
    if "json" not in kind:
        return raw.decode("utf-8", "replace")
    try:
        return json.loads(raw)
    except ValueError:
        return raw.decode("utf-8", "replace")


@asynccontextmanager
async def caller(url: str, *, address: str = "127.0.0.1", token: str = "") -> AsyncIterator[Edge]:
    """A hand of its own at a loopback address of its own, so that what is counted by address is counted apart."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        yield Edge(url, http, token)
