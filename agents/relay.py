"""The relay: publishes what was committed without a broker at hand, and again what nobody has applied.

In     payment_webhooks and usage_metering rows (the inboxes of the web process), outbox rows of web's ledger calls,
       and any outbox row published 30 s ago that its consumer has not applied
Books  only when a row was last published; it is closed by its consumer's committed outcome, never by a confirm
Out    webhook.processing (Inbox), wallet.debit (UsageBatch, signed by the core), and every topic (Slice)
"""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import structlog

from agents.core import Core, Outgoing, slice_message
from agents.intake import CORE
from sql import errors, relay, webhooks
from sql.batches import Emitted
from sql.ids import uuid7
from streams import events as ev
from streams import messages
from streams.telemetry import carriers

log = structlog.get_logger("agents.relay")

POLL_S: Final = (0.01, 0.1)
"""Pause after a round: after one that found something eight times what it took, growing while idle; within these."""
REST: Final = 8.0
STALE_S: Final = 30.0
BACK_S: Final = 1.0
"""As STALE_S, of a broker that has just come back."""
STOP_S: Final = 1.0
LIMIT: Final = 1000
PER_MESSAGE: Final = 200


class Relay:
    """One per worker; two never take the same row at once."""

    def __init__(self, core: Core, *, up: Callable[[], bool] = lambda: True) -> None:
        """`up`: whether there is a broker to publish to."""
        self._core = core
        self._up = up
        self._was_away = False
        self._session = str(uuid7())
        self._seq: defaultdict[int, itertools.count[int]] = defaultdict(lambda: itertools.count(1))
        self._round = asyncio.Lock()
        self._stopping = False

    async def run(self) -> None:
        """Until cancelled, or stopped. A passing fault waits a second."""
        pause_s = POLL_S[0]
        while not self._stopping:
            began = asyncio.get_running_loop().time()
            try:
                async with self._round:
                    busy = 0 if self._stopping else await self._round_of()
            except errors.Unavailable as error:
                log.warning("the relay waits for the database", error=str(error))
                busy = 0
                await asyncio.sleep(1.0)
            took_s = asyncio.get_running_loop().time() - began
            pause_s = min(max(POLL_S[0], REST * took_s) if busy else 1.3 * pause_s, POLL_S[1])
            if busy < LIMIT:
                await asyncio.sleep(pause_s)

    async def _round_of(self) -> int:
        """A round, if the broker is there. What was published shortly before it went, and has no outcome, goes again at once."""
        if not self._up():
            self._was_away = True
            return 0
        busy = await self.once(stale_s=BACK_S if self._was_away else STALE_S)
        self._was_away = self._was_away and busy == LIMIT
        return busy

    async def stop(self, deadline_s: float = STOP_S) -> None:
        """Take nothing more, and wait for what was taken to be published: a row that is taken by a worker on its way out
        is missed for seconds.
        """
        self._stopping = True
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline_s), self._round:
                pass

    async def sweep(self) -> None:
        """Until cancelled: close what has its outcome, once a second."""
        while True:
            await asyncio.sleep(1.0)
            try:
                while await relay.close_usage(self._core.db, limit=LIMIT) == LIMIT:
                    pass
            except errors.Unavailable as error:
                log.warning("closing waits for the database", error=str(error))

    async def once(self, *, stale_s: float = STALE_S) -> int:
        """Publish one round, and again what has had no outcome for `stale_s`; returns the largest number of rows of one kind.

        Errors: Unavailable.
        """
        taken = await asyncio.gather(self._webhooks(stale_s), self._usage(stale_s), self._outbox(stale_s))
        return max(taken)

    async def _webhooks(self, stale_s: float) -> int:
        rows = await webhooks.take_webhooks(self._core.db, limit=LIMIT, stale_s=stale_s)
        by_partition: defaultdict[int, list[ev.WebhookReceived]] = defaultdict(list)
        for row in rows:
            event = ev.WebhookReceived(
                inbox_id=str(row.id),
                event_type=row.event_type,
                order_id=row.order_id or str(row.id),
                received_at=row.received_at,
                source_version=row.version,
                cf_payment_id=row.cashfree_payment_id,
                refund_id=row.refund_id,
                status=row.status,
            )
            by_partition[self._core.partition(event.key)].append(event)
        with carriers.relayed({str(row.id): row.traceparent for row in rows if row.traceparent}):
            await self._core.writer.publish(
                [
                    Outgoing(
                        "webhook.processing",
                        partition,
                        part[0].key,
                        messages.encode(messages.Inbox(v=1, events=part)),
                        carriers.headers_of(part),
                    )
                    for partition, events in by_partition.items()
                    for part in _parts(events)
                ]
            )
        return len(rows)

    async def _usage(self, stale_s: float) -> int:
        rows = await relay.take_usage(self._core.db, limit=LIMIT, stale_s=stale_s)
        if not rows:
            return 0
        secret = await self._core.secrets.of(CORE)
        if secret is None:
            raise RuntimeError("the publisher 'core' is missing: were all migrations applied?")
        by_partition: defaultdict[int, list[ev.UsageEvent]] = defaultdict(list)
        for row in sorted(rows, key=lambda r: r.id):
            event = ev.UsageEvent(
                id=row.event_id,
                wallet_id=str(row.wallet_id),
                feature=row.feature,
                credits=row.credits,
                quantity=row.quantity,
                community_id=None if row.community_id is None else str(row.community_id),
                occurred_at=row.occurred_at,
                metadata=row.metadata,
                principal=row.principal,
            )
            by_partition[self._core.partition(event.key)].append(event)
        traced = {f"{row.principal}:{row.event_id}": row.traceparent for row in rows if row.traceparent}
        with carriers.relayed(traced):
            await self._core.writer.publish(self._signed(by_partition, secret))
        return len(rows)

    def _signed(self, by_partition: Mapping[int, Sequence[ev.UsageEvent]], secret: bytes) -> list[Outgoing]:
        """Usage as messages of the core's own session, in the order given."""
        outgoing = []
        for partition, events in by_partition.items():
            for part in _parts(events):
                batch = messages.UsageBatch(
                    v=1, session=self._session, seq=next(self._seq[partition]), events=part
                )
                value = messages.encode(batch)
                headers = {"publisher": CORE, "mac": messages.sign(value, secret)}
                headers |= carriers.headers_of(part)
                outgoing.append(Outgoing("wallet.debit", partition, part[0].key, value, headers))
        return outgoing

    async def _outbox(self, stale_s: float) -> int:
        unsent = await relay.sweep_outbox(self._core.db, self._core.group, limit=LIMIT, stale_s=stale_s)
        outgoing = []
        for item in unsent:
            p, s = item.producer, item.slice
            of = Emitted(p.topic, p.partition, p.group, item.batch_no, item.incarnation)
            outgoing.append(slice_message(of, s.topic, s.partition, s.prev_batch_no, s.events))
        await self._core.writer.publish(outgoing)
        return len(unsent)


E = TypeVar("E")


def _parts(events: Sequence[E]) -> list[list[E]]:
    return [list(events[i : i + PER_MESSAGE]) for i in range(0, len(events), PER_MESSAGE)]
