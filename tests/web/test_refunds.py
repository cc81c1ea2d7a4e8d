"""Refunds over the API: held in the call that asks, refused without a gateway call, once per key."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from sql import ledger
from sql.db import Database, DatabaseSettings
from sql.ledger import LedgerCommand
from tests.conftest import Database as Prepared

from .conftest import Api


async def credited(api: Api, database: Prepared, price_paise: int = 50_000) -> tuple[str, str]:
    """A payment that is in the ledger, below everything that would bring it there; and its wallet."""
    user = await api.user()
    wallet = await api.wallet(owner=user)
    order = await api.post(
        "/v1/payments/orders", {"user_id": user, "wallet_id": wallet, "pack_paise": price_paise}
    )
    payment = order.body["payment_id"]
    await api.admin.execute(
        "UPDATE payments SET status = 'verified', verified_at = now() WHERE id = $1", payment
    )
    command = LedgerCommand(
        id=uuid7(),
        wallet_id=UUID(wallet),
        kind="purchase",
        credits=order.body["credits"],
        key=f"core:purchase/{payment}",
        request_hash=b"h",
        occurred_at=datetime.now(UTC),
        source="payment",
        source_id=payment,
        analytics_partition=0,
        extra={"payment_id": payment, "invoice_partition": 0, "notify_partition": 0, "status_partition": 0},
    )
    async with await Database.connect(DatabaseSettings(database_url=database.web_url)) as db:
        assert (await ledger.call(db, 0, command)).outcome == "posted"
    return payment, wallet


async def test_a_refund_holds_its_credits_and_is_the_same_for_the_same_key(
    api: Api, database: Prepared
) -> None:
    payment, wallet = await credited(api, database)
    said: Any = {"amount_paise": 20_000, "reason": "not needed"}
    path = f"/v1/payments/{payment}/refunds"
    asked = await asyncio.gather(*(api.post(path, said, Idempotency_Key="one") for _ in range(5)))
    assert sorted(a.status for a in asked) == [200, 200, 200, 200, 201], [a.body for a in asked]
    assert len({a.body["id"] for a in asked}) == 1
    refund = (await api.get(f"/v1/refunds/{asked[0].body['id']}")).body
    assert (refund["status"], refund["credits"], refund["amount_paise"]) == ("requested", 2_200, 20_000)
    assert (await api.get(path)).body == {"items": [refund]}
    balance = (await api.get(f"/v1/wallets/{wallet}")).body
    assert (balance["available_credits"], balance["locked_credits"]) == (3_300, 2_200)
    other = await api.post(path, said | {"amount_paise": 1_000}, Idempotency_Key="one")
    assert (other.status, other.code) == (409, "idempotency_key_conflict")


async def test_w7_more_than_is_refundable_is_422_and_no_gateway_call(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    path = f"/v1/payments/{payment}/refunds"
    first = await api.post(path, {"amount_paise": 30_000})
    assert first.status == 201
    for _ in range(2):
        refused = await api.post(path, {"amount_paise": 20_001}, Idempotency_Key="too-much")
        assert (refused.status, refused.code) == (422, "insufficient_refundable")
        assert refused.body["refundable_paise"] == 20_000
    assert api.gateway.calls["create_refund"] == 0


async def test_what_is_no_refund_is_a_clear_error(api: Api, database: Prepared) -> None:
    payment, _ = await credited(api, database)
    path = f"/v1/payments/{payment}/refunds"
    for body, status in (
        ({"amount_paise": 0}, 422),
        ({"amount_paise": -5}, 422),
        ({"amount_paise": 1.5}, 422),
        ({"amount_paise": 100, "policy": "FORCED"}, 422),
        ({}, 422),
    ):
        assert (await api.post(path, body)).status == status, body
    assert (await api.post(f"/v1/payments/{uuid4()}/refunds", {"amount_paise": 100})).status == 404
    assert (await api.get(f"/v1/refunds/{uuid4()}")).status == 404
    assert (await api.get(f"/v1/payments/{uuid4()}/refunds")).status == 404
    assert (await api.get(path)).body == {"items": []}
    assert (await api.post(path, {"amount_paise": 100}, Idempotency_Key="")).status == 400


async def test_an_old_payment_is_refunded_by_a_payout_that_staff_approve(
    api: Api, database: Prepared
) -> None:
    payment, wallet = await credited(api, database)
    await api.admin.execute("UPDATE payments SET credited_at = now() - interval '7 months'")
    refund = (await api.post(f"/v1/payments/{payment}/refunds", {"amount_paise": 50_000})).body
    assert refund["status"] == "payout_requested"
    path = f"/v1/refunds/{refund['id']}/payout"
    assert (await api.post(path, {"verdict": "paid"})).code == "refund_not_there"
    for verdict, status in (("approve", "payout_approved"), ("paid", "done")):
        answer = await api.post(path, {"verdict": verdict, "reference": "UTR1"})
        assert (answer.status, answer.body["status"]) == (200, status)
    assert (await api.get(f"/v1/payments/{payment}")).body["status"] == "refunded"
    assert (await api.get(f"/v1/wallets/{wallet}")).body["locked_credits"] == 0
