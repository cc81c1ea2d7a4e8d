"""Every answer in every state: the database takes the steps of domain/refund_states.py, and each books what it says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from agents.refunder import Refunder
from domain.refund_states import Action, Event, State, heard, step
from gateway.errors import BadRequest, NotFound, TimedOut, Unauthorised
from gateway.simulator.faults import Fault
from sql import refunds
from sql.refunds import Answer

from .conftest import Till

ANSWERS = {
    Event.PENDING: Answer("refund", "ONHOLD", "1"),
    Event.SUCCEEDED: Answer("refund", "SUCCESS", "1"),
    Event.FAILED: Answer("refund", "FAILED", "1"),
    Event.CANCELLED: Answer("refund", "CANCELLED", "1"),
    Event.REFUSED: Answer("refused", detail="no"),
    Event.MISMATCHED: Answer("mismatched", detail="another amount"),
    Event.NO_ANSWER: Answer("no_answer", detail="502"),
}
VERDICTS = {Event.APPROVED: "approve", Event.DECLINED: "decline", Event.PAID_OUT: "paid"}


def test_the_machine_is_total_and_gives_credits_back_only_on_a_definite_no() -> None:
    for state, event in itertools.product(State, Event):
        after = step(state, event)
        if after.action is Action.RELEASE:
            assert event in (Event.FAILED, Event.CANCELLED, Event.REFUSED, Event.DECLINED)
        if state in (State.DONE, State.REVERSED, State.REJECTED):
            assert after.state is state or event is Event.WON_BACK
    assert [heard(word) for word in ("SUCCESS", "PENDING", "ONHOLD", "A_NEW_WORD")] == [
        Event.SUCCEEDED,
        Event.PENDING,
        Event.PENDING,
        Event.PENDING,
    ]


async def put(till: Till, payment: UUID, wallet: UUID, state: State) -> refunds.Lease:
    """A refund of money without a sale, in some state."""
    id = uuid4()
    await till.admin.execute(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, requested_by,"
        " idempotency_key, outside, cashfree_payment_id, reason)"
        " VALUES ($1, $2, $3, $4, 100, 'UNAPPLIED', $5, 'test', $2, true, $2, 'paid_twice')",
        id,
        id.hex,
        payment,
        wallet,
        state.value,
    )
    return refunds.Lease(
        id, id.hex, "o", payment, wallet, 100, "INR", "UNAPPLIED", None, 0, again=False, known=False
    )


async def test_the_database_takes_the_machines_step_for_every_answer_in_every_state(till: Till) -> None:
    payment = await till.place()
    for state, event in itertools.product(State, ANSWERS):
        lease = await put(till, payment.id, payment.wallet_id, state)
        for _ in range(2):
            recorded = await till.refunder.record(lease, ANSWERS[event])
            assert recorded == step(state, event).state, (state, event)
            state = step(state, event).state
        asked = await till.admin.fetchval("SELECT next_at < 'infinity' FROM refunds WHERE id = $1", lease.id)
        assert asked == (step(state, event).action is Action.ASK), (state, event)


async def test_old_payments_go_by_payout_with_approval_and_never_to_the_gateway(till: Till) -> None:
    payment = await till.buy(100_000)
    await till.admin.execute("UPDATE payments SET credited_at = now() - interval '7 months'")
    parts = {"refunds": 0, "refunded": 0, "expired": 0, "notify": 0}
    parts |= {
        "refunds": till.core.partition("policy=PRO_RATA"),
        "refunded": till.core.partition("status=refunded"),
    }

    async def decide(id: UUID, verdict: Any) -> str:
        return await refunds.decide_payout(
            till.db, id, verdict, "asha", detail="UTR1", shard=0, partitions=parts
        )

    first, second = await till.ask(payment, 40_000), await till.ask(payment, 60_000)
    assert first.refund is not None
    assert second.refund is not None
    assert (first.refund.status, second.refund.status) == ("payout_requested", "payout_requested")
    await till.drain()
    assert till.at_gateway(payment) == []
    assert await till.cases() == ["refund_payout", "refund_payout"]

    assert await decide(first.refund.id, "paid") == "payout_requested"
    assert [await decide(first.refund.id, v) for v in ("approve", "decline", "paid")] == [
        "payout_approved",
        "rejected",
        "rejected",
    ]
    assert [await decide(second.refund.id, v) for v in ("approve", "paid", "paid", "decline")] == [
        "payout_approved",
        "done",
        "done",
        "done",
    ]
    await till.drain()
    assert await till.balance(payment.wallet_id) == (12_000 - 7_200, 0)
    sums = await till.sums()
    assert (sums["bank"], sums["gateway_clearing"]) == (-60_000, 100_000)
    assert till.at_gateway(payment) == []
    assert await till.cases() == []
    assert await till.violations() == []


@pytest.mark.parametrize("outcome", ["FAILED", "CANCELLED"])
async def test_a_refund_that_fails_gives_the_credits_back_and_may_be_asked_for_again(
    till: Till, outcome: str
) -> None:
    payment = await till.buy(50_000)
    till.sim.book.refund_outcome = outcome
    failed = await till.refund(payment, 50_000)
    assert failed.status == outcome.lower()
    assert await till.balance(payment.wallet_id) == (5_500, 0)
    till.sim.book.refund_outcome = "SUCCESS"
    assert (await till.refund(payment, 50_000)).status == "done"
    assert await till.balance(payment.wallet_id) == (0, 0)
    assert await till.violations() == []


async def test_a_refund_on_hold_is_asked_again_and_a_webhook_speeds_it_up(till: Till) -> None:
    payment = await till.buy(50_000)
    till.sim.book.refund_outcome = "ONHOLD"
    waiting = await till.refund(payment, 50_000)
    assert (waiting.status, waiting.gateway_status, waiting.credits) == ("pending", "ONHOLD", 5_500)
    assert await till.balance(payment.wallet_id) == (0, 0)
    order = till.sim.book.order(payment.order_id)
    till.sim.book.resolve_refund(order, order.refunds[waiting.refund_id], "SUCCESS")
    await till.drain()
    assert (await till.payment(payment.id)).status == "refunded"


async def test_a_success_after_a_failure_takes_what_is_left_and_the_rest_is_debt(till: Till) -> None:
    payment = await till.buy(100_000)
    till.sim.book.refund_outcome = "FAILED"
    failed = await till.refund(payment, 100_000)
    assert failed.status == "failed"
    await till.spend(payment.wallet_id, 11_000)
    order = till.sim.book.order(payment.order_id)
    order.refunds[failed.refund_id].status = "SUCCESS"
    await till.hear(
        till.webhook(
            payment.order_id, "SUCCESS", kind="refund", refund_id=failed.refund_id, business_key="late"
        )
    )
    await till.drain()
    (after,) = await till.refunds(payment)
    assert (after.status, after.credits) == ("done", 12_000)
    assert await till.admin.fetchval("SELECT debt_credits FROM wallets") == 11_000
    assert await till.cases() == ["refund_contradicted"]
    assert await till.violations() == []


async def test_an_amount_that_is_not_ours_waits_for_a_person_with_the_credits_held(till: Till) -> None:
    payment = await till.buy(50_000)
    till.sim.faults.rules.append(Fault(endpoint="create_refund", kind="amount_mismatch", times=1))
    refund = await till.refund(payment, 20_000)
    assert (refund.status, refund.credits) == ("review", 2_200)
    assert await till.cases() == ["refund_mismatch"]
    assert await till.violations() == []


async def test_only_a_definite_no_to_the_first_request_is_a_refusal(till: Till) -> None:
    payment = await till.buy(50_000)
    order = till.sim.book.order(payment.order_id)
    order.attempts[0].status = "VOID"
    refused = await till.refund(payment, 20_000)
    assert refused.status == "failed"
    assert await till.balance(payment.wallet_id) == (5_500, 0)

    lease = await put(till, payment.id, payment.wallet_id, State.DUE)

    class Says:
        def __init__(self, error: Exception) -> None:
            self.error = error

        async def create_refund(self, *_: Any, **__: Any) -> Any:
            raise self.error

        get_refund = create_refund

    for error, first, later in (
        (BadRequest("create_refund", "no", status=400), "refused", "no_answer"),
        (NotFound("create_refund", "no such order", status=404), "refused", "no_answer"),
        (Unauthorised("create_refund", "who?", status=401), "no_answer", "no_answer"),
        (TimedOut("create_refund", "?"), "no_answer", "no_answer"),
    ):
        refunder = Refunder(till.core, Says(error), shard=0)
        assert (await refunder.ask(lease)).answer == first
        assert (await refunder.ask(replace(lease, again=True))).answer == later
        assert (await refunder.ask(replace(lease, known=True))).answer == "no_answer"
