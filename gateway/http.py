"""A small HTTP/1.1 client for one host: kept connections, a deadline, bounded answers, nothing followed or inflated.

A general client's session, cookies, redirects and stream readers cost more than the answer: this one takes a third of the
CPU per call, and a call is what each payment needs. One connection carries one request at a time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast
from urllib.parse import urlsplit

MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_HEAD_BYTES: Final = 64 * 1024
_KEPT_S: Final = 15.0
"""A connection that was idle for longer is not used again: the other side may be closing it."""


class HttpError(Exception):
    """A call that brought no whole answer."""


class NotConnected(HttpError):
    """Nothing was sent."""


class Lost(HttpError):
    """The connection ended, or what came is no HTTP: the request may have been carried out."""


class TooLarge(HttpError):
    """The answer is longer than `MAX_ANSWER_BYTES`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`headers` by lower-case name; of one that came twice, the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Http:
    """`async with Http(limit=64) as http: answer = await http.request("GET", url, headers)`.

    At most `limit` connections in all.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        limit: int = 64,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 3.0,
    ) -> None:
        self._tls = tls
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._room = asyncio.Semaphore(limit)
        self._idle: dict[tuple[str, str, int], deque[_Connection]] = {}
        self._all: set[_Connection] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for connection in tuple(self._all):
            connection.close()

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One call. Errors: TimeoutError, NotConnected, Lost, TooLarge; ValueError for a header that breaks its line."""
        where = urlsplit(url)
        host, port = where.hostname or "", where.port or (443 if where.scheme == "https" else 80)
        head = [
            f"{method} {where.path or '/'}{'?' + where.query if where.query else ''} HTTP/1.1",
            f"host: {where.netloc}",
        ]
        head += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None or method not in ("GET", "HEAD"):
            head.append(f"content-length: {len(body or b'')}")
        if any("\r" in line or "\n" in line for line in head):
            raise ValueError("a line break in a header")
        raw = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + (body or b"")
        async with self._room, asyncio.timeout(self._timeout_s):
            connection = await self._connection(where.scheme, host, port)
            try:
                return await connection.exchange(raw)
            finally:
                if connection.reusable:
                    self._idle.setdefault((where.scheme, host, port), deque()).append(connection)
                else:
                    connection.close()

    async def _connection(self, scheme: str, host: str, port: int) -> _Connection:
        idle = self._idle.get((scheme, host, port))
        while idle:
            connection = idle.pop()
            if connection.fresh:
                return connection
            connection.close()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self._all), host, port, ssl=self._tls_of(scheme)
                )
        except (OSError, TimeoutError) as error:
            raise NotConnected(f"{host}:{port}: {error or type(error).__name__}") from error
        return cast(_Connection, made)

    def _tls_of(self, scheme: str) -> ssl.SSLContext | None:
        if scheme == "http":
            return None
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


class _Connection(asyncio.Protocol):
    def __init__(self, members: set[_Connection]) -> None:
        self._members = members
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._buffer = bytearray()
        self._head: tuple[int, dict[str, str], int] | None = None
        self._used_at = 0.0
        self.reusable = False

    @property
    def fresh(self) -> bool:
        """Whether it may carry another request."""
        open_ = self._transport is not None and not self._transport.is_closing()
        return open_ and time.monotonic() - self._used_at < _KEPT_S

    def close(self) -> None:
        """At once."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, raw: bytes) -> Answer:
        """Send a request, return its answer. Errors: Lost, TooLarge."""
        self.reusable = False
        if self._transport is None:
            raise Lost("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        answer = await self._answer
        self._used_at = time.monotonic()
        self.reusable = (
            not self._buffer and answer.headers.get("connection", "").lower() != "close" and self.fresh
        )
        return answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._members.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._members.discard(self)
        self._transport = None
        head = self._head
        if head is not None and exc is None and _length(head[1]) is None and not _is_chunked(head[1]):
            self._finish(Answer(head[0], head[1], bytes(self._buffer[head[2] :])))
        else:
            self._fail(Lost(f"the connection ended: {exc or 'closed by the other side'}"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # nobody asked
            return
        self._buffer += data
        try:
            answer = self._parse()
        except (ValueError, IndexError) as error:
            self._fail(Lost(f"no HTTP answer: {error}"))
            self.close()
            return
        if answer is not None:
            self._finish(answer)
        elif len(self._buffer) > MAX_ANSWER_BYTES + _MAX_HEAD_BYTES:
            self._fail(TooLarge(f"the answer is larger than {MAX_ANSWER_BYTES} bytes"))
            self.close()

    def _parse(self) -> Answer | None:
        """The answer, once all of it is here. Errors: ValueError, IndexError."""
        while self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _MAX_HEAD_BYTES:
                    raise ValueError("the head is too long")
                return None
            lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
            version, _, rest = lines[0].partition(" ")
            status = int(rest[:3])
            if not version.startswith("HTTP/1.") or not 100 <= status <= 599:
                raise ValueError("no status line")
            if status < 200:
                del self._buffer[: end + 4]
                continue
            pairs = (line.partition(":") for line in lines[1:])
            self._head = (status, {name.strip().lower(): value.strip() for name, _, value in pairs}, end + 4)
        status, headers, begin = self._head
        if status in (204, 304):
            body, after = b"", begin
        elif _is_chunked(headers):
            found = _unchunk(self._buffer, begin)
            if found is None:
                return None
            body, after = found
        else:
            length = _length(headers)
            if length is None or len(self._buffer) < begin + length:
                if (length or 0) > MAX_ANSWER_BYTES:
                    raise ValueError("the answer is too large")
                return None
            body, after = bytes(self._buffer[begin : begin + length]), begin + length
        del self._buffer[:after]
        self._head = None
        return Answer(status, headers, body)

    def _finish(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: HttpError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


def _is_chunked(headers: Mapping[str, str]) -> bool:
    return headers.get("transfer-encoding", "").lower().endswith("chunked")


def _length(headers: Mapping[str, str]) -> int | None:
    """Errors: ValueError for a length that is none."""
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError("content-length is no number")
    return int(text)


def _unchunk(buffer: bytearray, begin: int) -> tuple[bytes, int] | None:
    """A chunked body and where it ends; None while some of it is missing. Errors: ValueError."""
    body, at = bytearray(), begin
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            return None
        size = int(bytes(buffer[at:end]).split(b";", 1)[0], 16)
        if size < 0 or len(body) + size > MAX_ANSWER_BYTES:
            raise ValueError("the answer is too large")
        if size == 0:
            over = buffer.find(b"\r\n\r\n", end)  # trailers, if any, then an empty line
            return None if over < 0 else (bytes(body), over + 4)
        if len(buffer) < end + 2 + size + 2:
            return None
        body += buffer[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
