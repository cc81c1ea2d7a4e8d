"""What the gateway tells before it settles; and the documents of money that went back."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.entities import ReconLine
from gateway.simulator.disputes import Dispute
from sql import invariants, reconciliation

from .conftest import SILENT, Desk
from .test_settlements import LONG_AGO


async def test_a_payment_that_nobody_told_us_of_is_verified_before_it_settles(desk: Desk) -> None:
    known = await desk.till.buy(50_000)
    lost = [await desk.lose(50_000) for _ in range(3)]
    summary = await desk.reconcile()
    assert (summary.unheard, summary.lines_new, summary.cases) == (3, 0, {})
    await desk.till.drain()
    assert {(await desk.till.payment(p.id)).status for p in (known, *lost)} == {"credited"}
    before = await desk.everything()
    assert (await desk.reconcile()).unheard == 0
    assert await desk.everything() == before


async def test_a_refund_that_the_gateway_made_and_nobody_told_is_booked(desk: Desk) -> None:
    payment = await desk.till.buy(50_000)
    order = desk.till.sim.book.order(payment.order_id)
    made = desk.till.sim.book.refund(
        payment.order_id, refund_id="by_phone", amount_paise=20_000, note=None, speed="STANDARD"
    )
    desk.till.sim.book.resolve_refund(order, made, "SUCCESS", SILENT)
    assert (await desk.reconcile()).unheard == 1
    await desk.till.hurry()
    await desk.till.drain()
    (forced,) = await desk.till.refunds(payment)
    assert (forced.policy, forced.status, forced.amount_paise) == ("FORCED", "done", 20_000)
    assert (await desk.reconcile()).unheard == 0
    assert await invariants.check(desk.till.readonly_url) == []


async def test_an_order_that_is_not_ours_and_an_amount_that_is_not_are_a_case_each(desk: Desk) -> None:
    payment = await desk.till.buy(50_000)

    def odd(lines: Sequence[ReconLine]) -> list[ReconLine]:
        (line,) = lines
        replaced = msgspec.structs.replace
        return [
            replaced(line, amount_paise=49_999),
            replaced(line, order_id="of_somebody", cf_payment_id="777"),
            replaced(line, order_id="of_somebody", cf_payment_id="778", event_status="FAILED"),
            replaced(line, order_id=None, event_type="ADJUSTMENT"),
        ]

    desk.settled.tell = odd
    for _ in range(2):
        await desk.reconcile()
    found = {case.kind: case for case in await desk.cases()}
    assert {kind: case.subject for kind, case in found.items()} == {
        "gateway_amount": payment.cashfree_payment_id,
        "unknown_order": "777",
    }
    assert found["gateway_amount"].actual == {"amount_paise": 49_999}


async def test_a_credit_note_that_is_missing_or_says_something_else_is_a_case(desk: Desk) -> None:
    payments = [await desk.till.buy(50_000) for _ in range(3)]
    done = [await desk.till.refund(payment, 10_000) for payment in payments]
    await desk.reconcile()
    assert await desk.kinds() == []
    admin = desk.till.admin
    await admin.execute("SET session_replication_role = replica")
    await admin.execute("DELETE FROM invoices WHERE refund_id = $1", done[0].id)
    await admin.execute(
        "UPDATE invoices SET cgst_amount = cgst_amount + 1, taxable_amount = taxable_amount - 1 WHERE refund_id = $1",
        done[1].id,
    )
    await admin.execute("UPDATE invoices SET voided_at = now() WHERE refund_id = $1", done[2].id)
    await admin.execute("SET session_replication_role = origin")
    for _ in range(2):
        await desk.reconcile()
    assert await desk.kinds() == [
        ("credit_note_amount", "open"),
        ("credit_note_amount", "open"),
        ("credit_note_missing", "open"),
    ]


async def test_a_dispute_settles_as_it_is_taken_and_won_back_without_a_case(desk: Desk) -> None:
    payment = await desk.till.buy(100_000)
    charged: Dispute = desk.till.sim.disputes.open(
        desk.till.sim.book.order(payment.order_id), "CHARGEBACK", None, None
    )
    await desk.till.drain()
    desk.till.sim.book.settle()
    moves: list[tuple[str, str]] = [("DISPUTE", "DEBIT")]

    def with_dispute(lines: Sequence[ReconLine]) -> list[ReconLine]:
        paid = next(line for line in lines if line.event_type == "PAYMENT")
        return [
            *lines,
            *(
                msgspec.structs.replace(
                    paid,
                    event_type=kind,
                    event_id=f"d{n}",
                    sale_type=sale,
                    settlement_amount_paise=paid.amount_paise,
                    service_charge_paise=0,
                    service_tax_paise=0,
                )
                for n, (kind, sale) in enumerate(moves)
            ),
        ]

    class Total:
        """The gateway's totals are left out: the simulator's settlements know of no disputes."""

        def __init__(self, client: object) -> None:
            self._client = client

        def __getattr__(self, name: str) -> object:
            return getattr(self._client, name)

        async def get_settlements(self, *asked: object) -> tuple[()]:
            return ()

    desk.settled.client = Total(desk.settled.client)
    desk.settled.change = with_dispute
    await desk.reconcile()
    assert await desk.kinds() == [("dispute", "open")]
    assert "gateway_clearing" not in await desk.till.sums()
    desk.till.sim.disputes.move(charged, "MERCHANT_WON")
    await desk.till.hurry()
    await desk.till.drain()
    await desk.reconcile()
    assert await desk.kinds() == [("dispute", "resolved")], "won, and on its way back to us"
    assert (await desk.till.sums())["gateway_clearing"] == 100_000
    moves.append(("DISPUTE_REVERSAL", "CREDIT"))
    await desk.reconcile()
    assert "gateway_clearing" not in await desk.till.sums()
    (lot,) = await desk.till.admin.fetch("SELECT payment_id FROM lots WHERE reinstates IS NOT NULL")
    assert lot["payment_id"] == payment.id
    moves.append(("DISPUTE_REVERSAL", "CREDIT"))
    await desk.reconcile()
    assert ("settled_refund", "open") in await desk.kinds(), "given back twice"
    assert [row["invariant"] for row in await reconciliation.violations(desk.till.db, LONG_AGO)] == [
        "i16_settlements_return_clearing_to_zero"
    ]
