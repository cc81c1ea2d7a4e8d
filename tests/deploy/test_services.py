"""What crashes is started again; what is stopped stays stopped."""

import asyncio
import sys
from pathlib import Path

from deploy.local.process import Process
from deploy.services import Keeper

LIVE = "import time; print('here', flush=True); time.sleep(60)"


def service(tmp_path: Path, code: str) -> Process:
    return Process("service", [sys.executable, "-c", code], log=tmp_path / "service.log")


async def test_a_killed_service_is_started_again_and_reported(tmp_path: Path) -> None:
    reports: list[str] = []
    keeper, kept = Keeper(reports.append), service(tmp_path, LIVE)
    keeper.keep(kept)
    first = kept.pid
    kept.kill9()
    async with asyncio.timeout(10):
        while not (kept.running and kept.pid != first):
            await asyncio.sleep(0.05)
    assert len(reports) == 1
    assert reports[0].startswith("service ended with -9, again in 0.5 s")
    await keeper.stop()
    assert not kept.running


async def test_a_service_that_keeps_crashing_is_started_with_growing_pauses(tmp_path: Path) -> None:
    reports: list[str] = []
    keeper = Keeper(reports.append)
    keeper.keep(service(tmp_path, "raise SystemExit(7)"))
    async with asyncio.timeout(20):
        while len(reports) < 3:
            await asyncio.sleep(0.05)
    await keeper.stop()
    assert [report.split(":")[0] for report in reports] == [
        f"service ended with 7, again in {pause_s} s" for pause_s in (0.5, 1.0, 2.0)
    ]


async def test_a_stopped_service_stays_stopped(tmp_path: Path) -> None:
    reports: list[str] = []
    keeper, kept = Keeper(reports.append), service(tmp_path, LIVE)
    keeper.keep(kept)
    await keeper.stop()
    await asyncio.sleep(1)
    assert not kept.running
    assert reports == []
