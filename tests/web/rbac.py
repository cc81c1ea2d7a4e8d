"""The matrix of who may do what, asked of a running API: routes × roles × {own, foreign, missing}."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from tests.web.conftest import Api, new_id
from web.auth import Reach, Role, Scope
from web.calls import Route
from web.ownership import FIELDS
from web.policy import COLUMNS
from web.router import POLICY, ROUTES

OBJECTS = ("own", "foreign", "missing")
REFUSED = frozenset({"unauthorised", "forbidden"})


@dataclass(frozen=True, slots=True)
class Things:
    """What one owner has; `approval` by who asked for it."""

    ids: Mapping[str, str]
    approval: Mapping[Role, str] = field(default_factory=dict)

    def of(self, kind: str | None, role: Role) -> str:
        """The object of a kind that a role calls its own."""
        if kind == "approval":
            return self.approval.get(role, self.approval[Role.CUSTOMER])
        return self.ids.get(kind or "", new_id())


@dataclass(slots=True)
class Figures:
    """What the matrix came to."""

    cells: int = 0
    routes: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)

    @property
    def coverage(self) -> float:
        """The share of the router's routes that were asked."""
        return len(self.routes) / len(ROUTES)


async def measure(
    api: Api,
    tokens: Mapping[Role, str],
    things: Mapping[str, Things],
    unchanged: Callable[[], Awaitable[Any]],
) -> Figures:
    """All cells; first those that must be refused, which must change nothing (`unchanged` gives what to compare)."""
    figures = Figures()
    cells = [
        (route, role, which)
        for route in ROUTES
        for role in (*COLUMNS, Role.NOBODY)
        for which in (OBJECTS if _names_objects(route) else ("own",))
    ]
    before = await unchanged()
    for route, role, which in sorted(cells, key=lambda cell: not _refused(*cell)):
        if before is not None and not _refused(route, role, which):
            if await unchanged() != before:
                figures.violations.append("a refused call has changed something")
            before = None
        figures.cells += 1
        figures.routes.add(route.name)
        wrong = await _cell(api, route, role, which, tokens, things)
        if wrong:
            figures.violations.append(f"{role} {route.name} {which}: {wrong}")
    return figures


def _names_objects(route: Route) -> bool:
    fields = set(getattr(route.body, "__struct_fields__", ()))
    return POLICY.kind(route) is not None or bool(fields & FIELDS.keys())


def _refused(route: Route, role: Role, which: str) -> bool:
    if route.scope in (Scope.PUBLIC, Scope.SIGNED):
        return False
    reach = POLICY.reach(route, role)
    return reach is Reach.NONE or (reach is Reach.OWN and which != "own")


async def _cell(
    api: Api, route: Route, role: Role, which: str, tokens: Mapping[Role, str], things: Mapping[str, Things]
) -> str | None:
    """What is wrong with the answer; None: nothing."""
    status, code, _ = await ask(api, route, role, which, tokens, things)
    if status >= 500:
        return f"{status} {code}"
    if route.scope in (Scope.PUBLIC, Scope.SIGNED):
        return f"{status} {code}" if code in REFUSED else None
    if role is Role.NOBODY:
        return None if (status, code) == (401, "unauthorised") else f"{status} {code}, not a 401"
    reach = POLICY.reach(route, role)
    if reach is Reach.NONE:
        return None if (status, code) == (403, "forbidden") else f"{status} {code}, not a 403"
    if reach is Reach.OWN and which != "own":
        others = [await ask(api, route, role, other, tokens, things) for other in ("foreign", "missing")]
        same = others[0] == others[1] and status == 404
        return None if same else f"{status} {code}, or foreign and missing differ: {others}"
    kind = POLICY.kind(route)
    if code in REFUSED or status in (401, 403):
        return f"{status} {code}, though it may"
    if kind is not None and which == "own" and code == f"unknown_{kind}":
        return f"{status} {code}, though it is there"
    return None


async def ask(
    api: Api, route: Route, role: Role, which: str, tokens: Mapping[Role, str], things: Mapping[str, Things]
) -> tuple[int, str, bytes]:
    """One call: its status, its problem's code, and its body byte for byte."""
    owner = things[which]
    kind = POLICY.kind(route)
    id = owner.of(kind, role)
    path = (
        route.path.replace("{path:.+}", "live.js")
        .replace("{metric}", "payments")
        .replace("{session}", new_id())
    )
    path = path.replace("{id}", id).replace("{name}", id)
    headers = {"X-Request-Id": "matrix", "Idempotency-Key": f"m-{uuid4()}"}
    if role in tokens:
        headers["Authorization"] = f"Bearer {tokens[role]}"
    data = None
    if route.method == "POST":
        headers["Content-Type"] = "application/json"
        data = json.dumps(_body(route, owner)).encode()
    else:
        headers["X-Forwarded-For"] = "203.0.113.9"  # not a browser of this machine
    async with api.http.request(route.method, api.url + path, data=data, headers=headers) as response:
        if response.content_type == "text/event-stream":
            return response.status, "", b""
        raw = await response.read()
        said = json.loads(raw) if "json" in response.content_type else {}
        return response.status, str(said.get("code", "")) if isinstance(said, dict) else "", raw


def _body(route: Route, owner: Things) -> dict[str, Any]:
    user, wallet = owner.ids["user"], owner.ids["wallet"]
    event = {"id": f"e-{uuid4()}", "wallet_id": wallet, "feature": "chat.message", "credits": 1}
    bodies: dict[str, dict[str, Any]] = {
        "/v1/users": {"external_id": f"m-{uuid4()}"},
        "/v1/users/{id}/notifications/read": {"ids": [new_id()]},
        "/v1/wallets": {"owner_id": user},
        "/v1/wallets/{id}/grants": {"credits": 1, "reason": "matrix"},
        "/v1/holds": {"wallet_id": wallet, "credits": 1},
        "/v1/holds/{id}/capture": {"credits": 1},
        "/v1/usage": {"events": [event]},
        "/v1/payments/orders": {"user_id": user, "wallet_id": wallet, "pack_paise": 15_000},
        "/v1/payments/{id}/refunds": {"amount_paise": 100},
        "/v1/refunds/{id}/payout": {"verdict": "approve"},
        "/v1/reconciliation/cases/{id}/assign": {"owner": "ravi"},
        "/v1/reconciliation/cases/{id}/resolve": {"note": "seen"},
        "/v1/dead-letters/replay": {"topic": "wallet.debit", "why": "matrix"},
        "/v1/dead-letters/{id}/replay": {"why": "matrix"},
        "/v1/dead-letters/{id}/purge": {"why": "matrix"},
        "/v1/api-keys": {"name": "matrix", "scopes": ["usage:write"]},
        "/v1/tokens/revoke": {"jti": str(uuid4())},
    }
    return bodies.get(route.path, {})
