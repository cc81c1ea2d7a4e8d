"""Claims of many partitions in few statements: the updates of one join come in one burst."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import structlog

from streams.batches import Claim, Ownership

log = structlog.get_logger(__name__)

_GATHER_S = 0.003
_BACKOFF_S = (0.05, 2.0)


class Claimer:
    """Collects claims for a moment, then asks once per topic. A claim that fails is asked again until it is
    granted or nobody waits for it any more.
    """

    def __init__(self, ownership: Ownership, owner: str) -> None:
        self._ownership = ownership
        self._owner = owner
        self._wanted: dict[str, dict[int, asyncio.Future[Claim]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def claim(self, topic: str, partition: int) -> Claim:
        """Claim one partition; never raises but CancelledError."""
        waiting = self._wanted.setdefault(topic, {})
        if not waiting:
            self._spawn(self._ask(topic))
        future = waiting.setdefault(partition, asyncio.get_running_loop().create_future())
        return await future

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _ask(self, topic: str) -> None:
        await asyncio.sleep(_GATHER_S)
        waiting = self._wanted.pop(topic)
        delay = _BACKOFF_S[0]
        while partitions := sorted(number for number, future in waiting.items() if not future.done()):
            try:
                granted = await self._ownership.claim(topic, partitions, self._owner)
            except Exception:
                log.warning("claim_failed", topic=topic, partitions=partitions, exc_info=True)
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, _BACKOFF_S[1])
                continue
            for number in partitions:
                if not waiting[number].done():
                    waiting[number].set_result(granted[number])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
