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


async def register(
    db: Database,
    name: str,
    secret: bytes,
    *,
    features: Sequence[str] | None = None,
    communities: Sequence[UUID] | None = None,
) -> None:
    """Let a service publish, or change its secret (32 bytes or more) and scope; None means any."""
    await db.value(_Q["register_publisher"], name, secret, features, communities)


async def watermarks(db: Database, publisher: str, session: str, topic: str) -> dict[int, int]:
    """Per partition, the sequence number up to which everything of this session is decided."""
    rows = await db.rows(_Q["get_watermarks"], publisher, UUID(session), topic)
    return {row["partition"]: row["covered_seq"] for row in rows}
