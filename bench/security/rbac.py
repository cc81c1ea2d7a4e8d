"""The matrix of who may do what, asked of a running API: routes × roles × {own, foreign, missing}."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import uuid4

import aiohttp

from bench.security.bodies import path_of, sample
from bench.security.edge import Rows
from bench.security.world import World
from web.auth import OPEN, Reach, Role
from web.calls import Route
from web.ownership import FIELDS
from web.policy import COLUMNS
from web.router import POLICY, ROUTES

OBJECTS: Final = ("own", "foreign", "missing")
REFUSED: Final = frozenset({"unauthorised", "forbidden"})
PATIENCE: Final = 5
"""How often a caller who is told to wait comes again."""

Cell = tuple[Route, Role, str]


@dataclass(slots=True)
class Figures:
    """What the matrix came to."""

    cells: int = 0
    routes: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    server_errors: int = 0

    @property
    def coverage(self) -> float:
        """The share of the router's routes that were asked."""
        return len(self.routes) / len(ROUTES)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Asks one API. `http` calls from where the limits are to be counted."""

    url: str
    http: aiohttp.ClientSession
    world: World

    async def measure(
        self, unchanged: Callable[[], Awaitable[Mapping[str, int]]], routes: Sequence[Route] = ROUTES
    ) -> Figures:
        """All cells; first those that must be refused, which must change nothing (`unchanged` gives what to compare)."""
        figures = Figures()
        cells = [
            (route, role, which)
            for route in routes
            for role in (*COLUMNS, Role.NOBODY)
            for which in (OBJECTS if _names_objects(route) else ("own",))
        ]
        before = await unchanged()
        await self._all([cell for cell in cells if _refused(*cell)], figures)
        after = await unchanged()
        if changed := sorted(name for name in after if after[name] != before.get(name)):
            figures.violations.append(f"a refused call has changed {', '.join(changed)}")
        await self._all([cell for cell in cells if not _refused(*cell)], figures)
        return figures

    async def _all(self, cells: Sequence[Cell], figures: Figures) -> None:
        for route, role, which in cells:
            figures.cells += 1
            figures.routes.add(route.name)
            wrong = await self._cell(route, role, which, figures)
            if wrong:
                figures.violations.append(f"{role} {route.name} {which}: {wrong}")

    async def _cell(self, route: Route, role: Role, which: str, figures: Figures) -> str | None:
        """What is wrong with the answer; None: nothing."""
        status, code, _ = await self.ask(route, role, which)
        if status >= 500:
            figures.server_errors += 1
            return f"{status} {code}"
        if route.scope in OPEN:
            return f"{status} {code}" if code in REFUSED else None
        if role is Role.NOBODY:
            return None if (status, code) == (401, "unauthorised") else f"{status} {code}, not a 401"
        reach = POLICY.reach(route, role)
        if reach is Reach.NONE:
            return None if (status, code) == (403, "forbidden") else f"{status} {code}, not a 403"
        if reach is Reach.OWN and which != "own":
            others = [await self.ask(route, role, other) for other in ("foreign", "missing")]
            same = others[0] == others[1] and status == 404
            return None if same else f"{status} {code}, or foreign and missing differ: {others}"
        kind = POLICY.kind(route)
        if code in REFUSED or status in (401, 403):
            return f"{status} {code}, though it may"
        if kind is not None and which == "own" and code == f"unknown_{kind}":
            return f"{status} {code}, though it is there"
        return None

    async def ask(self, route: Route, role: Role, which: str) -> tuple[int, str, bytes]:
        """One call: its status, its problem's code, and its body byte for byte. Who must wait waits, and asks again."""
        owner = self.world.things[which]
        headers = {"X-Request-Id": "matrix", "Idempotency-Key": f"m-{uuid4()}"}
        if role in self.world.tokens:
            headers["Authorization"] = f"Bearer {self.world.tokens[role]}"
        data = None
        if route.method == "GET":
            headers["X-Forwarded-For"] = "203.0.113.9"  # not a browser of this machine
        else:
            headers["Content-Type"] = "application/json"
            data = json.dumps(sample(route, owner.ids)).encode()
        path = path_of(route, owner.of(POLICY.kind(route), role))
        for _ in range(PATIENCE):
            async with self.http.request(
                route.method, self.url + path, data=data, headers=headers
            ) as response:
                if response.status == 429:
                    await asyncio.sleep(min(10.0, float(response.headers.get("Retry-After", "1"))))
                    continue
                if response.content_type == "text/event-stream":
                    return response.status, "", b""
                raw = await response.read()
                said = json.loads(raw) if response.content_type.endswith("json") else {}
                return response.status, str(said.get("code", "")) if isinstance(said, dict) else "", raw
        return 429, "too_many_requests", b""


_COUNTS: Final = """
SELECT string_agg(format('SELECT %L AS name, count(*) AS n FROM %I', tablename, tablename), ' UNION ALL ') AS statement
  FROM pg_tables WHERE schemaname = 'public'
"""


async def counts(rows: Rows, without: Collection[str] = ()) -> dict[str, int]:
    """How many rows each table has."""
    statement = (await rows(_COUNTS))[0]["statement"]
    return {row["name"]: int(row["n"]) for row in await rows(statement) if row["name"] not in without}


WORKERS: Final = frozenset(
    {"audit_anchors", "checked_heads", "duties", "invariant_runs", "recon_jobs", "stream_marks"}
)
"""Tables that a worker writes every now and then by itself."""


async def settled(rows: Rows, *, pause_s: float = 1.0, looks: int = 4, tries: int = 40) -> None:
    """Until the workers have done what they were given: the tables stand still for so many looks."""
    before, same = await counts(rows, WORKERS), 0
    for _ in range(tries):
        await asyncio.sleep(pause_s)
        now = await counts(rows, WORKERS)
        same = same + 1 if now == before else 0
        if same == looks:
            return
        before = now


def _names_objects(route: Route) -> bool:
    fields = set(getattr(route.body, "__struct_fields__", ()))
    return POLICY.kind(route) is not None or bool(fields & FIELDS.keys())


def _refused(route: Route, role: Role, which: str) -> bool:
    if route.scope in OPEN:
        return False
    reach = POLICY.reach(route, role)
    return reach is Reach.NONE or (reach is Reach.OWN and which != "own")
