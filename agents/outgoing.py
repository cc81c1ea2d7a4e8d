"""Outgoing webhooks: tells each account's endpoints what happened to its money, in the Standard Webhooks format.

In     outgoing_queue (kept by the transaction that made the event), endpoints whose deliveries are due
Books  number_outgoing: the account's number, one delivery per endpoint; record_turn: delivered, tried again later, given up,
       endpoint blocked for a while, or disabled with a notice to its owner
Out    signed POST requests

What is promised: at least once, under the same webhook-id in every attempt and replay. The order is that of the numbers, as
long as nothing fails. `sequence` counts an account's events without a gap; `previous_sequence` is the number that this
endpoint was to get before, so that a receiver sees what it lost, also where it chose kinds. An endpoint is leased as a
whole and has `outgoing_at_once` requests at a time; those that fail or are slow have their own places, so that a receiver
that hangs costs the others nothing.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Histogram

from agents.outgoing_door import Door, open_door
from agents.outgoing_settings import OutgoingSettings
from agents.pool import rounds
from domain.outgoing import sign
from sql import errors, outgoing
from sql.db import Database
from sql.outgoing import Attempt, OutgoingEvent, Turn

log = structlog.get_logger("agents.outgoing")

NUMBER_LIMIT: Final = 500
NUMBER_PAUSE_S: Final = 0.25
POLL_S: Final = 0.25
PURGE_LIMIT: Final = 1000
PURGE_PAUSE_S: Final = 3600.0
USER_AGENT: Final = "CommDesk-Webhooks/1"

DELIVERIES = Counter(
    "core_outgoing_attempts_total", "Attempts to deliver an outgoing webhook, by what came of it", ["outcome"]
)
SECONDS = Histogram("core_outgoing_seconds", "How long receivers of outgoing webhooks take")
GIVEN_UP = Counter("core_outgoing_given_up_total", "Deliveries given up after their last attempt")
DISABLED = Counter("core_outgoing_disabled_total", "Endpoints disabled because they failed for too long")


class Payload(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a delivery. It is the same in every attempt. Times are UTC; docs/webhooks.md shows one."""

    type: str
    timestamp: str
    sequence: int
    previous_sequence: int
    data: dict[str, object]


def body_of(event: OutgoingEvent) -> bytes:
    """What is sent. Amounts are integers: credits, paise."""
    data: dict[str, object] = {
        "event_id": event.event_id,
        "user_id": event.user_id,
        "wallet_id": event.wallet_id,
        "payment_id": event.payment_id,
        "credits": event.credits,
        "amount_paise": event.amount_paise,
        "source": event.source,
        "source_id": event.source_id,
    }
    return msgspec.json.encode(
        Payload(
            type=event.kind,
            timestamp=event.occurred_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            sequence=event.sequence,
            previous_sequence=event.previous_sequence,
            data=data,
        )
    )


def headers_of(event: OutgoingEvent, secrets: Sequence[bytes], body: bytes, *, at: int) -> dict[str, str]:
    """The three headers of the format, for an attempt at `at` (Unix seconds). webhook-id is the event's."""
    id = f"evt_{event.event_id.hex}"
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "webhook-id": id,
        "webhook-timestamp": str(at),
        "webhook-signature": sign(secrets, id, at, body),
    }


class Sender:
    """One per worker."""

    def __init__(self, db: Database, door: Door, settings: OutgoingSettings) -> None:
        self._db = db
        self._door = door
        self._settings = settings
        self._busy: dict[asyncio.Task[None], bool] = {}
        """Turns under way, and whether they are of endpoints that worked when they were taken."""

    async def run(self) -> None:
        """Until cancelled: turn after turn, as many at a time as there are places."""
        try:
            while True:
                taken = 0
                try:
                    taken = await self._take()
                except errors.Unavailable as error:
                    log.warning("outgoing webhooks wait for the database", error=str(error))
                if not taken:
                    await asyncio.sleep(POLL_S)
        finally:
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    async def once(self) -> int:
        """Take one round and do it to its end; returns how many requests were made. Errors: Unavailable."""
        places = self._settings.outgoing_endpoints
        turns = await self._lease(places, places)
        done = await asyncio.gather(*(self.turn(turn) for turn in turns))
        return sum(done)

    async def _take(self) -> int:
        places = self._settings.outgoing_endpoints
        fit = places - sum(self._busy.values())
        unfit = places - (len(self._busy) - sum(self._busy.values()))
        if fit + unfit == 0:
            return 0
        turns = await self._lease(fit, unfit)
        for turn in turns:
            task = asyncio.create_task(self._do(turn), name="outgoing")
            self._busy[task] = turn.fit
            task.add_done_callback(self._busy.pop)
        return len(turns)

    async def _lease(self, fit: int, unfit: int) -> list[Turn]:
        said = self._settings
        return await outgoing.lease(
            self._db, fit=fit, unfit=unfit, batch=said.outgoing_batch, lease_s=said.outgoing_lease_s
        )

    async def _do(self, turn: Turn) -> None:
        try:
            await self.turn(turn)
        except errors.Unavailable as error:
            log.warning("left to the next lease", endpoint=str(turn.endpoint_id), error=str(error))
        except Exception:
            log.exception("left to the next lease", endpoint=str(turn.endpoint_id))

    async def turn(self, turn: Turn) -> int:
        """Send what an endpoint is due, in order of its numbers; returns how many requests. Errors: Unavailable.

        The first failure ends the turn: what was not begun waits for the next, unharmed.
        """
        waiting = list(reversed(turn.events))
        attempts: list[Attempt] = []

        async def send() -> None:
            while waiting and all(attempt.outcome == "delivered" for attempt in attempts):
                attempts.append(await self._send(turn, waiting.pop()))

        await asyncio.gather(*(send() for _ in range(self._settings.outgoing_at_once)))
        await self._record(turn, attempts)
        return len(attempts)

    async def _send(self, turn: Turn, event: OutgoingEvent) -> Attempt:
        body = body_of(event)
        headers = headers_of(event, turn.secrets, body, at=int(time.time()))
        answer = await self._door.post(turn.url, body, headers)
        DELIVERIES.labels(answer.error or answer.outcome).inc()
        SECONDS.observe(answer.took_ms / 1000)
        return Attempt(event.delivery_id, answer.outcome, answer.status, answer.error, answer.took_ms)

    async def _record(self, turn: Turn, attempts: Sequence[Attempt]) -> None:
        recorded = await self._keep(turn, attempts)
        GIVEN_UP.inc(recorded.given_up)
        counts: dict[str, int] = defaultdict(int)
        for attempt in attempts:
            counts[attempt.error or attempt.outcome] += 1
        if recorded.failures or recorded.given_up:
            log.warning(
                "an endpoint fails",
                endpoint=str(turn.endpoint_id),
                outcomes=dict(counts),
                failures=recorded.failures,
                given_up=recorded.given_up,
            )
        if recorded.disabled:
            DISABLED.inc()
            log.error("an endpoint is disabled; its owner is told", endpoint=str(turn.endpoint_id))

    async def _keep(self, turn: Turn, attempts: Sequence[Attempt]) -> outgoing.Recorded:
        """Keep what was done; a database that is away is waited for while the lease lasts. Errors: Unavailable after that."""
        ends = time.monotonic() + self._settings.outgoing_lease_s - self._settings.longest_turn_s
        while True:
            try:
                return await outgoing.record(self._db, turn, attempts, self._settings.patience)
            except errors.Unavailable:
                if time.monotonic() > ends:
                    raise
                await asyncio.sleep(1.0)


async def run(db: Database, settings: OutgoingSettings | None = None) -> None:
    """Until cancelled: number, send, forget."""
    said = settings or OutgoingSettings()
    async with open_door(said) as door, asyncio.TaskGroup() as group:
        group.create_task(
            rounds("outgoing-numbers", lambda: outgoing.number(db, limit=NUMBER_LIMIT), limit=NUMBER_LIMIT,
                   pause_s=NUMBER_PAUSE_S),
            name="outgoing-numbers",
        )  # fmt: skip
        group.create_task(Sender(db, door, said).run(), name="outgoing-sender")
        group.create_task(
            rounds("outgoing-purge", lambda: outgoing.purge(db, age_s=said.outgoing_keep_s, limit=PURGE_LIMIT),
                   limit=PURGE_LIMIT, pause_s=PURGE_PAUSE_S),
            name="outgoing-purge",
        )  # fmt: skip
