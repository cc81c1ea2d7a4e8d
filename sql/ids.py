"""New ids: UUIDv7, so that rows lie in the order in which they were made.

All that we make come from here; a simulation puts its own source in place, so that a run can be repeated.
They are the driver's UUIDs: equal to the standard library's, of its type, read and sent in a tenth of its time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import uuid_utils
from asyncpg.pgproto import pgproto


def uuid_of(text: str) -> UUID:
    """The UUID of its text. Errors: ValueError."""
    return pgproto.UUID(text)


def _new() -> UUID:
    return pgproto.UUID(uuid_utils.uuid7().bytes)


_source: Callable[[], UUID] = _new


def uuid7() -> UUID:
    """The next id."""
    return _source()


@contextmanager
def drawn_from(source: Callable[[], UUID]) -> Iterator[None]:
    """The block takes its ids from `source`."""
    global _source
    before, _source = _source, source
    try:
        yield
    finally:
        _source = before
