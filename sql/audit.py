"""The audit log: who did what to which object, from where. Append-only, in hash chains; see migration 0025."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sql.db import Database
from sql.queries import load

_Q: Final = load("audit")
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A row. `role`, `source_ip` and `request_id` are None where nobody said; `link` is hex."""

    id: int
    chain: str
    seq: int
    actor: str
    role: str | None
    action: str
    object_kind: str
    object_id: str
    source_ip: str | None
    request_id: str | None
    detail: dict[str, Any]
    created_at: datetime
    link: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows: those below the id `before`, and of what else is not None; `since` ≤ time < `until`."""

    before: int | None = None
    actor: str | None = None
    action: str | None = None
    object_kind: str | None = None
    object_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of a chain as it was: what the chain had then it must have for ever. `link` is hex."""

    chain: str
    seq: int
    link: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Broken:
    """A place where the log is not what it was. `what`: changed | missing before | twice | cut off after | no head |
    not what was anchored.
    """

    chain: str
    seq: int
    id: int | None
    what: str


async def record(
    db: Database, actor: str, action: str, object_kind: str, object_id: str, detail: Mapping[str, Any]
) -> None:
    """Add a row; whose role and from where, `sql.acting` says. Errors: Unavailable."""
    await db.value(_Q["record_audit"], actor, action, object_kind, object_id, json.dumps(dict(detail)))


async def get_entries(db: Database, wanted: Wanted, *, limit: int) -> list[Entry]:
    """The newest first. Errors: Unavailable."""
    rows = await db.rows(
        _Q["get_entries"], wanted.before, wanted.actor, wanted.action, wanted.object_kind, wanted.object_id,
        wanted.since, wanted.until, limit,
    )  # fmt: skip
    return [Entry(**{**row, "detail": json.loads(row["detail"])}) for row in rows]


async def read_all(db: Database, wanted: Wanted) -> AsyncIterator[list[Entry]]:
    """Everything wanted, page by page, the newest first. Errors: Unavailable."""
    while page := await get_entries(db, wanted, limit=PAGE):
        yield page
        if len(page) < PAGE:
            return
        wanted = replace(wanted, before=page[-1].id)


async def anchor(db: Database) -> list[Anchor]:
    """Keep the heads that moved since the last time; those. Errors: Unavailable."""
    return [Anchor(*row.values()) for row in await db.rows(_Q["anchor_audit"])]


async def get_anchors(db: Database) -> list[Anchor]:
    """All that were kept, the oldest first. Errors: Unavailable."""
    return [Anchor(*row.values()) for row in await db.rows(_Q["get_anchors"])]


async def anchor_age_s(db: Database) -> float | None:
    """How long ago the heads were kept last; None: never. Errors: Unavailable."""
    age = await db.value(_Q["get_anchor_age_s"])
    return None if age is None else float(age)


async def find_broken(db: Database, anchors: Iterable[Anchor] = ()) -> list[Broken]:
    """What is wrong with the log, also when held against anchors that somebody else kept. Errors: Unavailable."""
    found = [Broken(*row.values()) for row in await db.rows(_Q["broken_audit"])]
    found += [
        Broken(kept.chain, kept.seq, None, "not what was anchored")
        for kept in anchors
        if await db.value(_Q["get_link"], kept.chain, kept.seq) != kept.link
    ]
    return found


async def count(db: Database) -> tuple[int, int]:
    """Rows and chains. Errors: Unavailable."""
    row = await db.row(_Q["count_entries"])
    assert row is not None
    return row["entries"], row["chains"]
