"""Parked items of the wallet topics: the owner of a partition tries each wallet's, in order, when the lowest's time has come.

In     retries rows of our partitions: a debit short by no more than pending credits, a credit whose wallet is unknown,
       what queued behind them, and what the agent could not handle (agents/queues.py)
Books  commit_batch on the chain retry/<topic>: posted, refused at the time limit, or parked again with backoff
Out    as the topic
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import structlog

from agents import wallet_credit, wallet_debit
from agents.breakers import Breakers
from agents.core import Core, PostgresOwnership
from agents.intake import unpark
from agents.queues import blames, fail
from sql import errors, ledger, publishers, relay
from sql.ids import uuid_of
from sql.ledger import LedgerCommand, Retry
from sql.relay import Parked
from streams.events import CreditCommand

log = structlog.get_logger("agents.retries")

TOPICS: Final = ("wallet.debit", "wallet.credit")
POLL_S: Final = 0.25
LIMIT: Final = 500


async def run(core: Core, ownership: PostgresOwnership, breakers: Breakers) -> None:
    """Until cancelled. A passing fault waits for the next round; an item that somebody else decided is skipped."""
    while True:
        for topic in TOPICS:
            try:
                while breakers.flows(topic) and await once(core, ownership, topic) == LIMIT:
                    pass
            except errors.Unavailable as error:
                log.warning("retries wait for the database", topic=topic, error=str(error))
        await asyncio.sleep(POLL_S)


async def once(core: Core, ownership: PostgresOwnership, topic: str) -> int:
    """Try what is due now, per partition in one transaction; returns how many items. Errors: Unavailable."""
    epochs = ownership.epochs_of(topic)
    due = await relay.due_retry_runs(core.db, topic, list(epochs), limit=LIMIT)
    by_partition: defaultdict[int, dict[str, list[Parked]]] = defaultdict(dict)
    for item in due:
        by_partition[item.partition].setdefault(wallet_of(item), []).append(item)
    for partition, by_wallet in by_partition.items():
        await _decide(core, topic, partition, epochs[partition], list(by_wallet.values()))
        await core.marks.restore_waiting(topic, partition)
    return len(due)


async def _decide(
    core: Core, topic: str, partition: int, epoch: int, runs: Sequence[Sequence[Parked]]
) -> None:
    """Commit the runs of some wallets together; if that fails, halves, down to the one item at fault."""
    try:
        commands = {item.id: await command_of(core, topic, item) for run in runs for item in run}
        items = [
            (Retry(item.id, item.attempt, item.decide), commands[item.id])
            for item in sorted((item for run in runs for item in run), key=lambda item: item.id)
        ]
        committed = await ledger.commit_retries(
            core.db, topic, partition, core.group, epoch, items, expired_partition=core.partition("")
        )
    except (errors.Fenced, errors.RetryTaken):
        return
    except Exception as error:
        if not blames(error):
            raise
        if len(runs) > 1:
            await _decide(core, topic, partition, epoch, runs[: len(runs) // 2])
            await _decide(core, topic, partition, epoch, runs[len(runs) // 2 :])
        elif len(runs[0]) > 1:
            await _decide(core, topic, partition, epoch, [runs[0][:1]])
        else:
            await fail(core, epoch, runs[0][0], error)
    else:
        await core.publish_by("retry", committed.emitted)


def wallet_of(item: Parked) -> str:
    """The wallet that an item's order is kept by."""
    return str(item.payload.get("event", item.payload)["wallet_id"])


async def command_of(core: Core, topic: str, item: Parked) -> LedgerCommand:
    """A parked item as the ledger takes it: the command that it is, or the one that its event makes.

    Errors: ValueError for an event that can make none; Unavailable.
    """
    if "event" not in item.payload:
        return command(item.payload, item.offset)
    taken = unpark(topic, item.payload, item.offset)
    if topic == wallet_debit.TOPIC:
        if wallet_debit.is_forged(taken):
            raise ValueError("forged: only the core speaks for others")
        return wallet_debit.command(core, taken)
    event = taken.event
    paid = [uuid_of(event.payment_id)] if isinstance(event, CreditCommand) else []
    users = await publishers.users_of_payments(core.db, paid) if paid else {}
    return wallet_credit.command(core, taken, users)


def command(payload: dict[str, Any], offset: int) -> LedgerCommand:
    """A parked command as it came, under its own id."""
    community = payload["community_id"]
    metadata = payload["metadata"]
    return LedgerCommand(
        id=uuid_of(payload["id"]),
        wallet_id=uuid_of(payload["wallet_id"]),
        kind=payload["kind"],
        credits=payload["credits"],
        key=payload["key"],
        request_hash=bytes.fromhex(payload["request_hash"]),
        occurred_at=datetime.fromisoformat(payload["occurred_at"]),
        source=payload["source"],
        source_id=payload["source_id"],
        analytics_partition=payload["analytics_partition"],
        feature=payload["feature"],
        community_id=uuid_of(community) if community else None,
        metadata=None if metadata is None else json.dumps(metadata),
        offset=offset,
        extra=payload["extra"],
    )
