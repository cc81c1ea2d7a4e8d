"""Whose an object is. What belongs to another and what is not there are one answer, given after the same look-up."""

from typing import Any, Final, cast
from uuid import UUID

from sql import access
from sql.access import Owned
from sql.db import Database
from web.auth import Caller, Role
from web.problems import Problem, not_found

KINDS: Final = frozenset(
    {
        "user", "wallet", "hold", "payment", "refund", "invoice", "endpoint", "delivery", "approval", "publisher",
        "usage", "transaction",
    }
)  # fmt: skip
FIELDS: Final[dict[str, Owned]] = {
    "owner_id": "user",
    "user_id": "user",
    "wallet_id": "wallet",
    "payment_id": "payment",
}
"""Fields of bodies that name somebody's object."""


def principal_of(user: UUID) -> str:
    """The principal of a customer."""
    return f"user/{user}"


async def check_path(db: Database, caller: Caller, kind: str, path: dict[str, str]) -> None:
    """The object of the path is the caller's own. Errors: Problem 404, whether it is another's or nobody's."""
    match kind:
        case "usage":
            return  # found by the caller's own key, see web/resources/usage.py
        case "publisher":
            own = caller.role is Role.SERVICE and caller.principal == f"service/{path['name']}"
        case _:
            own = await _is_own(db, caller, kind, _uuid(path["id"]))
    if not own:
        raise not_found(kind)


async def check_body(db: Database, caller: Caller, body: Any) -> None:
    """Every object that a body names is the caller's own. Errors: Problem 404."""
    for field, kind in FIELDS.items():
        named = getattr(body, field, None)
        if named is not None and not await _is_own(db, caller, kind, named):
            raise not_found(kind)


async def check_query(db: Database, caller: Caller, query: Any) -> None:
    """What a list is narrowed to is the caller's own; one that could be everybody's must be narrowed.

    Errors: Problem 400 filter_required, 404.
    """
    fields = FIELDS.keys() & set(query.__struct_fields__)
    if fields and all(getattr(query, field) is None for field in fields):
        raise Problem(400, "filter_required", f"say whose: {' or '.join(sorted(fields))}")
    await check_body(db, caller, query)


async def _is_own(db: Database, caller: Caller, kind: str, id: UUID | None) -> bool:
    if id is None:
        return False
    if kind == "approval":
        return await access.requester_of(db, id) == caller.principal
    owner = await access.owner_of(db, cast(Owned, kind), id)
    return caller.role is Role.CUSTOMER and owner is not None and principal_of(owner) == caller.principal


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
