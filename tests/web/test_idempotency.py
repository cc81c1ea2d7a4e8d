"""What people know of Idempotency-Keys, asked of every write of the table: again, with another body, all at once, by another."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

import pytest

from bench.security.edge import Edge
from bench.security.rbac import counts
from bench.security.world import World, make_service, make_world
from tests.conftest import Database as Prepared
from tests.web.conftest import Answer, Api
from tests.web.examples import CALLS, Example, filled, ids_of
from tests.web.test_openapi_examples import ISSUER, api
from web.calls import Key
from web.router import ROUTES

__all__ = ["api"]  # the fixture
_BY_NAME: Final = {route.name: route for route in ROUTES}
_OTHER: Final[dict[str, Any]] = {
    "POST /v1/users/{id}/notifications/read": {"ids": [str(uuid4())]},
    "POST /v1/users/{id}/preferences": {"in_app": False},
    "POST /v1/wallets": {"community_id": str(uuid4())},
    "POST /v1/usage": {},
    "POST /v1/payments/orders": {"pack_paise": 15_000},
    "POST /v1/refunds/{id}/payout": {"verdict": "paid"},
    "POST /v1/reconciliation/cases/{id}/assign": {"owner": "ravi"},
    "POST /v1/reconciliation/cases/{id}/resolve": {"note": "another"},
    "POST /v1/api-keys": {"name": "voice"},
    "POST /v1/tokens/revoke": {"subject": "meera"},
    "POST /v1/webhook-endpoints": {"description": "another"},
    "POST /v1/webhook-endpoints/{id}": {"description": "another"},
    "POST /v1/webhook-endpoints/{id}/replay": {"from_sequence": 2},
    "POST /v1/users": {"name": "Another"},
}
"""What makes another request of an example, where none of the usual fields does."""
_NOT_MADE: Final = frozenset({"POST /v1/payments/{id}/retry"})
"""Answers with the order that is still open: nothing was made, so nothing is made again."""
_REVOKES: Final = "POST /v1/tokens/revoke"
_SECRETS: Final = ("api_key", "secret")
_IDS: Final = ("id", "transaction_id", "payment_id", "order_id", "hold_id", "approval_id")
_LINKS: Final = frozenset({"batches", "outbox", "outbox_heads", "consumer_offsets", "audit_logs"})
"""What a synchronous call's chain may note about a call that changes nothing; and that somebody asked again is audited."""


@pytest.fixture
async def world(api: Api) -> World:
    return await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)


def test_every_write_says_what_becomes_of_its_key() -> None:
    writes = {route.name for route in ROUTES if route.method == "POST" and route.body is not None}
    assert {route.name for route in ROUTES if route.keyed is not None} == writes
    asked = {call.name for call in CALLS}
    assert writes <= asked


async def test_every_write_is_done_once_for_its_key(api: Api, world: World, database: Prepared) -> None:
    ids = await ids_of(api, world, database)
    wrong: list[str] = []
    for call in sorted(CALLS, key=lambda one: one.name == _REVOKES):  # who was revoked can ask nothing more
        route = _BY_NAME[call.name]
        if route.keyed in (None, Key.FREE):
            continue
        wrong += [f"{call.name}: {why}" for why in await _asked(api, world, call, ids)]
    assert not wrong, "\n".join(wrong)


async def _asked(api: Api, world: World, call: Example, ids: Mapping[str, str]) -> list[str]:
    key = f"once-{uuid4()}"
    at_once = await asyncio.gather(*(_send(api, world, call, ids, key) for _ in range(4)))
    done = [answer for answer in at_once if answer.status < 300]
    busy = [answer for answer in at_once if (answer.status, answer.code) == (409, "idempotency_key_in_use")]
    if not done or len(done) + len(busy) != len(at_once):
        return [f"at once: {[(answer.status, answer.body) for answer in at_once]}"]
    wrong = []
    if len({_identity(answer) for answer in done}) != 1:
        wrong.append(f"at once, different things: {[answer.body for answer in done]}")
    made = [one for one in done if one.status == 201 and "Idempotent-Replayed" not in one.headers]
    if len(made) > 1:
        wrong.append("made more than once")
    before = await _facts(api)
    again = await _send(api, world, call, ids, key)
    if await _facts(api) != before:
        wrong.append("again changes something")
    if again.status >= 300 or _identity(again) != _identity(done[0]):
        wrong.append(f"again: {again.status} {again.body}")
    if (
        again.status != 202
        and call.name not in _NOT_MADE
        and again.headers.get("Idempotent-Replayed") != "true"
    ):
        wrong.append("again is not marked")
    if isinstance(again.body, dict) and _BY_NAME[call.name].keyed is not Key.OWN:
        wrong += [f"{name} is shown again" for name in _SECRETS if again.body.get(name)]
    if (other := _other(call)) is not None:
        answer = await _send(api, world, call, ids, key, other)
        if (answer.status, answer.code) != (409, "idempotency_key_conflict"):
            wrong.append(f"another body: {answer.status} {answer.body}")
    return wrong


async def _send(
    api: Api,
    world: World,
    call: Example,
    ids: Mapping[str, str],
    key: str,
    more: Mapping[str, Any] | None = None,
) -> Answer:
    body = filled(call.body, ids) | dict(more or {})
    headers = {"Authorization": f"Bearer {world.tokens[call.role]}", "Idempotency-Key": key}
    return await api.call("POST", call.path.format(**ids), body, raw=None, **headers)


def _identity(answer: Answer) -> tuple[object, ...]:
    body = answer.body if isinstance(answer.body, dict) else {}
    parts = [body, *(part for part in body.values() if isinstance(part, dict))]
    return tuple(part.get(name) for part in parts for name in _IDS)


def _other(call: Example) -> dict[str, Any] | None:
    if call.name in _OTHER:
        return dict(_OTHER[call.name])
    for name, value in call.body.items():
        if isinstance(value, int) and not isinstance(value, bool):
            return {name: value + 1}
        if isinstance(value, str) and name in ("why", "reason"):
            return {name: f"{value}, really"}
    return None


async def _facts(api: Api) -> dict[str, int]:
    return {table: n for table, n in (await counts(api.admin.fetch)).items() if table not in _LINKS}


async def test_a_refusal_for_want_of_credits_stays_one_after_a_top_up(api: Api) -> None:
    wallet = await api.wallet()
    said = {"wallet_id": wallet, "credits": 10}
    first = await api.post("/v1/holds", said, Idempotency_Key="want")
    assert (first.status, first.code) == (402, "insufficient_credits")
    await api.post(f"/v1/wallets/{wallet}/grants", {"credits": 100, "reason": "gift"})
    again = await api.post("/v1/holds", said, Idempotency_Key="want")
    assert (again.status, again.code) == (402, "insufficient_credits")
    assert (await api.post("/v1/holds", said, Idempotency_Key="new")).status == 201


async def test_a_key_is_its_caller_s_alone(api: Api, world: World) -> None:
    other = await make_service(Edge(api.url, api.http), ISSUER, "another")
    made = [
        await api.post(
            "/v1/users", {"external_id": f"x-{n}"}, Idempotency_Key="mine", Authorization=f"Bearer {token}"
        )
        for n, token in enumerate((world.tokens["service"], other))  # type: ignore[index]
    ]
    assert [answer.status for answer in made] == [201, 201]
    assert made[0].body["id"] != made[1].body["id"]


async def test_a_kept_key_on_another_path_is_another_request(api: Api) -> None:
    owner = await api.user()
    hook = {"owner_id": owner, "url": "https://example.com/hook"}
    id = (await api.post("/v1/webhook-endpoints", hook)).body["endpoint"]["id"]
    path = f"/v1/webhook-endpoints/{id}"
    assert (await api.post(f"{path}/disable", {}, Idempotency_Key="k")).status == 200
    other = await api.post(f"{path}/enable", {}, Idempotency_Key="k")
    assert (other.status, other.code) == (409, "idempotency_key_conflict")
    assert (await api.post(f"{path}/enable", {}, Idempotency_Key="")).body["state"] == "enabled"
    assert (await api.post(f"{path}/disable", {}, Idempotency_Key="k")).body["state"] == "disabled"
    assert (await api.get(path)).body["state"] == "enabled", "a replay did it again"


async def test_what_was_not_done_leaves_its_key_free(api: Api) -> None:
    """A 422 keeps nothing: the same key may be used for the request as it should have been."""
    refused = await api.post("/v1/tokens/revoke", {}, Idempotency_Key="free")
    assert (refused.status, refused.code) == (422, "jti_or_subject")
    assert (await api.post("/v1/tokens/revoke", {"jti": "t-1"}, Idempotency_Key="free")).status == 200
