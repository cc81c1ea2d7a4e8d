"""Who may call: API keys of services, tokens that are no longer good, and whose an object is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("access")

Owned = Literal[
    "user", "wallet", "hold", "payment", "refund", "invoice", "endpoint", "delivery", "transaction"
]


@dataclass(frozen=True, slots=True)
class LiveKey:
    """A key that may be used now. `secret_hash`: SHA-256 of the whole key."""

    id: UUID
    name: str
    secret_hash: bytes
    scopes: list[str]
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as people see it: its secret is known to nobody but its service."""

    id: UUID
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


async def create_api_key(
    db: Database,
    id: UUID,
    name: str,
    prefix: str,
    secret_hash: bytes,
    scopes: Sequence[str],
    *,
    expires_at: datetime | None,
    actor: str,
) -> None:
    """Let a service call; audited. Errors: Unavailable."""
    await db.value(_Q["create_api_key"], id, name, prefix, secret_hash, list(scopes), expires_at, actor)


async def rotate_api_key(
    db: Database, old: UUID, id: UUID, prefix: str, secret_hash: bytes, *, overlap_s: float, actor: str
) -> bool:
    """A new key of the same name and scopes; False if the old one is over. Errors: Unavailable."""
    return await db.value(_Q["rotate_api_key"], old, id, prefix, secret_hash, overlap_s, actor) is not None


async def revoke_api_key(db: Database, id: UUID, actor: str) -> bool:
    """End a key now; False if there is none. Errors: Unavailable."""
    return bool(await db.value(_Q["revoke_api_key"], id, actor))


async def touch_api_key(db: Database, id: UUID) -> None:
    """It was used; written once a minute. Errors: Unavailable."""
    await db.value(_Q["touch_api_key"], id)


async def get_live_key(db: Database, prefix: str) -> LiveKey | None:
    """The key with this public part, if it may be used. Errors: Unavailable."""
    row = await db.row(_Q["get_live_key"], prefix)
    return None if row is None else LiveKey(*row.values())


async def get_api_key(db: Database, id: UUID) -> ApiKey | None:
    """A key as it stands. Errors: Unavailable."""
    row = await db.row(_Q["get_api_key"], id)
    return None if row is None else ApiKey(*row.values())


async def get_api_keys(db: Database, *, before: UUID | None, limit: int) -> list[ApiKey]:
    """Keys, the newest first. Errors: Unavailable."""
    return [ApiKey(*row.values()) for row in await db.rows(_Q["get_api_keys"], before, limit)]


async def revoke_token(db: Database, jti: str, *, until: datetime, actor: str) -> None:
    """One token is no longer good; kept until it would have ended. Errors: Unavailable."""
    await db.value(_Q["revoke_token"], jti, until, actor)


async def revoke_subject(db: Database, subject: str, *, issued_before: datetime, actor: str) -> None:
    """Every token of a subject issued until then is no longer good. Errors: Unavailable."""
    await db.value(_Q["revoke_subject"], subject, issued_before, actor)


async def is_revoked(db: Database, jti: str, subject: str, issued_at: datetime) -> bool:
    """Whether a token is no longer good. Errors: Unavailable."""
    return bool(await db.value(_Q["is_revoked"], jti, subject, issued_at))


async def owner_of(db: Database, kind: Owned, id: UUID) -> UUID | None:
    """The user whose this object is; None if there is no such object. Errors: Unavailable."""
    found: UUID | None = await db.value(_Q[f"owner_of_{kind}"], id)
    return found


async def requester_of(db: Database, approval: UUID) -> str | None:
    """The principal who asked for an approval. Errors: Unavailable."""
    found: str | None = await db.value(_Q["requester_of_approval"], approval)
    return found
