"""Idempotency-Keys of writes that keep no key of their own: the same request again gets the same answer."""

from dataclasses import dataclass
from typing import Final, Literal, cast

from sql.db import Database
from sql.queries import load

_Q: Final = load("keys")


@dataclass(frozen=True, slots=True)
class Begun:
    """begun: do it, then finish or abandon | done: `status` and `body` are the answer | busy | conflict."""

    outcome: Literal["begun", "done", "busy", "conflict"]
    status: int | None
    body: bytes | None


async def begin_request(db: Database, key: str, request_hash: bytes, *, keep: bool, lease_s: float) -> Begun:
    """Take a key ('<principal>:<key>') for `lease_s`; `keep` for ever. Errors: Unavailable."""
    row = await db.row(_Q["begin_request"], key, request_hash, keep, lease_s)
    assert row is not None
    return Begun(
        cast(Literal["begun", "done", "busy", "conflict"], row["o_outcome"]), row["o_status"], row["o_body"]
    )


async def finish_request(db: Database, key: str, status: int, body: bytes) -> None:
    """What the key answers from now on. Errors: Unavailable."""
    await db.value(_Q["finish_request"], key, status, body)


async def abandon_request(db: Database, key: str) -> None:
    """Nothing became of it: it may be tried again at once. Errors: Unavailable."""
    await db.value(_Q["abandon_request"], key)
