"""Full disks: a server's small disk filled to the last byte for a while. Only where we may mount one (root)."""

import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from bench.faults import books
from bench.faults.kinds import Kind, Scene, fault, truncations
from deploy.local.disk import MAY_MOUNT
from streams.topics import PartitionMismatch
from streams.wire import Refused

PIECE_BYTES: Final = 1 << 20
ALARM_BYTES: Final = 20 << 20
"""Less than the 50 MB below which our private broker lets nobody publish."""
ATTEMPTS: Final = 3
"""A new node that all workers call at once may close the connection that declares."""
REFUSAL: Final = "full disks are left out: they need a small tmpfs, and only root may mount one"


@fault
async def fill_postgres(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Not a byte is left; then there is room again, and if the server has given up it is started anew."""
    postgres = scene.system.postgres
    async with filled(postgres.disk, 0) as what:
        yield what
    if not postgres.process.running:
        await postgres.start()


@fault
async def fill_rabbitmq(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """Not a byte is left, or less than the broker's own alarm asks for; then there is room again.

    A stream whose writer met the full disk ends, and RabbitMQ 4.0 starts it again only with the node: so do we. Sometimes the
    node then cannot read its own record of the streams: what another node of a cluster would have is gone, and it begins anew.
    """
    broker = scene.system.broker
    before = await books.ends(scene.system)
    async with filled(broker.disk, source.choice((0, 0, ALARM_BYTES))) as what:
        yield what
    if not broker.process.running or not await answers(scene, patience_s=2.0):
        broker.kill9()
        await broker.start()
        if not await answers(scene, patience_s=15.0):
            await begin_anew(scene, before)


async def begin_anew(scene: Scene, before: dict[books.Place, int]) -> None:
    """A node without a memory: the topics are declared again, and every record is gone, read or not."""
    async with scene.system.database() as db:
        stand = await books.positions(db)
        noticed = await books.incidents(db)
    scene.raw_at_risk += 1
    for attempt in range(1, ATTEMPTS + 1):
        scene.system.broker.kill9()
        for left in scene.system.broker.disk.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        await scene.system.broker.start()
        try:
            await scene.system.declare_topics()
        except (OSError, Refused, PartitionMismatch):
            if attempt == ATTEMPTS:
                raise
        else:
            break
    scene.truncations += truncations(before, dict.fromkeys(before, 0), stand, noticed)


@asynccontextmanager
async def filled(disk: Path, left: int) -> AsyncIterator[str]:
    """A disk with so many bytes left for the block."""
    ballast = disk / "ballast"
    try:
        fill(ballast)
        with ballast.open("r+b") as file:
            file.truncate(max(0, ballast.stat().st_size - left))
        yield f"{ballast.stat().st_size >> 20} MiB of ballast, {left >> 20} MiB left"
    finally:
        ballast.unlink(missing_ok=True)


async def answers(scene: Scene, *, patience_s: float) -> bool:
    """Whether every stream can be asked."""
    try:
        await books.ends(scene.system, patience_s=patience_s)
    except (OSError, Refused):
        return False
    return True


def fill(ballast: Path) -> None:
    """A file that takes all there is."""
    with ballast.open("wb") as file:
        size, piece = 0, PIECE_BYTES
        while piece >= 512:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), size, piece)
                size += piece
                continue
            piece //= 2


KINDS: Final = (
    (
        Kind("postgres", "disk full", fill_postgres, (2.0, 6.0), alerts=("PostgresDown", "BatchesFailing")),
        Kind(
            "rabbitmq",
            "disk full",
            fill_rabbitmq,
            (2.0, 6.0),
            alerts=("RabbitMQFailing", "OutboxUnpublished"),
        ),
    )
    if MAY_MOUNT
    else ()
)
