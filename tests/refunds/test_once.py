"""One refund, whatever happens: many ask at once, workers die between any two steps, the gateway fails in every way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.entities import Refund
from gateway.requests import NewRefund
from gateway.simulator.faults import Fault
from sql import refunds
from sql.payments import Payment

from .conftest import Till


async def test_of_200_concurrent_refunds_of_one_payment_each_slice_has_one_winner(till: Till) -> None:
    payment = await till.buy(100_000)
    await till.spend(payment.wallet_id, 3_000)
    asked = await asyncio.gather(*(till.ask(payment, 1_000) for _ in range(200)))
    won = [a for a in asked if a.outcome == "created"]
    assert len(won) == 75, "75 of 100 slices are unused"
    assert {a.reason for a in asked if a.outcome != "created"} == {"insufficient_refundable"}
    assert len({a.refund.refund_id for a in won if a.refund}) == 75
    row = await till.admin.fetchrow(
        "SELECT sum(h.credits) AS held, count(DISTINCT h.id) AS holds FROM holds h JOIN refunds f ON f.hold_id = h.id"
    )
    assert row is not None
    assert (row["held"], row["holds"]) == (9_000, 75)
    await till.drain()
    assert till.at_gateway(payment) == [("SUCCESS", 1_000)] * 75
    assert (await till.payment(payment.id)).refund_paise == 75_000
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.violations() == []


async def test_100_callers_with_one_key_make_one_refund(till: Till) -> None:
    payment = await till.buy(50_000)
    asked = await asyncio.gather(*(till.ask(payment, 20_000, key="same") for _ in range(100)))
    assert sorted({a.outcome for a in asked}) == ["created", "exists"]
    assert len([a for a in asked if a.outcome == "created"]) == 1
    assert len({a.refund.id for a in asked if a.refund}) == 1


async def test_one_key_for_many_payments_at_once_is_one_refund_and_else_conflicts(till: Till) -> None:
    paid = [await till.buy(15_000) for _ in range(3)]
    asked = await asyncio.gather(*(till.ask(payment, 5_000, key="same") for payment in paid * 4))
    outcomes = sorted(a.outcome for a in asked)
    assert outcomes == ["conflict"] * 8 + ["created"] + ["exists"] * 3


class Killed(BaseException):
    """The process dies here. Not an Exception: nothing of ours may catch it."""


class Dying:
    """Lets one kind of call happen, and then the process dies instead of getting its answer."""

    def __init__(self, till: Till, step: str) -> None:
        self._till = till
        self._step = step
        self.died = False
        self._rows, self._publish, self._gateway = till.db.rows, till.kept.publish, till.client

    def __enter__(self) -> Dying:
        till: Any = self._till
        till.db.rows, till.kept.publish, till.refunder._gateway = self.rows, self.publish, self
        return self

    def __exit__(self, kind: object, *_: object) -> bool:
        till: Any = self._till
        till.db.rows, till.kept.publish, till.refunder._gateway = self._rows, self._publish, self._gateway
        return kind is Killed

    def _die(self, step: str) -> None:
        if step == self._step and not self.died:
            self.died = True
            raise Killed

    async def rows(self, query: str, *args: Any) -> Any:
        found = await self._rows(query, *args)
        for step in ("request_refund", "sweep_outbox", "commit_refunds", "lease_refunds", "record_refund"):
            if f"{step}(" in query and (found or step != "lease_refunds"):
                self._die(step)
        return found

    async def publish(self, outgoing: Sequence[Any]) -> None:
        await self._publish(outgoing)
        if outgoing:
            self._die("publish")

    async def create_refund(self, order_id: str, new: NewRefund, *, again: bool = False) -> Refund:
        refund = await self._gateway.create_refund(order_id, new, again=again)
        self._die("create_refund")
        return refund

    async def get_refund(self, order_id: str, refund_id: str) -> Refund:
        refund = await self._gateway.get_refund(order_id, refund_id)
        self._die("get_refund")
        return refund


async def restart(till: Till) -> None:
    """Another worker takes over: leases are over, partitions claimed anew, the outbox swept."""
    await till.expire_leases()
    await till.admin.execute("UPDATE outbox SET published_at = '-infinity'")
    await till.admin.execute("UPDATE payment_webhooks SET published_at = NULL WHERE closed_at IS NULL")
    till.positions.clear()
    await till.hurry()
    await till.drain()
    await till.hurry()
    await till.drain()


STEPS = (
    "request_refund",
    "sweep_outbox",
    "publish",
    "commit_refunds",
    "lease_refunds",
    "create_refund",
    "get_refund",
    "record_refund",
)


async def test_a_worker_that_dies_after_any_step_leaves_exactly_one_refund(till: Till) -> None:
    payment = await till.buy(100_000)
    for done, step in enumerate(STEPS, 1):
        with Dying(till, step) as dying:
            await till.ask(payment, 5_000, key=step)
            await till.drain()
        assert dying.died, f"nothing ever does {step}"
        await restart(till)
        again = await till.ask(payment, 5_000, key=step)
        assert again.outcome == "exists"
        assert again.refund is not None
        assert again.refund.status == "done", step
        assert till.at_gateway(payment) == [("SUCCESS", 5_000)] * done, step
        assert (await till.payment(payment.id)).refund_paise == 5_000 * done
    assert await till.balance(payment.wallet_id) == (12_000 - 600 * len(STEPS), 0)
    assert await till.admin.fetchval("SELECT count(*) FROM invoices WHERE kind = 'credit_note'") == len(STEPS)
    assert await till.violations() == []


@pytest.mark.parametrize(
    "kinds",
    [
        ["commit_then_timeout", "commit_then_500", "commit_then_502", "commit_then_reset", "truncated"],
        ["500", "502", "timeout", "reset", "429", "429_reset", "unknown_field", "int_ids"],
    ],
)
async def test_a_gateway_that_fails_in_any_way_refunds_once(till: Till, kinds: list[Any]) -> None:
    payment = await till.buy(100_000)
    for done, kind in enumerate(kinds, 1):
        till.sim.faults.rules.append(Fault(endpoint="create_refund", kind=kind, times=1, seconds=0.1))
        till.sim.faults.rules.append(Fault(endpoint="get_refund", kind="502", times=1))
        asked = await till.ask(payment, 5_000)
        await till.drain()
        for _ in range(4):
            await asyncio.sleep(0.05)
            await till.hurry()
            await till.drain()
        till.sim.faults.rules.clear()
        assert asked.refund is not None
        found = await refunds.get_refund(till.db, asked.refund.id)
        assert found is not None
        assert found.status == "done", kind
        assert till.at_gateway(payment) == [("SUCCESS", 5_000)] * done, kind
    assert (await till.payment(payment.id)).refund_paise == 5_000 * len(kinds)
    assert await till.violations() == []


async def test_a_gateway_without_answers_keeps_the_credits_held_and_calls_a_person(till: Till) -> None:
    payment = await till.buy(50_000)
    till.sim.faults.rules.append(Fault(endpoint="*", kind="502", times=None))
    asked = await till.ask(payment, 50_000)
    assert asked.refund is not None
    await till.drain()
    for _ in range(21):
        lease = await lease_of(till, payment)
        answer = refunds.Answer("no_answer", detail="502")
        await till.refunder.record(lease, answer)
    found = await refunds.get_refund(till.db, asked.refund.id)
    assert found is not None
    assert (found.status, found.credits) == ("due", 5_500)
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.cases() == ["refund_unknown"]
    till.sim.faults.rules.clear()
    await restart(till)
    assert (await till.payment(payment.id)).status == "refunded"
    assert await till.violations() == []


async def lease_of(till: Till, payment: Payment) -> refunds.Lease:
    """The one refund of a payment, leased now."""
    await till.expire_leases()
    await till.hurry()
    (lease,) = await refunds.lease_refunds(till.db, limit=10, lease_s=60)
    assert lease.payment_id == payment.id
    return lease
