"""The audit log over the API: what people do is in it before it is done, and auditors read it."""

import csv
import io
import json

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from bench.security.issuer import Issuer
from gateway.simulator.sim import Simulator
from sql.db import DatabaseSettings
from tests.conftest import Database as Prepared
from tests.web.conftest import TOKEN, Api, gateway, serving, settings_for
from web.app import make_app
from web.resources.audit import csv_line
from web.settings import WebSettings

__all__ = ["gateway"]
ISSUER = Issuer()


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]):  # type: ignore[no-untyped-def]
    """The API, which trusts an issuer."""
    app = make_app(
        WebSettings(development=True, api_token=SecretStr(TOKEN), **ISSUER.settings()),
        settings_for(gateway[0]),
        DatabaseSettings(database_url=database.url, database_pool_size=4),
    )
    admin = await asyncpg.connect(database.admin_url)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Api(url, http, admin, gateway[1])
    await admin.close()


def bearer(role: str, sub: str = "asha") -> str:
    return f"Bearer {ISSUER.token(role=role, sub=sub)}"


async def test_what_people_do_is_logged_before_and_after_with_their_role_address_and_request(
    api: Api,
) -> None:
    user = await api.user()
    answer = await api.post(
        f"/v1/users/{user}/preferences",
        {"email": False},
        Authorization=bearer("support"),
        X_Request_Id="r-77",
    )
    assert answer.status == 200
    rows = await api.admin.fetch("SELECT *, host(source_ip) AS host FROM audit_logs ORDER BY id")
    assert [json.loads(row["detail"]) for row in rows] == [
        {"path": {"id": user}, "state": "asked"},
        {"path": {"id": user}, "state": "answered", "status": 200},
    ]
    for row in rows:
        assert (row["actor"], row["role"], row["host"], row["request_id"]) == (
            "staff/asha",
            "support",
            "127.0.0.1",
            "r-77",
        )
        assert row["action"] == "POST /v1/users/{id}/preferences"


async def test_a_deed_s_own_row_has_the_same_request_and_a_refusal_is_told(api: Api) -> None:
    made = await api.post(
        "/v1/api-keys",
        {"name": "chat", "scopes": ["usage:write"]},
        Authorization=bearer("admin", "root"),
        X_Request_Id="r-1",
    )
    assert made.status == 201
    refused = await api.post(
        "/v1/api-keys/00000000-0000-7000-8000-000000000000/revoke",
        Authorization=bearer("admin", "root"),
        X_Request_Id="r-2",
    )
    assert refused.status == 404
    rows = await api.admin.fetch(
        "SELECT action, request_id, role, detail ->> 'code' AS code FROM audit_logs ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("POST /v1/api-keys", "r-1", "admin", None),
        ("api_key.create", "r-1", "admin", None),
        ("POST /v1/api-keys", "r-1", "admin", None),
        ("POST /v1/api-keys/{id}/revoke", "r-2", "admin", None),
        ("POST /v1/api-keys/{id}/revoke", "r-2", "admin", "unknown_api_key"),
    ]


async def test_machines_customers_and_who_may_not_leave_no_row(api: Api) -> None:
    user = await api.user()
    wallet = await api.wallet(100, user)
    await api.get(f"/v1/wallets/{wallet}", Authorization=bearer("support"))
    denied = await api.post("/v1/api-keys", {}, Authorization=bearer("support"))
    assert denied.status == 403
    await api.post("/v1/wallets", {"owner_id": user}, Authorization=bearer("customer", user))
    assert await api.count("audit_logs") == 0


async def test_auditors_read_the_log_by_filter_and_page(api: Api) -> None:
    for n in range(5):
        await api.post(
            "/v1/tokens/revoke", {"jti": f"jti-{n}"}, Authorization=bearer("admin", f"root-{n % 2}")
        )
    auditor = {"Authorization": bearer("auditor")}
    page = await api.get("/v1/audit?object_kind=token&limit=3", **auditor)
    rest = await api.get(f"/v1/audit?object_kind=token&limit=3&cursor={page.body['next']}", **auditor)
    ids = [item["object_id"] for item in page.body["items"] + rest.body["items"]]
    assert ids == [f"jti-{n}" for n in (4, 3, 2, 1, 0)]
    assert rest.body["next"] is None
    one = await api.get("/v1/audit?object_kind=token&actor=staff/root-1&action=token.revoke", **auditor)
    assert [item["object_id"] for item in one.body["items"]] == ["jti-3", "jti-1"]
    at = page.body["items"][0]["created_at"].replace("+", "%2B")
    assert (await api.get(f"/v1/audit?object_id=jti-4&until={at}", **auditor)).body["items"] == []
    assert len((await api.get(f"/v1/audit?object_id=jti-4&since={at}", **auditor)).body["items"]) == 1
    assert (await api.get("/v1/audit?nobody=x", **auditor)).status == 400
    assert (await api.get("/v1/audit", Authorization=bearer("finance"))).status == 403


async def test_the_log_is_exported_whole_as_lines_and_as_a_table(api: Api) -> None:
    await api.admin.execute(
        "INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)"
        " SELECT 'staff/asha', 'look', 'payment', '=HYPERLINK(\"http://x\")' || n, jsonb_build_object('n', n)"
        " FROM generate_series(1, 2500) n"
    )
    auditor = {"Authorization": bearer("auditor")}
    async with api.http.get(f"{api.url}/v1/audit.jsonl?object_kind=payment", headers=auditor) as lines:
        assert lines.content_type == "application/jsonl"
        found = [json.loads(line) for line in (await lines.text()).splitlines()]
    assert [entry["seq"] for entry in found] == list(range(2500, 0, -1))
    table = await api.get("/v1/audit.csv", **auditor)
    assert table.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(table.body)))
    assert len(rows) == 2500
    assert rows[0]["object_id"] == '\'=HYPERLINK("http://x")2500'
    assert json.loads(rows[0]["detail"]) == {"n": 2500}
    assert (await api.get("/v1/audit.csv?since=yesterday", **auditor)).status == 400
    assert (await api.get("/v1/audit.jsonl", Authorization=bearer("support"))).status == 403


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_is_computed_by_a_spreadsheet(cell: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_line((cell, "plain"))))
    assert row == ["'" + cell, "plain"]
