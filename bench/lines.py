"""Plain keep-alive connections for load generators: a request is bytes, its answer a status and a body."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self, cast

Answered = Callable[[int, bytes], None]
"""Called with the status (0: the connection was lost) and the body."""
_END: Final = b"\r\n\r\n"


class Line(asyncio.Protocol):
    """One connection; answers come in the order of the requests. `lost` is called when it has ended."""

    def __init__(self, lost: Callable[[Line], None]) -> None:
        self.waiting: deque[Answered] = deque()
        self._lost = lost
        self._left = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        while self.waiting:
            self.waiting.popleft()(0, b"")
        self._lost(self)

    def ask(self, request: bytes, answered: Answered) -> None:
        """Write a request; `answered` is told."""
        if self._transport is None:
            answered(0, b"")
            return
        self.waiting.append(answered)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        at = 0
        while (end := data.find(_END, at)) >= 0:
            head = data[at:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            whole = end + len(_END) + length
            if len(data) < whole:
                break
            if not self.waiting:  # a server that has waited long enough says so before it hangs up
                break
            self.waiting.popleft()(int(data[at + 9 : at + 12]), data[end + len(_END) : whole])
            at = whole
        self._left = data[at:]


class Lines:
    """Several connections to one place; a request takes the one with the least before it. What is closed is made anew."""

    def __init__(self, host: str, port: int) -> None:
        self._place = (host, port)
        self._lines: list[Line] = []
        self._making: set[asyncio.Task[None]] = set()

    @classmethod
    async def connect(cls, host: str, port: int, count: int) -> Self:
        """So many connections. Errors: OSError."""
        lines = cls(host, port)
        for _ in range(count):
            await lines._make()
        return lines

    async def _make(self) -> None:
        loop = asyncio.get_running_loop()
        self._lines.append((await loop.create_connection(lambda: Line(self._replace), *self._place))[1])

    def _replace(self, line: Line) -> None:
        self._lines.remove(line)
        task = asyncio.get_running_loop().create_task(self._again())
        self._making.add(task)
        task.add_done_callback(self._making.discard)

    async def _again(self) -> None:
        with suppress(OSError):
            await self._make()

    def ask(self, method: str, path: str, headers: str, body: bytes, answered: Answered) -> None:
        """Send one request; `headers` are lines that end with CRLF."""
        host, port = self._place
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {host}:{port}\r\n{headers}content-length: {len(body)}\r\n\r\n"
        )
        if not self._lines:
            answered(0, b"")
            return
        min(self._lines, key=_before).ask(head.encode() + body, answered)


def _before(line: Line) -> int:
    return len(line.waiting)
