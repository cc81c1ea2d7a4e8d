"""Contexts on their way through the streams: per event, in the message's headers, and only of what is sampled.

`traceparent` alone, as W3C has it, is the context of every event of a message (other clients may write it).
`traceparents` tells events apart: `index=traceparent` pairs, separated by blanks; an aggregate such as a
billing delta may carry several. An unsampled message has neither, so reading costs one look at its headers.

A consumer gives each sampled event a span of its own (`Item`) for as long as its batch takes. What the batch
emits is recognised by its ids (payment, order, inbox row, refund), so the SQL that makes events knows nothing
of traces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from opentelemetry.trace import Span

from streams.telemetry import tracing
from streams.telemetry.tracing import NOTHING, Attributes, Kind

ONE: Final = "traceparent"
MANY: Final = "traceparents"
IDS: Final = ("payment_id", "order_id", "inbox_id", "refund_id")
MOST: Final = 32
"""Most contexts that one event carries, and most items of a batch that get a span."""
_events: Final = msgspec.json.Decoder(list[dict[str, Any]])


@dataclass(frozen=True, slots=True)
class Item:
    """A sampled event under work: its span, and the ids that what follows from it is recognised by."""

    span: Span
    ids: frozenset[str]

    @property
    def traceparent(self) -> str:
        return tracing.traceparent(self.span)


_items: ContextVar[Sequence[Item]] = ContextVar("items", default=())


def begin(
    name: str,
    parent: str,
    ids: Iterable[str],
    *,
    kind: Kind = "consumer",
    links: Sequence[str] = (),
    attributes: Attributes = NOTHING,
) -> Item | None:
    """An item's span, from now until `Item.span.end()`; None while nothing is traced."""
    span = tracing.start(name, parent=parent, kind=kind, links=links, attributes=attributes)
    return None if span is None else Item(span, frozenset(ids))


@contextmanager
def carrying(items: Sequence[Item]) -> Iterator[None]:
    """Whatever is published inside the block on behalf of these items carries their contexts."""
    token = _items.set(items)
    try:
        yield
    finally:
        _items.reset(token)


@contextmanager
def relayed(rows: Mapping[str, str], *, by: str = "relay") -> Iterator[None]:
    """What goes from tables onto a stream, as items for the block, one for each context; `rows`: traceparent by
    inbox or payment id, or by a usage event's key.
    """
    of_parent: defaultdict[str, list[str]] = defaultdict(list)
    for known, parent in rows.items():
        of_parent[parent].append(known)
    begun = (
        begin(by, parent, known, kind="producer", attributes={"ids": " ".join(known[:MOST])})
        for parent, known in of_parent.items()
    )
    items = [item for item in begun if item is not None]
    try:
        with carrying(items):
            yield
    finally:
        for item in items:
            item.span.end()


def headers_for(events: str | bytes) -> dict[str, str]:
    """The headers of a message that carries these events (a JSON array): empty unless items are in hand."""
    if not _items.get():
        return {}
    decoded = _events.decode(events)
    return _headers([{str(e[name]) for name in IDS if e.get(name) is not None} for e in decoded])


def payments_in(events: str | bytes) -> set[str]:
    """The payments that events (a JSON array) speak of."""
    return {
        str(event["payment_id"]) for event in _events.decode(events) if event.get("payment_id") is not None
    }


def headers_of(events: Sequence[object]) -> dict[str, str]:
    """The same of typed events."""
    return _headers([ids_of(event) for event in events]) if _items.get() else {}


def _headers(ids: Sequence[Set[str]]) -> dict[str, str]:
    items = _items.get()
    found: dict[int, list[str]] = {}
    for index, own in enumerate(ids):
        # An aggregate has no ids: it is made of all of them.
        concerned = [item.traceparent for item in items if not own or not own.isdisjoint(item.ids)]
        if len(found) == MOST:
            break
        if concerned:
            found[index] = concerned[:MOST]
    return written(found, len(ids))


def written(contexts: Mapping[int, Sequence[str]], events: int) -> dict[str, str]:
    """Contexts per event index as headers, of a message of so many events."""
    if not contexts:
        return {}
    distinct = {one for many in contexts.values() for one in many}
    if len(distinct) == 1 and len(contexts) == events <= MOST:
        return {ONE: distinct.pop()}
    return {MANY: " ".join(f"{index}={one}" for index, many in contexts.items() for one in many)}


def read(headers: Mapping[str, str], events: int) -> dict[int, list[str]]:
    """Contexts per event index, of a message of so many events. What cannot be read is no context."""
    found: defaultdict[int, list[str]] = defaultdict(list)
    for pair in headers.get(MANY, "").split():
        index, _, context = pair.partition("=")
        if (
            index.isascii()
            and index.isdigit()
            and int(index) < events
            and tracing.parsed(context) is not None
        ):
            found[int(index)].append(context)
    if not found and tracing.parsed(headers.get(ONE)) is not None:
        return {index: [headers[ONE]] for index in range(min(events, MOST))}
    return dict(found)


def ids_of(event: object) -> frozenset[str]:
    """The ids of a typed event; of usage that the core relays, its key."""
    if (principal := getattr(event, "principal", None)) is not None:
        return frozenset([f"{principal}:{getattr(event, 'id', '')}"])
    return frozenset(str(said) for name in IDS if (said := getattr(event, name, None)) is not None)
