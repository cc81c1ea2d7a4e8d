"""Reconciliation: lost orders, settled lines, differences, and the cases that people decide."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal, cast
from uuid import UUID

from sql.batches import Bad, Emitted, Head, Progress, commit, emitted
from sql.db import Database, Row
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("reconciliation")
KINDS: Final = tuple(name.removeprefix("find_") for name in _Q if name.startswith("find_"))
"""Kinds of differences that `find` looks for."""

Job = Literal["poll", "reconcile"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """An order whose creation nobody answered; `result` is the gateway's word since, or not_found."""

    payment_id: UUID
    order_id: str
    result: str


async def poll_payments(db: Database, *, limit: int, most_due: int, age_s: float) -> int:
    """Have payments asked about that nobody told us of for `age_s`; none while `most_due` wait already.

    Returns how many. Errors: Unavailable.
    """
    return int(await db.value(_Q["poll_payments"], limit, most_due, age_s))


async def unknown_orders(db: Database, *, limit: int) -> list[Unknown]:
    """Orders to adopt, or to give up. Errors: Unavailable."""
    return [Unknown(*row.values()) for row in await db.rows(_Q["unknown_orders"], limit)]


async def close_payments(db: Database, *, limit: int) -> int:
    """End what the gateway calls over; returns how many. Errors: Unavailable."""
    return int(await db.value(_Q["close_payments"], limit))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Due verifications, the age of the oldest in seconds, orphans, and open cases."""

    due: int
    oldest_s: float
    orphans: int
    cases: int


async def get_waiting(db: Database) -> Waiting:
    """What waits for the gateway and for people. Errors: Unavailable."""
    row = await db.row(_Q["get_waiting"])
    assert row is not None
    return Waiting(*row.values())


async def take_job(db: Database, job: Job, holder: str, *, lease_s: float, force: bool = False) -> bool:
    """Become the one who does a due job (`force`: whether due or not), for `lease_s`. Errors: Unavailable."""
    return bool(await db.value(_Q["take_job"], job, holder, lease_s, force))


async def finish_job(
    db: Database, job: Job, holder: str, *, after_s: float | None, result: dict[str, Any] | None = None
) -> None:
    """Give a job back: due again after `after_s`, or next night (02:30 IST). Errors: Unavailable."""
    await db.value(_Q["finish_job"], job, holder, after_s, None if result is None else json.dumps(result))


async def request_reconciliation(db: Database, actor: str) -> None:
    """Ask the workers for a reconciliation now; audited. Errors: Unavailable."""
    await db.value(_Q["request_reconciliation"], actor)


@dataclass(frozen=True, slots=True)
class JobState:
    """Who does a job until when, when it is due next, and what it found last. `done_through`: settlements
    up to then are all recorded.
    """

    holder: str | None
    next_at: datetime | None
    done_through: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None


async def get_job(db: Database, job: Job) -> JobState:
    """A job as it stands. Errors: Unavailable."""
    row = await db.row(_Q["get_job"], job)
    assert row is not None
    busy = row["next_at"].year > 9000
    return JobState(
        row["holder"],
        None if busy else row["next_at"],
        row["done_through"],
        row["finished_at"],
        None if row["result"] is None else json.loads(row["result"]),
    )


@dataclass(frozen=True, slots=True)
class Window:
    """Settlements being fetched: from when to when, and the next page's cursor (None: the first)."""

    start: datetime
    end: datetime
    cursor: str | None


async def begin_window(db: Database, holder: str, until: datetime, *, overlap_s: float) -> Window | None:
    """Begin to fetch what was settled until `until`, or go on; None: the job is not ours. Errors: Unavailable."""
    row = await db.row(_Q["begin_window"], holder, until, overlap_s)
    return None if row is None else Window(*row.values())


@dataclass(frozen=True, slots=True)
class Told:
    """The gateway's totals of a settlement, paise; `net` reached the bank."""

    id: str
    utr: str | None
    settled_at: datetime | None
    gross: int | None
    fee: int | None
    fee_gst: int | None
    net: int | None


async def tell_settlements(db: Database, told: Sequence[Told]) -> int:
    """Keep what the gateway says of whole settlements; returns how many were news. Errors: Unavailable."""
    return int(await db.value(_Q["tell_settlements"], json.dumps([asdict(t) for t in told], default=_text)))


@dataclass(frozen=True, slots=True)
class DueSettlement:
    """A settlement that a webhook in the inbox tells of."""

    id: str
    inbox_id: UUID
    offset: int


async def commit_settlements(
    db: Database, head: Head, due: Sequence[DueSettlement], *, progress: Progress, bad: Sequence[Bad] = ()
) -> Emitted:
    """Have settlements fetched and booked, and move the offset, in one transaction. Errors: Fenced, Unavailable."""
    answer = await commit(
        db,
        _Q["commit_settlements"],
        head,
        *head_arguments(head, progress, bad),
        [d.id for d in due],
        [d.inbox_id for d in due],
        [d.offset for d in due],
    )
    if isinstance(answer, Emitted):
        return answer
    return emitted(answer, head.topic, head.partition, head.group)


@dataclass(frozen=True, slots=True)
class SettledLine:
    """One event of a settlement. Paise, signed: positive is paid to us; amount = bank + fee + fee_gst.

    `type` and `id` are the gateway's; what a line does not name is ''.
    """

    settlement: str
    utr: str | None
    type: str
    id: str
    order_id: str
    payment_id: str
    refund_id: str
    amount: int
    bank: int
    fee: int
    fee_gst: int
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Page:
    """What a page of lines did: recorded, with how many were new and known; or moved (not ours to record)."""

    outcome: Literal["recorded", "moved"]
    new: int
    known: int


async def commit_settled_lines(
    db: Database,
    holder: str,
    lines: Sequence[SettledLine],
    *,
    cursor: str | None,
    next_cursor: str | None,
    lease_s: float,
) -> Page:
    """Record and post one page and move the cursor, in one transaction. Errors: Unavailable."""
    row = await db.row(
        _Q["commit_settled_lines"],
        uuid7(),
        holder,
        lease_s,
        cursor,
        next_cursor,
        json.dumps([asdict(line) for line in lines], default=_text),
    )
    assert row is not None
    return Page(row["r_outcome"], row["r_new"], row["r_known"])


@dataclass(frozen=True, slots=True)
class GatewayEvent:
    """A payment, refund or dispute that happened at the gateway, settled or not; `amount` is paise."""

    type: str
    order_id: str
    payment_id: str
    refund_id: str
    amount: int


async def hear_events(db: Database, events: Sequence[GatewayEvent]) -> int:
    """Have what we have not heard of verified and looked at; returns how much that was. Errors: Unavailable."""
    return int(await db.value(_Q["hear_events"], _lines(events)))


async def book_unapplied(db: Database, since: datetime) -> int:
    """Post what settled without a sale, as its own account; returns how many postings. Errors: Unavailable."""
    return int(await db.value(_Q["book_unapplied"], uuid7(), since))


@dataclass(frozen=True, slots=True)
class Clearing:
    """gateway_clearing in paise: what the gateway owes us by the ledger, and what it is made of."""

    balance: int
    captured: int
    refunded: int
    settled: int
    unapplied: int


async def get_clearing(db: Database) -> Clearing:
    """What the gateway owes us. Errors: Unavailable."""
    row = await db.row(_Q["get_clearing"])
    assert row is not None
    return Clearing(*row.values())


async def violations(db: Database, since: datetime) -> list[dict[str, Any]]:
    """I16 over what settled since: rows that contradict it, none if the books are right. Errors: Unavailable."""
    return [
        {"invariant": name, **dict(row)}
        for name in _Q
        if name.startswith("i16_")
        for row in await db.rows(_Q[name], since)
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """What should be and what is, about one subject."""

    kind: str
    subject: str
    expected: dict[str, Any]
    actual: dict[str, Any]


async def find(db: Database, kind: str, since: datetime, *, age_s: float) -> list[Difference]:
    """Differences of one of `KINDS` in what came since, older than `age_s`. Errors: Unavailable."""
    return [_difference(kind, row) for row in await db.rows(_Q[f"find_{kind}"], since, age_s)]


async def compare_events(db: Database, events: Sequence[GatewayEvent]) -> list[Difference]:
    """Events of orders that are not ours, or of other amounts than ours. Errors: Unavailable."""
    return [_difference(row["kind"], row) for row in await db.rows(_Q["compare_events"], _lines(events))]


async def compare_wallets(db: Database, after: UUID, *, limit: int) -> tuple[list[Difference], UUID | None]:
    """Wallets behind `after` whose balances are not the sum of their entries; and the last one looked at,
    None when there are no more. Errors: Unavailable.
    """
    rows = await db.rows(_Q["compare_wallets"], after, limit)
    found = [_difference("wallet_balance", row) for row in rows if row["expected"] != row["actual"]]
    return found, UUID(rows[-1]["subject"]) if len(rows) == limit else None


async def open_cases(db: Database, found: Sequence[Difference], *, actor: str = "core") -> list[str]:
    """Make cases of differences: opened | reopened | changed | known, in the order given. Errors: Unavailable."""
    if not found:
        return []
    return cast(
        list[str],
        await db.value(
            _Q["open_cases"],
            [d.kind for d in found],
            [d.subject for d in found],
            [json.dumps(d.expected) for d in found],
            [json.dumps(d.actual) for d in found],
            actor,
        ),
    )


@dataclass(frozen=True, slots=True)
class Case:
    """A difference and its story. `history` grows only: {"event", "at", "actor", ...} each."""

    id: UUID
    kind: str
    subject: str
    expected: dict[str, Any]
    actual: dict[str, Any]
    state: Literal["open", "resolved"]
    accepted: bool
    owner: str | None
    history: list[dict[str, Any]]
    created_at: datetime
    resolved_at: datetime | None


async def get_case(db: Database, id: UUID) -> Case | None:
    """One case. Errors: Unavailable."""
    row = await db.row(_Q["get_case"], id)
    return None if row is None else _case(row)


async def get_cases(
    db: Database,
    *,
    limit: int,
    before: UUID | None = None,
    state: str | None = None,
    kind: str | None = None,
    owner: str | None = None,
) -> list[Case]:
    """Cases, the newest first; `before` is the id of a page's last one. Errors: Unavailable."""
    return [_case(row) for row in await db.rows(_Q["get_cases"], before, state, kind, owner, limit)]


async def assign_case(
    db: Database, id: UUID, owner: str, *, actor: str
) -> Literal["assigned", "exists", "resolved", "unknown"]:
    """Give an open case to somebody; audited. Errors: Unavailable."""
    return cast(
        Literal["assigned", "exists", "resolved", "unknown"],
        await db.value(_Q["assign_case"], id, owner, actor),
    )


async def resolve_case(
    db: Database, id: UUID, note: str, *, actor: str, accept: bool = False
) -> Literal["resolved", "exists", "note_required", "unknown"]:
    """Close a case with a reason; audited. It opens again if the difference is found again, unless
    `accept`ed with these very values. Errors: Unavailable.
    """
    return cast(
        Literal["resolved", "exists", "note_required", "unknown"],
        await db.value(_Q["resolve_case"], id, note, accept, actor),
    )


def _lines(events: Sequence[GatewayEvent]) -> str:
    return json.dumps([asdict(event) for event in events])


def _difference(kind: str, row: Row) -> Difference:
    return Difference(kind, row["subject"], json.loads(row["expected"]), json.loads(row["actual"]))


def _case(row: Row) -> Case:
    values = dict(row)
    for name in ("expected", "actual", "history"):
        values[name] = json.loads(values[name])
    return Case(**values)


def _text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form here")
