"""Outgoing webhooks: what endpoints are due, what came of it, and what owners do with their endpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final, Literal
from uuid import UUID

from sql.db import Database, Row
from sql.queries import load

_Q: Final = load("outgoing")

Outcome = Literal["delivered", "failed", "gone"]


@dataclass(frozen=True, slots=True)
class OutgoingEvent:
    """A delivery to attempt: the event, the account's number of it, and that of the one before for this endpoint.

    `attempt` counts from 1; `detail` is JSON.
    """

    delivery_id: UUID
    attempt: int
    sequence: int
    previous_sequence: int
    event_id: UUID
    kind: str
    user_id: UUID
    wallet_id: UUID | None
    payment_id: UUID | None
    credits: int | None
    amount_paise: int | None
    detail: str
    source: str
    source_id: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Turn:
    """An endpoint that is ours for a while, and what it is due. `fit`: it neither failed last nor is slow; `secrets`:
    the newest first.
    """

    endpoint_id: UUID
    turn: int
    fit: bool
    url: str
    secrets: tuple[bytes, ...]
    events: tuple[OutgoingEvent, ...]

    def __repr__(self) -> str:
        return f"Turn({self.endpoint_id}, {self.turn}, {len(self.events)} events)"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one delivery. `error` is a code of ours; `status` the receiver's, if it answered."""

    delivery_id: UUID
    outcome: Outcome
    status: int | None
    error: str | None
    took_ms: int


@dataclass(frozen=True, slots=True)
class Patience:
    """How failures are answered: see record_turn in migration 0023. Seconds, milliseconds; `trip` failures in a row."""

    schedule_s: tuple[float, ...]
    trip: int
    pause_s: float
    cap_s: float
    slow_ms: int
    disable_s: float


@dataclass(frozen=True, slots=True)
class Recorded:
    """How an endpoint stands after a turn: its state, failures in a row, whether it was disabled just now, and how many
    deliveries were given up.
    """

    state: str
    failures: int
    disabled: bool
    given_up: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as its owner sees it. `kinds` None: all; `why` (of a disabled one): owner | failing | gone."""

    id: UUID
    owner_id: UUID
    url: str
    description: str
    kinds: list[str] | None
    state: str
    why: str | None
    last_sequence: int
    failures: int
    failing_since: datetime | None
    blocked_until: datetime | None
    delivered_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event on its way to one endpoint. `state`: pending | delivered | failed."""

    id: UUID
    endpoint_id: UUID
    owner_id: UUID
    event_id: UUID
    kind: str
    sequence: int
    previous_sequence: int
    state: str
    attempts: int
    next_at: datetime | None
    status: int | None
    error: str | None
    took_ms: int | None
    delivered_at: datetime | None
    created_at: datetime


async def number(db: Database, *, limit: int) -> int:
    """Number events that wait, and make their deliveries; returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["number_outgoing"], limit))


async def lease(db: Database, *, fit: int, unfit: int, batch: int, lease_s: float) -> list[Turn]:
    """Take up to so many endpoints that work, and so many that fail or are slow. Errors: Unavailable."""
    rows = await db.rows(_Q["lease_endpoints"], fit, unfit, batch, lease_s)
    return [_turn(list(of_one)) for _, of_one in groupby(rows, key=lambda row: row["endpoint_id"])]


def _turn(rows: Sequence[Row]) -> Turn:
    first = rows[0]
    events = [OutgoingEvent(*list(row.values())[5:]) for row in rows if row["delivery_id"] is not None]
    secrets = tuple(first["secrets"] or ())
    return Turn(first["endpoint_id"], first["turn"], first["fit"], first["url"], secrets, tuple(events))


async def record(db: Database, turn: Turn, attempts: Sequence[Attempt], patience: Patience) -> Recorded:
    """Say what came of a turn, and end it. Errors: Unavailable."""
    row = await db.row(
        _Q["record_turn"], turn.endpoint_id, turn.turn,
        [a.delivery_id for a in attempts], [a.outcome for a in attempts], [a.status for a in attempts],
        [a.error for a in attempts], [a.took_ms for a in attempts],
        list(patience.schedule_s), patience.trip, patience.pause_s, patience.cap_s, patience.slow_ms,
        patience.disable_s,
    )  # fmt: skip
    assert row is not None
    return Recorded(*row.values())


async def purge(db: Database, *, age_s: float, limit: int) -> int:
    """Forget old deliveries that are decided; returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["purge_outgoing"], age_s, limit))


async def create_endpoint(
    db: Database,
    id: UUID,
    key: str,
    request_hash: bytes,
    *,
    owner: UUID,
    url: str,
    description: str,
    kinds: Sequence[str] | None,
    secret: bytes,
    most: int,
    actor: str,
) -> tuple[str, UUID | None, bytes | None]:
    """Outcome created | exists | conflict | unknown_user | too_many, the endpoint, and its secret. Errors: Unavailable."""
    row = await db.row(
        _Q["create_endpoint"], id, key, request_hash, owner, url, description,
        None if kinds is None else list(kinds), secret, most, actor,
    )  # fmt: skip
    assert row is not None
    return row["o_outcome"], row["o_id"], row["o_secret"]


async def update_endpoint(
    db: Database,
    id: UUID,
    *,
    url: str | None,
    description: str | None,
    kinds: Sequence[str] | None,
    every_kind: bool,
    actor: str,
) -> bool:
    """Change what is not None; False if there is no such endpoint. Errors: Unavailable."""
    chosen = None if kinds is None else list(kinds)
    return bool(await db.value(_Q["update_endpoint"], id, url, description, chosen, every_kind, actor))


async def rotate_secret(db: Database, id: UUID, secret: bytes, *, overlap_s: float, actor: str) -> bool:
    """A new secret; those before it sign along for a while. False if there is no such endpoint. Errors: Unavailable."""
    return bool(await db.value(_Q["rotate_endpoint_secret"], id, secret, overlap_s, actor))


async def switch(
    db: Database, id: UUID, state: Literal["enabled", "disabled", "deleted"], *, actor: str
) -> bool:
    """Enable, disable or delete; False if there is no such endpoint. Errors: Unavailable."""
    return bool(await db.value(_Q["switch_endpoint"], id, state, actor))


async def replay(
    db: Database,
    endpoint: UUID,
    *,
    from_sequence: int,
    to_sequence: int,
    only_failed: bool,
    limit: int,
    actor: str,
) -> tuple[int, int | None] | None:
    """Send again; how many, and the highest number among them. None: no such endpoint. Errors: Unavailable."""
    row = await db.row(
        _Q["replay_deliveries"], endpoint, from_sequence, to_sequence, only_failed, limit, actor
    )
    assert row is not None
    return None if row["r_replayed"] is None else (row["r_replayed"], row["r_last"])


async def get_endpoint(db: Database, id: UUID) -> Endpoint | None:
    """None also for a deleted one. Errors: Unavailable."""
    row = await db.row(_Q["get_endpoint"], id)
    return None if row is None else Endpoint(*row.values())


async def get_endpoints(db: Database, owner: UUID, *, after: UUID | None, limit: int) -> list[Endpoint]:
    """An account's, the oldest first. Errors: Unavailable."""
    return [Endpoint(*row.values()) for row in await db.rows(_Q["get_endpoints"], owner, after, limit)]


async def get_delivery(db: Database, id: UUID) -> Delivery | None:
    """Errors: Unavailable."""
    row = await db.row(_Q["get_delivery"], id)
    return None if row is None else Delivery(*row.values())


async def get_deliveries(
    db: Database, endpoint: UUID, *, before: int | None, state: str | None, limit: int
) -> list[Delivery]:
    """An endpoint's, the highest number first. Errors: Unavailable."""
    rows = await db.rows(_Q["get_deliveries"], endpoint, before, state, limit)
    return [Delivery(*row.values()) for row in rows]
