"""API keys of services, and tokens called back."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from sql import access
from sql.ids import uuid7
from streams.events import Time
from web.access import new_key
from web.auth import Role, Scope
from web.calls import Call
from web.paging import PageQuery, after, cut
from web.problems import Problem, not_found
from web.replies import Reply
from web.shapes import Answer, Body, Nothing
from web.tokens import Name

DAY_S: Final = 86_400
ServiceName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,62}$(?!\n)")]


class KeysQuery(PageQuery, frozen=True):
    """A page of keys."""


class NewKey(Body, frozen=True):
    """POST /v1/api-keys. `name` is the service: keys of one name are one caller."""

    name: ServiceName
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=50)]
    expires_at: Time | None = None


class Rotation(Body, frozen=True):
    """POST /v1/api-keys/{id}/rotate. The old key goes on for `overlap_s` seconds."""

    overlap_s: Annotated[int, Meta(ge=0, le=30 * DAY_S)] = DAY_S


class KeyAnswer(Answer, frozen=True):
    """A key; its secret is nowhere. `last_used_at` is a minute coarse."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


class KeysPage(Answer, frozen=True):
    """The newest first."""

    items: list[KeyAnswer]
    next: str | None


class SecretAnswer(Answer, frozen=True):
    """A new key, shown this once: null to whoever repeats the Idempotency-Key."""

    api_key: str | None
    key: KeyAnswer


class Revocation(Body, frozen=True):
    """POST /v1/tokens/revoke: one token (`jti`), or all that a subject was given until `issued_before` (now)."""

    jti: Name | None = None
    subject: Name | None = None
    issued_before: Time | None = None


class RevokedAnswer(Answer, frozen=True):
    """From when on no process accepts them."""

    effective_at: datetime


async def list_keys(call: Call, query: KeysQuery) -> Reply:
    """GET /v1/api-keys."""
    before = after(query, "api_keys", UUID)
    found = await access.get_api_keys(call.services.db, before=before, limit=query.limit + 1)
    page, following = cut(found, query, "api_keys", lambda key: key.id)
    items = msgspec.convert(page, list[KeyAnswer], from_attributes=True)
    return Reply(KeysPage(items=items, next=following))


async def create_key(call: Call, body: NewKey) -> Reply:
    """POST /v1/api-keys. A key whose answer was lost is rotated."""
    if beyond := set(body.scopes) - call.services.access.scopes_of(Role.SERVICE):
        raise Problem(422, "scope_not_for_services", f"no service may have {', '.join(sorted(beyond))}")
    key, prefix, digest = new_key()
    id = uuid7()
    await access.create_api_key(
        call.services.db,
        id,
        body.name,
        prefix,
        digest,
        sorted(set(body.scopes)),
        expires_at=body.expires_at,
        actor=call.caller.principal,
    )
    return Reply(SecretAnswer(api_key=key, key=await _shown(call, id)), 201)


async def rotate_key(call: Call, body: Rotation) -> Reply:
    """POST /v1/api-keys/{id}/rotate. 409 api_key_over where the old one is."""
    old, id = call.uuid("id", "api_key"), uuid7()
    key, prefix, digest = new_key()
    done = await access.rotate_api_key(
        call.services.db, old, id, prefix, digest, overlap_s=body.overlap_s, actor=call.caller.principal
    )
    if not done:
        await _shown(call, old)
        raise Problem(409, "api_key_over", "this key has ended; make a new one")
    return Reply(SecretAnswer(api_key=key, key=await _shown(call, id)), 201)


async def revoke_key(call: Call, _: Nothing) -> Reply:
    """POST /v1/api-keys/{id}/revoke: once more changes nothing."""
    id = call.uuid("id", "api_key")
    if not await access.revoke_api_key(call.services.db, id, call.caller.principal):
        raise not_found("api_key")
    return Reply(await _shown(call, id))


async def revoke_tokens(call: Call, body: Revocation) -> Reply:
    """POST /v1/tokens/revoke."""
    if (body.jti is None) == (body.subject is None):
        raise Problem(422, "jti_or_subject", "say one of jti and subject")
    db, now, settings = call.services.db, datetime.now(UTC), call.services.settings
    if body.jti is not None:
        until = now + timedelta(seconds=settings.jwt_longest_s + settings.jwt_leeway_s)
        await access.revoke_token(db, body.jti, until=until, actor=call.caller.principal)
    elif body.subject is not None:
        await access.revoke_subject(
            db, body.subject, issued_before=body.issued_before or now, actor=call.caller.principal
        )
    return Reply(RevokedAnswer(effective_at=now + timedelta(seconds=settings.access_cache_s)))


async def _shown(call: Call, id: UUID) -> KeyAnswer:
    found = await access.get_api_key(call.services.db, id)
    if found is None:
        raise not_found("api_key")
    return msgspec.convert(found, KeyAnswer, from_attributes=True)
