"""Billing facts and what users are told about them: booked once per fact and channel, mailed by lease."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from msgspec import Struct

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database
from sql.heads import head_arguments
from sql.queries import load

_Q: Final = load("notifications")


class Notice(Struct, frozen=True):
    """A billing fact to book and tell. (kind, source, source_id) is its identity; `offset` is where it was read."""

    user_id: UUID
    kind: str
    occurred_at: datetime
    payment_id: UUID | None
    wallet_id: UUID | None
    credits: int | None
    amount_paise: int | None
    source: str
    source_id: str
    offset: int


@dataclass(frozen=True, slots=True)
class Noticed:
    """What a batch did and what to publish.

    Outcomes, per notice: posted | exists | unknown_user | conflict; None if only its outbox is known any more.
    """

    outcomes: list[str] | None
    emitted: Emitted


@dataclass(frozen=True, slots=True)
class Mail:
    """A leased mail. `attempt` counts from 1 and is the lease's token; `email` is None if the user took the address back."""

    id: UUID
    attempt: int
    kind: str
    email: str | None
    name: str | None
    credits: int | None
    amount_paise: int | None
    order_id: str | None
    occurred_at: datetime
    source_id: str


Outcome = Literal["sent", "rejected", "deferred", "unknown", "returned"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a leased mail. `error` is a short code without anybody's data.

    sent | rejected (for good) | deferred (try again) | unknown (it may be out) | returned (never handed over).
    """

    id: UUID
    attempt: int
    outcome: Outcome
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """After attempt n the next waits base·2^(n-1) ± 25 %, at most `cap_s`; after `attempts` there is none."""

    attempts: int
    base_s: float
    cap_s: float


@dataclass(frozen=True, slots=True)
class Notification:
    """What a user is told in the app. The words are the reader's; amounts are credits and paise."""

    id: UUID
    kind: str
    credits: int | None
    amount_paise: int | None
    payment_id: UUID | None
    wallet_id: UUID | None
    occurred_at: datetime
    created_at: datetime
    read_at: datetime | None


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many notifications of a channel are in a state, and the age of the oldest."""

    channel: str
    state: str
    count: int
    oldest_s: float


async def commit_notices(
    db: Database,
    head: Head,
    notices: Sequence[Notice],
    *,
    progress: Progress,
    bad: Sequence[Bad] = (),
) -> Noticed:
    """Book facts and notifications, and move the offset. Errors: Fenced, Unavailable."""
    answer = await commit(
        db, _Q["commit_notices"], head, *head_arguments(head, progress, bad),
        [n.user_id for n in notices], [n.kind for n in notices], [n.occurred_at for n in notices],
        [n.payment_id for n in notices], [n.wallet_id for n in notices],
        [n.credits for n in notices], [n.amount_paise for n in notices],
        [n.source for n in notices], [n.source_id for n in notices], [n.offset for n in notices],
    )  # fmt: skip
    if isinstance(answer, Emitted):
        return Noticed(None, answer)
    return Noticed(list(answer["r_outcome"] or ()), emitted(answer, head.topic, head.partition, head.group))


async def remind_expiring(db: Database, *, days: int, limit: int) -> int:
    """Tell whose credits lapse within `days`, once per wallet and day of expiry; returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["remind_expiring"], days, limit))


async def has_due(db: Database) -> bool:
    """Whether a mail waits that may be tried now. Errors: Unavailable."""
    return bool(await db.value(_Q["has_due"]))


async def lease(db: Database, *, limit: int, lease_s: float, attempts: int) -> list[Mail]:
    """Take up to `limit` mails that are due; the attempt counts from here. Errors: Unavailable."""
    rows = await db.rows(_Q["lease_notifications"], limit, lease_s, attempts)
    return [Mail(*row) for row in rows]


async def record(db: Database, deliveries: Sequence[Delivery], backoff: Backoff) -> dict[UUID, str]:
    """Say what became of leased mails; returns the states of those that were still ours. Errors: Unavailable."""
    rows = await db.rows(
        _Q["record_notifications"],
        [d.id for d in deliveries],
        [d.attempt for d in deliveries],
        [d.outcome for d in deliveries],
        [d.error for d in deliveries],
        backoff.attempts,
        backoff.base_s,
        backoff.cap_s,
    )
    return {row["id"]: row["state"] for row in rows}


async def suppress(db: Database, *, limit: int) -> int:
    """Mails that wait are never to be sent: there is no mail server. Returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["suppress_notifications"], limit))


async def requeue(db: Database, ids: Sequence[UUID], *, actor: str) -> int:
    """Try dead or suppressed mails again, audited; returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["requeue_notifications"], list(ids), actor))


async def list_notifications(
    db: Database, user_id: UUID, *, after: UUID | None = None, limit: int = 50
) -> list[Notification]:
    """What the user is told in the app, the newest first; `after` is the last one of the page before. Errors: Unavailable."""
    rows = await db.rows(_Q["list_notifications"], user_id, after, limit)
    return [Notification(**row) for row in rows]


async def count_unread(db: Database, user_id: UUID) -> int:
    """Errors: Unavailable."""
    return int(await db.value(_Q["count_unread"], user_id))


async def mark_read(db: Database, user_id: UUID, ids: Sequence[UUID]) -> int:
    """The user has seen these; others' are left alone. Returns how many were news. Errors: Unavailable."""
    return int(await db.value(_Q["mark_read"], user_id, list(ids)))


async def get_preferences(db: Database, user_id: UUID) -> dict[str, Any] | None:
    """{"<channel>": bool | {"<kind>": bool}}, what is not said is wished for; None for an unknown user. Errors: Unavailable."""
    found = await db.value(_Q["get_preferences"], user_id)
    return None if found is None else dict(json.loads(found))


async def set_preferences(
    db: Database, user_id: UUID, preferences: Mapping[str, Any]
) -> Literal["saved", "unknown_user", "malformed"]:
    """Replace the user's wishes; waiting mails that are no longer wished for are suppressed. Errors: Unavailable."""
    outcome: Literal["saved", "unknown_user", "malformed"] = await db.value(
        _Q["set_preferences"], user_id, json.dumps(dict(preferences))
    )
    return outcome


async def count_by_state(db: Database) -> list[Backlog]:
    """For the operators' page. Errors: Unavailable."""
    rows = await db.rows(_Q["count_by_state"])
    return [Backlog(row["channel"], row["state"], row["n"], row["oldest_s"]) for row in rows]
