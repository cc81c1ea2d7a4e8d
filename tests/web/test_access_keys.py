"""API keys: shown once, stored as a hash, scoped, rotated with an overlap, called back."""

import asyncio
import hashlib

from tests.web.conftest import Api
from web.access import hash_of

ORDERS = "/v1/packs"


async def made(api: Api, name: str = "chat", *scopes: str) -> tuple[str, str]:
    """A key, and its id."""
    answer = await api.post("/v1/api-keys", {"name": name, "scopes": list(scopes) or ["payments:read"]})
    assert answer.status == 201, answer.body
    return str(answer.body["api_key"]), str(answer.body["key"]["id"])


async def status(api: Api, key: str, path: str = ORDERS) -> int:
    return (await api.get(path, Authorization=f"Bearer {key}")).status


async def later(api: Api, key: str, expected: int) -> None:
    """Until every process has heard of it: the settings' two seconds."""
    for _ in range(40):
        if (seen := await status(api, key)) == expected:
            return
        await asyncio.sleep(0.1)
    assert seen == expected


async def test_a_key_opens_its_scopes_and_only_its_hash_is_stored(api: Api) -> None:
    key, id = await made(api)
    assert await status(api, key) == 200
    assert await status(api, key, "/v1/approvals") == 403
    wallet = await api.wallet()
    assert await status(api, key, f"/v1/wallets/{wallet}") == 403, "a scope that this key was not given"
    row = await api.row("SELECT * FROM api_keys")
    assert row["secret_hash"] == hash_of(key) == hashlib.sha256(key.encode()).digest()
    secret = key.rpartition("_")[2]
    for table in ("api_keys", "audit_logs"):
        assert secret not in str(await api.admin.fetch(f'SELECT * FROM "{table}"'))
    listed = (await api.get("/v1/api-keys")).body["items"]
    assert (listed[0]["id"], listed[0]["last_used_at"] is not None) == (id, True)
    assert secret not in str(listed)


async def test_a_wrong_key_is_a_401_whatever_is_wrong_with_it(api: Api) -> None:
    key, _ = await made(api)
    head, _, secret = key.rpartition("_")
    for wrong in (
        f"{head}_{'x' * 43}",
        f"{head}_{secret[:-1]}",
        f"{head}_{secret}x",
        secret,
        key.upper(),
        f"{key}\t",
    ):
        expected = 200 if wrong.strip() == key else 401
        assert await status(api, wrong) == expected, wrong


async def test_a_rotated_key_goes_on_for_its_overlap_and_is_the_same_caller(api: Api) -> None:
    old, old_id = await made(api, "chat", "usage:write", "usage:read", "payments:read")
    wallet = await api.wallet(credits=10)
    event = {"id": "e-1", "wallet_id": wallet, "feature": "chat.message", "credits": 1}
    sent = await api.post("/v1/usage", {"events": [event]}, Authorization=f"Bearer {old}")
    assert sent.body["accepted"] == 1
    answer = await api.post(f"/v1/api-keys/{old_id}/rotate", {"overlap_s": 3600})
    new = str(answer.body["api_key"])
    assert (await status(api, old), await status(api, new)) == (200, 200)
    again = await api.post("/v1/usage", {"events": [event]}, Authorization=f"Bearer {new}")
    assert again.body["replayed"] == 1, "keys of one name are one caller"
    await api.post(f"/v1/api-keys/{answer.body['key']['id']}/rotate", {"overlap_s": 0})
    await later(api, new, 401)
    gone = await api.post(f"/v1/api-keys/{answer.body['key']['id']}/rotate")
    assert (gone.status, gone.code) == (409, "api_key_over")


async def test_a_revoked_key_opens_nothing_within_seconds_and_everywhere(api: Api) -> None:
    key, id = await made(api)
    assert await status(api, key) == 200
    for _ in range(2):
        answer = await api.post(f"/v1/api-keys/{id}/revoke")
        assert (answer.status, answer.body["revoked_at"] is not None) == (200, True)
    await later(api, key, 401)
    told = await api.admin.fetch("SELECT action FROM audit_logs WHERE object_kind = 'api_key' ORDER BY id")
    assert [row["action"] for row in told] == ["api_key.create", "api_key.revoke"]


async def test_a_service_is_given_no_scope_that_services_may_not_have(api: Api) -> None:
    for scope in ("refunds:staff", "access:write", "approvals:write", "queues:write"):
        answer = await api.post("/v1/api-keys", {"name": "chat", "scopes": ["usage:write", scope]})
        assert (answer.status, answer.code) == (422, "scope_not_for_services"), scope
    for body in ({"name": "a:b", "scopes": ["usage:write"]}, {"name": "chat\n", "scopes": ["usage:write"]}):
        assert (await api.post("/v1/api-keys", body)).code == "invalid_request"
    assert await api.count("api_keys") == 0
