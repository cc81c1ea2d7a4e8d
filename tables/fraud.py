"""Velocity windows of users, devices, addresses and instruments: folded in memory, kept in PostgreSQL.

The memory is a cache of one worker, per partition: emptied and filled when the partition is claimed, bounded,
and changed only after the transaction that moved the offset. So a crash, a replay or another owner finds the
same numbers; a cache that is wrong all the same is found out by the commit and read again.

One row per entity holds its minutes and its hours. Windows slide by buckets and end with the payment's own:
1 m is its minute, 1 h its 60 minutes, 24 h its 24 hours. A signal up to `LATE` behind the newest is counted
exactly.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from sql import fraud
from sql.db import Database
from sql.fraud import Counts, Entity, VelocitySignal, WindowRow

TOPIC: Final = "fraud.detection"
MINUTE: Final = 60
HOUR: Final = 3600
LATE: Final = timedelta(hours=2)
_MINUTES_KEPT_S: Final = HOUR + int(LATE.total_seconds())
_HOURS_KEPT_S: Final = 24 * HOUR + int(LATE.total_seconds())
EXPIRY: Final = timedelta(hours=26)
"""An entity that has been silent for so long need not be remembered."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_NEVER: Final = datetime.min.replace(tzinfo=UTC)

Bucket = tuple[int, int, int]
"""Start (epoch seconds), payments, paise."""


class Buckets(Struct, frozen=True):
    """What an entity did lately, by minute and by hour, each in order of time."""

    minutes: tuple[Bucket, ...] = ()
    hours: tuple[Bucket, ...] = ()

    def plus(self, at: datetime, amount_paise: int) -> "tuple[Buckets, Counts]":
        """One payment more, and the counts in the windows that end with it."""
        second = int(at.timestamp())
        minute, hour = second - second % MINUTE, second - second % HOUR
        minutes, hours = _add(self.minutes, minute, amount_paise), _add(self.hours, hour, amount_paise)
        counts = (
            *_sum(minutes, minute, minute),
            *_sum(minutes, minute - 59 * MINUTE, minute),
            *_sum(hours, hour - 23 * HOUR, hour),
        )
        kept = Buckets(_newest(minutes, _MINUTES_KEPT_S), _newest(hours, _HOURS_KEPT_S))
        return kept, counts

    def encode(self) -> str:
        return _encode({"1m": self.minutes, "1h": self.hours}).decode()

    @classmethod
    def decode(cls, text: str) -> "Buckets":
        stored = _decode(text)
        return cls(tuple((s, n, a) for s, n, a in stored["1m"]), tuple((s, n, a) for s, n, a in stored["1h"]))


def _add(buckets: tuple[Bucket, ...], start: int, amount_paise: int) -> list[Bucket]:
    """Buckets with one payment more in the one at `start`."""
    changed = list(buckets)
    i = len(changed)
    while i and changed[i - 1][0] > start:
        i -= 1
    if i and changed[i - 1][0] == start:
        _, count, amount = changed[i - 1]
        changed[i - 1] = (start, count + 1, amount + amount_paise)
    else:
        changed.insert(i, (start, 1, amount_paise))
    return changed


def _sum(buckets: Sequence[Bucket], first: int, last: int) -> tuple[int, int]:
    """Payments and paise of the buckets that start in first..last: nearly always the newest of many."""
    payments = paise = 0
    for start, count, amount in reversed(buckets):
        if start < first:
            break
        if start <= last:
            payments += count
            paise += amount
    return payments, paise


def _newest(buckets: list[Bucket], kept_s: int) -> tuple[Bucket, ...]:
    oldest = buckets[-1][0] - kept_s
    if buckets[0][0] >= oldest:
        return tuple(buckets)
    return tuple(bucket for bucket in buckets if bucket[0] >= oldest)


@dataclass(slots=True)
class _Window:
    """An entity's row in memory. `as_of` is the (partition, offset) it is stored at."""

    buckets: Buckets
    last_at: datetime
    as_of: tuple[int, int] | None


@dataclass(slots=True)
class Folded:
    """A batch of signals folded, not yet committed: counts per signal (None: not folded)."""

    counts: list[Counts | None] = field(default_factory=list)
    windows: dict[Entity, _Window] = field(default_factory=dict)

    @property
    def rows(self) -> list[WindowRow]:
        """The changed rows, with what they were read as."""
        return [
            WindowRow(*entity, w.buckets.encode(), w.last_at, w.as_of) for entity, w in self.windows.items()
        ]


class FraudWindows:
    """The windows of the partitions that this worker owns; at most `limit` entities, the least used go first."""

    def __init__(self, db: Database, *, limit: int = 50_000) -> None:
        self._db = db
        self._limit = limit
        self._rows: dict[int, OrderedDict[Entity, _Window]] = {}

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    async def restore(self, topic: str, partition: int) -> None:
        """Forget the partition and read its newest rows: called at each claim, before the gate opens."""
        if topic != TOPIC:
            return
        stored = await fraud.get_partition_windows(self._db, partition, limit=self._limit // 16)
        self._rows[partition] = OrderedDict(
            ((row.kind, row.entity), _window(row)) for row in reversed(stored)
        )

    async def fold(
        self, partition: int, signals: Sequence[VelocitySignal], *, trusting: bool = True
    ) -> Folded:
        """Fold a batch on top of what is known; entities that are not known are read.

        `trusting` takes each (payment, kind) for news, once; otherwise, after the commit found us wrong, the
        windows and what is still awaited are read first. Errors: Unavailable.
        """
        cache = self._rows.setdefault(partition, OrderedDict())
        entities = {(s.kind, s.entity) for s in signals}
        if not trusting:
            for entity in entities:
                cache.pop(entity, None)
        known = {entity: cache[entity] for entity in entities if entity in cache}
        missing = [entity for entity in sorted(entities) if entity not in known]
        if missing:
            known |= {
                (row.kind, row.entity): _window(row) for row in await fraud.get_windows(self._db, missing)
            }
        awaited = None if trusting else await fraud.get_open_checks(self._db, [s.payment_id for s in signals])

        folded = Folded()
        seen: set[tuple[UUID, str]] = set()
        for s in signals:
            is_news = (s.payment_id, s.kind) not in seen
            if awaited is not None:
                is_news &= (s.payment_id, s.kind, s.entity, s.amount_paise, s.occurred_at) in awaited
            seen.add((s.payment_id, s.kind))
            folded.counts.append(_fold_one(folded.windows, known, s) if is_news else None)
        return folded

    def committed(self, partition: int, folded: Folded, last_offset: int) -> None:
        """The fold is stored, as of this offset: it is what we know now."""
        cache = self._rows.setdefault(partition, OrderedDict())
        for entity, window in folded.windows.items():
            cache[entity] = replace(window, as_of=(partition, last_offset))
            cache.move_to_end(entity)
        self._evict()

    def forget(self, partition: int, folded: Folded) -> None:
        """It is not certain what is stored: read these entities again when they are next needed."""
        for entity in folded.windows:
            self._rows.get(partition, OrderedDict()).pop(entity, None)

    def _evict(self) -> None:
        """Drop what has been silent for long, and the least used beyond the limit, of the fullest partition first."""
        for rows in self._rows.values():
            newest = next(reversed(rows.values())).last_at if rows else _NEVER
            while rows and next(iter(rows.values())).last_at < newest - EXPIRY:
                rows.popitem(last=False)
        for _ in range(len(self) - self._limit):
            max(self._rows.values(), key=len).popitem(last=False)


def _fold_one(folded: dict[Entity, _Window], known: dict[Entity, _Window], s: VelocitySignal) -> Counts:
    entity = (s.kind, s.entity)
    before = folded.get(entity) or known.get(entity) or _Window(Buckets(), _NEVER, None)
    buckets, counts = before.buckets.plus(s.occurred_at, s.amount_paise)
    folded[entity] = _Window(buckets, max(before.last_at, s.occurred_at), before.as_of)
    return counts


def _window(row: WindowRow) -> _Window:
    return _Window(Buckets.decode(row.buckets), row.last_at, row.as_of)
