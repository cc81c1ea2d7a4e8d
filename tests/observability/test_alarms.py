"""Alerts for real: something breaks, and a real Prometheus says which; it is repaired, and they end."""

from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from deploy.local.private import private_valkey

from .house import House, house
from .watcher import firing, scraping

pytestmark = pytest.mark.timeout(240)


async def until_firing(made: House, url: str, *names: str, gone: tuple[str, ...] = ()) -> None:
    """Wait until these alerts fire, and those do not."""
    now: set[str] = set()

    async def is_so() -> bool:
        nonlocal now
        try:
            now = await firing(made, url)
        except aiohttp.ClientError:
            return False
        return now.issuperset(names) and now.isdisjoint(gone)

    try:
        await made.until(is_so, deadline_s=60)
    except AssertionError as error:
        said = f"{sorted(now)} fire, not {names} without {gone}\n{made.state()}"
        raise AssertionError(said) from error


async def test_what_breaks_is_told_and_what_is_repaired_is_told_no_more(
    database: Any, broker: Any, tmp_path: Path
) -> None:
    admin = await asyncpg.connect(database.admin_url)
    async with (
        private_valkey() as valkey,
        house(tmp_path, database.url, broker.url, broker.admin_url, REDIS_URL=valkey.url) as made,
        scraping(made, tmp_path, impatient=True) as url,
    ):
        broken = (
            "RedisDown",
            "ProcessDown",
            "NobodyMeasures",
            "DeadLetters",
            "StreamTruncated",
            "NegativeBalance",
        )
        await until_firing(made, url, gone=broken)

        valkey.kill9()
        await until_firing(made, url, "RedisDown")
        await valkey.start()
        await until_firing(made, url, gone=("RedisDown",))

        await admin.execute(
            """
            INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, state, next_at, reason)
              VALUES ('wallet.debit', 0, 1, 5, 'k', '{}', 'dead', now(), 'test');
            INSERT INTO stream_incidents (topic, partition, kind) VALUES ('wallet.debit', 0, 'truncated');
            """
        )
        await until_firing(made, url, "DeadLetters", "StreamTruncated")
        await admin.execute("UPDATE retries SET state = 'purged' WHERE state = 'dead'")
        await until_firing(made, url, gone=("DeadLetters",))

        worker = made.processes[1]
        worker.kill9()
        await until_firing(made, url, "ProcessDown", "NobodyMeasures")
        worker.start()
        await until_firing(made, url, gone=("ProcessDown", "NobodyMeasures"))
    await admin.close()
