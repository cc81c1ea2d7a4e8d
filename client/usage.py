"""Usage in batches: `Meter` gathers what many tasks charge, and sends it together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from client.answers import UsageResult, UsageResults
from streams.events import UsageEvent

Send = Callable[[Sequence[UsageEvent]], Awaitable[UsageResults]]


class Meter:
    """One per process is enough. Events gather for `linger_s` or until `max_batch` are there; at most `max_pending` wait,
    and then `charge` waits. An event's id is its idempotency key: charging it again, after an error or in another process,
    is harmless and answered `replayed`.
    """

    def __init__(
        self, send: Send, *, linger_s: float = 0.02, max_batch: int = 500, max_pending: int = 10_000
    ) -> None:
        self._send = send
        self._linger_s = linger_s
        self._max_batch = min(1000, max_batch)
        self._room = asyncio.Semaphore(max_pending)
        self._waiting: list[tuple[UsageEvent, asyncio.Future[UsageResult]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.flush()

    async def charge(self, event: UsageEvent) -> UsageResult:
        """Returns when the event is stored (accepted, replayed) or cannot be (conflict, invalid). Errors: CoreError."""
        async with self._room:
            stored: asyncio.Future[UsageResult] = asyncio.get_running_loop().create_future()
            self._waiting.append((event, stored))
            if len(self._waiting) >= self._max_batch:
                self._go()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(self._linger_s, self._go)
            return await stored

    async def flush(self) -> None:
        """Send what has gathered, and wait until all that was taken is answered."""
        self._go()
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def _go(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.create_task(self._post(batch), name="usage")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _post(self, batch: Sequence[tuple[UsageEvent, asyncio.Future[UsageResult]]]) -> None:
        try:
            answer = await self._send([event for event, _ in batch])
        except BaseException as error:
            for _, stored in batch:
                if not stored.done():
                    stored.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, stored), result in zip(batch, answer.results, strict=True):
            if not stored.done():
                stored.set_result(result)
