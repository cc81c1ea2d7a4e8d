"""What loads the system while it is measured: connections, the closed loop in wrk's place, the other client."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bench import peer_rbfly
from bench.lines import Lines
from bench.wrk import own


async def _serve() -> TestServer:
    async def echo(request: web.Request) -> web.Response:
        await asyncio.sleep(0.01 if request.path == "/slow" else 0)
        if request.path == "/gone":
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=request.path.encode(), status=404 if request.path == "/no" else 200)

    app = web.Application()
    app.router.add_route("*", "/{path}", echo)
    server = TestServer(app)
    await server.start_server()
    return server


async def test_answers_reach_who_asked_in_their_order() -> None:
    async with await _serve() as server:
        lines = await Lines.connect("127.0.0.1", server.port or 0, 1)
        told: list[tuple[int, bytes]] = []
        done = asyncio.Event()

        def answered(status: int, body: bytes) -> None:
            told.append((status, body))
            if len(told) == 4:
                done.set()

        for path in ("/slow", "/a", "/no", "/b"):
            lines.ask("GET", path, "", b"", answered)
        await asyncio.wait_for(done.wait(), 5)
        assert told == [(200, b"/slow"), (200, b"/a"), (404, b"/no"), (200, b"/b")]


async def test_a_lost_connection_is_told_to_all_who_wait_and_made_anew() -> None:
    async with await _serve() as server:
        lines = await Lines.connect("127.0.0.1", server.port or 0, 1)
        told: list[int] = []
        lost = asyncio.Event()

        def answered(status: int, _: bytes) -> None:
            told.append(status)
            if len(told) == 2:
                lost.set()

        lines.ask("GET", "/gone", "", b"", answered)
        lines.ask("GET", "/a", "", b"", answered)
        await asyncio.wait_for(lost.wait(), 5)
        assert told == [0, 0]
        while told[-1] == 0:
            await asyncio.sleep(0.01)
            lines.ask("GET", "/a", "", b"", answered)
        assert told[-1] == 200


async def test_the_closed_loop_counts_what_is_not_200() -> None:
    async with await _serve() as server:
        found = await own(f"http://127.0.0.1:{server.port}", ["/a", "/no"], "t", 2, 0.3)
        assert found["requests"] > 10
        assert found["failed"] == pytest.approx(found["requests"] / 2, abs=2)
        assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_a_client_that_cannot_be_built_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(peer_rbfly.NotInstalled, match="C compiler"):
        peer_rbfly.python(tmp_path)
    assert not (tmp_path / f"rbfly-{peer_rbfly.VERSION}" / "bin" / "ready").exists()
