"""The small HTTP client against a server that says exactly what it is told to say."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.http import MAX_ANSWER_BYTES, Http, Lost, NotConnected


@asynccontextmanager
async def saying(*answers: Sequence[bytes]) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """A server that sends the parts of the next answer to each request, then hangs up after an empty last part."""
    said = iter(answers)
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while await reader.readuntil(b"\r\n\r\n"):
            for part in next(said):
                if not part:
                    writer.close()
                    return
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01)

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError, StopIteration, RuntimeError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", lambda: connections
    finally:
        server.close()
        await asyncio.sleep(0.05)


async def ask(http: Http, url: str) -> bytes:
    return (await http.request("GET", f"{url}/x", {})).body


async def test_an_answer_in_pieces_is_put_together_and_its_connection_used_again() -> None:
    pieces = [b"HTTP/1.1 200 OK\r\nContent-", b"Length: 5\r\n\r\nhe", b"llo"]
    async with saying(pieces, pieces) as (url, connections), Http() as http:
        assert await ask(http, url) == await ask(http, url) == b"hello"
        assert connections() == 1


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_a_chunked_answer_is_read_wherever_it_is_cut(cut: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    short = raw.replace(b"Trailer: t\r\n", b"")
    async with saying([raw[:cut], raw[cut:]], [short[:cut], short[cut:]]) as (url, _), Http() as http:
        assert await ask(http, url) == b"abcde"
        assert await ask(http, url) == b"abcde"


async def test_an_answer_that_ends_with_its_connection_is_whole_and_one_that_should_be_longer_is_lost() -> None:
    async with saying([b"HTTP/1.1 200 OK\r\n\r\nall", b""], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall", b""]) as (
        url,
        _,
    ), Http() as http:  # fmt: skip
        assert await ask(http, url) == b"all"
        with pytest.raises(Lost):
            await ask(http, url)


async def test_a_connection_that_said_close_is_not_used_again() -> None:
    answer = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"]
    async with saying(answer, answer) as (url, connections), Http() as http:
        await ask(http, url)
        await ask(http, url)
        assert connections() == 2


@pytest.mark.parametrize(
    "nonsense",
    [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_ANSWER_BYTES + 1)],
)  # fmt: skip
async def test_what_is_no_http_or_too_long_is_lost(nonsense: bytes) -> None:
    async with saying([nonsense]) as (url, _), Http() as http:
        with pytest.raises(Lost):
            await ask(http, url)


async def test_no_server_no_answer_and_a_line_break_are_told_apart() -> None:
    async with Http(timeout_s=0.2) as http:
        with pytest.raises(NotConnected):
            await ask(http, "http://127.0.0.1:1")
        with pytest.raises(ValueError, match="line break"):
            await http.request("GET", "http://127.0.0.1:1/", {"x": "a\r\nb: c"})
        async with saying([b"HTTP/1.1 100 Continue\r\n\r\n"]) as (url, _):
            with pytest.raises(TimeoutError):
                await ask(http, url)


async def test_no_more_connections_than_the_limit() -> None:
    answers = [[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"ok"]] * 9
    async with saying(*answers) as (url, connections), Http(limit=2) as http:
        assert await asyncio.gather(*(ask(http, url) for _ in range(9))) == [b"ok"] * 9
        assert connections() <= 2
