"""The whole API as schemathesis calls it, as several roles: no 5xx, no status that is not documented, bodies of their schemas.

SCHEMATHESIS_EXAMPLES calls each operation more often (4 if not set).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from bench.security.edge import Edge
from bench.security.issuer import Issuer
from bench.security.world import make_world
from gateway.simulator.sim import Simulator
from sql.db import DatabaseSettings
from tests.web.conftest import TOKEN, Api, serving, settings_for
from web.app import make_app
from web.auth import Role
from web.settings import WebSettings

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "4"))
MANY = 10_000_000
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
ISSUER = Issuer()


@pytest.fixture
async def api(database, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:  # type: ignore[no-untyped-def]
    """The API, which trusts an issuer and lets everybody call as often as they like."""
    settings = WebSettings(
        development=True,
        api_token=SecretStr(TOKEN),
        web_max_wait_ms=20,
        web_reads_per_minute=MANY,
        web_writes_per_minute=MANY,
        web_usage_per_minute=MANY,
        web_refunds_per_minute=MANY,
        web_customer_reads_per_minute=MANY,
        web_customer_writes_per_minute=MANY,
        web_probes_per_minute=MANY,
        web_refused_credentials_per_minute=MANY,
        web_forged_webhooks_per_minute=MANY,
        **ISSUER.settings(),
    )
    app = make_app(
        settings,
        settings_for(gateway[0]),
        DatabaseSettings(database_url=database.url, database_pool_size=4),
    )
    admin = await asyncpg.connect(database.admin_url)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Api(url, http, admin, gateway[1])
    await admin.close()


@pytest.mark.timeout(60 + 20 * EXAMPLES)
async def test_no_call_of_any_role_gets_what_is_not_documented(api: Api, tmp_path: Path) -> None:
    world = await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)
    for role in (Role.SERVICE, Role.FINANCE, Role.CUSTOMER, Role.OPERATOR):
        said, code = await _run(api.url, world.tokens[role], tmp_path, seed=17)
        print(f"--- {role}\n{said[-600:]}")
        assert code == 0, said


async def _run(url: str, token: str, place: Path, *, seed: int) -> tuple[str, int]:
    """What schemathesis says, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", f"{url}/v1/openapi.json"),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", "examples,fuzzing" if EXAMPLES < 20 else "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES)),
        *("--seed", str(seed)),
        *("--exclude-path", "/v1/live"),
        *("--exclude-path", "/metrics"),
        *("--suppress-health-check", "all"),
        *("--warnings", "off"),
        "--no-shrink",
        "--continue-on-failure",
        cwd=place,
        env={**os.environ, "NO_COLOR": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace"), process.returncode or 0
