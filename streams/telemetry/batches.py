"""Around an agent's handler: the batch is named in the logs, and its sampled events are traced.

A batch with sampled events is a span (`wallet.credit batch`) that links to all of their contexts and holds
the SQL; each sampled event is a span of its own trace (`wallet.credit`) for as long as the batch takes. A
batch without one costs a look at the headers of its messages.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from streams import messages, metrics
from streams.batches import Batch, Record
from streams.messages import BadEvent
from streams.telemetry import carriers, tracing
from streams.telemetry.carriers import MANY, MOST, ONE, Item

PUBLISHER: Final = "publisher"
"""The header of a message that a service signed."""
OURS: Final = "core"
"""The relay's name as a publisher. Who takes it for himself is refused as forged, and has only made a span or two."""

Handler = Callable[[Batch], Awaitable[None]]


def told(handler: Handler) -> Handler:
    """The handler, measured, its batch bound to its log lines as `event_id` and, where tracing is on, traced."""

    async def handle(batch: Batch) -> None:
        name = f"{batch.topic}/{batch.partition}@{batch.from_offset}"
        began = time.perf_counter()
        with structlog.contextvars.bound_contextvars(event_id=name):
            if tracing.on() and (carried := _carried(batch)):
                await _traced(batch, carried, handler)
            else:
                await handler(batch)
        metrics.BATCH_SECONDS.labels(batch.topic).observe(time.perf_counter() - began)
        metrics.BATCH_RECORDS.labels(batch.topic).observe(len(batch.records))

    return handle


@dataclass(frozen=True, slots=True)
class _Carried:
    """A sampled event of a batch."""

    parent: str
    ids: frozenset[str]
    waited_ms: int


def _carried(batch: Batch) -> list[_Carried]:
    found: list[_Carried] = []
    for record in batch.records:
        if record.headers and (MANY in record.headers or ONE in record.headers):
            # A service's own wish to be traced costs us: only where strangers' are followed at all.
            if record.headers.get(PUBLISHER, OURS) != OURS and not tracing.accepts_parents():
                continue
            found += _sampled(batch.topic, record)
    return found[:MOST]


def _sampled(topic: str, record: Record) -> list[_Carried]:
    decoded = messages.decode(topic, record.value)
    if isinstance(decoded, BadEvent):
        return []
    events = decoded.message.events
    waited_ms = max(0, tracing.now_ms() - record.timestamp_ms)
    return [
        _Carried(context, carriers.ids_of(events[index]), waited_ms)
        for index, contexts in carriers.read(record.headers, len(events)).items()
        for context in contexts
    ]


async def _traced(batch: Batch, carried: list[_Carried], handler: Handler) -> None:
    whole = tracing.start(
        f"{batch.topic} batch",
        links=[one.parent for one in carried],
        kind="consumer",
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.destination.name": batch.topic,
            "messaging.destination.partition.id": str(batch.partition),
            "messaging.batch.message_count": len(batch.records),
            "from_offset": batch.from_offset,
            "to_offset": batch.to_offset,
        },
    )
    if whole is None:
        return await handler(batch)
    items: list[Item] = []
    # Deltas of one payment, or events of one request, may come several at a time: they are one step of its trace.
    steps: dict[str, _Carried] = {}
    for one in carried:
        before = steps.get(one.parent, one)
        steps[one.parent] = replace(one, ids=one.ids | before.ids)
    for one in steps.values():
        item = carriers.begin(
            batch.topic,
            one.parent,
            one.ids,
            links=[tracing.traceparent(whole)],
            attributes={
                "messaging.destination.partition.id": str(batch.partition),
                "waited_ms": one.waited_ms,
                "ids": " ".join(sorted(one.ids)[:MOST]),
            },
        )
        if item is not None:
            items.append(item)
    try:
        with tracing.current_as(whole), carriers.carrying(items):
            await handler(batch)
    except BaseException as error:
        for span in (whole, *(item.span for item in items)):
            tracing.failed(span, error)
        raise
    finally:
        for item in items:
            item.span.end()
        whole.end()
