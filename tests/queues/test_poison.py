"""An event that the database itself refuses, among others on real streams: it alone waits, in its wallet's order."""

from functools import partial

from sql import invariants
from tests.conftest import Database as Prepared
from tests.queues.test_recovery import Desk, _is, desk, settled, until

__all__ = ["desk"]


async def test_a_poison_event_neither_stops_its_partition_nor_is_lost_nor_changes_its_wallets_order(
    desk: Desk, database: Prepared
) -> None:
    await desk.admin.execute(
        "ALTER TABLE wallet_transactions ADD CONSTRAINT a_bug CHECK (feature <> 'poison')"
    )
    ill, well = await desk.wallet(1000), await desk.wallet(1000)
    async with desk.working():
        await desk.charge(ill, 5)
        await desk.charge(ill, 1, start=5, feature="poison")
        await desk.charge(ill, 5, start=6)
        await desk.charge(well, 50, start=100)
        await until(partial(_is, desk.spent, 55))
        waiting = await desk.admin.fetch("SELECT state, reason, error FROM retries ORDER BY id")
        assert len([row for row in waiting if row["state"] == "due"]) >= 6
        assert any("a_bug" in (row["error"] or "") for row in waiting)
        await desk.charge(ill, 2, start=11)
        await desk.charge(well, 10, start=150)
        await until(partial(_is, desk.spent, 65))
        assert await invariants.check(database.readonly_url) == []

        await desk.admin.execute(
            "ALTER TABLE wallet_transactions DROP CONSTRAINT a_bug"
        )  # the fix is deployed
        await settled(desk, 73)
    order = await desk.admin.fetch(
        "SELECT source_id FROM wallet_transactions WHERE wallet_id = $1 AND source = 'usage' ORDER BY seq",
        ill,
    )
    assert [row["source_id"] for row in order] == [f"e{n}" for n in range(13)]
    assert await desk.admin.fetchval("SELECT count(*) FROM retries WHERE state <> 'done'") == 0
    assert await invariants.check(database.readonly_url) == []
