"""Cases of reconciliation: differences that people decide, and a run when they ask for one."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import reconciliation
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, Nothing

Name = Annotated[str, Meta(min_length=1, max_length=100)]


class CasesQuery(PageQuery, frozen=True):
    """A page of cases; the rest filters."""

    state: Literal["open", "resolved"] | None = None
    kind: Annotated[str, Meta(pattern="^[a-z_]{1,64}$")] | None = None
    owner: Name | None = None


class CaseAnswer(Answer, frozen=True):
    """A difference and its story; `history` only grows."""

    id: UUID
    kind: str
    subject: str
    expected: dict[str, Any]
    actual: dict[str, Any]
    state: str
    accepted: bool
    owner: str | None
    history: list[dict[str, Any]]
    created_at: datetime
    resolved_at: datetime | None


class CasesPage(Answer, frozen=True):
    """The newest first."""

    items: list[CaseAnswer]
    next: str | None


class Assign(Body, frozen=True):
    """POST /v1/reconciliation/cases/{id}/assign."""

    owner: Name


class Resolve(Body, frozen=True):
    """POST /v1/reconciliation/cases/{id}/resolve. `accept`: the difference stays, and these very values are no news."""

    note: Annotated[str, Meta(min_length=1, max_length=2000)]
    accept: bool = False


class RunAnswer(Answer, frozen=True):
    """`done` is how far settlements are recorded, `result` what the last run found."""

    state: Literal["requested"]
    finished_at: datetime | None
    done_through: datetime | None
    result: dict[str, Any] | None


async def list_cases(call: Call, query: CasesQuery) -> Reply:
    """GET /v1/reconciliation/cases."""
    found = await reconciliation.get_cases(
        call.services.db,
        limit=query.limit + 1,
        before=after(query, "cases", UUID),
        state=query.state,
        kind=query.kind,
        owner=query.owner,
    )
    page, following = cut(found, query, "cases", lambda case: case.id)
    return Reply(
        CasesPage(items=msgspec.convert(page, list[CaseAnswer], from_attributes=True), next=following)
    )


async def assign(call: Call, body: Assign) -> Reply:
    """POST /v1/reconciliation/cases/{id}/assign."""
    id = call.uuid("id", "case")
    outcome = await reconciliation.assign_case(call.services.db, id, body.owner, actor=call.caller.principal)
    if outcome == "resolved":
        raise Problem(409, "case_resolved", "this case is resolved; it opens again if the difference recurs")
    return await _case(call, id)


async def resolve(call: Call, body: Resolve) -> Reply:
    """POST /v1/reconciliation/cases/{id}/resolve; once more changes nothing."""
    id = call.uuid("id", "case")
    outcome = await reconciliation.resolve_case(
        call.services.db, id, body.note, actor=call.caller.principal, accept=body.accept
    )
    if outcome == "note_required":
        raise Problem(422, "note_required", "say why this case is resolved")
    return await _case(call, id)


async def run(call: Call, body: Nothing) -> Reply:
    """POST /v1/reconciliation/run: a worker begins within seconds."""
    await reconciliation.request_reconciliation(call.services.db, call.caller.principal)
    job = await reconciliation.get_job(call.services.db, "reconcile")
    return Reply(
        RunAnswer(
            state="requested", finished_at=job.finished_at, done_through=job.done_through, result=job.result
        ),
        202,
    )


async def _case(call: Call, id: UUID) -> Reply:
    case = await reconciliation.get_case(call.services.db, id)
    if case is None:
        raise not_found("case")
    return Reply(msgspec.convert(case, CaseAnswer, from_attributes=True))
