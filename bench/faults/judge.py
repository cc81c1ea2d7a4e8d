"""The judge: what the client was told and what the gateway knows, against the books.

Its model of wallets shares no code with the ledger.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from bench.faults import books
from bench.faults.log import Log, Told
from domain.packs import PACKS
from sql.db import Database, Row

PACK_CREDITS: Final = {pack.price_paise: pack.credits for pack in PACKS}
UNCREDITED: Final = frozenset({"held", "rejected", "mismatch"})
"""Verdicts on a paid order that rightly post nothing."""
REFUND_ENDS: Final = frozenset(
    {"done", "failed", "cancelled", "rejected", "reversed", "review", "payout_requested"}
)


@dataclass(slots=True)
class Verdict:
    """Everything wrong, in words. `raw_lost` are confirmed events of those who publish without our client."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    misordered: list[str] = field(default_factory=list)
    negative: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    """Where the model expects something else."""
    raw_lost: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    """Payments whose webhook was lost after we had asked in vain: they will be asked about in an hour, as the books say."""
    posted: int = 0
    refused: int = 0

    def wrong(self) -> list[str]:
        """All that must not be."""
        return [*self.lost, *self.duplicated, *self.misordered, *self.negative, *self.differences]


async def judge(db: Database, log: Log, gateway: dict[str, dict[str, Any]]) -> Verdict:
    """Compare everything. Errors: Unavailable."""
    verdict = Verdict()
    posted = await db.rows(books.Q["posted_usage"])
    refused = {row["id"] for row in await db.rows(books.Q["refused_usage"])}
    odd = {row["id"]: row["reason"] for row in await db.rows(books.Q["undecidable_usage"])}
    parked = {row["id"] for row in await db.rows(books.Q["parked_usage"])}
    _usage(log, posted, refused, odd, parked, verdict)
    _order(log, posted, verdict)
    _exact(log, posted, refused, verdict)
    credited = _payments(log, await db.rows(books.Q["payments"]), gateway, verdict)
    taken_back = _refunds(log, await db.rows(books.Q["refunds"]), gateway, verdict)
    used: Counter[UUID] = Counter()
    for row in posted:
        used[row["wallet_id"]] += row["amount_credits"]
    for row in await db.rows(books.Q["wallets"]):
        wallet, balance = row["id"], row["available_credits"] + row["locked_credits"]
        expected = log.granted.get(wallet, 0) + credited[wallet] - used[wallet] - taken_back[wallet]
        if balance != expected:
            verdict.differences.append(f"wallet {wallet}: balance {balance}, by the model {expected}")
        if row["lowest"] < 0:
            verdict.negative.append(f"wallet {wallet}: {row['lowest']}")
    verdict.posted, verdict.refused = len(posted), len(refused)
    return verdict


def _usage(
    log: Log,
    posted: Sequence[Row],
    refused: set[str],
    odd: dict[str, str],
    parked: set[str],
    verdict: Verdict,
) -> None:
    times = Counter(row["id"] for row in posted)
    for row in posted:
        use = log.uses.get(row["id"])
        if use is None or (use.wallet_id, use.credits) != (row["wallet_id"], row["amount_credits"]):
            verdict.duplicated.append(f"posted but never sent so: {row['id']}")
    verdict.duplicated += [f"posted {n} times: {id}" for id, n in times.items() if n > 1]
    verdict.duplicated += [f"posted and refused: {id}" for id in refused & set(times)]
    verdict.differences += [f"{id}: {reason}" for id, reason in odd.items() if id in log.uses]
    verdict.lost += [f"still parked: {id}" for id in parked]
    decided = refused | set(times) | set(odd) | parked
    for use in log.uses.values():
        if use.told is Told.ACKNOWLEDGED and use.id not in decided:
            (verdict.raw_lost if use.door == "raw" else verdict.lost).append(
                f"acknowledged, no outcome: {use.id}"
            )
        elif use.told is Told.REFUSED and use.id in times:
            verdict.differences.append(f"the caller was told no, and it was posted: {use.id}")


def _order(log: Log, posted: Sequence[Row], verdict: Verdict) -> None:
    """Of a wallet that one service charges, the books have the service's order."""
    place = {id: index for index, id in enumerate(log.uses)}
    last: dict[UUID, int] = {}
    for row in posted:
        use = log.uses.get(row["id"])
        if use is None or use.door not in ("client", "raw"):
            continue
        if place[use.id] < last.get(use.wallet_id, -1):
            verdict.misordered.append(f"wallet {use.wallet_id}: {use.id} came after a later one")
        last[use.wallet_id] = max(place[use.id], last.get(use.wallet_id, -1))


def _exact(log: Log, posted: Sequence[Row], refused: set[str], verdict: Verdict) -> None:
    """Wallets that run out: event by event, in the order sent, what fits is posted and what does not is refused."""
    balance = {wallet: log.granted[wallet] for wallet in log.exact}
    booked = {row["id"] for row in posted}
    for use in log.uses.values():
        if use.wallet_id not in balance or (use.id not in booked and use.told is not Told.ACKNOWLEDGED):
            continue
        fits = use.credits <= balance[use.wallet_id]
        if fits:
            balance[use.wallet_id] -= use.credits
        if fits is not (use.id in booked) or fits is (use.id in refused):
            verdict.differences.append(f"{use.id}: the model says {'posted' if fits else 'refused'}")


def _payments(
    log: Log, rows: Sequence[Row], gateway: dict[str, dict[str, Any]], verdict: Verdict
) -> Counter[UUID]:
    """What each wallet bought, by the gateway's word."""
    credited: Counter[UUID] = Counter()
    stored = {row["order_id"]: row for row in rows}
    for order in log.orders:
        if order.told is Told.ACKNOWLEDGED and order.order_id not in stored:
            verdict.lost.append(f"order {order.order_id}: acknowledged, not there")
    for order_id, row in stored.items():
        truth = gateway.get(order_id)
        paid = truth is not None and truth["status"] == "PAID"
        if row["purchases"] > 1 or (row["purchases"] and not paid):
            verdict.duplicated.append(f"order {order_id}: credited {row['purchases']} times, paid: {paid}")
        if paid and not row["purchases"] and row["asked_later"]:
            verdict.waiting.append(f"order {order_id}: paid after the gateway was asked, asked again later")
        elif paid and not row["purchases"] and row["status"] not in UNCREDITED:
            verdict.lost.append(f"order {order_id}: paid, {row['status']}, no credit")
        if row["purchases"]:
            expected = PACK_CREDITS[row["amount"]]
            credited[row["wallet_id"]] += expected
            if row["posted_credits"] != expected:
                verdict.differences.append(
                    f"order {order_id}: {row['posted_credits']} credits for {expected}"
                )
    return credited


def _refunds(
    log: Log, rows: Sequence[Row], gateway: dict[str, dict[str, Any]], verdict: Verdict
) -> Counter[UUID]:
    """What each wallet gave back: per payment, the credits of all its refunds together, rounded up once (MONEY §3)."""
    stored = {row["refund_id"]: row for row in rows}
    for refund in log.refunds:
        if refund.told is Told.ACKNOWLEDGED and refund.refund_id not in stored:
            verdict.lost.append(f"refund {refund.refund_id}: acknowledged, not there")
    known = {r["refund_id"]: r for order in gateway.values() for r in order["refunds"]}
    returned: defaultdict[tuple[UUID, str], int] = defaultdict(int)
    for row in rows:
        truth = known.get(row["refund_id"])
        succeeded = truth is not None and truth["status"] == "SUCCESS"
        if succeeded:
            returned[row["wallet_id"], row["order_id"]] += row["amount"]
        if row["status"] not in REFUND_ENDS:
            verdict.lost.append(f"refund {row['refund_id']}: still {row['status']}")
        elif succeeded is not (row["status"] == "done"):
            verdict.differences.append(
                f"refund {row['refund_id']}: {row['status']}, the gateway says {truth and truth['status']}"
            )
    for refund_id in known.keys() - stored.keys():
        verdict.duplicated.append(f"refund {refund_id}: the gateway paid back what we never asked for")
    taken: Counter[UUID] = Counter()
    for (wallet, order_id), paise in returned.items():
        price = gateway[order_id]["amount_paise"]
        taken[wallet] += -(-paise * PACK_CREDITS[price] // price)
    return taken
