"""Full disks: a server's small disk filled to the last byte for a while. Only where we may mount one (root)."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from bench.faults.kinds import Kind, Scene, fault
from deploy.local.disk import MAY_MOUNT

PIECE_BYTES: Final = 1 << 20
REFUSAL: Final = "full disks are left out: they need a small tmpfs, and only root may mount one"


def full(name: Literal["postgres", "rabbitmq"]) -> Kind:
    """Not a byte is left; then there is room again, and whoever gave up is started anew."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        server = scene.system.postgres if name == "postgres" else scene.system.broker
        ballast = server.disk / "ballast"
        try:
            fill(ballast)
            yield f"{ballast.stat().st_size >> 20} MiB of ballast"
        finally:
            ballast.unlink(missing_ok=True)
            if not server.process.running:
                await server.start()

    return Kind(name, "disk full", inject, (2.0, 6.0))


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


KINDS: Final = (full("postgres"), full("rabbitmq")) if MAY_MOUNT else ()
