"""Small means for tests of the ledger: wallets with credits, plain debits, a partition that we own."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from sql import ledger, offsets
from sql.batches import Bad, Head, Progress
from sql.db import Database
from sql.ledger import Committed, LedgerCommand
from tests.sql.books import Connection

GROUP = "commdesk"
AT = datetime(2026, 11, 23, 6, 0, 30, tzinfo=UTC)


async def open_wallets(admin: Connection, count: int, community: UUID | None = None) -> list[UUID]:
    """So many empty wallets."""
    wallets = [uuid7() for _ in range(count)]
    await admin.execute(
        "INSERT INTO wallets (id, owner_id, community_id, request_hash) SELECT w, w, $2, '' FROM unnest($1::uuid[]) w",
        wallets,
        community,
    )
    return wallets


def command(wallet: UUID, kind: str = "spend", amount: int = 1, **fields: Any) -> LedgerCommand:
    """A command with an id and key of its own."""
    id_ = uuid7()
    fields = {"key": f"desk:{id_}", "request_hash": b"h", "occurred_at": AT, **fields}
    fields = {"source": "usage", "source_id": str(id_), "analytics_partition": 0, **fields}
    return LedgerCommand(id=id_, wallet_id=wallet, kind=kind, credits=amount, **fields)


@dataclass
class Partition:
    """A partition of a topic under our epoch, read one batch after another."""

    db: Database
    topic: str
    number: int
    epoch: int
    offset: int = 0

    @classmethod
    async def claim(cls, db: Database, topic: str = "wallet.debit", number: int = 0) -> "Partition":
        position = (await offsets.claim(db, topic, GROUP, "desk", [number]))[number]
        return cls(db, topic, number, position.epoch, position.next_offset)

    def head(self, records: int) -> Head:
        """The next batch's; `offset` moves only when it is committed."""
        end = self.offset + records
        return Head(self.topic, self.number, GROUP, self.epoch, self.offset, end, end - 1, b"digest")

    async def commit(
        self, commands: Sequence[LedgerCommand], progress: Progress | None = None, bad: Sequence[Bad] = ()
    ) -> Committed:
        """Commit the next batch."""
        dropped = progress.dropped if progress else 0
        head = self.head(len(commands) + len(bad) + dropped)
        committed = await ledger.commit_batch(self.db, head, commands, progress=progress, bad=bad)
        self.offset = head.to_offset
        return committed


async def fund(db: Database, wallets: Sequence[UUID], amount: int) -> None:
    """Grant every wallet so many credits, through the ledger."""
    credit = await Partition.claim(db, "wallet.credit", 7)
    committed = await credit.commit([command(wallet, "grant", amount) for wallet in wallets])
    assert {d.outcome for d in committed.decisions or ()} == {"posted"}
