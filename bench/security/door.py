"""Raw HTTP at the webhooks' door: what a library would refuse to send, over sockets; and what came back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlsplit

PATH: Final = "/v1/webhooks/cashfree"
ANSWER_S: Final = 20.0
_STATUS: Final = re.compile(rb"(?:^|\r\n\r\n.*?)HTTP/1\.[01] ([0-9]{3}) ", re.DOTALL)

Piece = bytes | float
"""Bytes to send, or seconds to wait."""
Headers = Sequence[tuple[bytes, bytes]]


class Due(StrEnum):
    """What must become of a vector."""

    REFUSED = "refused"  # no row, and no 200
    STALE = "stale"  # one row, marked
    REPLAY = "replay"  # 200, and no second row
    PARKED = "parked"  # a row that nobody acts on
    HARMLESS = "harmless"  # no row that somebody acts on, whatever the answer


@dataclass(frozen=True, slots=True)
class Vector:
    """One way to get in. `marks` are the payments it speaks of; whose row appears, got in."""

    name: str
    pieces: tuple[Piece, ...]
    marks: tuple[str, ...]
    due: Due = Due.REFUSED
    patience_s: float = ANSWER_S


@dataclass(slots=True)
class Sent:
    """What the server said to a vector: every status on its connection; none if it just closed."""

    statuses: list[int] = field(default_factory=list)
    hung: bool = False
    """No answer and no end within the vector's patience."""


def request(
    headers: Headers,
    body: bytes,
    *,
    line: bytes = b"POST " + PATH.encode() + b" HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A request as bytes; a Host and, unless told otherwise, a Content-Length are added."""
    given = {name.lower() for name, _ in headers}
    lines = [line]
    if b"host" not in given:
        lines.append(b"Host: core.example")
    lines += [name + b": " + value for name, value in headers]
    if length and b"content-length" not in given:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(*parts: bytes) -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def send(url: str, vector: Vector, *, address: str = "127.0.0.1") -> Sent:
    """Send a vector over a connection of its own and read until the server closes it or says nothing more."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port, local_addr=(address, 0))
    reading = asyncio.create_task(_read(reader, vector.patience_s))
    try:
        with suppress(ConnectionError, RuntimeError):
            for piece in vector.pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    writer.write(piece)
                    await writer.drain()
                if reading.done():
                    break
        said, hung = await reading
    finally:
        reading.cancel()
        writer.close()
        with suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(1):
                await writer.wait_closed()
    return Sent([int(status) for status in _STATUS.findall(said)], hung)


async def _read(reader: asyncio.StreamReader, patience_s: float) -> tuple[bytes, bool]:
    """All that comes, until an end, or half a second of silence after an answer."""
    said = b""
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while True:
        wait_s = until - loop.time()
        if said:
            wait_s = min(wait_s, 0.5)
        try:
            async with asyncio.timeout(wait_s):
                part = await reader.read(65536)
        except TimeoutError:
            return said, not said
        except ConnectionError:
            return said, False
        if not part:
            return said, False
        said += part
