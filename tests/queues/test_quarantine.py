"""Records that nobody can read are kept once, however often they are read: after a rewind, and from the archive again."""

import asyncio
from pathlib import Path
from uuid import uuid4

from agents.archiver import replay_segments
from sql import invariants, recovery
from streams import amqp, messages
from streams.address import Address
from streams.events import UsageEvent
from streams.link import Link
from streams.topics import partition_stream
from tests.conftest import Broker
from tests.conftest import Database as Prepared
from tests.queues.test_archive import archiver
from tests.queues.test_recovery import Desk, desk, settled, until

__all__ = ["desk"]

STRANGER = UsageEvent(id="u-1", wallet_id=str(uuid4()), feature="chat", credits=1)
FORGED = messages.encode_usage_batch(str(uuid4()), 1, [messages.encode_usage(STRANGER)])
RECORDS = [
    amqp.encode(b"k", b"{no event"),
    amqp.encode(b"k", FORGED, {"publisher": "nobody", "mac": "00"}),
    b"not even a message",
    amqp.encode(b"k", b"{no event"),
]


async def test_a_replay_quarantines_nothing_twice(
    desk: Desk, broker: Broker, database: Prepared, tmp_path: Path
) -> None:
    wallet = await desk.wallet(1000)
    number = desk.core.partition(str(wallet))
    copying, archive = archiver(desk, tmp_path)

    async def kept() -> list[tuple[str, bytes, int]]:
        rows = await desk.admin.fetch("SELECT reason, payload, incarnation FROM quarantine ORDER BY id")
        return [tuple(row) for row in rows]

    async def counted() -> tuple[int, int]:
        row = await desk.admin.fetchrow(
            "SELECT sum(quarantined)::int, sum(existing)::int FROM batches WHERE topic = 'wallet.debit'"
        )
        assert row is not None
        return row[0], row[1]

    async def existing(count: int) -> bool:
        return (await counted())[1] >= count

    async with desk.working():
        async with Link(Address.parse(broker.url), name="stranger") as link:
            ticket = await link.send(partition_stream("wallet.debit", number), RECORDS)
            await ticket.settled
        await desk.charge(wallet, 2)
        await settled(desk, 2)
        before = await kept()
        assert [reason.split(":")[0] for reason, _, _ in before] == ["malformed", "forged", "malformed"]
        assert await counted() == (3, 1), "the fourth is the first one again"
        await copying.round()

        assert await recovery.rewind_partition(
            desk.core.db, "wallet.debit", number, desk.core.group, 0, actor="asha", why="drill"
        )
        await until(lambda: existing(1 + 4 + 2))
        await replay_segments(
            desk.core.db,
            archive,
            Address.parse(broker.url),
            "wallet.debit",
            number,
            actor="asha",
            why="drill",
        )
        await until(lambda: existing(7 + 4 + 2))
        await asyncio.sleep(0.3)
        assert await kept() == before
        assert await counted() == (3, 13)
    assert await invariants.check(database.readonly_url) == []
