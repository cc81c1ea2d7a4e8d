"""A second person: what one alone may not do is kept, done once by another's word, and told."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest

from bench.security.issuer import Issuer
from gateway.simulator.sim import Simulator
from tests.conftest import Database as Prepared
from tests.web.conftest import Answer, Api, new_id, opened_api

ISSUER = Issuer()


def staff(name: str, role: str = "finance") -> str:
    """An Authorization header."""
    return f"Bearer {ISSUER.token(role=role, sub=name)}"


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:
    async with opened_api(database, gateway, access_cache_s=0, **ISSUER.settings()) as api:
        yield api


async def asked(api: Api, wallet: str, key: str = "k", credits: int = 50) -> Answer:
    """A grant that Asha of support asks for."""
    return await api.post(
        f"/v1/wallets/{wallet}/grants",
        {"credits": credits, "reason": "sorry"},
        Authorization=staff("asha", "support"),
        Idempotency_Key=key,
    )


async def balance(api: Api, wallet: str) -> int:
    return int((await api.get(f"/v1/wallets/{wallet}")).body["available_credits"])


async def test_a_grant_by_hand_waits_for_another_and_is_then_posted_once(api: Api) -> None:
    wallet = await api.wallet()
    waiting = await asked(api, wallet)
    assert (waiting.status, waiting.body["state"]) == (202, "pending")
    assert (await asked(api, wallet)).body == waiting.body
    other = await asked(api, wallet, credits=51)
    assert (other.status, other.code) == (409, "idempotency_key_conflict")
    assert await balance(api, wallet) == 0
    path = f"/v1/approvals/{waiting.body['approval_id']}"
    both = await asyncio.gather(*(api.post(f"{path}/approve", Authorization=staff("ravi")) for _ in range(5)))
    assert {answer.status for answer in both} == {200}
    assert {answer.body["result"]["transaction_id"] for answer in both} == {
        both[0].body["result"]["transaction_id"]
    }
    assert await balance(api, wallet) == 50
    again = await asked(api, wallet)
    assert (again.status, again.body["available_credits"]) == (200, 50)
    found = (await api.get(path)).body
    assert (found["state"], found["requested_by"], found["decided_by"]) == (
        "approved",
        "staff/asha",
        "staff/ravi",
    )
    assert found["executed_at"] is not None
    told = await api.admin.fetch(
        "SELECT actor, action FROM audit_logs WHERE object_kind = 'approval' ORDER BY id"
    )
    assert [tuple(row) for row in told] == [
        ("staff/asha", "approval.request"),
        ("staff/ravi", "approval.approve"),
    ]


async def test_nobody_decides_what_they_asked_for_under_any_role(api: Api) -> None:
    wallet = await api.wallet()
    id = (await asked(api, wallet)).body["approval_id"]
    for verdict in ("approve", "reject"):
        own = await api.post(f"/v1/approvals/{id}/{verdict}", Authorization=staff("asha", "finance"))
        assert (own.status, own.code) == (403, "second_person_required")
    assert (await api.post(f"/v1/approvals/{id}/approve", Authorization=staff("x", "support"))).status == 403
    assert await balance(api, wallet) == 0
    with pytest.raises(asyncpg.CheckViolationError):
        await api.admin.execute(
            "UPDATE approvals SET state = 'approved', decided_by = requested_by WHERE id = $1", UUID(id)
        )


async def test_what_was_rejected_or_is_over_is_not_done(api: Api) -> None:
    wallet = await api.wallet()
    rejected, over = [(await asked(api, wallet, key)).body["approval_id"] for key in ("a", "b")]
    said = await api.post(
        f"/v1/approvals/{rejected}/reject", {"why": "too much"}, Authorization=staff("ravi")
    )
    assert (said.status, said.body["state"]) == (200, "rejected")
    late = await api.post(f"/v1/approvals/{rejected}/approve", Authorization=staff("meera"))
    assert (late.status, late.code) == (409, "approval_over")
    told = await asked(api, wallet, "a")
    assert (told.status, told.code, told.body["detail"]) == (403, "approval_rejected", "too much")
    await api.admin.execute("UPDATE approvals SET expires_at = now() WHERE id = $1", UUID(over))
    expired = await api.post(f"/v1/approvals/{over}/approve", Authorization=staff("ravi"))
    assert (expired.status, expired.code) == (409, "approval_expired")
    assert ((await asked(api, wallet, "b")).code, await balance(api, wallet)) == ("approval_expired", 0)
    listed = (await api.get("/v1/approvals?state=expired", Authorization=staff("ravi"))).body
    assert [item["id"] for item in listed["items"]] == [over]


async def test_a_refund_above_the_limit_waits_and_one_below_goes_on(api: Api) -> None:
    user = await api.user()
    wallet = await api.wallet(owner=user)
    order = {"user_id": user, "wallet_id": wallet, "pack_paise": 100_000}
    payment = (await api.post("/v1/payments/orders", order)).body["payment_id"]
    customer = f"Bearer {ISSUER.token(role='customer', sub=user)}"
    path = f"/v1/payments/{payment}/refunds"
    above = await api.post(path, {"amount_paise": 50_001}, Authorization=customer)
    assert above.status == 202
    below = await api.post(path, {"amount_paise": 50_000}, Authorization=customer)
    assert (below.status, below.code) == (422, "not_refundable"), "this payment was never credited"
    retier = {"amount_paise": 50_001, "policy": "RETIER"}
    assert (await api.post(path, retier, Authorization=customer)).status == 403
    mine = await api.get(f"/v1/approvals/{above.body['approval_id']}", Authorization=customer)
    assert (mine.status, mine.body["requested_by"]) == (200, f"user/{user}")
    stranger = f"Bearer {ISSUER.token(role='customer', sub=await api.user())}"
    assert (await api.get(f"/v1/approvals/{above.body['approval_id']}", Authorization=stranger)).status == 404
    done = await api.post(f"/v1/approvals/{above.body['approval_id']}/approve", Authorization=staff("ravi"))
    assert (done.status, done.code) == (422, "not_refundable"), "what is approved is still judged"


async def test_a_payout_needs_two_people_and_saying_no_needs_one(api: Api) -> None:
    user = await api.user()
    wallet = await api.wallet(owner=user)
    order = {"user_id": user, "wallet_id": wallet, "pack_paise": 15_000}
    payment = (await api.post("/v1/payments/orders", order)).body["payment_id"]
    refund = UUID(new_id())
    await api.admin.execute(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, requested_by, idempotency_key)"
        " VALUES ($1, 'r', $2, $3, 100, 'PRO_RATA', 'payout_requested', 'x', 'r')",
        refund,
        UUID(payment),
        UUID(wallet),
    )
    path = f"/v1/refunds/{refund}/payout"
    waiting = await api.post(path, {"verdict": "approve"}, Authorization=staff("asha"))
    assert waiting.status == 202
    assert (await api.get(f"/v1/refunds/{refund}")).body["status"] == "payout_requested"
    approve = f"/v1/approvals/{waiting.body['approval_id']}/approve"
    assert (await api.post(approve, Authorization=staff("asha"))).status == 403
    done = await api.post(approve, Authorization=staff("ravi"))
    assert (done.status, done.body["result"]["status"]) == (200, "payout_approved")
