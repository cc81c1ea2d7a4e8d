"""Webhook endpoints of an account: where its events are sent, under which secrets, and what became of each."""

import secrets
from datetime import datetime
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from domain.outgoing import EVENT_KINDS, MAX_URL, SECRET_BYTES, BadUrl, check_url, show_secret
from sql import outgoing
from sql.ids import uuid7
from web.calls import Call, made
from web.paging import PageQuery, Seq, after, cut
from web.problems import Problem, key_conflict, not_found
from web.replies import Reply
from web.services import request_hash
from web.shapes import Answer, Body, NoQuery, Nothing

MOST: Final = 20
"""Endpoints of an account."""
REPLAY_LIMIT: Final = 10_000
_MAX_OVERLAP_S: Final = 7 * 86_400

HookUrl = Annotated[str, Meta(min_length=1, max_length=MAX_URL, description="https, on port 443 or 8443")]
Description = Annotated[str, Meta(max_length=200)]
Kinds = Annotated[list[str], Meta(min_length=1, max_length=len(EVENT_KINDS))]
State = Literal["enabled", "disabled"]
DeliveryState = Literal["pending", "delivered", "failed"]


class NewEndpoint(Body, frozen=True):
    """POST /v1/webhook-endpoints. Without `kinds` it gets every kind of event, also those to come."""

    owner_id: UUID
    url: HookUrl
    description: Description = ""
    kinds: Kinds | None = None


class EndpointChange(Body, frozen=True):
    """POST /v1/webhook-endpoints/{id}. What is not said stays; `every_kind` takes the choice of kinds back."""

    url: HookUrl | None = None
    description: Description | None = None
    kinds: Kinds | None = None
    every_kind: bool = False


class SecretRotation(Body, frozen=True):
    """POST /v1/webhook-endpoints/{id}/rotate-secret. The old secret signs along for `overlap_s` seconds."""

    overlap_s: Annotated[int, Meta(ge=0, le=_MAX_OVERLAP_S)] = 86_400


class ReplayRange(Body, frozen=True):
    """POST /v1/webhook-endpoints/{id}/replay: events with these numbers, or only those that were given up."""

    from_sequence: Annotated[int, Meta(ge=1)]
    to_sequence: Annotated[int, Meta(ge=1)] | None = None
    only_failed: bool = False


class EndpointsQuery(PageQuery, frozen=True):
    """A page of endpoints."""


class DeliveriesQuery(PageQuery, frozen=True):
    """A page of deliveries, of one state if that is said."""

    state: DeliveryState | None = None


class EndpointAnswer(Answer, frozen=True):
    """An endpoint. `kinds` null: all. `why` it is disabled: owner, failing (for days), gone (it answered 410).

    `last_sequence` is the number of the newest event that it was to get; `failures` those in a row, `error` the last one's
    code; until `blocked_until` nothing is sent.
    """

    id: UUID
    owner_id: UUID
    url: str
    description: str
    kinds: list[str] | None
    state: State
    why: str | None
    last_sequence: int
    failures: int
    failing_since: datetime | None
    blocked_until: datetime | None
    delivered_at: datetime | None
    error: str | None
    created_at: datetime
    updated_at: datetime


class EndpointsPage(Answer, frozen=True):
    """The oldest first."""

    items: list[EndpointAnswer]
    next: str | None


class EndpointSecretAnswer(Answer, frozen=True):
    """An endpoint and the secret that signs from now on; null to whoever repeats the key of a rotation."""

    secret: str | None
    endpoint: EndpointAnswer


class DeletedEndpoint(Answer, frozen=True):
    """It gets nothing any more."""

    id: UUID
    deleted: bool


class DeliveryAnswer(Answer, frozen=True):
    """An event on its way to an endpoint. `status` is the last answer's, `error` the last failure's code."""

    id: UUID
    endpoint_id: UUID
    event_id: UUID
    kind: str
    sequence: int
    previous_sequence: int
    state: DeliveryState
    attempts: int
    next_at: datetime | None
    status: int | None
    error: str | None
    took_ms: int | None
    delivered_at: datetime | None
    created_at: datetime


class DeliveriesPage(Answer, frozen=True):
    """The highest number first."""

    items: list[DeliveryAnswer]
    next: str | None


class ReplayAnswer(Answer, frozen=True):
    """How many are sent again; `next` is where to go on if there may be more."""

    replayed: int
    next: int | None


async def create_endpoint(call: Call, body: NewEndpoint) -> Reply:
    """POST /v1/webhook-endpoints. The same Idempotency-Key again gives the same endpoint and its secret."""
    key = call.key()
    _check(call, body.url, body.kinds)
    kinds = None if body.kinds is None else sorted(set(body.kinds))
    outcome, id, secret = await outgoing.create_endpoint(
        call.services.db,
        uuid7(),
        key,
        request_hash("endpoint", body.owner_id, body.url, body.description, kinds),
        owner=body.owner_id,
        url=body.url,
        description=body.description,
        kinds=kinds,
        secret=secrets.token_bytes(SECRET_BYTES),
        most=MOST,
        actor=call.caller.principal,
    )
    if outcome == "unknown_user":
        raise not_found("user")
    if outcome == "too_many":
        raise Problem(422, "too_many_endpoints", f"an account has at most {MOST} endpoints")
    if outcome == "conflict" or id is None:
        raise key_conflict()
    if secret is None:
        raise not_found("endpoint")
    shown = EndpointSecretAnswer(secret=show_secret(secret), endpoint=await _shown(call, id))
    return made(shown, new=outcome == "created")


async def list_endpoints(call: Call, query: EndpointsQuery) -> Reply:
    """GET /v1/users/{id}/webhook-endpoints."""
    last = after(query, "endpoints", UUID)
    found = await outgoing.get_endpoints(
        call.services.db, call.uuid("id", "user"), after=last, limit=query.limit + 1
    )
    page, following = cut(found, query, "endpoints", lambda endpoint: endpoint.id)
    items = msgspec.convert(page, list[EndpointAnswer], from_attributes=True)
    return Reply(EndpointsPage(items=items, next=following))


async def get_endpoint(call: Call, _: NoQuery) -> Reply:
    """GET /v1/webhook-endpoints/{id}."""
    return Reply(await _shown(call, _id(call)))


async def update_endpoint(call: Call, body: EndpointChange) -> Reply:
    """POST /v1/webhook-endpoints/{id}."""
    if body.every_kind and body.kinds is not None:
        raise Problem(422, "kinds_or_every_kind", "say one of kinds and every_kind")
    _check(call, body.url, body.kinds)
    done = await outgoing.update_endpoint(
        call.services.db,
        _id(call),
        url=body.url,
        description=body.description,
        kinds=None if body.kinds is None else sorted(set(body.kinds)),
        every_kind=body.every_kind,
        actor=call.caller.principal,
    )
    if not done:
        raise not_found("endpoint")
    return Reply(await _shown(call, _id(call)))


async def rotate_secret(call: Call, body: SecretRotation) -> Reply:
    """POST /v1/webhook-endpoints/{id}/rotate-secret."""
    secret = secrets.token_bytes(SECRET_BYTES)
    done = await outgoing.rotate_secret(
        call.services.db, _id(call), secret, overlap_s=body.overlap_s, actor=call.caller.principal
    )
    if not done:
        raise not_found("endpoint")
    return Reply(EndpointSecretAnswer(secret=show_secret(secret), endpoint=await _shown(call, _id(call))))


async def enable(call: Call, _: Nothing) -> Reply:
    """POST /v1/webhook-endpoints/{id}/enable: what waited is sent now."""
    await _switch(call, "enabled")
    return Reply(await _shown(call, _id(call)))


async def disable(call: Call, _: Nothing) -> Reply:
    """POST /v1/webhook-endpoints/{id}/disable: events go on being numbered, and wait."""
    await _switch(call, "disabled")
    return Reply(await _shown(call, _id(call)))


async def delete(call: Call, _: Nothing) -> Reply:
    """POST /v1/webhook-endpoints/{id}/delete: for good."""
    await _switch(call, "deleted")
    return Reply(DeletedEndpoint(id=_id(call), deleted=True))


async def list_deliveries(call: Call, query: DeliveriesQuery) -> Reply:
    """GET /v1/webhook-endpoints/{id}/deliveries."""
    id, db = _id(call), call.services.db
    found = await outgoing.get_deliveries(
        db, id, before=after(query, "deliveries", Seq), state=query.state, limit=query.limit + 1
    )
    if not found:
        await _shown(call, id)
    page, following = cut(found, query, "deliveries", lambda delivery: delivery.sequence)
    items = msgspec.convert(page, list[DeliveryAnswer], from_attributes=True)
    return Reply(DeliveriesPage(items=items, next=following))


async def get_delivery(call: Call, _: NoQuery) -> Reply:
    """GET /v1/webhook-deliveries/{id}."""
    return Reply(msgspec.convert(await _delivery(call), DeliveryAnswer, from_attributes=True))


async def replay_delivery(call: Call, _: Nothing) -> Reply:
    """POST /v1/webhook-deliveries/{id}/replay: sent again, under the same webhook-id. One that waits stays as it is."""
    found = await _delivery(call)
    await _replay(call, found.endpoint_id, found.sequence, found.sequence)
    return Reply(msgspec.convert(await _delivery(call), DeliveryAnswer, from_attributes=True))


async def replay_range(call: Call, body: ReplayRange) -> Reply:
    """POST /v1/webhook-endpoints/{id}/replay: the lowest numbers first, at most 10,000 a call."""
    last = body.to_sequence if body.to_sequence is not None else 2**62
    if last < body.from_sequence:
        raise Problem(422, "empty_range", "to_sequence is below from_sequence")
    replayed, highest = await _replay(call, _id(call), body.from_sequence, last, only_failed=body.only_failed)
    full = replayed == REPLAY_LIMIT and highest is not None
    return Reply(ReplayAnswer(replayed=replayed, next=highest + 1 if full and highest is not None else None))


def _id(call: Call) -> UUID:
    return call.uuid("id", "endpoint")


def _check(call: Call, url: str | None, kinds: list[str] | None) -> None:
    """Errors: Problem 422. What a name means is looked up at each attempt."""
    if unknown := set(kinds or ()) - EVENT_KINDS.keys():
        raise Problem(422, "unknown_kind", f"there is no kind {min(unknown)[:64]!r}")
    if url is None:
        return
    try:
        check_url(url, local=call.services.settings.development)
    except BadUrl as error:
        raise Problem(422, "url_refused", str(error)) from error


async def _switch(call: Call, state: Literal["enabled", "disabled", "deleted"]) -> None:
    if not await outgoing.switch(call.services.db, _id(call), state, actor=call.caller.principal):
        raise not_found("endpoint")


async def _replay(
    call: Call, endpoint: UUID, first: int, last: int, *, only_failed: bool = False
) -> tuple[int, int | None]:
    found = await outgoing.replay(
        call.services.db,
        endpoint,
        from_sequence=first,
        to_sequence=last,
        only_failed=only_failed,
        limit=REPLAY_LIMIT,
        actor=call.caller.principal,
    )
    if found is None:
        raise not_found("endpoint")
    return found


async def _delivery(call: Call) -> outgoing.Delivery:
    found = await outgoing.get_delivery(call.services.db, call.uuid("id", "delivery"))
    if found is None:
        raise not_found("delivery")
    return found


async def _shown(call: Call, id: UUID) -> EndpointAnswer:
    found = await outgoing.get_endpoint(call.services.db, id)
    if found is None:
        raise not_found("endpoint")
    return msgspec.convert(found, EndpointAnswer, from_attributes=True)
