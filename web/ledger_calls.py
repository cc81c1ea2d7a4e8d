"""A command of the ledger within a request: decided now, once per Idempotency-Key, or a clear problem."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sql import accounts, ledger
from sql.errors import Waiting
from sql.ids import uuid7
from sql.ledger import Decision, LedgerCommand
from web.calls import Call, made
from web.problems import Problem, key_conflict, not_found
from web.replies import Reply
from web.services import request_hash
from web.shapes import Answer

_REFUSALS: Final = {
    "insufficient_credits": (402, "the wallet has too few available credits"),
    "hold_not_open": (409, "the hold is captured or released already"),
    "hold_too_small": (422, "the hold is for fewer credits"),
}


class PostedAnswer(Answer, frozen=True):
    """A command that is in the ledger; `available_credits` is the balance right after it."""

    transaction_id: UUID
    wallet_id: UUID
    credits: int
    available_credits: int
    hold_id: UUID | None = None


async def decide(
    call: Call,
    kind: str,
    wallet_id: UUID,
    credits: int,
    *,
    said: tuple[object, ...],
    source: str,
    analytics_key: str,
    feature: str | None = None,
    community_id: UUID | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Decision:
    """Post one command. `said` is what the same key must repeat besides kind, wallet and credits.

    Errors: Problem 402 insufficient_credits, 404, 409 (key used for something else, hold not open, credits
    on their way), 422; a refusal stays one for its key.
    """
    key = call.key()
    digest = request_hash(kind, wallet_id, credits, *said)
    known = await accounts.get_known_command(call.services.db, key)
    if known is not None and known.request_hash != digest:
        raise key_conflict()
    if known is not None and known.refused is not None:
        raise refusal(known.refused)
    if known is None and await accounts.get_wallet(call.services.db, wallet_id) is None:
        raise not_found("wallet")
    command = LedgerCommand(
        id=uuid7(),
        wallet_id=wallet_id,
        kind=kind,
        credits=credits,
        key=key,
        request_hash=digest,
        occurred_at=datetime.now(UTC),
        source=source,
        source_id=key,
        analytics_partition=call.services.partition(analytics_key),
        feature=feature,
        community_id=community_id,
        extra=extra,
    )
    shard = call.services.chain(str(wallet_id))
    try:
        decision = await ledger.call(
            call.services.db, shard, command, expired_partition=call.services.partition("")
        )
    except Waiting as error:
        raise Problem(
            409,
            error.reason,
            "credits are on their way to this wallet; try again",
            headers={"Retry-After": "1"},
        ) from error
    match decision.outcome:
        case "posted":
            return decision
        case "exists" if decision.reason == "posted":
            return decision
        case "conflict":
            raise key_conflict()
        case "refused":
            raise refusal(decision.reason or "refused")
        case "exists":
            stored = await accounts.get_known_command(call.services.db, key)
            raise refusal(stored.refused if stored and stored.refused else "refused")
    raise Problem(422, decision.reason or decision.outcome)


def posted(decision: Decision, wallet_id: UUID, credits: int, *, hold_id: UUID | None = None) -> Reply:
    """The answer of a command that is in the ledger: 201 when it was posted now, 200 when it was before."""
    assert decision.transaction_id is not None
    assert decision.balance_credits is not None
    answer = PostedAnswer(
        transaction_id=decision.transaction_id,
        wallet_id=wallet_id,
        credits=credits,
        available_credits=decision.balance_credits,
        hold_id=hold_id,
    )
    return made(answer, new=decision.outcome == "posted")


def refusal(reason: str) -> Problem:
    """A stored refusal as the caller sees it."""
    status, detail = _REFUSALS.get(reason, (409, ""))
    return Problem(status, reason, detail)
