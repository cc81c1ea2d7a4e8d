"""Documents in a folder and in a storage zone: whole or not at all, and never outside."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr, ValidationError

from gateway.storage import BadKey, Folder, StorageError, StorageSettings, open_storage

KEY = "tax_invoices/26/CAA/000000/CAA-26-000000001.pdf"
PASSWORD = "zone-password"


class Zone:
    """The part of a storage zone that we use, over real HTTP."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fails_with: int | None = None

    async def handle(self, request: web.Request) -> web.Response:
        if self.fails_with is not None:
            return web.Response(status=self.fails_with, headers={"Location": "http://192.0.2.1/"})
        if request.headers.get("AccessKey") != PASSWORD:
            return web.Response(status=401)
        if request.method == "PUT":
            body = await request.read()
            if hashlib.sha256(body).hexdigest().upper() != request.headers["Checksum"]:
                return web.Response(status=400)
            self.files[request.path] = body
            return web.Response(status=201)
        body = self.files.get(request.path, b"")
        return web.Response(body=body) if body else web.Response(status=404)


@pytest.fixture
async def zone() -> AsyncIterator[tuple[Zone, str]]:
    zone = Zone()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", zone.handle)
    async with TestServer(app) as server:
        yield zone, str(server.make_url("/zone"))


def settings(url: str, key: str = PASSWORD) -> StorageSettings:
    return StorageSettings(invoice_storage_url=url, invoice_storage_key=SecretStr(key))


async def test_a_folder_gives_back_what_was_put_and_replaces_it(tmp_path: Path) -> None:
    async with open_storage(settings(f"file:{tmp_path}/invoices")) as storage:
        assert await storage.get(KEY) is None
        await storage.put(KEY, b"first")
        await storage.put(KEY, b"second")
        assert await storage.get(KEY) == b"second"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [tmp_path / "invoices" / KEY]
    assert (tmp_path / "invoices").stat().st_mode & 0o077 == 0


async def test_a_zone_gets_the_bytes_with_our_key_and_their_checksum(zone: tuple[Zone, str]) -> None:
    server, url = zone
    async with open_storage(settings(url)) as storage:
        assert await storage.get(KEY) is None
        await storage.put(KEY, b"%PDF document")
        assert server.files == {f"/zone/{KEY}": b"%PDF document"}
        assert await storage.get(KEY) == b"%PDF document"


@pytest.mark.parametrize("status", [302, 400, 401, 500, 503])
async def test_any_other_answer_is_an_error_to_try_again_and_no_redirect_is_followed(
    zone: tuple[Zone, str], status: int
) -> None:
    server, url = zone
    server.fails_with = status
    async with open_storage(settings(url)) as storage:
        with pytest.raises(StorageError, match=str(status)):
            await storage.put(KEY, b"document")
        with pytest.raises(StorageError, match=str(status)):
            await storage.get(KEY)


async def test_a_wrong_password_and_a_server_that_is_away_are_errors(zone: tuple[Zone, str]) -> None:
    _, url = zone
    async with open_storage(settings(url, "wrong")) as storage:
        with pytest.raises(StorageError, match="401"):
            await storage.put(KEY, b"document")
    async with open_storage(settings("http://127.0.0.1:9/zone")) as storage:
        with pytest.raises(StorageError):
            await storage.put(KEY, b"document")


async def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tax_invoices").write_text("a file where a folder should be")
    with pytest.raises(StorageError):
        await Folder(tmp_path).put(KEY, b"document")


@pytest.mark.parametrize(
    "key", ["../a.pdf", "/a.pdf", "a//b.pdf", "a/../b.pdf", "a.html", "a.pdf\n", "", "a" * 300 + ".pdf"]
)
async def test_a_key_that_could_leave_its_folder_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(BadKey):
        await Folder(tmp_path).put(key, b"document")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["http://storage.bunnycdn.com/zone", "ftp://x/y", "file:", "invoices"])
def test_documents_leave_the_machine_over_tls_only(url: str) -> None:
    with pytest.raises(ValidationError):
        settings(url)
