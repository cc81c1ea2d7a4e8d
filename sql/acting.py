"""Who acts, beside the name that a call gives: their role, and where the request came from, for the audit log.

Within the block every statement of ours runs in a transaction that says so first (`core.caller`), and the log's trigger
reads it there; four round trips instead of one, so this is for what people do, not for what machines do all day.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_said: Final[ContextVar[str | None]] = ContextVar("acting", default=None)


@contextmanager
def acting(role: str, *, source: str | None = None, request_id: str | None = None) -> Iterator[None]:
    """`source`: an IP address."""
    token = _said.set(json.dumps({"role": role, "source": source, "request_id": request_id}))
    try:
        yield
    finally:
        _said.reset(token)


def said() -> str | None:
    """What the next statement is to say; None: nothing."""
    return _said.get()
