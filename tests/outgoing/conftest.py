"""Accounts with events, receivers on loopback that answer as they are told, and a sender."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from agents.outgoing import Sender
from agents.outgoing_door import open_door
from agents.outgoing_settings import OutgoingSettings
from sql import outgoing
from sql.db import Database, DatabaseSettings
from sql.ids import uuid7
from tests.conftest import Database as Prepared

SECRET = bytes(range(32))
_numbers = itertools.count(1)


@dataclass
class Receiver:
    """Somebody's server. `answer` decides each reply; what came is kept, in order."""

    url: str = ""
    answer: Callable[["Came"], Awaitable[web.StreamResponse]] | None = None
    came: list["Came"] = field(default_factory=list)

    @property
    def sequences(self) -> list[int]:
        return [came.body["sequence"] for came in self.came]


@dataclass
class Came:
    """One request as it came."""

    raw: bytes
    headers: dict[str, str]

    @property
    def body(self) -> Any:
        return msgspec.json.decode(self.raw)


def status(code: int, **headers: str) -> Callable[[Came], Awaitable[web.StreamResponse]]:
    """Answers with a status."""

    async def answer(_: Came) -> web.StreamResponse:
        return web.Response(status=code, headers=headers)

    return answer


async def hang(_: Came) -> web.StreamResponse:
    """Never answers."""
    await asyncio.sleep(3600)
    raise AssertionError


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free loopback port."""
    receiver = Receiver()

    async def handle(request: web.Request) -> web.StreamResponse:
        came = Came(await request.read(), {k.lower(): v for k, v in request.headers.items()})
        receiver.came.append(came)
        return web.Response() if receiver.answer is None else await receiver.answer(came)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


@dataclass
class Desk:
    """A database with accounts, and hands to make events and send."""

    db: Database
    admin: asyncpg.Connection
    stack: AsyncExitStack

    async def receiver(self) -> Receiver:
        return await self.stack.enter_async_context(receiving())

    async def sender(self, resolver: AbstractResolver | None = None, **said: Any) -> Sender:
        """A sender that tries fast and may reach this machine."""
        settings = OutgoingSettings(**({"outgoing_local": True, "outgoing_timeout_s": 0.5} | said))
        door = await self.stack.enter_async_context(open_door(settings, resolver))
        return Sender(self.db, door, settings)

    async def account(self) -> UUID:
        id = uuid4()
        await self.admin.execute(
            "INSERT INTO users (id, external_id, email, request_hash) VALUES ($1, $2, 'asha@example.com', '')",
            id, str(id),
        )  # fmt: skip
        return id

    async def endpoint(
        self, owner: UUID, url: str, *, kinds: list[str] | None = None, secret: bytes = SECRET
    ) -> UUID:
        id = uuid7()
        outcome, made, _ = await outgoing.create_endpoint(
            self.db, id, f"t:{next(_numbers)}", b"hash", owner=owner, url=url, description="", kinds=kinds,
            secret=secret, most=20, actor="test",
        )  # fmt: skip
        assert (outcome, made) == ("created", id)
        return id

    async def happen(self, owner: UUID, count: int = 1, kind: str = "credits_granted") -> list[UUID]:
        """So many events of an account, each committed by itself."""
        return [await self.event(self.admin, owner, kind) for _ in range(count)]

    async def event(self, connection: asyncpg.Connection, owner: UUID, kind: str = "credits_granted") -> UUID:
        id: UUID = await connection.fetchval(
            "INSERT INTO billing_events (kind, user_id, credits, amount, source, source_id, occurred_at)"
            " VALUES ($1, $2, 7, 1180, 'test', $3, now()) RETURNING id",
            kind, owner, str(next(_numbers)),
        )  # fmt: skip
        return id

    async def number(self) -> int:
        return await outgoing.number(self.db, limit=500)

    async def send(self, sender: Sender, rounds: int = 1) -> None:
        """Number what waits, and send what is due now."""
        while await self.number():
            pass
        for _ in range(rounds):
            await sender.once()

    async def hurry(self) -> None:
        """Time passes: whatever waits is due, no breaker is shut, no lease holds."""
        await self.admin.execute("UPDATE outgoing_deliveries SET next_at = now() WHERE state = 'pending'")
        await self.admin.execute(
            "UPDATE outgoing_endpoints SET due_at = now(), blocked_until = '-infinity', leased_until = '-infinity'"
        )

    async def deliveries(self, endpoint: UUID) -> list[outgoing.Delivery]:
        """Of an endpoint, the lowest number first."""
        return (await outgoing.get_deliveries(self.db, endpoint, before=None, state=None, limit=1000))[::-1]

    async def standing(self, endpoint: UUID) -> outgoing.Endpoint:
        found = await outgoing.get_endpoint(self.db, endpoint)
        assert found is not None
        return found


@pytest.fixture
async def desk(database: Prepared) -> AsyncIterator[Desk]:
    """Over a fresh database."""
    admin = await asyncpg.connect(database.admin_url)
    async with (
        AsyncExitStack() as stack,
        Database(DatabaseSettings(database_url=database.url, database_pool_size=4)) as db,
    ):
        yield Desk(db, admin, stack)
        await asyncio.wait_for(admin.close(), 5)
