"""Workers that come and go share the partitions: nothing lost, nothing twice, windows exact."""

import asyncio
from pathlib import Path

import pytest

from .fleet import fleet

pytestmark = pytest.mark.timeout(240)


async def test_two_three_and_one_workers_share_the_partitions(tmp_path: Path) -> None:
    async with fleet(tmp_path, "a", "b") as made:
        async with made.load() as load:
            await made.until_posted(300)
            made.start("c")
            await asyncio.sleep(4)
            await made.workers["a"].stop()
            made.workers["b"].kill9()
            await asyncio.sleep(4)
        await made.judge(load)
