"""The demo's judge knows refunds: it finds each way in which one may go wrong."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from uuid import UUID

from bench.demo.log import Asked, GatewayRefund, Log, Truth
from bench.demo.oracle import Verdict, judge

from .conftest import Till


async def test_the_oracle_agrees_with_right_refunds_and_sees_each_wrong_one(till: Till) -> None:
    log = Log(began=datetime.now(UTC) - timedelta(minutes=1))
    truth = Truth()
    wallets: list[UUID] = []
    for paise in (20_000, 50_000, 60_000):
        payment = await till.buy(50_000)
        asked = await till.ask(payment, paise, key=f"k{paise}")
        await till.drain()
        assert asked.refund is not None
        outcome = {"created": "created", "refused": "refused"}[asked.outcome]
        log.orders[payment.order_id] = payment.id
        log.refunds[f"k{paise}"] = Asked(payment.id, payment.order_id, paise, outcome, asked.refund.id)
        wallets.append(payment.wallet_id)
        truth.paid.add(payment.order_id)
        truth.refunds += [
            GatewayRefund(payment.order_id, refund_id, refund.status, refund.amount_paise)
            for refund_id, refund in till.sim.book.order(payment.order_id).refunds.items()
        ]

    async def verdict(changed: Truth = truth) -> Verdict:
        return await judge(till.db, log, changed, wallets)

    right = await verdict()
    assert (right.lost, right.double_posted) == ([], [])
    assert dict(right.refunds) == {"created": 2, "refused": 1, "done": 2}
    assert right.refunded_paise == 70_000

    twice = dataclasses.replace(truth, refunds=[*truth.refunds, truth.refunds[0]])
    assert len((await verdict(twice)).double_posted) == 1
    stranger = GatewayRefund(truth.refunds[0].order_id, "unasked", "SUCCESS", 1)
    assert (
        len((await verdict(dataclasses.replace(truth, refunds=[*truth.refunds, stranger]))).double_posted)
        == 1
    )
    assert len((await verdict(dataclasses.replace(truth, refunds=truth.refunds[1:]))).lost) == 1
    log.refunds["k60000"].outcome = "created"
    assert len((await verdict()).lost) == 1
    log.refunds["k60000"].outcome = "refused"
    await till.admin.execute("UPDATE refunds SET status = 'pending' WHERE amount = 20000")
    assert len((await verdict()).lost) == 2, "granted and not done, and its credits are gone"
    log.refunds["never"] = Asked(wallets[0], "o", 1, "created")
    assert len((await verdict()).lost) == 3
