"""Approvals: what waits for a second person, and their word. An approval does what was asked, as who asked it, at once."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import approvals
from sql.approvals import Approval
from web.auth import Caller, Role
from web.calls import ACTIONS, Asked, Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, NoQuery


class ApprovalsQuery(PageQuery, frozen=True):
    """A page of approvals, of one state if that is said."""

    state: Literal["pending", "approved", "rejected", "expired"] | None = None


class ApprovalAnswer(Answer, frozen=True):
    """A request and its decision. state: pending, approved, rejected, expired."""

    id: UUID
    action: str
    path: dict[str, str]
    body: dict[str, Any]
    summary: str
    requested_by: str
    state: str
    decided_by: str | None
    why: str | None
    created_at: datetime
    expires_at: datetime
    decided_at: datetime | None
    executed_at: datetime | None


class ApprovalsPage(Answer, frozen=True):
    """The newest first."""

    items: list[ApprovalAnswer]
    next: str | None


class Verdict(Body, frozen=True):
    """POST /v1/approvals/{id}/approve, …/reject."""

    why: Annotated[str, Meta(min_length=1, max_length=2000)] | None = None


class Approved(Answer, frozen=True):
    """An approval, and what the request answered when it was done."""

    approval: ApprovalAnswer
    status: int
    result: Any


async def list_approvals(call: Call, query: ApprovalsQuery) -> Reply:
    """GET /v1/approvals."""
    before = after(query, "approvals", UUID)
    found = await approvals.get_approvals(
        call.services.db, before=before, state=query.state, limit=query.limit + 1
    )
    page, following = cut(found, query, "approvals", lambda approval: approval.id)
    return Reply(ApprovalsPage(items=[_shown(approval) for approval in page], next=following))


async def get_approval(call: Call, _: NoQuery) -> Reply:
    """GET /v1/approvals/{id}."""
    return Reply(_shown(await _found(call)))


async def approve(call: Call, body: Verdict) -> Reply:
    """POST /v1/approvals/{id}/approve: done at once. If doing it failed in passing, approve again: nothing is done twice."""
    await _decide(call, "approved", body)
    approval = await _found(call)
    services, role = call.services, Role(approval.requested_role)
    requester = Caller(approval.requested_by, role, services.access.scopes_of(role))
    again = call.request.app[ACTIONS][approval.action].again
    assert again is not None, approval.action
    done = await again(
        Call(call.request, services, requester, Asked(approval.path, approval.key)),
        msgspec.json.encode(approval.body),
    )
    await approvals.approval_executed(services.db, approval.id)
    return Reply(Approved(approval=_shown(await _found(call)), status=done.status, result=done.body))


async def reject(call: Call, body: Verdict) -> Reply:
    """POST /v1/approvals/{id}/reject: it is never done."""
    await _decide(call, "rejected", body)
    return Reply(_shown(await _found(call)))


async def _decide(call: Call, verdict: approvals.Verdict, body: Verdict) -> None:
    """Errors: Problem 403 second_person_required, 404, 409 approval_over, approval_expired."""
    outcome = await approvals.decide_approval(
        call.services.db, call.uuid("id", "approval"), verdict, call.caller.principal, body.why
    )
    match outcome:
        case "unknown":
            raise not_found("approval")
        case "same_person":
            raise Problem(403, "second_person_required", "whoever asked cannot decide")
        case "expired":
            raise Problem(409, "approval_expired", "nobody decided in time; it must be asked for again")
        case "over":
            raise Problem(409, "approval_over", "it was decided otherwise")


async def _found(call: Call) -> Approval:
    approval = await approvals.get_approval(call.services.db, call.uuid("id", "approval"))
    if approval is None:
        raise not_found("approval")
    return approval


def _shown(approval: Approval) -> ApprovalAnswer:
    return msgspec.convert(approval, ApprovalAnswer, from_attributes=True)
