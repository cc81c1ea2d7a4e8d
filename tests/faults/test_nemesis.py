"""The nemesis is repeatable, deals every kind equally, and its network does what it says."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.faults.deck import DECK
from bench.faults.disks import fill
from bench.faults.kinds import Lane
from bench.faults.nemesis import PER_FAULT_S, hand
from bench.faults.proxy import Proxy
from bench.faults.report import passed, summed, together
from deploy.local.disk import MAY_MOUNT, small_disk
from deploy.local.process import ServerError


def test_the_same_seed_deals_the_same_hand() -> None:
    assert hand(DECK, "parts", 7, 8) == hand(DECK, "parts", 7, 8)
    assert hand(DECK, "parts", 7, 8) != hand(DECK, "parts", 8, 8)


def test_a_campaign_of_twenty_four_seeds_has_every_kind_at_least_five_times() -> None:
    counts: dict[Lane, int] = {lane: round(60 / each) for lane, each in PER_FAULT_S.items()}
    for lane, count in counts.items():
        dealt = Counter(kind for seed in range(1, 25) for kind in hand(DECK, lane, seed, count))
        kinds = [kind for kind in DECK if kind.lane == lane]
        assert min(dealt[kind] for kind in kinds) >= 5


@asynccontextmanager
async def echo() -> AsyncIterator[Proxy]:
    """A proxy before a server that says everything again."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = Proxy(server.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
        server.close()


async def test_a_partition_lets_nothing_pass_and_what_was_held_arrives_after_it() -> None:
    async with echo() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        proxy.hold()
        writer.write(b"b")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        proxy.release()
        assert await asyncio.wait_for(reader.read(1), 2) == b"b"
        writer.close()


async def test_a_delay_is_a_delay_and_a_cut_resets() -> None:
    async with echo() as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        proxy.delay_s = 0.1
        began = time.monotonic()
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        assert time.monotonic() - began >= 0.2
        proxy.cut()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 2)
        writer.close()


@pytest.mark.skipif(not MAY_MOUNT, reason="only root may mount a small disk")
async def test_a_filled_disk_is_full_and_its_owner_gets_it_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    async with small_disk(disk, mb=8):
        fill(disk / "ballast")
        with pytest.raises(OSError, match="No space left"):
            (disk / "more").write_bytes(bytes(4096))
        (disk / "ballast").unlink()
        (disk / "more").write_bytes(bytes(4096))
    assert list(disk.iterdir()) == []


async def test_whoever_may_not_mount_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.disk.MAY_MOUNT", False)
    with pytest.raises(ServerError, match="only root may mount"):
        async with small_disk(tmp_path, mb=8):
            pass


def test_recoveries_of_several_runs_are_pooled_and_counts_added() -> None:
    run = {
        "seed": 1, "faults": {"worker: kill -9": 2}, "posted": 5, "recovery_s": {},
        "recoveries": {"worker": {"kill -9": [1.0, 3.0]}},
    }  # fmt: skip
    total = together([run, {**run, "seed": 2, "recoveries": {"worker": {"kill -9": [8.0]}}}])
    assert (total["seeds"], total["posted"], total["faults"]) == ([1, 2], 10, {"worker: kill -9": 4})
    assert total["recovery_s"] == {"worker": {"kill -9": {"n": 3, "median": 3.0, "max": 8.0}}}
    assert summed({}) == {}


@pytest.mark.parametrize(
    "wrong", ["lost", "duplicated", "invariant_rows", "not_recovered", "truncations_injected"]
)
def test_a_run_with_anything_wrong_has_not_passed(wrong: str) -> None:
    names = ["lost", "duplicated", "misordered", "negative", "model_differences", "invariant_rows"]
    names += [
        "replay_changed_rows",
        "not_drained",
        "not_recovered",
        "truncations_injected",
        "truncations_detected",
    ]
    right = dict.fromkeys(names, 0) | {
        "posted": 9,
        "without_our_client": {"lost": 0, "faults_that_may_lose_them": 0},
    }
    assert passed(right)
    assert not passed(right | {wrong: 1})
    assert not passed(right | {"without_our_client": {"lost": 1, "faults_that_may_lose_them": 0}})
