"""Connections, before there is a request: how many, how slow, and how large a head may be.

aiohttp bounds a line, a field, a body that the handler reads and an idle connection; here is what it leaves open: the number of
connections in all and of one address, the time and the size of a request's head, and a client that does not read its answer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from sql.ids import uuid7
from web.addresses import Network, neighbourhood, read_address, within
from web.headers import protect
from web.problems import Problem
from web.settings import WebSettings

log = structlog.get_logger("web.connections")

HEAD_BYTES: Final = 32 * 1024
FIELD_BYTES: Final = 8190
FIELDS: Final = 64
IDLE_S: Final = 75.0
LINGER_S: Final = 2.0
BUFFER_BYTES: Final = 64 * 1024
LOOK_EVERY_S: Final = 0.5
_ANSWER: Final = "HTTP/1.1 {} {}\r\nConnection: close\r\nContent-Length: 0\r\n{}\r\n"


class Connection(web.RequestHandler):
    """One connection. `head_since` is set while a head is awaited that must come soon."""

    __slots__ = ("head_bytes", "head_since", "near", "unread", "unread_since")

    def __init__(self, server: "Server", *, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        super().__init__(server, loop=loop, **options)
        self.near = "-"
        self.head_since: float | None = None
        self.head_bytes = 0
        self.unread = 0
        self.unread_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Counts from here on; the first head has its time from here on too."""
        self.head_since = self._loop.time()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head are counted until it is whole; then it is a request, and the handler's."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self.head_since, self.head_bytes = None, 0
            return
        if self.head_since is None:
            self.head_since = self._loop.time()
        self.head_bytes += len(data)
        if self.head_bytes > HEAD_BYTES:
            self.refuse(431, "head_too_large")

    def refuse(self, status: int, why: str, more: str = "") -> None:
        """Answer what was no request yet, and close."""
        server = self._manager
        if isinstance(server, Server):
            server.refused(why)
        if self.transport is not None:
            self.transport.write(_ANSWER.format(status, HTTPStatus(status).phrase, more).encode())
        self.force_close()

    def look(self, now: float, settings: WebSettings) -> None:
        """End it if its head, or its reader, is too slow."""
        if self.head_since is not None and now - self.head_since > settings.web_head_s:
            self.refuse(408, "slow_head")
            return
        transport = self.transport
        unread = transport.get_write_buffer_size() if transport is not None else 0
        if unread == 0 or unread != self.unread:
            self.unread, self.unread_since = unread, now
        elif transport is not None and now - self.unread_since > settings.web_body_s:
            if isinstance(self._manager, Server):
                self._manager.refused("slow_reader")
            transport.abort()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What cannot be read as HTTP is answered as everything else is, and told in a line."""
        if status >= 500:
            log.error("a bug outside every handler", exc_info=exc)
        else:
            log.info("malformed request", reason=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is on its way already")
        code = "malformed_request" if status < 500 else "internal_error"
        response = Problem(status, code).response(str(uuid7()))
        protect(response.headers, tls=False)
        response.force_close()
        return response


class Server(web.Server):
    """Makes connections, counts them, looks at them twice a second."""

    def __init__(
        self,
        inner: web.Server,
        settings: WebSettings,
        refused: Callable[[str], None],
        options: dict[str, Any],
    ) -> None:
        super().__init__(
            inner.request_handler,
            request_factory=inner.request_factory,
            handler_cancellation=inner.handler_cancellation,
        )
        self._settings = settings
        self._proxies: tuple[Network, ...] = settings.web_trusted_proxies
        self._options = options
        self._near: Counter[str] = Counter()
        self._open = 0
        self.refused = refused
        self._looking = asyncio.create_task(self._look(), name="connections")

    def __call__(self) -> web.RequestHandler:
        """A protocol for the next connection."""
        return Connection(self, loop=asyncio.get_running_loop(), **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Take it in, or refuse it: there are too many, or too many from there (a proxy of ours has no such limit)."""
        super().connection_made(handler, transport)
        if not isinstance(handler, Connection):
            return
        peer = transport.get_extra_info("peername")
        address = read_address(peer[0]) if isinstance(peer, tuple) else None
        near = handler.near = "proxy" if within(address, self._proxies) else neighbourhood(address)
        self._near[near] += 1
        self._open += 1
        if self._open > self._settings.web_connections:
            handler.refuse(503, "too_many", "Retry-After: 2\r\n")
        elif near != "proxy" and self._near[near] > self._settings.web_connections_per_address:
            handler.refuse(429, "too_many_of_one", "Retry-After: 2\r\n")

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """It counts no longer."""
        super().connection_lost(handler, exc)
        if isinstance(handler, Connection):
            self._open -= 1
            self._near[handler.near] -= 1
            if self._near[handler.near] <= 0:
                del self._near[handler.near]

    def pre_shutdown(self) -> None:
        """Look no more, then end what is idle."""
        self._looking.cancel()
        super().pre_shutdown()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now = loop.time()
            for connection in self.connections:
                if isinstance(connection, Connection):
                    connection.look(now, self._settings)


class Runner(web.AppRunner):
    """Serves an application over such connections. A compressed body stays as it came: nobody inflates a bomb to refuse it."""

    def __init__(self, app: web.Application, settings: WebSettings, refused: Callable[[str], None]) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=settings.web_shutdown_s)
        self._settings = settings
        self._refused = refused

    async def _make_server(self) -> web.Server:
        options = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": IDLE_S,
            "lingering_time": LINGER_S,
            "max_field_size": FIELD_BYTES,
            "max_headers": FIELDS,
            "max_line_size": FIELD_BYTES,
            "read_bufsize": BUFFER_BYTES,
        }
        return Server(await super()._make_server(), self._settings, self._refused, options)
