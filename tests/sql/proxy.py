"""A TCP proxy before PostgreSQL that cuts a connection at the worst moment: the statement is sent, the answer is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

_SYNC = b"S\x00\x00\x00\x04"  # ends what is executed; what is only prepared ends with a flush
_STATEMENT = b"commit_batch"


class Proxy:
    """Forwards bytes. `lose_answer` and `lose_statement` each say what happens to the next commit."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._serving: set[asyncio.Task[None]] = set()
        self.lose_answer = False
        self.lose_statement = False
        self.answered = asyncio.Event()
        """The server has answered a statement whose answer was lost."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._serving.add(task)
        from_server, to_server = await asyncio.open_connection(*self._upstream)
        mute = asyncio.Event()
        back = asyncio.create_task(self._answers(from_server, writer, mute))
        try:
            with suppress(ConnectionError):
                await self._statements(reader, to_server, mute)
            if mute.is_set():
                await back
        finally:
            back.cancel()
            await asyncio.gather(back, return_exceptions=True)
            for end in (writer, to_server):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()
            self._serving.discard(task)

    async def _statements(
        self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            executes = _STATEMENT in data and data.endswith(_SYNC)
            if executes and self.lose_statement:
                self.lose_statement = False
                return
            if executes and self.lose_answer:
                self.lose_answer = False
                mute.set()
            to_server.write(data)
            await to_server.drain()
            if mute.is_set():
                return

    async def _answers(
        self, from_server: asyncio.StreamReader, writer: asyncio.StreamWriter, mute: asyncio.Event
    ) -> None:
        with suppress(ConnectionError):
            while data := await from_server.read(1 << 20):
                if mute.is_set():
                    self.answered.set()
                    return
                writer.write(data)
                await writer.drain()
            writer.close()

    async def close(self) -> None:
        """Wait for what is still open: clients have closed their ends."""
        await asyncio.gather(*self._serving)


@asynccontextmanager
async def proxy_before(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy and the same URL through it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy(parts.hostname, parts.port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    netloc = parts.netloc.replace(f":{parts.port}", f":{port}")
    try:
        yield proxy, urlunsplit(parts._replace(netloc=netloc))
    finally:
        server.close()
        await proxy.close()
