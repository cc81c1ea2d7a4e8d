"""Lists, all of them in one shape: pages that join without gap or overlap, cursors that only their own list takes."""

from __future__ import annotations

from typing import Any

import pytest

from bench.security.bodies import path_of
from bench.security.edge import Edge
from bench.security.world import World, make_world
from tests.conftest import Database as Prepared
from tests.web.conftest import Api
from tests.web.examples import ids_of
from tests.web.test_openapi_examples import ISSUER, api
from tests.web.test_refunds import credited
from web.router import POLICY, ROUTES

__all__ = ["api"]  # the fixture
LISTS = [
    route
    for route in ROUTES
    if route.answer is not None and {"items", "next"} <= set(getattr(route.answer, "__struct_fields__", ()))
]
FILTERS = {
    "GET /v1/wallets": "owner_id={user}",
    "GET /v1/holds": "wallet_id={wallet}",
    "GET /v1/usage": "wallet_id={wallet}",
}


@pytest.fixture
async def world(api: Api) -> World:
    return await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)


def test_every_list_takes_a_cursor_and_a_limit() -> None:
    assert len(LISTS) >= 17
    for route in LISTS:
        assert {"cursor", "limit"} <= set(route.query.__struct_fields__), route.name


async def test_pages_of_one_join_to_the_whole_list(api: Api, world: World, database: Prepared) -> None:
    ids = await ids_of(api, world, database)
    walked = {}
    for route in LISTS:
        path = path_of(route, ids.get(POLICY.kind(route) or "", ""))
        query = FILTERS.get(route.name, "").format(**ids)
        whole = (await api.get(f"{path}?limit=200&{query}")).body["items"]
        assert await _walk(api, path, query) == whole, route.name
        walked[route.name] = len(whole)
    assert sum(n > 1 for n in walked.values()) >= 10, walked


async def test_a_cursor_opens_only_its_own_list(api: Api, world: World, database: Prepared) -> None:
    ids = await ids_of(api, world, database)
    foreign = (await api.get("/v1/api-keys?limit=1")).body["next"]
    assert foreign
    for route in LISTS:
        path = path_of(route, ids.get(POLICY.kind(route) or "", ""))
        query = FILTERS.get(route.name, "").format(**ids)
        for cursor in ("x", "bm90", "W10", "WyJhIiwxXQ", *([] if "api-keys" in path else [foreign])):
            answer = await api.get(f"{path}?{query}&cursor={cursor}")
            assert (answer.status, answer.code) == (400, "invalid_cursor"), (route.name, cursor)


async def _walk(api: Api, path: str, query: str) -> list[Any]:
    found: list[Any] = []
    cursor = ""
    while True:
        page = (await api.get(f"{path}?limit=1&{query}{cursor}")).body
        assert len(page["items"]) <= 1
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


async def test_a_customer_lists_their_own_and_nobody_else_s(api: Api, world: World) -> None:
    mine, theirs = world.things["own"].ids, world.things["foreign"].ids
    token = f"Bearer {world.tokens['customer']}"  # type: ignore[index]
    lists = [
        ("/v1/payments", "user_id", "user"),
        ("/v1/payments", "wallet_id", "wallet"),
        ("/v1/refunds", "user_id", "user"),
        ("/v1/refunds", "payment_id", "payment"),
        ("/v1/invoices", "user_id", "user"),
        ("/v1/holds", "wallet_id", "wallet"),
        ("/v1/wallets", "owner_id", "user"),
        ("/v1/usage", "wallet_id", "wallet"),
    ]
    for path, field, kind in lists:
        good = await api.get(f"{path}?{field}={mine[kind]}", Authorization=token)
        assert good.status == 200, (path, good.body)
        bad = await api.get(f"{path}?{field}={theirs[kind]}", Authorization=token)
        assert (bad.status, bad.code) == (404, f"unknown_{kind}"), path
    for path in ("/v1/payments", "/v1/refunds", "/v1/invoices"):
        all_of_them = await api.get(path, Authorization=token)
        assert (all_of_them.status, all_of_them.code) == (400, "filter_required"), path


async def test_payments_are_narrowed_by_user_wallet_and_status(api: Api, database: Prepared) -> None:
    payment, wallet = await credited(api, database)
    other, _ = await credited(api, database)
    user = (await api.get(f"/v1/payments/{payment}")).body["user_id"]

    async def ids(query: str) -> list[str]:
        return [item["id"] for item in (await api.get(f"/v1/payments?{query}")).body["items"]]

    assert await ids("") == [other, payment]
    assert await ids(f"user_id={user}") == await ids(f"wallet_id={wallet}") == [payment]
    assert await ids(f"wallet_id={wallet}&status=failed") == []
    assert (await api.get("/v1/payments?status=failed")).code == "filter_required"


async def test_the_lists_read_by_an_index(api: Api) -> None:
    """However full the tables: each list's own order and filter are an index's."""
    await api.admin.execute("SET enable_seqscan = off; SET enable_sort = off")
    for query in (
        "SELECT id FROM holds WHERE wallet_id = '0199a3c4-0000-7d2e-9f41-6b8a0c3d5e7f' ORDER BY id DESC LIMIT 5",
        "SELECT id FROM refunds WHERE status = 'due' ORDER BY id DESC LIMIT 5",
        "SELECT id FROM invoices ORDER BY issued_at DESC, id DESC LIMIT 5",
        "SELECT id FROM fraud_events WHERE verdict = 'hold' ORDER BY id DESC LIMIT 5",
        "SELECT id FROM wallet_transactions WHERE wallet_id = '0199a3c4-0000-7d2e-9f41-6b8a0c3d5e7f' ORDER BY seq DESC LIMIT 5",
    ):
        plan = "\n".join(row[0] for row in await api.admin.fetch(f"EXPLAIN {query}"))
        assert "Index" in plan, plan
        assert "Sort" not in plan, plan


async def test_usage_of_a_period_is_found_by_search(api: Api) -> None:
    """`wallet_seq_at` finds where a period lies among a wallet's transactions."""
    wallet = await api.wallet(credits=10)
    for n in range(5):
        await api.post(f"/v1/wallets/{wallet}/grants", {"credits": 1, "reason": f"r{n}"})
    times = await api.admin.fetch(
        "SELECT seq, created_at FROM wallet_transactions WHERE wallet_id = $1 ORDER BY seq", wallet
    )
    for row in times:
        at = await api.admin.fetchval("SELECT wallet_seq_at($1, $2)", wallet, row["created_at"])
        assert at == row["seq"]
    assert await api.admin.fetchval("SELECT wallet_seq_at($1, 'infinity')", wallet) == len(times) + 1
    assert await api.admin.fetchval("SELECT wallet_seq_at($1, '-infinity')", wallet) == 1
