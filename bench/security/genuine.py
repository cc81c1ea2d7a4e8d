"""The gateway's own webhooks, at a steady pace: none may be refused, and none may wait because others attack."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from bench.frame import share
from bench.security.door import Vector, send
from bench.security.forge import Forge

ADDRESS: Final = "127.0.0.3"
"""Where the gateway is: those who forge are elsewhere."""
OLDER_EVERY: Final = 10
"""One in so many is signed with the secret that is being rotated out."""


@dataclass(slots=True)
class Genuine:
    """Sends, and remembers: the payments spoken of, the statuses, how long each took from its due time (s)."""

    url: str
    forge: Forge
    marks: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    took_s: dict[str, list[float]] = field(default_factory=dict)

    async def pace(self, count: int, per_s: float, phase: str) -> None:
        """So many, at this rate whatever the answers; returns when all are answered."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as sending:
            for number in range(count):
                due = began + number / per_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                sending.create_task(self._one(due, phase))

    def p99_ms(self, phase: str) -> float:
        """Of one phase."""
        return round((share(self.took_s.get(phase, []), 0.99) or 0.0) * 1000, 2)

    def slowest_ms(self, phase: str) -> float:
        """Of one phase."""
        return round(max(self.took_s.get(phase, [0.0])) * 1000, 2)

    async def _one(self, due: float, phase: str) -> None:
        mark = self.forge.mark()
        self.marks.append(mark)
        self.forge.now_ms = time.time_ns() // 1_000_000
        older = len(self.marks) % OLDER_EVERY == 0
        raw = self.forge.genuine(mark, secret=self.forge.older if older else None)
        sent = await send(self.url, Vector("genuine", (raw,), (mark,)), address=ADDRESS)
        self.took_s.setdefault(phase, []).append(time.monotonic() - due)
        self.statuses[sent.statuses[0] if sent.statuses else 0] += 1
