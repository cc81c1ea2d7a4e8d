"""New ids: UUIDv7, so that rows lie in the order in which they were made.

All that we make come from here; a simulation puts its own source in place, so that a run can be repeated.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from uuid_utils import compat

_source: Callable[[], UUID] = compat.uuid7


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
