"""Parked items of the wallet topics: the owner of a partition tries each wallet's, in order, when the lowest's time has come.

In     retries rows of our partitions: a debit short by no more than pending credits, a credit whose wallet is unknown,
       what queued behind them
Books  commit_batch on the chain retry/<topic>: posted, refused at the time limit, or parked again with backoff
Out    as the topic
"""

import asyncio
import json
from collections import defaultdict
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import structlog

from agents.core import Core, PostgresOwnership
from sql import errors, ledger, relay
from sql.ledger import LedgerCommand, Retry

log = structlog.get_logger("agents.retries")

TOPICS: Final = ("wallet.debit", "wallet.credit")
POLL_S: Final = 0.25
LIMIT: Final = 500


async def run(core: Core, ownership: PostgresOwnership) -> None:
    """Until cancelled. A passing fault waits for the next round; an item that somebody else decided is skipped."""
    while True:
        for topic in TOPICS:
            try:
                while await once(core, ownership, topic) == LIMIT:
                    pass
            except errors.Unavailable as error:
                log.warning("retries wait for the database", topic=topic, error=str(error))
        await asyncio.sleep(POLL_S)


async def once(core: Core, ownership: PostgresOwnership, topic: str) -> int:
    """Try what is due now, per partition in one transaction; returns how many items. Errors: Unavailable."""
    epochs = ownership.epochs_of(topic)
    due = await relay.due_retry_runs(core.db, topic, list(epochs), limit=LIMIT)
    by_partition: defaultdict[int, list[tuple[Retry, LedgerCommand]]] = defaultdict(list)
    for item in due:
        retry = Retry(item.id, item.attempt, item.decide)
        by_partition[item.partition].append((retry, command(item.payload, item.offset)))
    for partition, items in by_partition.items():
        try:
            committed = await ledger.commit_retries(
                core.db,
                topic,
                partition,
                core.group,
                epochs[partition],
                items,
                expired_partition=core.partition(""),
            )
        except (errors.Fenced, errors.RetryTaken):
            continue
        await core.publish(committed.emitted)
    return len(due)


def command(payload: dict[str, Any], offset: int) -> LedgerCommand:
    """A parked command as it came, under its own id."""
    community = payload["community_id"]
    metadata = payload["metadata"]
    return LedgerCommand(
        id=UUID(payload["id"]),
        wallet_id=UUID(payload["wallet_id"]),
        kind=payload["kind"],
        credits=payload["credits"],
        key=payload["key"],
        request_hash=bytes.fromhex(payload["request_hash"]),
        occurred_at=datetime.fromisoformat(payload["occurred_at"]),
        source=payload["source"],
        source_id=payload["source_id"],
        analytics_partition=payload["analytics_partition"],
        feature=payload["feature"],
        community_id=UUID(community) if community else None,
        metadata=None if metadata is None else json.dumps(metadata),
        offset=offset,
        extra=payload["extra"],
    )
