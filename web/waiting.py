"""What may not be done on one person's word: kept as it was asked, answered 202 until another has decided."""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from sql import approvals
from sql.ids import uuid7
from web.auth import Caller
from web.problems import Problem, key_conflict
from web.services import Services, request_hash
from web.shapes import Answer


class WaitingAnswer(Answer, frozen=True):
    """202: asked, and not done. Send the same again, or GET the approval, to see what became of it."""

    approval_id: UUID
    state: Literal["pending"]
    summary: str
    expires_at: datetime


async def ask(
    services: Services,
    caller: Caller,
    *,
    key: str,
    action: str,
    path: Mapping[str, str],
    said: object,
    summary: str,
) -> WaitingAnswer | None:
    """None once another has approved exactly this request. `key` is scoped to the caller.

    Errors: Problem 403 approval_rejected, 409 (key used for something else, approval_expired).
    """
    body = msgspec.json.encode(said)
    outcome, id = await approvals.request_approval(
        services.db,
        uuid7(),
        key,
        request_hash("approval", action, sorted(path.items()), msgspec.to_builtins(said)),
        action=action,
        path=path,
        body=body.decode(),
        summary=summary,
        requested_by=caller.principal,
        requested_role=caller.role,
        expires_s=services.settings.approval_expires_s,
    )
    if outcome == "conflict":
        raise key_conflict()
    found = await approvals.get_approval(services.db, id)
    assert found is not None
    match found.state:
        case "approved":
            return None
        case "rejected":
            raise Problem(403, "approval_rejected", found.why or "a second person said no", approval_id=id)
        case "expired":
            raise Problem(409, "approval_expired", "nobody approved it in time; ask again", approval_id=id)
    return WaitingAnswer(approval_id=id, state="pending", summary=summary, expires_at=found.expires_at)
