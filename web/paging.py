"""Pages of lists, in one shape: `cursor` and `limit` go in, `items` and `next` come out.

A cursor is opaque to callers. It says where in which list a page ended, and nothing else: filters and whose it is are asked
anew for every page, so a cursor opens nothing that its caller could not ask for.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Meta

from web.problems import Problem
from web.shapes import Limit, Query

Cursor = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9_-]{1,400}$(?!\n)", description="`next` of the page before; opaque"),
]
Seq = Annotated[int, Meta(ge=1, le=2**62)]
Plain = Annotated[str, Meta(min_length=1, max_length=200, pattern="^[^\\x00]*$")]
R = TypeVar("R")
T = TypeVar("T")
_encode: Final = msgspec.json.Encoder().encode


class Paged(Protocol):
    """What tells a page."""

    @property
    def cursor(self) -> str | None: ...
    @property
    def limit(self) -> int: ...


class PageQuery(Query, frozen=True, kw_only=True):
    """What every list takes."""

    cursor: Cursor | None = None
    limit: Limit = 50


def after(query: Paged, of: str, kind: type[T]) -> T | None:
    """Where the page before ended, read as `kind`; None: nowhere. Errors: Problem 400 invalid_cursor."""
    if query.cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(query.cursor + "=" * (-len(query.cursor) % 4))
        name, where = msgspec.json.decode(raw, type=tuple[str, Any])
        if name == of:
            return msgspec.convert(where, kind, strict=False)
    except (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError):
        pass
    raise Problem(400, "invalid_cursor", "a cursor is the `next` of a page of this very list")


def cut(
    found: Sequence[R], query: Paged, of: str, where: Callable[[R], object]
) -> tuple[Sequence[R], str | None]:
    """The page, and the next one's cursor. `found` has one row more than the page where there is a next one."""
    page = found[: query.limit]
    if len(found) <= len(page):
        return page, None
    return page, base64.urlsafe_b64encode(_encode((of, where(page[-1])))).rstrip(b"=").decode()
