"""Buying a pack: the row first, then the gateway; whatever happens, one key makes one order."""

import asyncio
from typing import Any

import pytest

from gateway.simulator.faults import Fault
from tests.web.conftest import Api, new_id


async def buyer(api: Api, **more: Any) -> dict[str, Any]:
    """An order's body: a user with a wallet who buys the ₹500 pack."""
    user = await api.user(**more)
    return {"user_id": user, "wallet_id": await api.wallet(owner=user), "pack_paise": 50_000}


async def test_an_order_is_stored_then_made_then_payable(api: Api) -> None:
    answer = await api.post(
        "/v1/payments/orders", (await buyer(api)) | {"device_id": "d1", "metadata": {"a": 1}}
    )
    assert answer.status == 201, answer.body
    order = api.gateway.book.orders[answer.body["order_id"]]
    assert order.amount_paise == answer.body["amount_paise"] == 50_000
    assert answer.body["credits"] == 5_500
    async with api.http.get(answer.body["checkout_url"]) as checkout:
        assert checkout.status == 200
    payment = (await api.get(f"/v1/payments/{answer.body['payment_id']}")).body
    assert (payment["status"], payment["attempts"]) == ("active", [])
    parts = (payment["taxable_paise"], payment["cgst_paise"], payment["sgst_paise"], payment["igst_paise"])
    assert parts == (42_372, 3_814, 3_814, 0)


async def test_another_state_pays_igst(api: Api) -> None:
    answer = await api.post("/v1/payments/orders", await buyer(api, state_code="07"))
    payment = (await api.get(f"/v1/payments/{answer.body['payment_id']}")).body
    assert (payment["taxable_paise"], payment["igst_paise"], payment["place_of_supply"]) == (
        42_373,
        7_627,
        "07",
    )


async def test_one_key_makes_one_order_however_often_it_is_sent(api: Api) -> None:
    said = await buyer(api)
    sends = [api.post("/v1/payments/orders", said, Idempotency_Key="o") for _ in range(8)]
    answers = await asyncio.gather(*sends)
    assert {a.status for a in answers} == {200, 201}
    assert len({a.body["order_id"] for a in answers}) == 1
    assert {a.body["payment_session_id"] is not None for a in answers} == {True}
    assert (await api.count("payments"), len(api.gateway.book.orders)) == (1, 1)
    other = await api.post("/v1/payments/orders", said | {"pack_paise": 15_000}, Idempotency_Key="o")
    assert (other.status, other.code) == (409, "idempotency_key_conflict")


@pytest.mark.parametrize(
    "kind", ["commit_then_timeout", "commit_then_500", "commit_then_reset", "502", "timeout"]
)
async def test_after_an_unknown_outcome_the_same_key_ends_with_the_same_order(api: Api, kind: Any) -> None:
    said = await buyer(api)
    api.gateway.faults.rules += [
        Fault(endpoint="create_order", kind=kind, times=3, seconds=1.0),
        Fault(endpoint="get_order", kind="502", times=3),
    ]
    first = await api.post("/v1/payments/orders", said, Idempotency_Key="o")
    assert (first.status, first.code) == (502, "gateway_outcome_unknown")
    assert first.headers["Retry-After"]
    assert (await api.get(f"/v1/payments/{first.body['payment_id']}")).body["status"] == "created"
    api.gateway.faults.rules.clear()
    again = await api.post("/v1/payments/orders", said, Idempotency_Key="o")
    assert again.status == 200, again.body
    assert again.body["order_id"] == first.body["order_id"]
    assert again.body["payment_session_id"]
    assert (await api.count("payments"), len(api.gateway.book.orders)) == (1, 1)


async def test_a_gateway_that_is_too_busy_is_a_503_and_the_key_goes_on(api: Api) -> None:
    said = await buyer(api)
    api.gateway.faults.rules.append(Fault(endpoint="create_order", kind="429", times=20))
    busy = await api.post("/v1/payments/orders", said, Idempotency_Key="o")
    assert (busy.status, busy.code) == (503, "gateway_busy")
    assert int(busy.headers["Retry-After"]) >= 1
    api.gateway.faults.rules.clear()


async def test_an_order_that_cannot_be_is_refused_before_the_gateway_hears(api: Api) -> None:
    said = await buyer(api)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"pack_paise": 49_999}, "unknown_pack"),
        ({"pack_paise": -50_000}, "invalid_request"),
        ({"pack_paise": 500.0}, "invalid_request"),
        ({"pack_paise": 10**40}, "invalid_request"),
        ({"credits": 1_000_000}, "invalid_request"),
        ({"wallet_id": new_id()}, "wallet_not_of_user"),
        ({"user_id": new_id()}, "wallet_not_of_user"),
        ({"return_url": "javascript:alert(1)"}, "invalid_request"),
        ({"metadata": {"a": "x" * 5000}}, "metadata_too_large"),
    ]
    for change, code in changes:
        answer = await api.post("/v1/payments/orders", said | change)
        assert (answer.status, answer.code) == (422, code), change
    assert await api.count("payments") == 0
    assert not api.gateway.book.orders


async def test_a_purchase_needs_a_state_and_a_phone(api: Api) -> None:
    no_state = await api.post("/v1/payments/orders", await buyer(api, state_code=None))
    assert (no_state.status, no_state.code) == (422, "place_of_supply_unknown")
    said = await buyer(api, phone=None)
    no_phone = await api.post("/v1/payments/orders", said)
    assert (no_phone.status, no_phone.code) == (422, "phone_required")
    assert (await api.post("/v1/payments/orders", said | {"customer_phone": "9999999999"})).status == 201


async def test_a_refused_order_stays_refused_for_its_key(api: Api) -> None:
    said = (await buyer(api, phone=None)) | {"customer_phone": "00000000"}
    first = await api.post("/v1/payments/orders", said, Idempotency_Key="o")
    if first.status == 201:
        pytest.fail("the simulator takes any phone: give it one it refuses")
    again = await api.post("/v1/payments/orders", said, Idempotency_Key="o")
    assert (first.status, first.code, again.status, again.code) == (422, "gateway_refused") * 2
    assert (await api.get(f"/v1/payments/{first.body['payment_id']}")).body["status"] == "failed"


async def test_packs_are_the_servers(api: Api) -> None:
    packs = (await api.get("/v1/packs")).body["items"]
    assert [(p["pack_paise"], p["credits"]) for p in packs] == [
        (15_000, 1_500),
        (30_000, 3_200),
        (50_000, 5_500),
        (100_000, 12_000),
    ]
