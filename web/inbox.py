"""The inbox of webhooks, stored together: requests that arrive at the same time share one statement and one fsync.

The first webhook after a pause is stored at once. While its statement is under way the next ones gather, and go
together when it is done, so a batch is what came during the last one and grows with the load by itself. When the statements do
not come back, nobody waits long: the gateway sends again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from aiohttp import web

from sql.errors import Unavailable
from sql.webhooks import NewWebhook, Receipt
from web.problems import overloaded

MOST: Final = 200
"""Most webhooks of one statement."""
UNDER_WAY: Final = 2
"""Statements at once: one waits for its fsync while the next is made."""
GATHER_S: Final = 0.012
"""A statement that follows another at once waits so long for company."""
WAITING: Final = 20 * MOST
"""Most webhooks that wait for a statement; the gateway sends again what is refused."""

_Waiting = tuple[NewWebhook, "asyncio.Future[Receipt]", float]
Insert = Callable[[Sequence[NewWebhook]], Awaitable[list[Receipt]]]


class Inbox:
    """`await inbox.put(webhook)` returns when the row is committed. `insert` stores a set and answers in its order."""

    def __init__(self, insert: Insert, *, longest_wait_s: float = 3.0) -> None:
        self._insert = insert
        self._longest_wait_s = longest_wait_s
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False
        self._free_at = 0.0

    async def put(self, webhook: NewWebhook) -> Receipt:
        """Store one webhook. Errors: Unavailable, and whatever the database says of this very webhook; Problem 503 without
        a try, when those before it wait for too long.
        """
        loop = asyncio.get_running_loop()
        if self._waiting and self._crowded(loop.time()):
            raise overloaded()
        answer: asyncio.Future[Receipt] = loop.create_future()
        self._waiting.append((webhook, answer, loop.time()))
        self._start()
        return await answer

    def _crowded(self, now: float) -> bool:
        """Whether the queue does not move, or is full. Who has stood in it for too long is sent away first."""
        since = now - self._longest_wait_s
        if self._waiting[0][2] > since:
            return len(self._waiting) >= WAITING
        late = [one for one in self._waiting if one[2] <= since]
        self._waiting = self._waiting[len(late) :]
        for _, answer, _ in late:
            _fail(answer, overloaded())
        return True

    def _start(self) -> None:
        if self._waiting and not self._gathering and len(self._tasks) < UNDER_WAY:
            self._gathering = True
            task = asyncio.create_task(self._store())
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._free_at = asyncio.get_running_loop().time()
        self._start()

    async def _store(self) -> None:
        if asyncio.get_running_loop().time() - self._free_at < GATHER_S or len(self._tasks) > 1:
            await asyncio.sleep(GATHER_S)
        taken, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        self._gathering = False
        self._start()
        try:
            receipts = await self._insert([webhook for webhook, _, _ in taken])
        except Unavailable as error:
            for _, answer, _ in taken:
                _fail(answer, error)
        except Exception as error:
            if len(taken) == 1:
                _fail(taken[0][1], error)
            else:
                await self._store_each(taken)
        else:
            for (_, answer, _), receipt in zip(taken, receipts, strict=True):
                if not answer.done():
                    answer.set_result(receipt)

    async def _store_each(self, taken: Sequence[_Waiting]) -> None:
        """One of them cannot be stored: it alone is told so."""
        for webhook, answer, _ in taken:
            try:
                [receipt] = await self._insert([webhook])
            except Exception as error:
                _fail(answer, error)
            else:
                if not answer.done():
                    answer.set_result(receipt)


INBOX: Final = web.AppKey("inbox", Inbox)


def _fail(answer: asyncio.Future[Receipt], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
