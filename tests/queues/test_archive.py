"""Streams outlive their retention in files; groups are sent back to an offset or a time; nothing is booked twice."""

import asyncio
import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agents.archiver import Archive, Archiver, ArchiveSettings, read_segment, replay_segments
from deploy import queue as cli
from deploy.broker import Management
from sql import recovery
from streams.address import Address
from streams.archive import BadArchive, pack, unpack
from streams.seek import extents, offset_at
from streams.topics import partition_stream
from streams.transport.partition import Stored
from tests.conftest import Broker
from tests.conftest import Database as Prepared
from tests.queues.test_recovery import Desk, desk, settled, until

__all__ = ["desk"]


def archiver(desk: Desk, folder: Path, *, records: int = 7) -> tuple[Archiver, Archive]:
    archive = Archive(folder)
    settings = ArchiveSettings(archive_segment_records=records)
    return Archiver(desk.core, Address.parse(desk.broker.url), archive, settings, holder="test"), archive


async def test_what_is_archived_is_published_again_after_the_stream_is_gone_and_changes_nothing(
    desk: Desk, broker: Broker, tmp_path: Path
) -> None:
    wallet = await desk.wallet(1000)
    number = desk.core.partition(str(wallet))
    copying, archive = archiver(desk, tmp_path)
    async with desk.working():
        for start in range(0, 60, 5):
            await desk.charge(wallet, 5, start=start)
            await settled(desk, start + 5)
        first_round = await copying.round()
        assert first_round > 0
        assert await copying.round() == 0, "nothing new"
        await desk.charge(wallet, 1, start=60)
        await settled(desk, 61)
        assert await copying.round() >= 1
        segments = await recovery.get_archived(desk.core.db, "wallet.debit", number)
        assert [s.from_offset for s in segments[1:]] == [s.to_offset for s in segments[:-1]], (
            "no gap, no overlap"
        )
        balances = await desk.admin.fetch("SELECT id, available_credits, seq FROM wallets ORDER BY id")

        async with Management(broker.management_url) as management:
            stream = partition_stream("wallet.debit", number)
            await management.request("DELETE", f"/api/queues/{broker.vhost}/{stream}")
            await management.restore_partition(broker.vhost, "wallet.debit", number)
        await until(lambda: _incarnation(desk, 2))
        published = await replay_segments(
            desk.core.db,
            archive,
            Address.parse(broker.url),
            "wallet.debit",
            number,
            actor="asha",
            why="drill",
        )
        assert published == (len(segments), sum(s.n_records for s in segments))
        await until(lambda: _existing(desk, 61))
        assert (
            await desk.admin.fetch("SELECT id, available_credits, seq FROM wallets ORDER BY id") == balances
        )
        assert (await copying.round(), await desk.spent(), await desk.windowed()) == (published[1], 61, 61)
    lives = {s.life for s in await recovery.get_archived(desk.core.db, "wallet.debit", number)}
    assert lives == {1, 2}, "the new stream's offsets are told from the old one's"
    assert (
        await desk.admin.fetchval("SELECT detail ->> 'why' FROM audit_logs WHERE action = 'archive.replay'")
        == "drill"
    )


async def _incarnation(desk: Desk, n: int) -> bool:
    query = "SELECT max(incarnation) FROM consumer_offsets WHERE topic = 'wallet.debit'"
    return bool(await desk.admin.fetchval(query) >= n)


async def _existing(desk: Desk, n: int) -> bool:
    return bool(
        await desk.admin.fetchval("SELECT sum(existing) FROM batches WHERE topic = 'wallet.debit'") >= n
    )


async def test_a_group_reads_again_from_an_offset_and_from_a_time(
    desk: Desk,
    broker: Broker,
    database: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATABASE_URL", database.url)
    monkeypatch.setenv("STREAM_URL", broker.url)
    wallet = await desk.wallet(1000)
    async with desk.working():
        await desk.charge(wallet, 10)
        await settled(desk, 10)
        await asyncio.sleep(0.3)
        middle = datetime.now(UTC)
        await asyncio.sleep(0.3)
        await desk.charge(wallet, 5, start=10)
        await settled(desk, 15)
        number = desk.core.partition(str(wallet))
        address = Address.parse(broker.url)
        end = (await extents(address, [("wallet.debit", number)]))["wallet.debit", number].end
        at = await offset_at(address, "wallet.debit", number, middle)
        assert 0 < at < end
        assert await offset_at(address, "wallet.debit", number, datetime.now(UTC)) == end
        say = ["--actor", "asha", "rewind", "wallet.debit", "--why", "drill"]
        assert await cli.main(cli.parse([*say, "--to-time", middle.isoformat()])) == 0
        await until(lambda: _existing(desk, 5))
        assert await cli.main(cli.parse([*say, "--to-offset", "0"])) == 0
        await until(lambda: _existing(desk, 20))
        assert await cli.main(cli.parse(["lag"])) == 0
        assert await cli.main(cli.parse(["lag", "wallet.debit"])) == 0
        assert (await desk.spent(), await desk.windowed()) == (15, 15)
    assert f"wallet.debit-{number}: from {end} to 0" in capsys.readouterr().out
    why = await desk.admin.fetchval(
        "SELECT count(*) FROM audit_logs WHERE action = 'queue.rewind' AND actor = 'asha'"
    )
    assert why == 2


def test_a_file_gives_back_exactly_what_was_packed_and_a_damaged_one_nothing() -> None:
    records = [
        Stored(offset, 1_700_000_000_000 + offset, bytes([offset % 256]) * offset) for offset in (3, 4, 9)
    ]
    packed = pack("wallet.debit", 1, 1, records)
    assert unpack(packed.data) == records
    assert (packed.from_offset, packed.to_offset, packed.n_records) == (3, 10, 3)
    assert pack("wallet.debit", 1, 1, records).data == packed.data
    plain = gzip.decompress(packed.data)
    for damaged in (
        packed.data[:-9],
        gzip.compress(plain[:-1]),
        gzip.compress(plain.replace(b"10", b"11", 1)),
        b"",
    ):
        with pytest.raises(BadArchive):
            unpack(damaged)


async def test_a_file_that_was_changed_is_not_replayed(desk: Desk, tmp_path: Path) -> None:
    wallet = await desk.wallet(1000)
    copying, archive = archiver(desk, tmp_path)
    async with desk.working():
        await desk.charge(wallet, 5)
        await settled(desk, 5)
        await copying.round()
    number = desk.core.partition(str(wallet))
    [segment] = await recovery.get_archived(desk.core.db, "wallet.debit", number)
    assert len(read_segment(archive, segment)) == segment.n_records
    file = tmp_path / segment.place
    records = unpack(file.read_bytes())
    file.write_bytes(
        pack("wallet.debit", number, 1, [*records[:-1], records[-1]._replace(raw=b"forged")]).data
    )
    with pytest.raises(BadArchive, match="not what was archived"):
        read_segment(archive, segment)
