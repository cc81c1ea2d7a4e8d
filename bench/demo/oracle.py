"""The judge: what the client knows, and what the gateway knows, against what the books say."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from bench.demo.log import GatewayRefund, Log, Truth
from sql import report
from sql.db import Database

SETTLED = frozenset({"held", "rejected", "mismatch"})
"""Verdicts on a paid order that rightly post nothing (yet)."""


@dataclass(slots=True)
class Verdict:
    """`lost` and `double_posted` list what is wrong, in words; the latencies are publish to commit, in ms."""

    lost: list[str] = field(default_factory=list)
    double_posted: list[str] = field(default_factory=list)
    usage_ms: list[float] = field(default_factory=list)
    payment_ms: list[float] = field(default_factory=list)
    payments: Counter[str] = field(default_factory=Counter)
    refunds: Counter[str] = field(default_factory=Counter)
    refunded_paise: int = 0
    committed: int = 0


async def judge(db: Database, log: Log, truth: Truth, wallets: list[UUID]) -> Verdict:
    """Compare everything with the client's log and the gateway's truth."""
    verdict = Verdict()
    used = await _usage(db, log, verdict)
    bought = await _payments(db, log, truth.paid, verdict)
    bought.subtract(await _refunds(db, log, truth.refunds, verdict))
    for row in await report.wallet_totals(db, wallets):
        wallet = row["id"]
        expected = log.granted.get(wallet, 0) + bought[wallet] - used[wallet]
        if row["available_credits"] + row["locked_credits"] != expected:
            balance = row["available_credits"] + row["locked_credits"]
            wrong = (
                verdict.lost
                if balance > expected or row["other"] < expected + used[wallet]
                else verdict.double_posted
            )
            wrong.append(f"wallet {wallet}: balance {balance}, by our own log {expected}")
    return verdict


async def _usage(db: Database, log: Log, verdict: Verdict) -> Counter[UUID]:
    posted: Counter[str] = Counter()
    used: Counter[UUID] = Counter()
    for row in await report.posted_usage(db, log.began):
        event = log.usage.get(row["event_id"])
        posted[row["event_id"]] += 1
        if event is None or (event.wallet_id, event.credits) != (row["wallet_id"], row["amount_credits"]):
            verdict.double_posted.append(f"posted but never sent so: {row['event_id']}")
            continue
        used[event.wallet_id] += event.credits
        verdict.usage_ms.append(_ms(event.at, row["committed_at"]))
    verdict.double_posted += [f"posted {n} times: {event_id}" for event_id, n in posted.items() if n > 1]
    refused = {row["event_id"] for row in await report.refused_usage(db, log.began)}
    verdict.double_posted += [f"posted and refused: {event_id}" for event_id in refused & set(posted)]
    decided = refused | set(posted) | await report.quarantined_usage(db, log.began)
    verdict.lost += [
        f"acknowledged, no outcome: {event_id}"
        for event_id, event in log.usage.items()
        if event.acknowledged and event_id not in decided
    ]
    verdict.committed += len(decided)
    return used


async def _payments(db: Database, log: Log, paid: set[str], verdict: Verdict) -> Counter[UUID]:
    bought: Counter[UUID] = Counter()
    for row in await report.payments_since(db, log.began):
        order_id = row["order_id"]
        verdict.payments[row["status"]] += 1
        if row["purchases"] > 1 or (row["purchases"] and order_id not in paid):
            verdict.double_posted.append(
                f"order {order_id}: credited {row['purchases']} times, paid: {order_id in paid}"
            )
        if order_id in paid and not row["purchases"] and row["status"] not in SETTLED:
            verdict.lost.append(f"order {order_id}: paid, {row['status']}, no credit")
        if row["purchases"]:
            verdict.committed += 1
            bought[row["wallet_id"]] += row["credits_granted"]
            if row["posted_credits"] != row["credits_granted"]:
                verdict.double_posted.append(
                    f"order {order_id}: {row['posted_credits']} credits for {row['credits_granted']}"
                )
            if row["received_at"] is not None:
                verdict.payment_ms.append(_ms(row["received_at"], row["committed_at"]))
    return bought


async def _refunds(
    db: Database, log: Log, at_gateway: list[GatewayRefund], verdict: Verdict
) -> Counter[UUID]:
    """Each refund that was granted went back once, of its amount; nothing else did. Returns the credits that all of
    them reverse by the policy: per payment ceil(refunded * credits / price), of any slicing (MONEY §3).
    """
    rows = {row["key"]: row for row in await report.refunds_since(db, log.began)}
    sent: defaultdict[str, list[GatewayRefund]] = defaultdict(list)
    for refund in at_gateway:
        sent[refund.refund_id].append(refund)
    for key, asked in log.refunds.items():
        row = rows.get(key)
        verdict.refunds[asked.outcome or "unknown"] += 1
        if row is None:
            if asked.outcome is not None:
                verdict.lost.append(f"refund {key}: {asked.outcome}, and not kept")
            continue
        granted = row["status"] != "rejected"
        if asked.outcome is not None and granted != (asked.outcome == "created"):
            verdict.lost.append(f"refund {key}: the customer was told {asked.outcome}, it is {row['status']}")
        if granted and row["status"] != "done":
            verdict.lost.append(f"refund {key}: granted, {row['status']}")
        gone = [r.amount_paise for r in sent.pop(row["refund_id"], []) if r.status == "SUCCESS"]
        expected = [asked.amount_paise] if granted else []
        if gone != expected:
            wrong = verdict.lost if len(gone) < len(expected) else verdict.double_posted
            wrong.append(f"refund {key}: {gone} paise went back, {expected} were granted")
    verdict.double_posted += [f"refund {id}: the gateway has it and nobody asked" for id in sent]
    paid_back: Counter[UUID] = Counter()
    for row in (row for row in rows.values() if row["status"] == "done"):
        paid_back[row["payment_id"]] += row["amount"]
        verdict.refunds["done"] += 1
        verdict.refunded_paise += row["amount"]
    reversed_credits: Counter[UUID] = Counter()
    for row in {row["payment_id"]: row for row in rows.values()}.values():
        back = -(-paid_back[row["payment_id"]] * row["credits_granted"] // row["price"])
        reversed_credits[row["wallet_id"]] += back
    return reversed_credits


def _ms(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1000
