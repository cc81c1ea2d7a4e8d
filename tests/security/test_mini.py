"""`./dev security` in small: the same attacks on a running system, fewer and shorter, and every bound holds."""

from pathlib import Path
from typing import Any

import pytest

from bench.security.house import Servers, running
from bench.security.run import Size, attack
from deploy.local.private import private_valkey

SMALL = Size(
    genuine_among=60,
    genuine_paced=30,
    copies=200,
    slow_vectors=False,
    slow_connections=60,
    payloads=6,
    matrix=False,  # tests/web/test_access_matrix.py has all of it
)


@pytest.mark.timeout(360)  # half a minute, unless the machine has other things to do
async def test_nothing_that_is_forged_gets_in_and_nothing_that_is_secret_gets_out(
    database: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    async with private_valkey() as valkey:
        servers = Servers(database.web_url, database.admin_url, valkey.url, valkey)
        async with running(servers, tmp_path / "house") as house:
            report = await attack(house, 1, said.append, SMALL)
    print(report.figures)
    noise = ("p99_attacked_ms is",)  # a machine shared with other tests measures itself
    broken = [line for line in report.broken() if not line.startswith(noise)]
    assert broken + report.wrong == []
    assert report.figures["vectors"] > 200
    assert report.figures["genuine_sent"] == report.figures["genuine_accepted"] >= 140
    assert len(said) > 5
