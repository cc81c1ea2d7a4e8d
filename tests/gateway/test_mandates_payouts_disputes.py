"""Mandates, payouts and disputes between our clients and the simulator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gateway.client import CashfreeClient
from gateway.errors import BadRequest, NotFound, Refused
from gateway.mandates import MandateClient, NewDebit, NewSubscription
from gateway.payouts import NewTransfer, PayoutClient
from tests.gateway.conftest import Inbox, MakeOrder, Running

DAY_S = 86_400


def tomorrow(hours: float = 30) -> datetime:
    return datetime.now(UTC) + timedelta(hours=hours)


@pytest.fixture
def mandates(client: CashfreeClient) -> MandateClient:
    return MandateClient(client.transport)


@pytest.fixture
def payouts(client: CashfreeClient) -> PayoutClient:
    return PayoutClient.over(client.transport)


async def ask(mandates: MandateClient, subscription_id: str = "sub_1") -> None:
    await mandates.create(
        NewSubscription(
            subscription_id=subscription_id,
            max_paise=100_000,
            customer_email="a@example.com",
            customer_phone="9999999999",
            expires_at=datetime.now(UTC) + timedelta(days=365),
            return_url="https://example.com/back",
        )
    )


async def test_a_mandate_is_authorised_once_and_debited_a_day_ahead(
    mandates: MandateClient, simulator: Running, inbox: Inbox
) -> None:
    await ask(mandates)
    assert (await mandates.get("sub_1")).status == "INITIALIZED"
    await simulator.control("POST", "/subscriptions/sub_1/authorise", {})
    found = await mandates.get("sub_1")
    assert (found.status, found.max_paise) == ("ACTIVE", 100_000)
    debit = await mandates.charge(
        "sub_1", NewDebit(payment_id="debit_1", amount_paise=50_000, due_at=tomorrow())
    )
    assert (debit.status, debit.type, debit.amount_paise) == ("INITIALIZED", "CHARGE", 50_000)
    await simulator.control("POST", "/clock/advance", {"seconds": 2 * DAY_S})
    assert (await mandates.get_debit("sub_1", "debit_1")).status == "SUCCESS"
    await inbox.wait_for(4)
    assert {(event.kind, event.event_type, event.status) for event in inbox.events()} == {
        ("subscription", "SUBSCRIPTION_STATUS_CHANGED", "ACTIVE"),
        ("subscription_payment", "SUBSCRIPTION_PAYMENT_SUCCESS", "SUCCESS"),
        ("subscription_payment", "SUBSCRIPTION_PAYMENT_NOTIFICATION_INITIATED", "INITIALIZED"),
    }
    assert {event.related_id for event in inbox.events() if event.kind == "subscription_payment"} == {"sub_1"}
    assert len(await mandates.get_debits("sub_1")) == 2


async def test_a_debit_keeps_to_the_rules_of_its_mandate(mandates: MandateClient, simulator: Running) -> None:
    await ask(mandates)
    with pytest.raises(BadRequest):
        await mandates.charge("sub_1", NewDebit(payment_id="d_0", amount_paise=100, due_at=tomorrow()))
    await simulator.control("POST", "/subscriptions/sub_1/authorise", {})
    for payment_id, amount, due in (("d_1", 100_001, tomorrow()), ("d_2", 100, tomorrow(23))):
        with pytest.raises(BadRequest):
            await mandates.charge("sub_1", NewDebit(payment_id=payment_id, amount_paise=amount, due_at=due))
    assert (await mandates.manage("sub_1", "PAUSE")).status == "PAUSED"
    assert (await mandates.manage("sub_1", "ACTIVATE")).status == "ACTIVE"
    assert (await mandates.manage("sub_1", "CANCEL")).status == "CANCELLED"
    with pytest.raises(Refused):
        await mandates.manage("sub_1", "ACTIVATE")


@pytest.mark.parametrize("kind", ["commit_then_500", "commit_then_reset", "502"])
async def test_a_broken_debit_is_one_debit(mandates: MandateClient, simulator: Running, kind: str) -> None:
    await ask(mandates)
    await simulator.control("POST", "/subscriptions/sub_1/authorise", {})
    await simulator.fault("charge_subscription", kind)
    await mandates.charge("sub_1", NewDebit(payment_id="d_1", amount_paise=100, due_at=tomorrow()))
    assert len([debit for debit in await mandates.get_debits("sub_1") if debit.type == "CHARGE"]) == 1


async def test_a_debit_without_funds_fails_and_a_cancelled_mandate_cancels_what_is_due(
    mandates: MandateClient, simulator: Running
) -> None:
    await ask(mandates)
    await simulator.control("POST", "/subscriptions/sub_1/authorise", {})
    await simulator.control("POST", "/charge-policy", {"outcome": "FAILED"})
    await mandates.charge("sub_1", NewDebit(payment_id="d_1", amount_paise=100, due_at=tomorrow()))
    await mandates.charge("sub_1", NewDebit(payment_id="d_2", amount_paise=100, due_at=tomorrow(60)))
    await simulator.control("POST", "/clock/advance", {"seconds": 2 * DAY_S})
    failed = await mandates.get_debit("sub_1", "d_1")
    assert (failed.status, failed.failure) == ("FAILED", "Insufficient funds")
    await mandates.manage("sub_1", "CANCEL")
    await simulator.control("POST", "/clock/advance", {"seconds": 2 * DAY_S})
    assert (await mandates.get_debit("sub_1", "d_2")).status == "CANCELLED"


async def test_a_payout_is_done_when_it_is_acknowledged(
    payouts: PayoutClient, simulator: Running, inbox: Inbox
) -> None:
    new = NewTransfer(transfer_id="t_1", amount_paise=60_000, beneficiary_id="ben_1")
    assert (await payouts.create(new)).status == "RECEIVED"
    await simulator.control("POST", "/clock/advance", {"seconds": 1.1})
    sent = await payouts.get("t_1")
    assert (sent.status, sent.acknowledged) == ("SUCCESS", False)
    await simulator.control("POST", "/clock/advance", {"seconds": 1.1})
    assert (await payouts.get("t_1")).acknowledged
    await simulator.control("POST", "/transfers/t_1", {"status": "REVERSED"})
    await inbox.wait_for(3)
    assert sorted(event.event_type for event in inbox.events()) == [
        "TRANSFER_ACKNOWLEDGED",
        "TRANSFER_REVERSED",
        "TRANSFER_SUCCESS",
    ]
    assert len({event.business_key for event in inbox.events()}) == 3


@pytest.mark.parametrize("kind", ["commit_then_500", "commit_then_reset", "502"])
async def test_a_broken_payout_is_sent_once(payouts: PayoutClient, simulator: Running, kind: str) -> None:
    await simulator.control("POST", "/payout-policy", {"balance_paise": 100_000})
    await simulator.fault("create_transfer", kind)
    new = NewTransfer(transfer_id="t_1", amount_paise=60_000, beneficiary_id="ben_1")
    assert (await payouts.create(new)).amount_paise == 60_000
    assert simulator.sim.payouts.balance_paise == 40_000
    with pytest.raises(BadRequest):
        await payouts.create(NewTransfer(transfer_id="t_2", amount_paise=60_000, beneficiary_id="ben_1"))
    with pytest.raises(NotFound):
        await payouts.get("t_2")


async def test_a_failed_payout_returns_its_money_to_the_balance(
    payouts: PayoutClient, simulator: Running
) -> None:
    await simulator.control("POST", "/payout-policy", {"balance_paise": 100_000, "outcome": "FAILED"})
    await payouts.create(NewTransfer(transfer_id="t_1", amount_paise=60_000, beneficiary_id="ben_1"))
    await simulator.control("POST", "/clock/advance", {"seconds": 2})
    assert (await payouts.get("t_1")).status == "FAILED"
    assert simulator.sim.payouts.balance_paise == 100_000


async def test_a_dispute_is_opened_answered_and_closed(
    client: CashfreeClient, simulator: Running, inbox: Inbox, make_order: MakeOrder
) -> None:
    await make_order("order_d")
    await simulator.pay("order_d", webhook={"drop": True})
    opened = await simulator.control("POST", "/orders/order_d/dispute", {"amount_paise": 20_000})
    number = str(opened["dispute_id"])
    found = await client.get_dispute(number)
    assert (found.status, found.amount_paise, found.order_id) == ("CHARGEBACK_CREATED", 20_000, "order_d")
    assert [dispute.dispute_id for dispute in await client.get_disputes("order_d")] == [number]
    await simulator.control("POST", f"/disputes/{number}", {"status": "UNDER_REVIEW"})
    assert (await client.accept_dispute(number)).status == "CHARGEBACK_MERCHANT_ACCEPTED"
    with pytest.raises(BadRequest):
        await client.accept_dispute(number)
    await inbox.wait_for(3)
    assert sorted(event.event_type for event in inbox.events()) == [
        "DISPUTE_CLOSED",
        "DISPUTE_CREATED",
        "DISPUTE_UPDATED",
    ]
    assert {event.entity_id for event in inbox.events()} == {number}


async def test_vendors_are_kept_and_a_paid_order_is_split_once(
    simulator: Running, make_order: MakeOrder
) -> None:
    headers = {
        "x-client-id": "TEST_CLIENT",
        "x-client-secret": "test-secret-of-the-merchant",
        "x-api-version": "2025-01-01",
    }
    await make_order("order_v")
    await simulator.pay("order_v")
    vendor = {"vendor_id": "v_1", "name": "Someone", "email": "v@example.com", "phone": "9999999999"}
    split = {"split": [{"vendor_id": "v_1", "amount": 100.25}]}
    statuses = []
    for path, body in (
        ("/easy-split/vendors", vendor),
        ("/easy-split/vendors", vendor),
        ("/easy-split/orders/order_v/split", split),
        ("/easy-split/orders/order_v/split", split),
    ):
        async with simulator.http.post(f"{simulator.url}/pg{path}", json=body, headers=headers) as answer:
            statuses.append(answer.status)
    assert statuses == [200, 409, 200, 400]
    async with simulator.http.get(f"{simulator.url}/pg/easy-split/vendors/v_1", headers=headers) as answer:
        assert (await answer.json())["status"] == "ACTIVE"
