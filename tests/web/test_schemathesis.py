"""The whole API as schemathesis calls it, as several roles: no 5xx, no status that is not documented, bodies of their schemas.

SCHEMATHESIS_EXAMPLES calls each operation more often (3 if not set), as every role and with its phase of corner cases from 20 on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.security.edge import Edge
from bench.security.issuer import Issuer
from bench.security.world import make_world
from gateway.simulator.sim import Simulator
from tests.conftest import Database as Prepared
from tests.web.conftest import Api, opened_api
from tests.web.examples import ids_of, real
from web.auth import Role

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "3"))
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
ROLES: tuple[Role, ...] = (Role.SERVICE, Role.FINANCE, Role.CUSTOMER)
if EXAMPLES >= 20:
    ROLES += (Role.SUPPORT, Role.OPERATOR, Role.AUDITOR, Role.ADMIN)
ISSUER = Issuer()


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:
    """The API, which trusts an issuer and lets everybody call as often as they like."""
    async with opened_api(
        database,
        gateway,
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
    ) as api:
        yield api


@pytest.mark.timeout(60 + 20 * EXAMPLES)
async def test_no_call_of_any_role_gets_what_is_not_documented(
    api: Api, database: Prepared, tmp_path: Path
) -> None:
    world = await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)
    said_of_it = json.dumps((await api.get("/v1/openapi.json")).body)
    described = tmp_path / "openapi.json"
    described.write_text(real(said_of_it, await ids_of(api, world, database)))
    for role in ROLES:
        said, code = await _run(api.url, world.tokens[role], described)
        print(f"--- {role}\n{said[-600:]}")
        assert code == 0, said


async def _run(url: str, token: str, described: Path) -> tuple[str, int]:
    """What schemathesis says, and its exit code."""
    place = described.parent
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", described, "--url", url),
        *("--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", "examples,fuzzing" if EXAMPLES < 20 else "examples,coverage,fuzzing"),
        *("--max-examples", str(EXAMPLES)),
        *("--seed", "17"),
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
