"""Dead letters, mirrored to `<topic>.dead` for whoever reads streams.

In     retries rows that are dead and have no copy yet
Books  that they have one, after the broker's confirm; a copy may come twice
Out    <topic>.dead
"""

import asyncio
from collections import defaultdict
from typing import Final

import structlog

from sql import errors, queues
from sql.db import Database
from streams.address import Address
from streams.dead import DeadLetter, DeadWriter, dead_writer
from streams.wire import Refused

log = structlog.get_logger("agents.dead_letters")

POLL_S: Final = 2.0
LEASE_S: Final = 15.0
LIMIT: Final = 200


class DeadLetters:
    """One worker at a time does it. Connected only while there is something to copy."""

    def __init__(self, db: Database, address: Address, *, holder: str) -> None:
        self._db = db
        self._address = address
        self._holder = holder

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                if await queues.take_duty(self._db, "dead letters", self._holder, lease_s=LEASE_S):
                    while await self.once() == LIMIT:
                        pass
            except (errors.Unavailable, OSError, TimeoutError, Refused) as error:
                log.warning("dead letters wait", error=str(error))

    async def once(self) -> int:
        """Copy what has no copy; returns how many. Errors: Unavailable, OSError, TimeoutError, Refused."""
        letters = await queues.get_unmirrored(self._db, limit=LIMIT)
        if letters:
            async with dead_writer(self._address, name=f"dead letters {self._holder}") as writer:
                await self._copy(writer, letters)
        return len(letters)

    async def _copy(self, writer: DeadWriter, letters: list[queues.DeadLetter]) -> None:
        by_topic: defaultdict[str, list[queues.DeadLetter]] = defaultdict(list)
        for letter in letters:
            by_topic[letter.topic].append(letter)
        for topic, part in by_topic.items():
            if await writer.publish(topic, [as_message(letter) for letter in part]):
                await queues.mark_mirrored(self._db, [letter.id for letter in part])


def as_message(letter: queues.DeadLetter) -> DeadLetter:
    """A dead letter as it lies on the stream."""
    return DeadLetter(
        id=letter.id,
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=letter.key,
        attempt=letter.attempt,
        reason=letter.reason,
        error=letter.error,
        payload=letter.payload,
        created_at=letter.created_at,
        died_at=letter.finished_at,
    )
