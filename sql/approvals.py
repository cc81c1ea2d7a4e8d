"""Requests that wait for a second person's word, kept whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal
from uuid import UUID

from sql.db import Database, Row
from sql.queries import load

_Q: Final = load("approvals")

Verdict = Literal["approved", "rejected"]


@dataclass(frozen=True, slots=True)
class Approval:
    """A request, and what was decided about it. state: pending, approved, rejected, expired.

    `action` is its route, `path` and `body` what it said, `key` its scoped Idempotency-Key.
    """

    id: UUID
    key: str
    action: str
    path: dict[str, str]
    body: dict[str, Any]
    summary: str
    requested_by: str
    requested_role: str
    state: str
    decided_by: str | None
    why: str | None
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    executed_at: datetime | None


async def request_approval(
    db: Database,
    id: UUID,
    key: str,
    request_hash: bytes,
    *,
    action: str,
    path: Mapping[str, str],
    body: str,
    summary: str,
    requested_by: str,
    requested_role: str,
    expires_s: float,
) -> tuple[str, UUID]:
    """Outcome created | exists | conflict, and the approval of this key. `body` is JSON. Errors: Unavailable."""
    row = await db.row(
        _Q["request_approval"],
        id,
        key,
        request_hash,
        action,
        json.dumps(dict(path)),
        body,
        summary,
        requested_by,
        requested_role,
        expires_s,
    )
    assert row is not None
    return row["o_outcome"], row["o_id"]


async def decide_approval(db: Database, id: UUID, verdict: Verdict, by: str, why: str | None) -> str:
    """Outcome decided | same_person | over | expired | unknown. Errors: Unavailable."""
    return str(await db.value(_Q["decide_approval"], id, verdict, by, why))


async def approval_executed(db: Database, id: UUID) -> None:
    """What was approved is done. Errors: Unavailable."""
    await db.value(_Q["approval_executed"], id)


async def get_approval(db: Database, id: UUID) -> Approval | None:
    """An approval as it stands. Errors: Unavailable."""
    row = await db.row(_Q["get_approval"], id)
    return None if row is None else _approval(row)


async def get_approvals(
    db: Database, *, before: UUID | None, state: str | None, limit: int
) -> list[Approval]:
    """Approvals, the newest first. Errors: Unavailable."""
    return [_approval(row) for row in await db.rows(_Q["get_approvals"], before, state, limit)]


def _approval(row: Row) -> Approval:
    said = dict(row)
    said["path"], said["body"] = json.loads(said["path"]), json.loads(said["body"])
    return Approval(key=said.pop("idempotency_key"), **said)
