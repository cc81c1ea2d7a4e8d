"""A TCP proxy that can hold, delay or cut what passes: the network between one process and one server."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from deploy.local.ports import HOST

_CHUNK_BYTES = 1 << 18


class Proxy:
    """Forwards bytes to a loopback port. While `hold` lasts, nothing moves and nothing is told: a partition."""

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._server: asyncio.Server | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self.delay_s = 0.0
        """How long each piece is kept before it goes on."""
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def through(self, url: str) -> str:
        """The same URL by way of this proxy."""
        parts = urlsplit(url)
        account, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{account}{at}{HOST}:{self.port}"))

    def hold(self) -> None:
        """Let nothing pass, on old and new connections, until `release`."""
        self._flows.clear()

    def release(self) -> None:
        """Let everything pass again, what was held first."""
        self._flows.set()

    def cut(self) -> None:
        """Reset every connection, both ways."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.CancelledError):  # only `stop` cancels
                await self._flows.wait()
                onward, upstream = await asyncio.open_connection(HOST, self._upstream)
                self._writers.add(upstream)
                try:
                    await self._both(self._pump(reader, upstream), self._pump(onward, writer))
                finally:
                    self._writers.discard(upstream)
                    upstream.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()
            self._serving.discard(task)

    async def _both(self, *pumps: Coroutine[None, None, None]) -> None:
        """Until either way ends; an end that is closed in order is passed on by closing both."""
        tasks = [asyncio.ensure_future(pump) for pump in pumps]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()  # what was written last leaves before the connection is dropped
            await asyncio.sleep(0.05)
