"""What a shop does with a payment besides making it: verify, sync, session, retry, invoice; receipts and disputes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

from agents.core import Core
from agents.verifier import Verifier
from gateway.client import open_client
from gateway.simulator.control import Pay, pay
from gateway.simulator.faults import Fault
from gateway.simulator.sim import Simulator
from sql.db import Database, DatabaseSettings
from tests.conftest import Database as Prepared
from tests.kept import Kept

from .conftest import Api, settings_for
from .test_payments import buyer
from .test_refunds import credited


async def ordered(api: Api) -> dict[str, Any]:
    answer = await api.post("/v1/payments/orders", await buyer(api))
    assert answer.status == 201, answer.body
    order: dict[str, Any] = answer.body
    return order


def paid(api: Api, order: dict[str, Any]) -> None:
    pay(api.gateway.book, api.gateway.book.order(order["order_id"]), Pay())


@asynccontextmanager
async def asking(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[None]:
    """A worker's verifier beside the web process."""
    async with (
        await Database.connect(
            DatabaseSettings(database_url=database.worker_url, database_pool_size=2)
        ) as db,
        open_client(settings_for(gateway[0])) as client,
    ):
        verifier = Verifier(Core(db, Kept(), "commdesk", 16), client, shard=0)
        loop = asyncio.create_task(_for_ever(verifier))
        yield
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


async def _for_ever(verifier: Verifier) -> None:
    while True:
        await verifier.once()
        await asyncio.sleep(0.02)


async def test_a_payment_is_verified_when_asked_for(
    api: Api, database: Prepared, gateway: tuple[str, Simulator]
) -> None:
    order = await ordered(api)
    path = f"/v1/payments/{order['payment_id']}/verify"
    asked = await api.post(path, {})
    assert (asked.status, asked.body["status"]) == (202, "active"), "nobody has asked the gateway yet"
    async with asking(database, gateway):
        unpaid = await api.post(f"{path}?wait=5000", {})
        assert (unpaid.status, unpaid.body["status"]) == (200, "active")
        paid(api, order)
        verified = await api.post(f"{path}?wait=1500", {})
    assert verified.body["status"] == "verified"
    assert verified.status == 202, "verified, and no worker here decides and credits it"
    assert (await api.post(f"/v1/payments/{uuid4()}/verify", {})).code == "unknown_payment"
    assert (await api.post(f"{path}?wait=99999", {})).status == 400


async def test_a_sync_looks_at_the_whole_order_of_a_credited_payment(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    before = await api.post(f"/v1/payments/{payment}/verify", {})
    assert (before.status, before.body["status"]) == (200, "credited"), "nothing is left to ask"
    assert (await api.post(f"/v1/payments/{payment}/sync", {})).status == 202
    row = await api.row("SELECT reason, next_at <= now() AS due FROM order_inquiries")
    assert tuple(row) == ("asked", True)
    await api.admin.execute("UPDATE order_inquiries SET next_at = 'infinity'")
    assert await api.admin.fetchval("SELECT count(*) FROM verifications") == 0


async def test_a_session_of_an_open_order_is_the_gateways_and_a_paid_order_has_none(api: Api) -> None:
    order = await ordered(api)
    path = f"/v1/payments/{order['payment_id']}/session"
    await api.admin.execute("UPDATE payments SET payment_session_id = NULL")
    again = await api.post(path, {})
    assert (again.status, again.body["payment_session_id"]) == (200, order["payment_session_id"])
    assert again.body["checkout_url"] == order["checkout_url"]
    paid(api, order)
    refused = await api.post(path, {})
    assert (refused.status, refused.code) == (409, "payment_paid")
    assert (await api.row("SELECT state, reason FROM verifications"))["reason"] == "asked"


async def test_a_failed_payment_is_tried_again_on_its_order_while_that_is_open(api: Api) -> None:
    order = await ordered(api)
    await api.admin.execute("UPDATE payments SET status = 'failed', failed_at = now()")
    path = f"/v1/payments/{order['payment_id']}/retry"
    again = await api.post(path, {}, Idempotency_Key="r")
    assert (again.status, again.body["payment_id"]) == (200, order["payment_id"])
    assert len(api.gateway.book.orders) == 1
    assert (await api.post(path, {}, Idempotency_Key="")).code == "idempotency_key_required"


async def test_a_payment_whose_order_is_over_is_tried_again_with_a_new_one_once_per_key(api: Api) -> None:
    order = await ordered(api)
    api.gateway.book.order(order["order_id"]).status = "EXPIRED"
    await api.admin.execute("UPDATE payments SET status = 'expired'")
    path = f"/v1/payments/{order['payment_id']}/retry"
    answers = await asyncio.gather(*(api.post(path, {}, Idempotency_Key="r") for _ in range(4)))
    assert sorted(a.status for a in answers) == [200, 200, 200, 201], [a.body for a in answers]
    (new,) = {a.body["payment_id"] for a in answers}
    assert new != order["payment_id"]
    assert len(api.gateway.book.orders) == 2
    rows = {r["id"]: r for r in await api.admin.fetch("SELECT id, retry_count, metadata::text FROM payments")}
    assert rows[UUID(order["payment_id"])]["retry_count"] == 1
    assert order["payment_id"] in rows[UUID(new)]["metadata"]


async def test_a_payment_that_is_credited_or_paid_is_not_tried_again(api: Api, database: Prepared) -> None:
    done, _ = await credited(api, database)
    assert (await api.post(f"/v1/payments/{done}/retry", {})).code == "payment_not_failed"
    order = await ordered(api)
    paid(api, order)
    assert (await api.post(f"/v1/payments/{order['payment_id']}/retry", {})).code == "payment_paid"
    api.gateway.faults.rules.append(Fault(endpoint="get_order", kind="502", times=20))
    unknown = await api.post(f"/v1/payments/{order['payment_id']}/retry", {})
    assert (unknown.status, unknown.code) == (502, "gateway_outcome_unknown")
    assert (await api.post(f"/v1/payments/{uuid4()}/retry", {})).status == 404


async def test_a_late_invoice_is_asked_for_and_an_issued_one_is_given(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    asked = await api.post(f"/v1/payments/{payment}/invoice", {})
    assert (asked.status, asked.body) == (202, {"state": "requested", "invoice": None})
    row = await api.row("SELECT events FROM outbox WHERE dest_topic = 'invoice.generate' AND producer_topic = 'api'"
                        " ORDER BY batch_no DESC LIMIT 1")  # fmt: skip
    assert payment in row["events"]
    order = await ordered(api)
    early = await api.post(f"/v1/payments/{order['payment_id']}/invoice", {})
    assert (early.status, early.code) == (409, "payment_not_credited")
    assert (await api.post(f"/v1/payments/{uuid4()}/invoice", {})).code == "unknown_payment"


async def test_receipts_are_listed_by_key_and_returned_once(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    for number in range(5):
        await api.admin.execute(
            "INSERT INTO unapplied_receipts (cashfree_payment_id, payment_id, reason, amount, batch_id)"
            " VALUES ($1, $2, 'paid_twice', 50000, uuidv7())",
            f"cf{number}",
            UUID(payment),
        )
    seen: list[str] = []
    after = ""
    while True:
        page = (await api.get(f"/v1/receipts?limit=2{after}")).body
        seen += [item["cf_payment_id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&cursor={page['next']}"
    assert seen == ["cf4", "cf3", "cf2", "cf1", "cf0"]
    first, second = [await api.post("/v1/receipts/cf3/refund", {}) for _ in range(2)]
    assert (first.status, second.status, first.body["id"]) == (201, 200, second.body["id"])
    assert (first.body["policy"], first.body["amount_paise"]) == ("UNAPPLIED", 50_000)
    open_ones = (await api.get(f"/v1/receipts?state=open&payment_id={payment}")).body["items"]
    assert [item["cf_payment_id"] for item in open_ones] == ["cf4", "cf2", "cf1", "cf0"]
    assert (await api.get(f"/v1/receipts?payment_id={uuid4()}")).body == {"items": [], "next": None}
    assert (await api.post("/v1/receipts/none/refund", {})).code == "unknown_receipt"
    for wrong in ("state=lost", "limit=0", "limit=999", "x=1", "payment_id=1"):
        assert (await api.get(f"/v1/receipts?{wrong}")).status == 400, wrong


async def test_disputes_are_listed_by_key_and_shown(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    for number in range(3):
        await api.admin.execute(
            "INSERT INTO disputes (dispute_id, payment_id, type, status, amount) VALUES ($1, $2, 'CHARGEBACK', $3, 100)",
            f"d{number}",
            UUID(payment),
            ("CHARGEBACK_CREATED", "CHARGEBACK_MERCHANT_WON")[number % 2],
        )
    first = (await api.get("/v1/disputes?limit=2")).body
    rest = (await api.get(f"/v1/disputes?limit=2&cursor={first['next']}")).body
    assert [d["dispute_id"] for d in first["items"] + rest["items"]] == ["d2", "d1", "d0"]
    assert rest["next"] is None
    won = (await api.get("/v1/disputes?status=CHARGEBACK_MERCHANT_WON")).body["items"]
    assert [d["dispute_id"] for d in won] == ["d1"]
    shown = (await api.get("/v1/disputes/d1")).body
    assert (shown["payment_id"], shown["amount_paise"], shown["refund_id"]) == (payment, 100, None)
    assert (await api.get("/v1/disputes/none")).code == "unknown_dispute"


async def test_calls_to_the_gateway_and_their_budget_are_among_the_metrics(api: Api) -> None:
    await ordered(api)
    async with api.http.get(f"{api.url}/metrics") as answer:
        text = await answer.text()
    assert 'gateway_calls_total{endpoint="create_order",outcome="ok"}' in text, text[-2000:]
    assert "gateway_budget_shared" in text
