"""What a worker saw of a stream before it waited for the database is no news afterwards."""

from sql import recovery
from sql.db import Database, DatabaseSettings
from tests.conftest import Database as Prepared


async def test_an_old_look_at_a_stream_is_no_lost_tail_and_a_new_one_is(database: Prepared) -> None:
    db = await Database.connect(DatabaseSettings(database_url=database.url))
    async with db:
        early = await recovery.now(db)
        assert await recovery.mark_streams(db, [("wallet.debit", 0, 0, 500)], early) == []
        assert await recovery.mark_streams(db, [("wallet.debit", 0, 0, 300)], early) == []
        assert await recovery.count_incidents(db) == {}
        late = await recovery.now(db)
        lost = await recovery.mark_streams(db, [("wallet.debit", 0, 0, 300)], late)
        assert lost == [("wallet.debit", 0)]
        assert (await recovery.count_incidents(db))["tail_lost"].n == 1
