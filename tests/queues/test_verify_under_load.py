"""The invariants hold in any snapshot while the system runs, whole and past the watermark."""

import asyncio

from agents.checker import Checker, CheckerSettings
from sql import invariants
from streams.app import CoreApp, make_app
from streams.settings import StreamSettings
from tests.conftest import Database as Prepared
from tests.queues.test_recovery import Desk, desk, settled

__all__ = ["desk"]


async def test_every_snapshot_under_load_is_right(desk: Desk, database: Prepared) -> None:
    wallets = [await desk.wallet(200) for _ in range(4)]  # some debits will be refused
    checking = Checker(desk.core.db, database.url, CheckerSettings(check_budget_s=10), holder="test")
    seen: list[int] = []

    async def load() -> None:
        for start in range(0, 800, 10):
            await desk.charge(wallets[start // 10 % 4], 10, start=start)
            await asyncio.sleep(0.02)

    async with desk.working():
        loading = asyncio.create_task(load())
        while not loading.done():
            assert await invariants.check(database.readonly_url) == []
            assert (await checking.once()).violations == []
            seen.append(await desk.spent())
        await loading
        await settled(desk, 800)
        assert await invariants.check(database.readonly_url) == []
    assert len(set(seen)) > 1, "something was booked between two snapshots"


async def test_a_worker_that_stops_sends_what_it_has_committed_first() -> None:
    told: list[str] = []

    async def drain() -> None:
        told.append("drained")

    settings = StreamSettings(stream_url="rabbitmq-stream://nobody:nothing@127.0.0.1:9/vhost")
    app: CoreApp = make_app(settings, ownership=None)  # type: ignore[arg-type]
    app.drain = drain
    await CoreApp.on_stop(app)
    assert told == ["drained"]
