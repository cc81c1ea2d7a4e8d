"""A wrong wall clock: a library between a process and its kernel adds an offset that a file says."""

import random
from collections.abc import AsyncIterator
from typing import Final

from bench.faults.kinds import Kind, Scene, fault
from bench.faults.stack import WORKERS, faketime

REFUSAL: Final = (
    "wrong clocks are left out: the package libfaketime is not installed, or has no build for this machine"
)
OFFSETS_S: Final = (-7200, -90, -3, 3, 90, 7200)


@fault
async def shift(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """The clock of a worker or of the web process jumps, and jumps back at the end."""
    name, seconds = source.choice((*WORKERS, "web")), source.choice(OFFSETS_S)
    file = scene.system.clock_file(name)
    file.write_text(f"{seconds:+d}")
    try:
        yield f"{name}, {seconds:+d} s"
    finally:
        file.write_text("+0")


KINDS: Final = (Kind("clock", "offset", shift, (4.0, 8.0)),) if faketime() is not None else ()
