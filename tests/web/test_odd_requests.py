"""Requests that the parser lets through and that must not get further."""

import asyncio
from urllib.parse import urlsplit

import pytest
from yarl import URL

from bench.security.forge import Forge
from tests.web.conftest import SECRET, TOKEN, Api


async def said(url: str, raw: bytes) -> bytes:
    """All that the server answers to these bytes."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(raw)
        return await asyncio.wait_for(reader.read(4096), 5)
    finally:
        writer.close()


async def test_a_webhook_without_a_version_of_http_is_not_taken(api: Api) -> None:
    forge = Forge(SECRET.encode(), b"older", 1_700_000_000_000, "odd")
    raw = forge.genuine(forge.mark())
    answer = await said(api.url, raw.replace(b" HTTP/1.1", b"", 1))
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert await api.count("payment_webhooks") == 0
    assert b" 200 " in (await said(api.url, raw)).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/disputes/a%00b"), ("POST", "/v1/receipts/%00/refund"), ("GET", "/v1/usage/%00")],
)
async def test_a_path_with_a_nul_is_not_found(api: Api, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": "k", "Content-Type": "application/json"}
    async with api.http.request(method, URL(api.url + path, encoded=True), headers=headers) as answer:
        assert answer.status == 404


@pytest.mark.parametrize("path", ["/v1/audit.csv", "/v1/audit.jsonl", "/v1/live"])
async def test_what_goes_out_in_parts_is_protected_like_every_answer(api: Api, path: str) -> None:
    async with api.http.get(api.url + path, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
        assert answer.status == 200
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
