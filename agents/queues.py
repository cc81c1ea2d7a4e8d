"""A topic's queue around its agent: what cannot be handled is set aside under its key, and tried again in its turn.

In     batches of the topic; parked events of our partitions whose time has come
Books  the agent's own commit. An event that no repetition gets through is parked (`retries`) with the offset; what comes
       later for its key is parked behind it; the lowest of each key is tried with growing pauses, then it is dead
Out    what the agent emits; dead events are mirrored by agents/dead_letters.py

Passing faults (database, network, a slice that is not there yet) set nothing aside: the partition waits.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import structlog
from prometheus_client import Counter

from agents.breakers import Breakers
from agents.core import Core, PostgresOwnership, fencing
from agents.intake import Intake, MissingSlices, Taken, Turn, park, unpark
from sql import errors, queues
from sql.batches import Bad
from sql.queues import DueEvent
from streams.batches import Batch, Fenced, Held

log = structlog.get_logger("agents.queues")

POLL_S: Final = 0.25
LIMIT: Final = 200
FIRST_PAUSE_S: Final = 0.5
SET_ASIDE = Counter(
    "core_events_set_aside_total", "Events parked because their agent could not handle them", ["topic"]
)
RETRIED = Counter("core_events_retried_total", "Parked events tried again", ["topic", "outcome"])

Handle = Callable[[Batch], Awaitable[object]]


def blames(error: Exception) -> bool:
    """Whether an error is a record's or our code's fault; what passes by itself is nobody's."""
    return not isinstance(error, (errors.DatabaseError, MissingSlices, Fenced, Held, OSError, TimeoutError))


class Queue:
    """`streams.Isolation` for one topic, and the handler and the retries around its agent."""

    def __init__(
        self,
        core: Core,
        ownership: PostgresOwnership,
        topic: str,
        handle: Handle,
        breakers: Breakers,
        *,
        own_retries: bool = True,
    ) -> None:
        """`own_retries`: parked events are handed to the agent here; else the topic has its own way (agents/retries.py)."""
        self.topic = topic
        self._core = core
        self._ownership = ownership
        self._handle = handle
        self._breakers = breakers
        self._own_retries = own_retries
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def handle(self, batch: Batch) -> None:
        """The agent, in the partition's turn, unless the topic is stopped. Errors: Held, and the agent's."""
        trial = await self._breakers.admit(self.topic)
        try:
            async with self._turns[batch.partition]:
                await self._handle(batch)
        except Exception as error:
            if not trial:
                raise
            if blames(error):
                await self._breakers.failed(self.topic, text_of(error))
                raise Held from error
            self._breakers.abandon(self.topic)
            raise
        except asyncio.CancelledError:
            if trial:
                self._breakers.abandon(self.topic)
            raise
        await self._breakers.passed(self.topic, len(batch.records))

    def blames(self, error: Exception) -> bool:
        return blames(error)

    async def set_aside(self, batch: Batch, error: Exception) -> None:
        """Park the events of a batch of one record and move past it. Errors: Fenced, Unavailable.

        The record's innocent events go with the guilty one, each under its own key, and run at once on their own.
        """
        async with self._turns[batch.partition]:
            intake = await self._read(batch, error)
            waiting = self._core.marks.waiting.setdefault((batch.topic, batch.partition), set())
            waiting |= {parked.key for parked in intake.parked}
            async with fencing():
                await queues.park_batch(self._core.db, self._core.head(batch), intake.progress, intake.bad)
            self._core.marks.committed(batch, intake)
        SET_ASIDE.labels(self.topic).inc(max(1, len(intake.parked)))
        log.error(
            "set aside",
            topic=batch.topic,
            partition=batch.partition,
            offset=batch.from_offset,
            events=len(intake.parked),
            error=text_of(error),
        )
        await self._breakers.failed(self.topic, text_of(error))

    async def _read(self, batch: Batch, error: Exception) -> Intake:
        """The record's events, all of them parked; a record that cannot even be read is quarantined whole."""
        secrets = self._core.secrets if self.topic == "wallet.debit" else None
        try:
            intake = await self._core.marks.take_in(batch, secrets)
        except Exception as unreadable:
            if not blames(unreadable):
                raise
            [record] = batch.records
            intake = Intake(
                bad=[Bad(record.offset, f"unreadable: {text_of(unreadable)}", record.value or b"")]
            )
            intake.marks = intake.before = self._core.marks.of(batch.topic, batch.partition)
            return intake
        alone = len(intake.taken) == 1
        intake.parked = sorted(
            [
                *intake.parked,
                *(
                    park(taken, "failed", error=text_of(error), delay_s=FIRST_PAUSE_S if alone else 0.0)
                    for taken in intake.taken
                ),
            ],
            key=lambda parked: parked.offset,
        )
        intake.taken = []
        return intake

    async def retry_once(self) -> int:
        """Try what is due now, per partition in its turn; returns how many events. Errors: Unavailable."""
        if not self._own_retries or not self._breakers.flows(self.topic):
            return 0
        epochs = self._ownership.epochs_of(self.topic)
        due = await queues.due_events(self._core.db, self.topic, list(epochs), limit=LIMIT)
        by_partition: defaultdict[int, list[DueEvent]] = defaultdict(list)
        for item in due:
            by_partition[item.partition].append(item)
        for partition, items in by_partition.items():
            async with self._turns[partition]:
                try:
                    await self._take_turn(partition, epochs[partition], items)
                finally:
                    await self._core.marks.restore_waiting(self.topic, partition)
        return len(due)

    async def _take_turn(self, partition: int, epoch: int, items: Sequence[DueEvent]) -> None:
        """Decide events of different keys in one commit; if that fails, halves, down to the one at fault."""
        taken: list[Taken] = []
        for item in items:
            try:
                taken.append(unpark(self.topic, item.payload, item.offset))
            except (ValueError, KeyError, TypeError) as error:
                await fail(self._core, epoch, item, error)
                return
        at = await queues.get_position(self._core.db, self.topic, partition, self._core.group)
        if at is None or at.epoch != epoch:
            return
        turn = Turn(
            topic=self.topic,
            partition=partition,
            epoch=epoch,
            incarnation=at.incarnation,
            from_offset=at.next_offset,
            to_offset=at.next_offset,
            last_offset=at.next_offset - 1,
            last_digest=at.last_digest or b"",
            records=[],
            taken=taken,
            retry=[(item.id, item.attempt) for item in items],
        )
        try:
            await self._handle(turn)
        except (Fenced, errors.Fenced, errors.RetryTaken):
            return
        except Exception as error:
            await self._ownership.refresh(self.topic, partition)
            if not blames(error):
                raise
            if len(items) == 1:
                await fail(self._core, epoch, items[0], error)
                return
            middle = len(items) // 2
            await self._take_turn(partition, epoch, items[:middle])
            await self._take_turn(partition, epoch, items[middle:])
        else:
            RETRIED.labels(self.topic, "decided").inc(len(items))


async def run_retries(core: Core, queues_of: Mapping[str, Queue]) -> None:
    """Until cancelled: try parked events of our partitions when their time has come, of every topic."""
    while True:
        try:
            for topic in await queues.get_due_topics(core.db) & queues_of.keys():
                while await queues_of[topic].retry_once() == LIMIT:
                    pass
        except errors.Unavailable as error:
            log.warning("retries wait for the database", error=str(error))
        await asyncio.sleep(POLL_S)


class Tried(Protocol):
    """A parked item and which attempt this is."""

    @property
    def id(self) -> int: ...
    @property
    def attempt(self) -> int: ...


async def fail(core: Core, epoch: int, item: Tried, error: Exception) -> None:
    """An item failed on its own: it waits longer, or is dead. Errors: Unavailable."""
    try:
        failed = await queues.fail_retry(core.db, core.group, epoch, item.id, item.attempt, text_of(error))
    except errors.Fenced:
        return
    if failed is None:
        return
    RETRIED.labels(failed.topic, failed.state).inc()
    say = log.error if failed.state == "dead" else log.warning
    say("a parked item failed", topic=failed.topic, key=failed.key, state=failed.state, error=text_of(error))


def text_of(error: Exception) -> str:
    """An error as people read it later."""
    return f"{type(error).__name__}: {error}"[:2000].replace("\x00", "")
