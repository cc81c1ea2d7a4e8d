"""Commands into the ledger: a stream's batch, a synchronous call, a retry. All go through `commit_batch`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from sql.batches import Bad, Emitted, Head, Progress, commit, commit_apart, emitted
from sql.db import Database, Row
from sql.heads import head_arguments
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("ledger")


class LedgerCommand(Struct, frozen=True):
    """One command; `domain.commands.Command` says what each kind means.

    `key` is '<principal>:<key>' ('core:' for our own), `request_hash` what the same key must repeat, `offset`
    the record it came in, `publisher` the service whose scope bounds it (None: the core), `analytics_partition`
    where its billing delta goes, `extra` the kind's own fields (see apply_command).
    """

    id: UUID
    wallet_id: UUID
    kind: str
    credits: int
    key: str
    request_hash: bytes
    occurred_at: datetime
    source: str
    source_id: str
    analytics_partition: int
    feature: str | None = None
    community_id: UUID | None = None
    metadata: str | None = None
    publisher: str | None = None
    offset: int = 0
    extra: Mapping[str, Any] | None = None


class Decision(Struct, frozen=True):
    """What became of one command: posted | refused | exists | conflict | parked | quarantined.

    `balance_credits` is the wallet's available balance right after it (of the original, if it exists).
    """

    outcome: str
    reason: str | None
    transaction_id: UUID | None
    balance_credits: int | None


@dataclass(frozen=True, slots=True)
class Committed:
    """A batch that is in the ledger. `decisions` is None if it was found committed already."""

    decisions: list[Decision] | None
    emitted: Emitted


@dataclass(frozen=True, slots=True)
class Retry:
    """A parked item that its partition's owner decides anew; `decide` ends its waiting for pending credits."""

    id: int
    attempt: int
    decide: bool


async def commit_batch(
    db: Database,
    head: Head,
    commands: Sequence[LedgerCommand],
    *,
    progress: Progress | None = None,
    bad: Sequence[Bad] = (),
    expired_partition: int = 0,
) -> Committed:
    """Commit a stream's batch: exactly once, whatever happens to the answer. Errors: Fenced, Unavailable."""
    args = _arguments(
        *head_arguments(head, progress or Progress(), bad), None, None, [],
        commands=commands, expired_partition=expired_partition,
    )  # fmt: skip
    answer = await commit(db, _Q["commit_batch"], head, *args)
    if isinstance(answer, Emitted):
        return Committed(None, answer)
    return Committed(_decisions(answer), emitted(answer, head.topic, head.partition, head.group))


async def call(db: Database, shard: int, command: LedgerCommand, *, expired_partition: int = 0) -> Decision:
    """Decide one command now, on the named chain `api/<shard>`; what it emits is published by the relay.

    Send it again with the same key after an unknown outcome. Errors: Waiting, Unavailable.
    """
    args = _arguments(
        uuid7(), "api", shard, "core", None, None, None, None, None, None, None, None, None, [True],
        commands=[command], expired_partition=expired_partition,
    )  # fmt: skip
    return _decisions(await commit_apart(db, _Q["commit_batch"], args))[0]


async def commit_retries(
    db: Database,
    topic: str,
    partition: int,
    group: str,
    epoch: int,
    items: Sequence[tuple[Retry, LedgerCommand]],
    *,
    expired_partition: int = 0,
) -> Committed:
    """Decide parked items of a partition we own: of each wallet its unfinished ones, in order, from the lowest on.

    An item that must wait again stops its wallet's later ones. Errors: Fenced, RetryTaken, Unavailable.
    """
    chain = f"retry/{topic}"
    args = _arguments(
        uuid7(), chain, partition, group, epoch, None, None, None, None, None, None,
        [retry.id for retry, _ in items], [retry.attempt for retry, _ in items], [retry.decide for retry, _ in items],
        commands=[command for _, command in items], expired_partition=expired_partition,
    )  # fmt: skip
    answer = await commit_apart(db, _Q["commit_batch"], args)
    return Committed(_decisions(answer), emitted(answer, chain, partition, group))


async def make_months(db: Database, ahead: int) -> int:
    """Partitions for this month and `ahead` more; how many were missing. Errors: Unavailable, also where a reader would have
    had to be waited for.
    """
    return int(await db.value(_Q["make_months"], ahead))


def _arguments(*head: Any, commands: Sequence[LedgerCommand], expired_partition: int) -> list[Any]:
    return [
        *head,
        [c.id for c in commands],
        [c.wallet_id for c in commands],
        [c.kind for c in commands],
        [c.credits for c in commands],
        [c.key for c in commands],
        [c.request_hash for c in commands],
        [c.occurred_at for c in commands],
        [c.offset for c in commands],
        [c.source for c in commands],
        [c.source_id for c in commands],
        [c.feature for c in commands],
        [c.community_id for c in commands],
        [c.metadata for c in commands],
        [c.publisher for c in commands],
        [c.analytics_partition for c in commands],
        [None if c.extra is None else json.dumps(c.extra) for c in commands],
        expired_partition,
    ]


def _decisions(row: Row) -> list[Decision]:
    columns = zip(
        row["r_outcome"] or (), row["r_reason"] or (), row["r_id"] or (), row["r_balance"] or (), strict=True
    )
    return [Decision(*c) for c in columns]
