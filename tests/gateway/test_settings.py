"""What the gateway's environment may say, and the process that plays Cashfree with it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from pydantic import SecretStr, ValidationError

from gateway.settings import GatewaySettings

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "url",
    [
        "http://api.cashfree.com/pg",
        "http://10.0.0.1/pg",
        "ftp://127.0.0.1",
        "http://127.0.0.1.example.com/pg",
    ],
)
def test_cashfree_is_never_called_without_tls(url: str) -> None:
    with pytest.raises(ValidationError, match="over TLS"):
        GatewaySettings(cashfree_base_url=url)
    assert GatewaySettings(cashfree_base_url="https://api.cashfree.com/pg/").cashfree_base_url.endswith("/pg")


def test_webhook_secrets_are_a_list_and_default_to_the_client_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASHFREE_WEBHOOK_SECRETS", " new , old,")
    monkeypatch.setenv("CASHFREE_CLIENT_SECRET", "hush-hush")
    monkeypatch.setenv("CASHFREE_LIMITS_PER_MINUTE", '{"get_order": 90000}')
    found = GatewaySettings()
    assert found.webhook_secrets() == (b"new", b"old")
    assert found.cashfree_limits_per_minute == {"get_order": 90000}
    assert "hush" not in repr(found)
    assert GatewaySettings(cashfree_webhook_secrets=()).webhook_secrets() == (b"hush-hush",)
    assert (
        GatewaySettings(cashfree_webhook_secrets=(), cashfree_client_secret=SecretStr("")).webhook_secrets()
        == ()
    )
    with pytest.raises(ValidationError, match="at least one"):
        GatewaySettings(cashfree_limits_per_minute={"get_order": 0})


async def test_the_simulator_runs_as_a_process_and_ends_when_told() -> None:
    environment = {
        **os.environ,
        "CASHFREE_CLIENT_ID": "me",
        "CASHFREE_CLIENT_SECRET": "mine",
        "PYTHONUNBUFFERED": "1",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.simulator", "--port", "0"),
        cwd=ROOT,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        found = re.search(r"http://127\.0\.0\.1:\d+", line.decode())
        assert found is not None, line
        async with aiohttp.ClientSession() as http, http.get(found[0] + "/healthz") as answer:
            assert await answer.json() == {"status": "ok"}
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
