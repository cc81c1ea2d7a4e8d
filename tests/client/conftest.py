"""The API on real servers, a client with a service's key, and a wire that breaks when it is told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import UUID

import pytest

from client import Client, Patience
from tests.web.conftest import Api, api, gateway

__all__ = ["api", "gateway"]

QUICK = Patience(total_s=20.0, attempt_s=5.0, attempts=8, base_s=0.01, cap_s=0.1)


@dataclass
class Wire:
    """A proxy: `cut` of the next answers never arrive, though the API gave them; `refuse` connections are closed at once."""

    upstream: str
    cut: int = 0
    refuse: int = 0
    url: str = ""
    answered: list[bytes] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuse:
                self.refuse -= 1
                return
            host, port = urlsplit(self.upstream).hostname, urlsplit(self.upstream).port
            up_reader, up_writer = await asyncio.open_connection(host, port)
            try:
                while request := await _message(reader):
                    up_writer.write(request)
                    answer = await _message(up_reader)
                    self.answered.append(answer)
                    if self.cut:
                        self.cut -= 1
                        return
                    writer.write(answer)
                    await writer.drain()
            finally:
                up_writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.transport.abort()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP message whose length is said; b'' at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)


@asynccontextmanager
async def wired(upstream: str) -> AsyncIterator[Wire]:
    """A wire to an API."""
    wire = Wire(upstream)
    talks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())  # type: ignore[arg-type]
        await wire.handle(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


@dataclass
class Service:
    """A service with its client, over a wire to an API."""

    api: Api
    wire: Wire
    core: Client
    key: str

    async def wallet(self, credits: int = 0) -> UUID:
        return UUID(await self.api.wallet(credits))


@pytest.fixture
async def service(api: Api) -> AsyncIterator[Service]:
    """With every scope that services may have."""
    scopes = [
        "users:read", "users:write", "wallets:read", "wallets:write", "credits:grant", "credits:hold", "usage:read",
        "usage:write", "payments:read", "payments:write", "refunds:read", "refunds:write", "publishers:read",
        "endpoints:read", "endpoints:write",
    ]  # fmt: skip
    key = (await api.post("/v1/api-keys", {"name": "chat", "scopes": scopes})).body["api_key"]
    async with wired(api.url) as wire, Client(wire.url, key, patience=QUICK) as core:
        yield Service(api, wire, core, key)
