"""Work that goes on for ever: rounds with a pause between, and a pool that drains leased rows, each on its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from sql import errors

log = structlog.get_logger("agents.pool")

T = TypeVar("T")
POLL_S: Final = 0.1


async def rounds(name: str, work: Callable[[], Awaitable[int]], *, limit: int, pause_s: float) -> None:
    """Until cancelled: `work` at once again while it finds `limit` things to do, else after a pause. A database that
    is away is waited for.
    """
    while True:
        try:
            while await work() >= limit:
                pass
        except errors.Unavailable as error:
            log.warning("waits for the database", loop=name, error=str(error))
        await asyncio.sleep(pause_s)


class Pool(Generic[T]):
    """`lease(n)` takes up to n rows for this pool alone; `work(row)` does one, and may be cancelled anywhere."""

    def __init__(
        self,
        name: str,
        lease: Callable[[int], Awaitable[Sequence[T]]],
        work: Callable[[T], Awaitable[None]],
        *,
        concurrency: int,
    ) -> None:
        self._name = name
        self._lease = lease
        self._work = work
        self._concurrency = concurrency
        self._busy: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                free = self._concurrency - len(self._busy)
                taken: Sequence[T] = ()
                try:
                    taken = await self._lease(free) if free else ()
                except errors.Unavailable as error:
                    log.warning("the pool waits for the database", pool=self._name, error=str(error))
                    await asyncio.sleep(1.0)
                for row in taken:
                    task = asyncio.create_task(self._do(row), name=self._name)
                    self._busy.add(task)
                    task.add_done_callback(self._busy.discard)
                if not free or len(taken) < free:
                    await asyncio.sleep(POLL_S)
        finally:
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def once(self) -> int:
        """Take one round and do it to its end; returns how many. Errors: as `lease` and `work`."""
        taken = await self._lease(self._concurrency)
        await asyncio.gather(*(self._work(row) for row in taken))
        return len(taken)

    async def _do(self, row: T) -> None:
        try:
            await self._work(row)
        except errors.Unavailable as error:
            log.warning("left to the next lease", pool=self._name, error=str(error))
        except Exception:
            log.exception("left to the next lease", pool=self._name)
