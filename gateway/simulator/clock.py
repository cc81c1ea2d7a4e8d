"""The simulator's time: runs with the wall clock and can be advanced, so that months pass in milliseconds.

What is due runs in order of its time, and while it runs the clock shows that time.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable

Action = Callable[[], None]


class SimClock:
    """Milliseconds since the epoch, ahead of the wall clock by what was advanced."""

    def __init__(self) -> None:
        self._ahead_ms = 0
        self._due: list[tuple[int, int, Action]] = []
        self._order = itertools.count()
        self._timer: asyncio.TimerHandle | None = None

    def now_ms(self) -> int:
        """The simulated time."""
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def call_later(self, delay_s: float, action: Action) -> None:
        """Run an action after so many simulated seconds. It must not block."""
        heapq.heappush(self._due, (self.now_ms() + round(delay_s * 1000), next(self._order), action))
        self._arm()

    @property
    def pending(self) -> int:
        """How many actions are still to come."""
        return len(self._due)

    def advance(self, seconds: float) -> int:
        """Let so much time pass at once, running on the way what falls due. Returns how many actions ran."""
        target = self.now_ms() + round(seconds * 1000)
        ran = 0
        while self._due and self._due[0][0] <= target:
            at_ms, _, action = heapq.heappop(self._due)
            self._ahead_ms += max(0, at_ms - self.now_ms())
            action()
            ran += 1
        self._ahead_ms += max(0, target - self.now_ms())
        self._arm()
        return ran

    def stop(self) -> None:
        """Nothing more falls due."""
        if self._timer is not None:
            self._timer.cancel()
        self._due.clear()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            wait_s = max(0.0, (self._due[0][0] - self.now_ms()) / 1000)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._run_due)

    def _run_due(self) -> None:
        self._timer = None
        now_ms = self.now_ms()
        while self._due and self._due[0][0] <= now_ms:
            heapq.heappop(self._due)[2]()
        self._arm()
