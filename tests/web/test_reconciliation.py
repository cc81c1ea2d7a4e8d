"""Reconciliation cases over the API: listed, assigned, resolved with a note, and a run on demand."""

from __future__ import annotations

from tests.conftest import Database as Prepared

from .conftest import Api


async def test_a_case_is_listed_assigned_and_resolved_once_with_a_note(api: Api, database: Prepared) -> None:
    await api.admin.execute(
        "SELECT open_cases('{wallet_balance,payment_mismatch}', '{w-1,p-1}', ARRAY['{\"n\": 1}', '{}']::jsonb[],"
        " ARRAY['{\"n\": 2}', '{}']::jsonb[], 'test')"
    )
    page = (await api.get("/v1/reconciliation/cases?limit=1")).body
    assert len(page["items"]) == 1
    rest = (await api.get(f"/v1/reconciliation/cases?limit=1&cursor={page['next']}")).body
    assert {page["items"][0]["subject"], rest["items"][0]["subject"]} == {"w-1", "p-1"}
    only = (await api.get("/v1/reconciliation/cases?kind=wallet_balance")).body["items"]
    assert [(case["expected"], case["actual"]) for case in only] == [({"n": 1}, {"n": 2})]
    path = f"/v1/reconciliation/cases/{only[0]['id']}"
    assert (await api.post(f"{path}/assign", {"owner": "meera"})).body["owner"] == "meera"
    assert (await api.post(f"{path}/resolve", {})).status == 422
    done = await api.post(f"{path}/resolve", {"note": "booked by hand"})
    assert (done.status, done.body["state"]) == (200, "resolved"), done.body
    assert [entry["actor"] for entry in done.body["history"]] == ["test", "local", "local"]
    again = await api.post(f"{path}/resolve", {"note": "twice"})
    assert again.status in (200, 409), again.body
    assert (await api.get("/v1/reconciliation/cases?state=open")).body["items"][0]["subject"] == "p-1"


async def test_a_run_is_asked_for_and_unknown_cases_are_not_there(api: Api) -> None:
    assert (await api.post("/v1/reconciliation/run")).status == 202
    missing = "/v1/reconciliation/cases/00000000-0000-7000-8000-000000000000/assign"
    assert (await api.post(missing, {"owner": "x"})).status == 404
