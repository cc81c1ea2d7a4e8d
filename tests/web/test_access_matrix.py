"""Every role on every route: what the policy says happens, and another's object looks like none."""

import statistics
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from gateway.simulator.sim import Simulator
from sql.db import DatabaseSettings
from tests.web.conftest import TOKEN, Api, new_id, serving, settings_for
from tests.web.issuer import Issuer
from tests.web.rbac import Things, ask, measure
from web.app import make_app
from web.auth import STAFF, Reach, Role, Scope
from web.calls import reads
from web.policy import COLUMNS, TABLE, Policy, PolicyError
from web.resources import users
from web.router import POLICY, ROUTES
from web.settings import WebSettings
from web.shapes import NoQuery


@dataclass(frozen=True, slots=True)
class World:
    """An API, a token of each role, and what the caller, another and nobody has."""

    api: Api
    tokens: Mapping[Role, str]
    things: Mapping[str, Things]


@pytest.fixture
async def api(database, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:  # type: ignore[no-untyped-def]
    """The API, which trusts an issuer; set up with the development token."""
    app = make_app(
        WebSettings(development=True, api_token=SecretStr(TOKEN), access_cache_s=5, **ISSUER.settings()),
        settings_for(gateway[0]),
        DatabaseSettings(database_url=database.url, database_pool_size=4),
    )
    admin = await asyncpg.connect(database.admin_url)
    async with serving(app) as url, aiohttp.ClientSession() as http:
        yield Api(url, http, admin, gateway[1])
    await admin.close()


ISSUER = Issuer()


@pytest.fixture
async def world(api: Api) -> World:
    mine, theirs = await _owner(api, "mine"), await _owner(api, "theirs")
    nobody = Things({kind: new_id() for kind in mine.things.ids}, {Role.CUSTOMER: new_id()})
    nobody.ids["publisher"] = "nobody-here"  # type: ignore[index]
    tokens = {role: ISSUER.token(role=role, sub=f"{role}-1") for role in STAFF}
    tokens[Role.CUSTOMER] = ISSUER.token(role="customer", sub=mine.things.ids["user"])
    tokens[Role.SERVICE] = mine.key
    return World(api, tokens, {"own": mine.things, "foreign": theirs.things, "missing": nobody})


@dataclass(frozen=True, slots=True)
class Owner:
    things: Things
    key: str


async def _owner(api: Api, name: str) -> Owner:
    """A user with one of everything, and a service with a key and a usage event."""
    user = await api.user()
    wallet = await api.wallet(credits=1000, owner=user)
    hold = await api.post("/v1/holds", {"wallet_id": wallet, "credits": 10})
    order = {"user_id": user, "wallet_id": wallet, "pack_paise": 50_000}
    paid = await api.post("/v1/payments/orders", order)
    assert paid.status == 201, paid.body
    payment = paid.body["payment_id"]
    scopes = sorted(POLICY.scopes_of[Role.SERVICE])
    made = await api.post("/v1/api-keys", {"name": name, "scopes": scopes})
    assert made.status == 201, made.body
    key = str(made.body["api_key"])
    event = {"id": f"e-{uuid4()}", "wallet_id": wallet, "feature": "chat.message", "credits": 1}
    used = await api.post("/v1/usage", {"events": [event]}, Authorization=f"Bearer {key}")
    assert used.body["accepted"] == 1, used.body
    refund, invoice = UUID(new_id()), UUID(new_id())
    await api.admin.execute(
        "INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, requested_by, idempotency_key)"
        " VALUES ($1, $2, $3, $4, 100, 'PRO_RATA', 'payout_requested', 'x', $2)",
        refund,
        f"r-{name}",
        UUID(payment),
        UUID(wallet),
    )
    await api.admin.execute(
        "INSERT INTO invoices (id, kind, number, series, financial_year, serial, payment_id, user_id, place_of_supply,"
        " gross_amount, taxable_amount, cgst_amount, sgst_amount, igst_amount, document, issued_at)"
        " VALUES ($1, 'tax_invoice', $2, 'CAA', 26, $3, $4, $5, '29', 118, 100, 9, 9, 0, '{}', now())",
        invoice,
        f"CAA/26/{len(name):09d}",
        len(name),
        UUID(payment),
        UUID(user),
    )
    approvals = {
        role: await _approval(api, principal, role, wallet)
        for role, principal in ((Role.CUSTOMER, f"user/{user}"), (Role.SERVICE, f"service/{name}"))
    }
    ids = {
        "user": user,
        "wallet": wallet,
        "hold": str(hold.body["hold_id"]),
        "payment": str(payment),
        "refund": str(refund),
        "invoice": str(invoice),
        "publisher": name,
        "usage": str(event["id"]),
    }
    return Owner(Things(ids, approvals), key)


async def _approval(api: Api, principal: str, role: Role, wallet: str) -> str:
    id = UUID(new_id())
    await api.admin.execute(
        "INSERT INTO approvals (id, idempotency_key, request_hash, action, path, body, summary, requested_by, requested_role,"
        " expires_at) VALUES ($1, $2, '', 'POST /v1/wallets/{id}/grants', jsonb_build_object('id', $3::text),"
        """ '{"credits": 1, "reason": "x"}', 'x', $4, $5, now() + interval '1 hour')""",
        id,
        f"{principal}:{id}",
        wallet,
        principal,
        role,
    )
    return str(id)


async def test_every_role_on_every_route_gets_what_the_policy_says_and_no_more(world: World) -> None:
    async def rows() -> dict[str, int]:
        tables = await world.api.admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {row["tablename"]: await world.api.count(row["tablename"]) for row in tables}

    figures = await measure(world.api, world.tokens, world.things, rows)
    print(
        f"rbac_cells={figures.cells} rbac_violations={len(figures.violations)} rbac_route_coverage={figures.coverage:.0%}"
    )
    assert figures.violations == []
    assert figures.coverage == 1.0
    assert figures.cells > 8 * len(ROUTES)


async def test_another_s_wallet_takes_as_long_to_refuse_as_none(world: World) -> None:
    route = next(route for route in ROUTES if route.name == "GET /v1/wallets/{id}")
    taken: dict[str, list[float]] = {"foreign": [], "missing": []}
    for _ in range(150):
        for which, times in taken.items():
            began = time.perf_counter()
            status, _, _ = await ask(world.api, route, Role.CUSTOMER, which, world.tokens, world.things)
            times.append(time.perf_counter() - began)
            assert status == 404
    foreign, missing = (statistics.median(taken[which]) for which in ("foreign", "missing"))
    print(f"foreign {foreign * 1000:.2f} ms, missing {missing * 1000:.2f} ms")
    assert 0.67 < foreign / missing < 1.5


def test_a_route_that_the_policy_misses_starts_nothing() -> None:
    extra = reads("/v1/new", users.get_user, NoQuery, scope=Scope.USERS_READ, answer=users.UserAnswer)
    with pytest.raises(PolicyError, match="GET /v1/new"):
        Policy((*ROUTES, extra))
    for route in ROUTES:
        without = "\n".join(
            line for line in TABLE.strip().splitlines() if line.split()[:2] != route.name.split()
        )
        with pytest.raises(PolicyError, match="not in the policy"):
            Policy(ROUTES, without)
    with pytest.raises(PolicyError, match="no such route"):
        Policy(ROUTES[1:])
    with pytest.raises(PolicyError, match="twice"):
        Policy((*ROUTES, ROUTES[0]))


def test_an_own_that_nothing_can_check_starts_nothing() -> None:
    line = (
        "POST /v1/users                                                 -    any  any  -    -    -    -    -"
    )
    assert line in TABLE
    with pytest.raises(PolicyError, match="whose it is"):
        Policy(ROUTES, TABLE.replace(line, line.replace("-    any", "own  any", 1)))
    opened = [replace(r, scope=Scope.PUBLIC) if r.path == "/v1/packs" else r for r in ROUTES]
    with pytest.raises(PolicyError, match="open"):
        Policy(opened)


def test_what_must_never_be_granted_is_not() -> None:
    """Said a second time, apart from the table, so that a slip of the table is seen."""
    reach = {(route.name, role): POLICY.reach(route, role) for route in ROUTES for role in COLUMNS}
    for (name, role), given in reach.items():
        method, path = name.split()
        if role is Role.CUSTOMER and path != "/v1/packs" and "static" not in path and path.startswith("/v1"):
            assert given is not Reach.ANY or "webhooks" in path, name
        if role is Role.AUDITOR and method == "POST" and "webhooks" not in path:
            assert given is Reach.NONE, name
        if (
            role is Role.ADMIN
            and path.startswith("/v1")
            and not path.startswith(("/v1/api-keys", "/v1/tokens"))
        ):
            assert given is Reach.NONE or "webhooks" in path, name
        if path.endswith(("/approve", "/payout", "receipts/{id}/refund")):
            assert (given is Reach.ANY) == (role is Role.FINANCE), name
        if path.startswith(("/v1/api-keys", "/v1/tokens")) and method == "POST":
            assert (given is Reach.ANY) == (role is Role.ADMIN), name
