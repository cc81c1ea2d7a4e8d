"""Writes that keep no key of their own, done once per Idempotency-Key: the same request again gets the same answer.

Only what was done is kept. A refusal, a fault, or 202 while a second person decides leaves the key free, since the same
request may end otherwise later. A process that dies meanwhile keeps the key for `LEASE_S`.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from sql import keys
from sql.db import Database
from sql.errors import Unavailable
from web.problems import Problem, key_conflict
from web.replies import Reply
from web.services import request_hash

LEASE_S: Final = 60.0
REPLAYED: Final = {"Idempotent-Replayed": "true"}
"""On an answer that was given before."""


async def once(
    db: Database,
    key: str,
    action: tuple[Any, ...],
    do: Callable[[], Awaitable[Reply]],
    *,
    keep: bool,
    secret: str | None = None,
) -> Reply:
    """`do`, or what it answered before. `action` is all that the key must repeat; `secret` a field that is not kept.

    Errors: Problem 409 idempotency_key_conflict, idempotency_key_in_use; what `do` raises.
    """
    begun = await keys.begin_request(db, key, request_hash("request", *action), keep=keep, lease_s=LEASE_S)
    match begun.outcome:
        case "conflict":
            raise key_conflict()
        case "busy":
            raise Problem(
                409,
                "idempotency_key_in_use",
                "the first request with this key is being done; try again",
                headers={"Retry-After": "1"},
            )
        case "done":
            assert begun.status is not None
            return Reply(msgspec.Raw(begun.body or b"null"), begun.status, REPLAYED)
    try:
        reply = await do()
    except BaseException:
        with suppress(Unavailable):
            await keys.abandon_request(db, key)
        raise
    if reply.status == 202:
        await keys.abandon_request(db, key)
    else:
        kept: Any = reply.body if secret is None else msgspec.structs.replace(reply.body, **{secret: None})  # type: ignore[type-var]
        await keys.finish_request(db, key, reply.status, msgspec.json.encode(kept))
    return reply
