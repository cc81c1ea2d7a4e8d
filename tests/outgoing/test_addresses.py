"""Where outgoing requests may go: a URL that somebody else wrote must never lead to what only we can reach."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from agents.outgoing_door import MAX_ANSWER_BYTES, SystemResolver, open_door
from agents.outgoing_settings import OutgoingSettings
from domain.outgoing import BadUrl, check_url, is_public

from .conftest import Desk, hang, receiving, status

_INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 169.254.169.254 169.254.170.2
172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.51.100.1 203.0.113.1
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 ::7f00:1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe
64:ff9b::10.0.0.1 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:a9fe:a9fe:: 2002:0a00:0001:: fc00::1 fd00:ec2::254
fe80::1 fe80::1%eth0 fec0::1 ff02::1 2001:10::1
"""
INSIDE = _INSIDE.split()
_OUTSIDE = (
    "1.1.1.1 8.8.8.8 93.184.216.34 2606:4700:4700::1111 2a00:1450:4001::1 64:ff9b::808:808 ::ffff:8.8.8.8"
)
OUTSIDE = _OUTSIDE.split()


@pytest.mark.parametrize("text", INSIDE)
def test_an_address_inside_is_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE)
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


BAD = [
    "http://example.com/hook",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "https://",
    "https:///hook",
    "//example.com/hook",
    "example.com/hook",
    "https://user@example.com/",
    "https://user:secret@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1\\@example.com/",
    "https://localhost/",
    "https://intranet/",
    "https://example.com:22/",
    "https://example.com:80/",
    "https://example.com:5432/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com/#part",
    "https://example.com/ with spaces",
    "https://example.com/\nhost: x",
    "https://exämple.com/",
    "https://example..com/",
    "https://example.com./",
    "https://-example.com/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://127.1/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://1.2.3.4.5/",
    "https://[::1",
    "https://[::1%25lo]/",
    "https://example.com/" + "x" * 500,
    *[f"https://{t}/" for t in INSIDE if ":" not in t],
    *[f"https://[{t}]/" for t in INSIDE if ":" in t and "%" not in t],
]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_leads_inside_or_nowhere_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "https://example.com/hook?a=b&c=%20",
        "https://a-b.c_d.example.co.in:8443/x",
        "https://1.1.1.1/hook",
        "https://[2606:4700:4700::1111]/hook",
        "HTTPS://EXAMPLE.COM/Hook",
    ],
)
def test_a_url_of_the_internet_is_accepted(url: str) -> None:
    check_url(url)


class Names(AbstractResolver):
    """A name server that says what a test wants, another thing each time if it wants that."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        return [
            ResolveResult(
                hostname=host, host=a, port=port, proto=0, flags=0,
                family=socket.AF_INET6 if ":" in a else socket.AF_INET,
            )
            for a in answer
        ]  # fmt: skip

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "inside", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00:ec2::254"]
)
@pytest.mark.parametrize("before", [[], ["8.8.8.8"]])
async def test_a_name_with_any_address_inside_is_not_connected_to(inside: str, before: list[str]) -> None:
    async with open_door(OutgoingSettings(), Names([*before, inside])) as door:
        answer = await door.post("https://hook.example.com/", b"{}", {})
    assert (answer.outcome, answer.error) == ("failed", "forbidden_address")


async def test_a_name_that_means_another_thing_a_moment_later_is_asked_once_and_pinned() -> None:
    async with receiving() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        names = Names(["127.0.0.1"], ["169.254.169.254"])
        async with open_door(OutgoingSettings(outgoing_local=True), names) as door:
            first = await door.post(f"http://hook.example.com:{port}/", b"{}", {})
            assert (first.outcome, names.asked) == ("delivered", 1)
        async with open_door(OutgoingSettings(outgoing_local=True), names) as door:
            second = await door.post(f"http://hook.example.com:{port}/", b"{}", {})
            assert (second.error, names.asked) == ("forbidden_address", 2)


async def test_the_last_look_is_at_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_look(self: Any, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        return await Names(["127.0.0.1"]).resolve(host, port)

    monkeypatch.setattr("agents.outgoing_door.CheckedResolver.resolve", no_look)
    async with receiving() as receiver, open_door(OutgoingSettings()) as door:
        answer = await door.post("https://hook.example.com:8443/", b"{}", {})
        assert answer.error in ("forbidden_address", "connect")
        assert not receiver.came


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(desk: Desk, code: int) -> None:
    owner, first, inside = await desk.account(), await desk.receiver(), await desk.receiver()
    first.answer = status(code, Location=inside.url)
    endpoint = await desk.endpoint(owner, first.url)
    await desk.happen(owner)
    await desk.send(await desk.sender())
    (delivery,) = await desk.deliveries(endpoint)
    assert (delivery.status, delivery.error) == (code, "redirect")
    assert len(first.came) == 1
    assert not inside.came


async def test_who_hangs_for_longer_than_ten_seconds_is_let_go(desk: Desk) -> None:
    assert OutgoingSettings().outgoing_timeout_s == 10.0
    owner, receiver = await desk.account(), await desk.receiver()
    receiver.answer = hang
    endpoint = await desk.endpoint(owner, receiver.url)
    await desk.happen(owner)
    await desk.send(await desk.sender(outgoing_timeout_s=0.3))
    (delivery,) = await desk.deliveries(endpoint)
    assert delivery.error == "timeout"
    assert delivery.took_ms is not None
    assert 250 <= delivery.took_ms < 2000


@asynccontextmanager
async def talking(talk: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that says what it likes, once it was asked."""

    talks: list[asyncio.Task[object] | None] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.current_task())
        try:
            with suppress(ConnectionError):
                await reader.readuntil(b"{}")
                await talk(writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for task in filter(None, talks):
        task.cancel()
    await asyncio.gather(*filter(None, talks), return_exceptions=True)


@pytest.mark.parametrize("code", [200, 500])
async def test_an_endless_answer_is_not_read(code: int) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(f"HTTP/1.1 {code} X\r\n\r\n".encode())
        while not writer.is_closing():
            writer.write(b"x" * MAX_ANSWER_BYTES)
            await writer.drain()
            sent += MAX_ANSWER_BYTES

    settings = OutgoingSettings(outgoing_local=True, outgoing_timeout_s=5.0)
    async with talking(flood) as url, open_door(settings) as door:
        answer = await door.post(url, b"{}", {})
    assert answer.status == code
    assert answer.took_ms < 3000
    assert sent < 100 << 20


async def test_who_dribbles_an_answer_is_let_go_in_time() -> None:
    async def dribble(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    settings = OutgoingSettings(outgoing_local=True, outgoing_timeout_s=0.5)
    async with talking(dribble) as url, open_door(settings) as door:
        answer = await door.post(url, b"{}", {})
    assert answer.error == "timeout"
    assert answer.took_ms < 2000


async def test_a_header_without_end_is_a_broken_answer() -> None:
    async def boast(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 200_000)
        await writer.drain()

    settings = OutgoingSettings(outgoing_local=True, outgoing_timeout_s=2.0)
    async with talking(boast) as url, open_door(settings) as door:
        assert (await door.post(url, b"{}", {})).error == "broken_answer"


async def test_a_certificate_of_another_name_or_nobody_s_is_refused(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("hook.example.com").configure_cert(context)

    async def handle(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    port = runner.addresses[0][1]
    trusted = OutgoingSettings(outgoing_local=True, outgoing_ca_file=tmp_path / "ca.pem")
    async with open_door(trusted, Names(["127.0.0.1"])) as door:
        right = await door.post(f"https://hook.example.com:{port}/", b"{}", {})
        wrong = await door.post(f"https://other.example.com:{port}/", b"{}", {})
    async with open_door(OutgoingSettings(outgoing_local=True), Names(["127.0.0.1"])) as door:
        unknown = await door.post(f"https://hook.example.com:{port}/", b"{}", {})
    await runner.cleanup()
    assert (right.outcome, wrong.error, unknown.error) == ("delivered", "tls", "tls")


async def test_a_name_that_nobody_knows_and_a_port_where_nobody_listens_are_failures() -> None:
    async with open_door(OutgoingSettings(outgoing_local=True)) as door:
        assert (await door.post("http://127.0.0.1:1/", b"{}", {})).error == "connect"
        assert (await door.post("http://no-such-name.invalid/", b"{}", {})).error in ("dns", "timeout")
    resolver = SystemResolver()
    found = await resolver.resolve("localhost", 80)
    assert {result["host"] for result in found} <= {"127.0.0.1", "::1"}
    await resolver.close()
