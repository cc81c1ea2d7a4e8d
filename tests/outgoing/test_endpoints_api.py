"""Webhook endpoints over the API: what owners make, see and may do; no secret is ever shown twice."""

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from standardwebhooks.webhooks import Webhook

from sql import outgoing
from tests.conftest import Database as Prepared
from tests.web.conftest import Api, api, gateway

from .conftest import Desk

__all__ = ["api", "gateway"]


@pytest.fixture
async def owner(api: Api) -> str:
    return await api.user()


async def make(api: Api, owner: str, url: str = "https://example.com/hook", **more: Any) -> dict[str, Any]:
    made = await api.post("/v1/webhook-endpoints", {"owner_id": owner, "url": url} | more)
    assert made.status == 201, made.body
    return dict(made.body)


async def test_an_endpoint_is_made_once_per_key_and_gives_its_secret_again(api: Api, owner: str) -> None:
    body = {"owner_id": owner, "url": "https://example.com/hook", "kinds": ["low_balance"]}
    first = await api.post("/v1/webhook-endpoints", body, Idempotency_Key="once")
    again = await api.post("/v1/webhook-endpoints", body, Idempotency_Key="once")
    other = await api.post("/v1/webhook-endpoints", body | {"kinds": None}, Idempotency_Key="once")
    assert (first.status, again.status, other.code) == (201, 200, "idempotency_key_conflict")
    assert first.body == again.body
    assert first.body["secret"].startswith("whsec_")
    Webhook(first.body["secret"])
    assert await api.count("outgoing_endpoints") == 1


async def test_a_secret_is_shown_when_it_is_made_and_never_again(api: Api, owner: str) -> None:
    made = await make(api, owner)
    id, secret = made["endpoint"]["id"], made["secret"]
    rotated = await api.post(f"/v1/webhook-endpoints/{id}/rotate-secret", {"overlap_s": 60})
    assert rotated.status == 200
    assert rotated.body["secret"] != secret
    seen = [
        await api.get(f"/v1/webhook-endpoints/{id}"),
        await api.get(f"/v1/users/{owner}/webhook-endpoints"),
        await api.post(f"/v1/webhook-endpoints/{id}", {"description": "x"}),
    ]
    assert all("whsec_" not in json.dumps(answer.body) for answer in seen)
    audit = await api.admin.fetch("SELECT row_to_json(a)::text AS row FROM audit_logs a")
    assert audit
    assert not any(secret[6:] in row["row"] or rotated.body["secret"][6:] in row["row"] for row in audit)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"url": "https://10.0.0.1/"}, "url_refused"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url_refused"),
        ({"url": "ftp://example.com/"}, "url_refused"),
        ({"url": "https://user:x@example.com/"}, "url_refused"),
        ({"url": "x" * 501}, "invalid_request"),
        ({"kinds": ["no_such_kind"]}, "unknown_kind"),
        ({"kinds": []}, "invalid_request"),
        ({"owner_id": str(uuid4())}, "unknown_user"),
        ({"secret": "mine"}, "invalid_request"),
    ],
)
async def test_what_makes_no_endpoint_says_why(
    api: Api, owner: str, change: dict[str, Any], code: str
) -> None:
    body = {"owner_id": owner, "url": "https://example.com/hook"} | change
    answer = await api.post("/v1/webhook-endpoints", body)
    assert answer.code == code
    assert await api.count("outgoing_endpoints") == 0


async def test_an_account_has_only_so_many_endpoints(api: Api, owner: str) -> None:
    for n in range(20):
        await make(api, owner, f"https://example.com/{n}")
    answer = await api.post("/v1/webhook-endpoints", {"owner_id": owner, "url": "https://example.com/x"})
    assert (answer.status, answer.code) == (422, "too_many_endpoints")
    page = await api.get(f"/v1/users/{owner}/webhook-endpoints?limit=15")
    rest = await api.get(f"/v1/users/{owner}/webhook-endpoints?limit=15&cursor={page.body['next']}")
    urls = [item["url"] for item in page.body["items"] + rest.body["items"]]
    assert urls == [f"https://example.com/{n}" for n in range(20)]
    assert rest.body["next"] is None


async def test_an_endpoint_is_changed_switched_and_deleted(api: Api, owner: str) -> None:
    path = f"/v1/webhook-endpoints/{(await make(api, owner))['endpoint']['id']}"
    changed = await api.post(path, {"url": "https://example.org/x", "kinds": ["refund_done", "low_balance"]})
    assert (changed.body["url"], changed.body["kinds"]) == (
        "https://example.org/x",
        ["low_balance", "refund_done"],
    )
    assert (await api.post(path, {"every_kind": True})).body["kinds"] is None
    assert (await api.post(path, {"every_kind": True, "kinds": ["low_balance"]})).status == 422
    off = await api.post(f"{path}/disable")
    assert (off.body["state"], off.body["why"]) == ("disabled", "owner")
    assert (await api.post(f"{path}/enable")).body["state"] == "enabled"
    for _ in range(2):
        assert (await api.post(f"{path}/delete")).body["deleted"] is True
    for answer in (await api.get(path), await api.post(f"{path}/enable"), await api.post(path, {})):
        assert (answer.status, answer.code) == (404, "unknown_endpoint")
    actions = [r["action"] for r in await api.admin.fetch("SELECT action FROM audit_logs ORDER BY id")]
    assert [a for a in actions if a.startswith("endpoint.")] == [
        "endpoint.create",
        "endpoint.update",
        "endpoint.update",
        "endpoint.disable",
        "endpoint.enable",
        "endpoint.delete",
    ]


async def test_deliveries_are_listed_and_replayed_one_and_by_range(
    api: Api, owner: str, desk: Desk, database: Prepared
) -> None:
    receiver = await desk.receiver()
    made = await make(api, owner, receiver.url)
    id = made["endpoint"]["id"]
    await desk.happen(UUID(owner), 5)
    sender = await desk.sender()
    await desk.send(sender)
    page = await api.get(f"/v1/webhook-endpoints/{id}/deliveries?limit=3")
    rest = await api.get(f"/v1/webhook-endpoints/{id}/deliveries?limit=3&cursor={page.body['next']}")
    found = page.body["items"] + rest.body["items"]
    assert [d["sequence"] for d in found] == [5, 4, 3, 2, 1]
    assert {d["state"] for d in found} == {"delivered"}
    one = found[0]["id"]
    assert (await api.get(f"/v1/webhook-deliveries/{one}")).body == found[0]
    again = await api.post(f"/v1/webhook-deliveries/{one}/replay")
    assert (again.body["state"], again.body["attempts"]) == ("pending", 0)
    some = await api.post(f"/v1/webhook-endpoints/{id}/replay", {"from_sequence": 2, "to_sequence": 3})
    assert some.body == {"replayed": 2, "next": None}
    receiver.came.clear()
    await desk.send(sender)
    assert sorted(receiver.sequences) == [2, 3, 5]
    for came in receiver.came:
        Webhook(made["secret"]).verify(came.raw, came.headers)
    pending = await api.get(f"/v1/webhook-endpoints/{id}/deliveries?state=pending")
    assert pending.body["items"] == []
    nothing = await api.post(f"/v1/webhook-endpoints/{id}/replay", {"from_sequence": 3, "to_sequence": 2})
    assert nothing.code == "empty_range"
    assert (await outgoing.get_endpoint(desk.db, UUID(id))) is not None
