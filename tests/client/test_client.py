"""The client against the real API: typed, patient, and never twice, whatever becomes of an answer on the wire."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web

from client import Client, Patience, UsageEvent
from client.errors import (
    ApiError,
    BadAnswer,
    Conflict,
    CoreError,
    Forbidden,
    InsufficientCredits,
    Invalid,
    NotFound,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unauthorised,
    Unreachable,
    WaitsForApproval,
)
from tests.web.conftest import serving

from .conftest import QUICK, Service


def event(wallet: UUID, **more: Any) -> UsageEvent:
    said: dict[str, Any] = {"id": f"e-{uuid4()}", "feature": "chat.message", "credits": 1} | more
    return UsageEvent(wallet_id=str(wallet), **said)


async def test_a_service_s_day(service: Service) -> None:
    core = service.core
    user = await core.users.create("asha-1", email="asha@example.com", state_code="29")
    assert (await core.users.get(user.id)) == user
    wallet = await core.wallets.create(user.id)
    granted = await core.wallets.grant(wallet.id, 500, "welcome")
    assert granted.available_credits == 500
    held = await core.holds.create(wallet.id, 100, reason="a long job")
    assert held.hold_id is not None
    spent = await core.holds.capture(held.hold_id, 60, feature="chat.message")
    assert spent.available_credits == 440
    assert (await core.holds.get(held.hold_id)).state == "captured"
    assert (await core.wallets.get(wallet.id)).available_credits == 440
    assert [w.id async for w in core.wallets.each(user.id)] == [wallet.id]
    packs = await core.payments.packs()
    order = await core.payments.create_order(
        user.id, wallet.id, packs[0].pack_paise, customer_phone="9999999999"
    )
    payment = await core.payments.get(order.payment_id)
    assert payment.amount_paise == packs[0].pack_paise
    assert [p.id async for p in core.payments.each(user_id=user.id)] == [payment.id]
    assert await core.payments.refunds(order.payment_id) == []


async def test_lists_come_page_by_page_and_whole(service: Service) -> None:
    wallet = await service.wallet()
    for n in range(7):
        await service.core.wallets.grant(wallet, n + 1, "test")
    found = [t.credits async for t in service.core.wallets.transactions(wallet, limit=3)]
    assert found == [7, 6, 5, 4, 3, 2, 1]


async def test_an_answer_lost_after_the_commit_is_asked_for_again_and_nothing_is_done_twice(
    service: Service,
) -> None:
    wallet = await service.wallet()
    for n in range(10):
        service.wire.cut = n % 4
        await service.core.wallets.grant(wallet, 10, f"grant-{n}")
    assert (await service.core.wallets.get(wallet)).available_credits == 100
    assert await service.api.count("wallet_transactions") == 10
    service.wire.cut = 3
    hold = await service.core.holds.create(wallet, 40)
    assert hold.hold_id is not None
    service.wire.cut = 2
    await service.core.holds.capture(hold.hold_id, 40)
    assert (await service.core.wallets.get(wallet)).available_credits == 60


async def test_usage_whose_answers_are_lost_is_stored_once(service: Service) -> None:
    wallet = await service.wallet(1000)
    chance = iter([0, 2, 1, 0, 3, 1] * 50)
    async with service.core.usage.meter(linger_s=0.005, max_batch=20) as meter:

        async def charge(n: int) -> str:
            if n % 10 == 0:
                service.wire.cut = next(chance)
            return (await meter.charge(event(wallet, id=f"m-{n}"))).status

        told = await asyncio.gather(*(charge(n) for n in range(200)))
    assert set(told) <= {"accepted", "replayed"}
    assert await service.api.count("usage_metering") == 200


async def test_what_the_meter_gathers_goes_in_few_requests(service: Service) -> None:
    wallet = await service.wallet()
    async with service.core.usage.meter(linger_s=0.02, max_batch=100) as meter:
        results = await asyncio.gather(*(meter.charge(event(wallet)) for _ in range(250)))
    assert {result.status for result in results} == {"accepted"}
    assert len(service.wire.answered) == 3


async def test_a_bad_event_spoils_only_itself(service: Service) -> None:
    wallet = await service.wallet()
    async with service.core.usage.meter() as meter:
        good, bad, other = await asyncio.gather(
            meter.charge(event(wallet)), meter.charge(event(uuid4())), meter.charge(event(wallet, id="x"))
        )
        again = await meter.charge(event(wallet, id="x", credits=2))
    assert (good.status, bad.status, bad.code, other.status) == (
        "accepted",
        "invalid",
        "unknown_wallet",
        "accepted",
    )
    assert again.status == "conflict"
    record = await service.core.usage.get("x")
    assert (record.credits, record.outcome.outcome) == (1, "pending")


async def test_errors_are_a_tree_with_the_api_s_codes(service: Service) -> None:
    core, wallet = service.core, await service.wallet(5)
    with pytest.raises(InsufficientCredits) as poor:
        await core.holds.create(wallet, 100)
    assert (poor.value.status, poor.value.code) == (402, "insufficient_credits")
    assert poor.value.request_id
    with pytest.raises(NotFound):
        await core.wallets.get(uuid4())
    with pytest.raises(Invalid):
        await core.wallets.grant(wallet, 0, "nothing")
    await core.wallets.grant(wallet, 1, "one", key="k")
    with pytest.raises(Conflict) as used:
        await core.wallets.grant(wallet, 2, "two", key="k")
    assert used.value.code == "idempotency_key_conflict"
    async with Client(service.wire.url, "cdk_wrong", patience=QUICK) as stranger:
        with pytest.raises(Unauthorised):
            await stranger.wallets.get(wallet)
    narrow = await service.api.post("/v1/api-keys", {"name": "other", "scopes": ["usage:write"]})
    async with Client(service.wire.url, narrow.body["api_key"], patience=QUICK) as limited:
        with pytest.raises(Forbidden):
            await limited.wallets.get(wallet)
    for kind in (InsufficientCredits, NotFound, Conflict):
        assert issubclass(kind, ApiError)
        assert issubclass(kind, CoreError)


async def test_endpoints_and_deliveries(service: Service) -> None:
    core, owner = service.core, UUID(await service.api.user())
    made = await core.endpoints.create(owner, "https://example.com/hook", kinds=["low_balance"])
    assert made.secret is not None
    changed = await core.endpoints.update(made.endpoint.id, every_kind=True)
    assert changed.kinds is None
    rotated = await core.endpoints.rotate_secret(made.endpoint.id)
    assert rotated.secret not in (None, made.secret)
    assert (await core.endpoints.disable(made.endpoint.id)).state == "disabled"
    assert (await core.endpoints.enable(made.endpoint.id)).state == "enabled"
    assert [e.id async for e in core.endpoints.each(owner)] == [made.endpoint.id]
    assert [d async for d in core.endpoints.deliveries(made.endpoint.id)] == []
    assert (await core.endpoints.replay(made.endpoint.id, 1)).replayed == 0
    await core.endpoints.delete(made.endpoint.id)
    with pytest.raises(NotFound):
        await core.endpoints.get(made.endpoint.id)


class Scripted:
    """A server that answers as a list says, and keeps what it was asked."""

    def __init__(self, *answers: web.Response | float) -> None:
        self.answers = list(answers)
        self.keys: list[str | None] = []

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        self.keys.append(request.headers.get("Idempotency-Key"))
        answer = self.answers.pop(0) if self.answers else web.json_response({}, status=500)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.json_response({}, status=500)
        return answer


def problem(status: int, code: str, **headers: str) -> web.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response({"code": code, "detail": "x", "status": status}, status=status, headers=sent)


def posted() -> web.Response:
    said = {"transaction_id": str(uuid4()), "wallet_id": str(uuid4()), "credits": 1, "available_credits": 1}
    return web.json_response(said)


async def grant(script: Scripted, patience: Patience = QUICK) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    async with serving(app) as url, Client(url, "cdk_x", patience=patience) as core:
        await core.wallets.grant(uuid4(), 1, "x")


async def test_every_attempt_has_the_same_key_and_no_two_calls_share_one() -> None:
    script = Scripted(
        problem(500, "internal_error"), problem(503, "x"), problem(502, "x"), posted(), posted()
    )
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", script.handle)
    async with serving(app) as url, Client(url, "cdk_x", patience=QUICK) as core:
        await core.wallets.grant(uuid4(), 1, "x")
        await core.wallets.grant(uuid4(), 1, "x")
    assert len(script.keys) == 5
    assert len(set(script.keys[:4])) == 1
    assert script.keys[4] not in (None, script.keys[0])


async def test_retry_after_is_waited_for() -> None:
    script = Scripted(problem(429, "too_many_requests", Retry_After="1"), posted())
    began = time.monotonic()
    await grant(script)
    assert time.monotonic() - began >= 1.0


async def test_a_retry_after_beyond_our_patience_is_not_waited_for() -> None:
    script = Scripted(problem(429, "too_many_requests", Retry_After="3600"))
    with pytest.raises(TooManyRequests):
        await grant(script)
    assert len(script.keys) == 1


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 413, 422])
async def test_a_no_is_not_asked_again(status: int) -> None:
    script = Scripted(problem(status, "no"))
    with pytest.raises(ApiError):
        await grant(script)
    assert len(script.keys) == 1


async def test_a_key_in_use_is_waited_for() -> None:
    script = Scripted(problem(409, "idempotency_key_in_use"), posted())
    await grant(script)
    assert len(script.keys) == 2


async def test_the_last_error_comes_out_after_the_last_attempt() -> None:
    script = Scripted(*[problem(503, "database_unavailable") for _ in range(20)])
    with pytest.raises(ServerError) as away:
        await grant(script)
    assert away.value.code == "database_unavailable"
    assert len(script.keys) == QUICK.attempts


async def test_who_never_answers_is_left_in_time_and_the_key_is_told() -> None:
    script = Scripted(60.0, 60.0, 60.0)
    began = time.monotonic()
    with pytest.raises(TimedOut) as late:
        await grant(script, Patience(total_s=0.6, attempt_s=0.25, attempts=9, base_s=0.01))
    assert time.monotonic() - began < 3.0
    assert late.value.key == script.keys[0]


async def test_nobody_there_is_unreachable() -> None:
    async with Client("http://127.0.0.1:1", "cdk_x", patience=QUICK) as core:
        with pytest.raises(Unreachable):
            await core.wallets.get(uuid4())


async def test_what_is_no_answer_of_the_api_s_is_a_bad_answer() -> None:
    for answer in (
        web.Response(text="<html>"),
        web.Response(status=404, text="nginx"),
        web.json_response([1]),
    ):
        with pytest.raises(BadAnswer):
            await grant(Scripted(answer))


async def test_what_waits_for_a_second_person_says_so_and_keeps_its_key() -> None:
    waiting = {
        "approval_id": str(uuid4()),
        "state": "pending",
        "summary": "a big one",
        "expires_at": "2030-01-01T00:00:00Z",
    }
    script = Scripted(web.json_response(waiting, status=202))
    with pytest.raises(WaitsForApproval) as waits:
        await grant(script)
    assert waits.value.key == script.keys[0]


async def test_a_meter_s_failure_reaches_everybody_who_waits(service: Service) -> None:
    wallet = await service.wallet()
    async with Client("http://127.0.0.1:1", "cdk_x", patience=QUICK) as core, core.usage.meter() as meter:
        told = await asyncio.gather(*(meter.charge(event(wallet)) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(error, Unreachable) for error in told)


async def test_a_publisher_asks_the_api_what_it_may_forget(service: Service) -> None:
    url = "rabbitmq-stream://chat:x@127.0.0.1:1/core"
    publisher = service.core.publisher(url, name="chat", secret=bytes(32))
    session = publisher.session
    assert await publisher._watermarks(session) == {}
    await service.api.admin.execute(
        "INSERT INTO publisher_watermarks (publisher, session, topic, partition, covered_seq)"
        " VALUES ('chat', $1, 'wallet.debit', 3, 17)",
        session,
    )
    assert await publisher._watermarks(session) == {3: 17}
    other = service.core.publisher(url, name="another", secret=bytes(32))
    with pytest.raises(NotFound):
        await other._watermarks(session)
