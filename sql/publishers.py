"""Publishers' secrets, and who paid: what the wallet agents look up."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sql.db import Database
from sql.queries import load

_Q: Final = load("publishers")


async def secrets(db: Database) -> dict[str, bytes]:
    """Signing secret of every enabled publisher, by name."""
    return {row["name"]: row["secret"] for row in await db.rows(_Q["get_secrets"])}


async def users_of_payments(db: Database, payments: Sequence[UUID]) -> dict[UUID, UUID]:
    """The user of each payment that exists."""
    return {row["id"]: row["user_id"] for row in await db.rows(_Q["users_of_payments"], list(payments))}
