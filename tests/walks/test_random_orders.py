"""Random lives of many orders through the whole stack: each verified success credited once, nothing else, all as the model says.

WALK_ORDERS orders (200) from the seed WALK_SEED (else a new one, printed): `WALK_SEED=7 ./dev test tests/walks`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import pytest

from sql import fraud, invariants
from streams.topics import partition_of

from .conftest import PARTITIONS, POLLER_EVERY_S, Stack
from .model import attempts_of, balance_of, looked_at, receipts_of, refunded_paise, status_of
from .walker import Walk, listen

pytestmark = pytest.mark.timeout(240)
PER_BUYER = 3

SEEN = """
SELECT p.id, p.order_id, p.status, p.refund_amount, p.cashfree_payment_id AS own,
       (SELECT jsonb_object_agg(a.cashfree_payment_id, a.status) FROM payment_attempts a
         WHERE a.order_id = p.order_id) AS attempts,
       (SELECT count(*) FROM wallet_transactions t
         WHERE t.transaction_type = 'purchase' AND t.source_id = p.id::text) AS purchases,
       ARRAY(SELECT r.cashfree_payment_id FROM unapplied_receipts r WHERE r.payment_id = p.id) AS receipts,
       ARRAY(SELECT r.state FROM unapplied_receipts r WHERE r.payment_id = p.id) AS returned,
       (SELECT count(*) FROM invoices i WHERE i.payment_id = p.id AND i.kind = 'tax_invoice') AS invoices,
       (SELECT count(*) FROM invoices i WHERE i.payment_id = p.id AND i.kind = 'credit_note') AS notes,
       (SELECT to_json(v)::text FROM verifications v WHERE v.payment_id = p.id) AS verification,
       (SELECT json_agg(w.event_type || ' ' || w.cashfree_payment_id || ' ' || coalesce(w.outcome, '-'))::text
          FROM payment_webhooks w WHERE w.order_id = p.order_id) AS webhooks
  FROM payments p
"""


class News:
    """What is still to be told, from an order's first day to after its end: refunds settle late."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def spawn(self, told: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(told))

    async def heard(self) -> None:
        """Wait until nothing is left to tell; what a telling raised is raised here."""
        while self._tasks:
            tasks, self._tasks = self._tasks, []
            await asyncio.gather(*tasks)


async def live(stack: Stack, news: News, seed: int, count: int) -> list[Walk]:
    """All orders' lives at once, to their last webhook."""
    walks: list[Walk] = []
    by_order: dict[str, Walk] = {}
    buyers: list[tuple[str, str]] = []
    for _ in range(0, count, PER_BUYER):
        user = await stack.api.user()
        buyers.append((user, await stack.api.wallet(owner=user)))
    stack.sim.book.announce = listen(by_order)
    gate = asyncio.Semaphore(70)

    async def one(walk: Walk) -> None:
        async with gate:
            await walk.live(by_order)

    async with asyncio.TaskGroup() as lives:
        for number in range(count):
            user, wallet = buyers[number // PER_BUYER]
            walk = Walk(stack, news.spawn, random.Random(f"{seed}/{number}"), user, wallet)
            walks.append(walk)
            lives.create_task(one(walk))
    await news.heard()
    return walks


async def end(stack: Stack, news: News, walks: list[Walk]) -> None:
    """Whatever waits for its time or for a person gets it, until nothing is left."""
    for _ in range(3):
        await stack.at_rest()
        await asyncio.sleep(2 * POLLER_EVERY_S)  # who closes what the gateway calls over
        await stack.hurry()
        for row in await stack.pool.fetch("SELECT id FROM payments WHERE status = 'held'"):
            rejected = partition_of("status=rejected", PARTITIONS)
            await fraud.review_payment(
                stack.db, row["id"], "release", "walks", shard=0, rejected_partition=rejected
            )
        await news.heard()
    await stack.at_rest()
    await asyncio.sleep(2 * POLLER_EVERY_S)
    await news.heard()
    await stack.at_rest()
    for walk in walks:
        at_gateway = walk.order.refunds
        walk.known.refunds += [paise for refund_id, paise in walk.asked_back if refund_id in at_gateway]


def judge(walk: Walk, row: dict[str, Any]) -> list[str]:
    """Everything that is not as the model says, of one order."""
    known = walk.known
    wrong = []

    def same(what: str, seen: object, meant: object) -> None:
        if seen != meant:
            wrong.append(f"{what} is {seen}, not {meant}")

    same("status", row["status"], status_of(known))
    same("attempts", json.loads(row["attempts"] or "{}"), attempts_of(known))
    same("purchases", row["purchases"], int(known.sold))
    same("refunded paise", row["refund_amount"], refunded_paise(known))
    same("invoices", row["invoices"], int(known.sold))
    same("credit notes", row["notes"], len(known.refunds) if known.sold else 0)
    if len(row["receipts"]) not in receipts_of(known):
        wrong.append(f"receipts are {len(row['receipts'])}, not {receipts_of(known)}")
    if known.sold:
        same("receipts' states", set(row["returned"]) - {"refunded"}, set())
        own = {row["own"]} & set(known.successes) if looked_at(known) else {row["own"]}
        same("receipt of the sale itself", set(row["receipts"]) & own, set())
    if set(row["receipts"]) - set(known.successes):
        wrong.append("a receipt of money that never came")
    seen = f"{row['verification']}, {row['webhooks']}"
    return wrong and [f"{walk.order.order_id} {walk.story} {known}, {seen}:", *wrong]


async def test_every_verified_success_is_credited_once_and_nothing_else_in_any_order_of_events(
    stack: Stack,
) -> None:
    seed = int(os.environ.get("WALK_SEED") or random.SystemRandom().randrange(10**6))
    count = int(os.environ.get("WALK_ORDERS", "200"))
    print(f"\nWALK_SEED={seed} WALK_ORDERS={count}")
    news = News()
    walks = await live(stack, news, seed, count)
    await end(stack, news, walks)

    rows = {row["order_id"]: dict(row) for row in await stack.pool.fetch(SEEN)}
    assert set(rows) == {walk.order.order_id for walk in walks}
    wrong = [line for walk in walks for line in judge(walk, rows[walk.order.order_id])]
    balances: Counter[str] = Counter()
    for walk in walks:
        balances[walk.wallet] += balance_of(walk.known)
    for row in await stack.pool.fetch("SELECT * FROM wallets"):
        seen = (row["available_credits"], row["locked_credits"], row["pending_credits"], row["debt_credits"])
        meant = (balances[str(row["id"])], 0, 0, 0)
        wrong += [f"wallet {row['id']} is {seen}, not {meant}"] if seen != meant else []
    assert not wrong, "\n".join([f"WALK_SEED={seed} WALK_ORDERS={count}", *wrong])

    bought = await stack.pool.fetchval(
        "SELECT count(*) FROM wallet_transactions WHERE transaction_type = 'purchase'"
    )
    assert bought == sum(walk.known.sold for walk in walks)
    assert await stack.pool.fetchval("SELECT count(*) FROM quarantine") == 0
    assert [str(violation) for violation in await invariants.check(stack.readonly_url)] == []
    print(figures(walks, rows))


def figures(walks: list[Walk], rows: dict[str, dict[str, Any]]) -> str:
    """What the run consisted of."""
    statuses = Counter(row["status"] for row in rows.values())
    steps = Counter(step for walk in walks for step in walk.story)
    return f"statuses {dict(statuses)}\nsteps {dict(steps)}"
