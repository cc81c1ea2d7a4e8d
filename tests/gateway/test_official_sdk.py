"""The official SDK, unchanged but for its address, believes the simulator, and its signature check agrees
with ours.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import uuid
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.signature import sign, verify
from tests.gateway.conftest import CLIENT_ID, SECRET, Inbox, Running

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    models: Any = importlib.import_module("cashfree_pg.models")
    api_client: Any = importlib.import_module("cashfree_pg.api_client")

ApiClient, Cashfree = api_client.ApiClient, api_client.Cashfree

pytestmark = pytest.mark.filterwarnings("ignore")

Sdk = Callable[..., Any]


def redirected(base: str) -> Any:
    """The SDK's own HTTP client, with the sandbox's address replaced by the simulator's."""

    def request(self: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        address = url.replace("https://sandbox.cashfree.com", base)
        return ApiClient.request(self, method, address, *args, **kwargs)

    return type("Redirected", (ApiClient,), {"request": request})()


@pytest.fixture
async def sdk(simulator: Running) -> AsyncIterator[Sdk]:
    """Call a method of the SDK in a thread; gives the typed answer."""
    before = ApiClient._default
    ApiClient.set_default(redirected(simulator.url))
    merchant = Cashfree(XEnvironment=Cashfree.SANDBOX, XClientId=CLIENT_ID, XClientSecret=SECRET)

    async def call(method: str, *args: Any) -> Any:
        answer = await asyncio.to_thread(getattr(merchant, method), *args)
        assert answer.status_code == 200
        return answer.data

    yield call
    ApiClient.set_default(before)


def order_request(order_id: str, amount: float) -> Any:
    return models.CreateOrderRequest(
        order_id=order_id,
        order_amount=amount,
        order_currency="INR",
        customer_details=models.CustomerDetails(customer_id="cust_1", customer_phone="9999999999"),
        order_meta=models.OrderMeta(return_url="https://example.com/thanks?order_id={order_id}"),
        order_tags={"pack": "p1"},
    )


async def test_the_sdk_creates_pays_refunds_and_settles(simulator: Running, sdk: Sdk) -> None:
    created = await sdk("PGCreateOrder", order_request("order_sdk", 500.0), None, str(uuid.uuid4()))
    assert (created.order_id, created.order_status, created.order_amount) == ("order_sdk", "ACTIVE", 500.0)
    assert created.payment_session_id.startswith("session_")
    assert created.customer_details.customer_phone == "9999999999"

    await simulator.pay("order_sdk", attempts_before=1, method="card")
    assert (await sdk("PGFetchOrder", "order_sdk")).order_status == "PAID"
    payments = await sdk("PGOrderFetchPayments", "order_sdk")
    assert {payment.payment_status for payment in payments} == {"SUCCESS", "FAILED"}
    success = next(payment for payment in payments if payment.payment_status == "SUCCESS")
    assert success.payment_amount == 500.0
    assert success.payment_method.actual_instance.card.card_network == "visa"
    one = await sdk("PGOrderFetchPayment", "order_sdk", success.cf_payment_id)
    assert one.cf_payment_id == success.cf_payment_id

    wanted = models.OrderCreateRefundRequest(
        refund_amount=100.5, refund_id="refund_sdk", refund_note="a note"
    )
    refund = await sdk("PGOrderCreateRefund", "order_sdk", wanted)
    assert (refund.refund_status, refund.refund_amount) == ("PENDING", 100.5)
    await simulator.control("POST", "/clock/advance", {"seconds": 1})
    assert (await sdk("PGOrderFetchRefund", "order_sdk", "refund_sdk")).refund_status == "SUCCESS"
    assert [found.refund_id for found in await sdk("PGOrderFetchRefunds", "order_sdk")] == ["refund_sdk"]

    settled = await simulator.control("POST", "/settle")
    settlement = await sdk("PGOrderFetchSettlement", "order_sdk")
    assert (settlement.service_charge, settlement.service_tax, settlement.settlement_amount) == (
        9.75,
        1.76,
        488.49,
    )
    number = settled["cf_settlement_id"]
    filters = models.FetchSettlementsRequestFilters(cf_settlement_ids=[number])
    asked = models.FetchSettlementsRequest(
        pagination=models.FetchSettlementsRequestPagination(limit=10), filters=filters
    )
    whole = await sdk("PGFetchSettlements", asked)
    assert (whole.cf_settlement_id, whole.settlement_amount) == (number, 387.99)


async def test_the_sdk_reads_the_reconciliation(simulator: Running, sdk: Sdk) -> None:
    await sdk("PGCreateOrder", order_request("order_recon", 150.0))
    await simulator.pay("order_recon")
    await simulator.control("POST", "/settle")
    asked = models.FetchReconRequest(
        pagination=models.FetchReconRequestPagination(limit=10),
        filters=models.FetchReconRequestFilters(
            start_date="2020-01-01T00:00:00Z", end_date="2100-01-01T00:00:00Z"
        ),
    )
    found = await sdk("PGFetchRecon", asked)
    assert [line.event_details.event_type for line in found.data] == ["PAYMENT"]
    assert found.data[0].order_details.order_id == "order_recon"
    again = models.SettlementFetchReconRequest(
        pagination=models.FetchSettlementsRequestPagination(limit=10),
        filters=models.SettlementFetchReconRequestFilters(
            start_date="2020-01-01T00:00:00Z", end_date="2100-01-01T00:00:00Z"
        ),
    )
    lines = (await sdk("PGSettlementFetchRecon", again)).data
    assert lines[0].settlement_details.utr.startswith("UTR")


async def test_the_sdk_terminates_an_order_and_begins_a_payment(sdk: Sdk) -> None:
    created = await sdk("PGCreateOrder", order_request("order_term", 10.0))
    method = models.PayOrderRequestPaymentMethod(
        models.UPIPaymentMethod(upi=models.Upi(channel="link", upi_id="customer@upi"))
    )
    pay = models.PayOrderRequest(payment_session_id=created.payment_session_id, payment_method=method)
    begun = await sdk("PGPayOrder", pay)
    assert (begun.payment_method, begun.channel, begun.payment_amount) == ("upi", "link", 10.0)
    ended = await sdk(
        "PGTerminateOrder", "order_term", models.TerminateOrderRequest(order_status="TERMINATED")
    )
    assert ended.order_status == "TERMINATION_REQUESTED"


async def test_the_sdk_verifies_what_the_simulator_signs(simulator: Running, inbox: Inbox, sdk: Sdk) -> None:
    await sdk("PGCreateOrder", order_request("order_signed", 170.0))
    await simulator.pay("order_signed")
    await inbox.wait_for(1)
    received = inbox.received[0]
    headers = {name.lower(): value for name, value in received.headers}
    merchant = Cashfree(XEnvironment=Cashfree.SANDBOX, XClientId=CLIENT_ID, XClientSecret=SECRET)
    event = merchant.PGVerifyWebhookSignature(
        headers["x-webhook-signature"], received.body.decode(), headers["x-webhook-timestamp"]
    )
    assert event.type == "PAYMENT_SUCCESS_WEBHOOK"


async def test_the_sdk_and_we_judge_every_signature_alike(reference: Path) -> None:
    for case in json.loads((reference / "vectors" / "signature_kat.json").read_text()):
        body = base64.b64decode(case["body_b64"])
        if not body.startswith(b"{") or case["name"] == "not_utf8":
            continue
        theirs = Cashfree(XEnvironment=Cashfree.SANDBOX, XClientId="x", XClientSecret=case["secret"])
        ours = verify(
            body,
            {"x-webhook-signature": case["signature"], "x-webhook-timestamp": case["timestamp"]},
            [case["secret"].encode()],
            int(case["timestamp"]),
        )
        given = (case["signature"], body.decode(), case["timestamp"])
        if case["valid"]:
            assert theirs.PGVerifyWebhookSignature(*given).object == json.loads(body), case["name"]
        else:
            with pytest.raises(Exception, match="did not match"):
                theirs.PGVerifyWebhookSignature(*given)
        assert ours.ok == case["valid"], case["name"]
    body = b'{"type":"T","amount":170.00}'
    made = sign(b"secret", "1746427759733", body).decode()
    other = Cashfree(XEnvironment=Cashfree.SANDBOX, XClientId="x", XClientSecret="secret")
    assert other.PGVerifyWebhookSignature(made, body.decode(), "1746427759733").type == "T"
