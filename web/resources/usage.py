"""Usage: services report what was used; the debits follow on wallet.debit and their outcomes are asked for here."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Raw

from domain.times import clamp_occurred_at
from sql import usage
from sql.ids import uuid7
from sql.usage import UNDECIDED, NewUsage, UsageOutcome
from streams.events import Credits, Feature, Quantity, Reference, Time
from streams.telemetry import tracing
from web import strict
from web.calls import Call, read_query
from web.problems import not_found
from web.replies import Reply
from web.shapes import Answer, Body, Query, WaitMs
from web.strict import Decoder, Malformed

_FIRST_POLL_S: Final = 0.02
_LONGEST_POLL_S: Final = 0.4
_sorted: Final = msgspec.json.Encoder(order="sorted").encode
_INVALID: Final = {"unknown_wallet": "there is no such wallet"}


class UsageItem(Body, frozen=True):
    """One usage event. `id` is the caller's own and its idempotency key, for ever."""

    id: Reference
    wallet_id: UUID
    feature: Feature
    credits: Credits
    quantity: Quantity = 1
    community_id: UUID | None = None
    occurred_at: Time | None = None
    metadata: dict[str, Any] | None = None


_ITEM: Final = Decoder(UsageItem)


class UsageBody(Body, frozen=True):
    """POST /v1/usage: items are read one by one, so that a bad one does not undo its neighbours."""

    events: Annotated[list[Raw], Meta(min_length=1, max_length=1000)]


class UsageQuery(Query, frozen=True):
    """`wait` is how many milliseconds to wait for the debits' outcomes."""

    wait: WaitMs = 0


class OutcomeAnswer(Answer, frozen=True):
    """What became of an event: posted, refused, quarantined; parked and pending are not decided yet; dead
    needs a person.
    """

    outcome: str
    reason: str | None
    transaction_id: UUID | None
    balance_credits: int | None


class UsageResult(Answer, frozen=True, omit_defaults=True):
    """accepted, replayed (known already), conflict (the id stands for another event), invalid."""

    index: int
    id: str | None
    status: Literal["accepted", "replayed", "conflict", "invalid"]
    code: str | None = None
    reason: str | None = None
    outcome: OutcomeAnswer | None = None


class UsageResults(Answer, frozen=True):
    """One result per event, in the order sent."""

    accepted: int
    replayed: int
    conflict: int
    invalid: int
    results: list[UsageResult]


class UsageAnswer(Answer, frozen=True):
    """A stored event and what became of it."""

    id: str
    wallet_id: UUID
    feature: str
    quantity: int
    credits: int
    occurred_at: datetime
    recorded_at: datetime
    outcome: OutcomeAnswer


@dataclass(frozen=True, slots=True)
class Refused:
    """An item that cannot be stored; `id` is the caller's if it could be read."""

    id: str | None
    code: str
    reason: str


async def post_usage(call: Call, body: UsageBody) -> Reply:
    """POST /v1/usage: all good items are committed in one statement before this answers."""
    now = datetime.now(UTC)
    read = [_read(bytes(raw), now) for raw in body.events]
    events = [item for item in read if isinstance(item, NewUsage)]
    principal = call.caller.principal
    receipts = iter(
        await usage.insert_usage(call.services.db, principal, events, traceparent=tracing.current())
    )
    results = []
    for index, item in enumerate(read):
        if isinstance(item, Refused):
            results.append(
                UsageResult(index=index, id=item.id, status="invalid", code=item.code, reason=item.reason)
            )
            continue
        receipt = next(receipts)
        if receipt == "unknown_wallet":
            reason = _INVALID[receipt]
            results.append(
                UsageResult(index=index, id=item.event_id, status="invalid", code=receipt, reason=reason)
            )
        elif receipt == "conflict":
            reason = "this id stands for another event"
            results.append(
                UsageResult(index=index, id=item.event_id, status="conflict", code=receipt, reason=reason)
            )
        else:
            results.append(UsageResult(index=index, id=item.event_id, status=receipt))
    wait_ms = read_query(call.request, UsageQuery).wait
    if wait_ms:
        results = await _with_outcomes(call, results, wait_ms)
    counts = Counter(str(result.status) for result in results)
    for status, count in counts.items():
        call.services.metrics.usage.labels(status).inc(count)
    answer = UsageResults(
        accepted=counts["accepted"],
        replayed=counts["replayed"],
        conflict=counts["conflict"],
        invalid=counts["invalid"],
        results=results,
    )
    return Reply(answer)


async def get_usage(call: Call, query: UsageQuery) -> Reply:
    """GET /v1/usage/{id}: what became of an event of ours; `?wait=ms` waits for its outcome."""
    key = f"{call.caller.principal}:{call.request.match_info['id']}"
    found = (await _outcomes(call, [key], query.wait)).get(key) if "\x00" not in key else None
    if found is None:
        raise not_found("usage")
    return Reply(
        UsageAnswer(
            id=found.event_id,
            wallet_id=found.wallet_id,
            feature=found.feature,
            quantity=found.quantity,
            credits=found.credits,
            occurred_at=found.occurred_at,
            recorded_at=found.recorded_at,
            outcome=_answer(found),
        )
    )


def _read(raw: bytes, now: datetime) -> NewUsage | Refused:
    """One item, strictly; its time clamped once, here."""
    try:
        item = _ITEM.decode(raw)
        metadata = strict.check_metadata(item.metadata)
    except Malformed as error:
        return Refused(_readable_id(raw), error.code, error.detail)
    return NewUsage(
        id=uuid7(),
        event_id=item.id,
        wallet_id=item.wallet_id,
        feature=item.feature,
        quantity=item.quantity,
        credits=item.credits,
        community_id=item.community_id,
        metadata=metadata,
        request_hash=_hash(item),
        occurred_at=clamp_occurred_at(item.occurred_at, now),
    )


def _hash(item: UsageItem) -> bytes:
    """What the same id must repeat: everything but when it happened."""
    said = (item.wallet_id, item.feature, item.credits, item.quantity, item.community_id, item.metadata)
    return hashlib.blake2b(_sorted(said), digest_size=16).digest()


def _readable_id(raw: bytes) -> str | None:
    """The id of a bad item, to name it by, if it has a text there."""
    try:
        said: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    name = said.get("id") if isinstance(said, dict) else None
    return name[:128] if isinstance(name, str) and name.isprintable() else None


async def _with_outcomes(call: Call, results: Sequence[UsageResult], wait_ms: int) -> list[UsageResult]:
    known = [f"{call.caller.principal}:{r.id}" for r in results if r.status in ("accepted", "replayed")]
    found = await _outcomes(call, known, wait_ms)
    return [
        msgspec.structs.replace(result, outcome=_answer(outcome))
        if result.status in ("accepted", "replayed")
        and (outcome := found.get(f"{call.caller.principal}:{result.id}")) is not None
        else result
        for result in results
    ]


async def _outcomes(call: Call, keys: Sequence[str], wait_ms: int) -> dict[str, UsageOutcome]:
    """Outcomes by key, asked for with growing pauses until all are decided or the time is up."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(wait_ms, call.services.settings.web_max_wait_ms) / 1000
    found: dict[str, UsageOutcome] = {}
    open_keys = list(dict.fromkeys(keys))
    pause_s = _FIRST_POLL_S
    while open_keys:
        found |= await usage.get_outcomes(call.services.db, open_keys)
        open_keys = [key for key in open_keys if key in found and found[key].outcome in UNDECIDED]
        left_s = deadline - loop.time()
        if left_s <= 0 or not open_keys:
            break
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(_LONGEST_POLL_S, pause_s * 1.6)
    return found


def _answer(found: UsageOutcome) -> OutcomeAnswer:
    return msgspec.convert(found, OutcomeAnswer, from_attributes=True)
