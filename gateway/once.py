"""Creating something at Cashfree exactly once, by its own id: send; if in doubt look; if there is nothing,
send again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from gateway.errors import (
    AlreadyExists,
    BadAnswer,
    ContentMismatch,
    GatewayError,
    NotFound,
    NotSent,
    OutcomeUnknown,
    Refused,
)
from gateway.wire import Malformed

_TRIES: Final = 3
_VISIBLE_AFTER_S: Final = 0.2

T = TypeVar("T")


def read_answer(endpoint: str, read: Callable[[], T]) -> T:
    """What a reader makes of an answer. Errors: BadAnswer, for the request may well have been carried out."""
    try:
        return read()
    except Malformed as error:
        raise BadAnswer(endpoint, str(error)) from error


async def create_once(
    endpoint: str,
    ours: str,
    send: Callable[[], Awaitable[T]],
    find: Callable[[], Awaitable[T]],
    same: Callable[[T], bool],
    *,
    again: bool = False,
) -> T:
    """Create what our id `ours` stands for, or find what it already made. `again` says that an earlier call
    ended in OutcomeUnknown: then it looks before it sends anything.

    A GET may lag behind the POST, so "not found" is followed by the same POST again, which the id makes
    safe.
    Errors: ContentMismatch if `same` denies what was found; OutcomeUnknown if it cannot be told whether
    it exists (call again with the same id); Refused and NotSent as they come from a first attempt.
    """
    unknown: GatewayError = OutcomeUnknown(endpoint, f"{ours} was not sent")
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_VISIBLE_AFTER_S * attempt * random.uniform(0.5, 1.5))
        elif again and (found := await _found(endpoint, ours, find)) is not None:
            return _checked(endpoint, ours, found, same)
        try:
            created = await send()
        except AlreadyExists:
            unknown = OutcomeUnknown(endpoint, f"{ours} exists but cannot be seen yet")
        except OutcomeUnknown as error:
            unknown = error
        except (NotSent, Refused) as error:
            # A refusal after a doubt proves nothing: the first request may be what stands in the way.
            if attempt == 0 and not again:
                raise
            unknown = OutcomeUnknown(endpoint, f"{ours}: {unknown.detail}; then {error.detail}")
        else:
            return _checked(endpoint, ours, created, same)
        try:
            found = await _found(endpoint, ours, find)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(endpoint, f"{unknown.detail}; then {error.detail}") from error
        if found is not None:
            return _checked(endpoint, ours, found, same)
    raise unknown


async def _found(endpoint: str, ours: str, find: Callable[[], Awaitable[T]]) -> T | None:
    """What exists under the id, None if nothing can be seen. Errors: OutcomeUnknown if we cannot look."""
    try:
        return await find()
    except NotFound:
        return None
    except (NotSent, OutcomeUnknown) as error:
        raise OutcomeUnknown(endpoint, f"{ours}: {error.detail}") from error


def _checked(endpoint: str, ours: str, found: T, same: Callable[[T], bool]) -> T:
    if not same(found):
        raise ContentMismatch(endpoint, f"{ours} stands for something else at Cashfree: {found!r}"[:300])
    return found
