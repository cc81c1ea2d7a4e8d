"""Every role on every route: what the policy says happens, and another's object looks like none."""

import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from bench.security.edge import Edge
from bench.security.issuer import Issuer
from bench.security.rbac import Matrix, counts
from bench.security.world import make_world
from gateway.simulator.sim import Simulator
from tests.conftest import Database as Prepared
from tests.web.conftest import Api, opened_api
from web.auth import OPEN, Reach, Role, Scope
from web.calls import reads
from web.policy import COLUMNS, TABLE, Policy, PolicyError
from web.resources import users
from web.router import POLICY, ROUTES
from web.shapes import NoQuery


@pytest.fixture
async def api(database: Prepared, gateway: tuple[str, Simulator]) -> AsyncIterator[Api]:
    """The API, which trusts an issuer; set up with the development token."""
    async with opened_api(database, gateway, access_cache_s=5, **ISSUER.settings()) as api:
        yield api


ISSUER = Issuer()


@pytest.fixture
async def matrix(api: Api) -> Matrix:
    world = await make_world(Edge(api.url, api.http), ISSUER, api.admin.fetch)
    return Matrix(api.url, api.http, world)


async def test_every_role_on_every_route_gets_what_the_policy_says_and_no_more(
    api: Api, matrix: Matrix
) -> None:
    figures = await matrix.measure(lambda: counts(api.admin.fetch))
    print(
        f"rbac_cells={figures.cells} rbac_violations={len(figures.violations)} rbac_route_coverage={figures.coverage:.0%}"
    )
    assert figures.violations == []
    assert figures.coverage == 1.0
    assert figures.cells > 8 * len(ROUTES)


async def test_another_s_wallet_takes_as_long_to_refuse_as_none(matrix: Matrix) -> None:
    route = next(route for route in ROUTES if route.name == "GET /v1/wallets/{id}")
    taken: dict[str, list[float]] = {"foreign": [], "missing": []}
    for _ in range(150):
        for which, times in taken.items():
            began = time.perf_counter()
            status, _, _ = await matrix.ask(route, Role.CUSTOMER, which)
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


OPENED = {
    "POST /v1/webhooks/cashfree",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /v1/docs",
    "GET /v1/openapi.json",
    "GET /static/{path:.+}",
}


def test_what_must_never_be_granted_is_not() -> None:
    """Said a second time, apart from the table, so that a slip of the table is seen."""
    reach = {(r.name, role): POLICY.reach(r, role) for r in ROUTES if r.scope not in OPEN for role in COLUMNS}
    for (name, role), given in reach.items():
        method, path = name.split()
        if role is Role.CUSTOMER and path != "/v1/packs" and path.startswith("/v1"):
            assert given is not Reach.ANY, name
        if role is Role.AUDITOR and method == "POST":
            assert given is Reach.NONE, name
        if (
            role is Role.ADMIN
            and path.startswith("/v1")
            and not path.startswith(("/v1/api-keys", "/v1/tokens"))
        ):
            assert given is Reach.NONE, name
        if path.endswith(("/approve", "/payout", "receipts/{id}/refund")):
            assert (given is Reach.ANY) == (role is Role.FINANCE), name
        if path.startswith(("/v1/api-keys", "/v1/tokens")) and method == "POST":
            assert (given is Reach.ANY) == (role is Role.ADMIN), name
    opened = {route.name for route in ROUTES if route.scope in OPEN}
    assert opened == OPENED, "what anybody may call is said here too"
