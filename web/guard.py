"""What stands before every handler, in this order: is there room, who calls, may they, how often, is it theirs."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from web import trail
from web.addresses import neighbourhood
from web.auth import Caller, Reach, Scope
from web.calls import Route
from web.limits import Kind, kind_of
from web.ownership import check_path
from web.policy import Policy
from web.problems import Problem
from web.services import SERVICES, STANDING, Services
from web.throttle import Name, shown

UNCOUNTED: Final = frozenset({"/healthz"})
"""Asked by whoever decides that we live: never refused."""
_UNHURRIED: Final = frozenset({Scope.PUBLIC, Scope.LIVE})


def guarded(route: Route, policy: Policy) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The route's handler behind the policy and the limits."""
    owned, kind = policy.kind(route), kind_of(route.method, route.scope)

    async def handle(request: web.Request) -> web.StreamResponse:
        services = request.app[SERVICES]
        if route.scope not in _UNHURRIED:
            services.refuse_if_crowded()
        if kind is Kind.PROBES:
            if route.path not in UNCOUNTED:
                services.throttle.take_here(_by_address(services, kind, _near(request)))
            return await route.handle(request, await services.access.caller(request, route.scope))
        if kind is None:
            return await route.handle(request, await services.access.caller(request, route.scope))
        near = _near(request)
        caller = await _known(services, request, route.scope, near)
        caller = replace(caller, reach=policy.allow(route, caller))
        standing = await services.throttle.take(
            Name(f"{kind}:c:{caller.principal}", services.limits.of_caller(kind, caller)),
            _by_address(services, kind, near),
            counted=kind is Kind.MONEY,
        )
        request[STANDING] = shown(kind, standing)
        if caller.reach is Reach.OWN and owned is not None:
            await check_path(services.db, caller, owned, dict(request.match_info))
        return await trail.handle(route, request, caller)

    return handle


def _near(request: web.Request) -> str:
    return neighbourhood(request.app[SERVICES].proxies.client(request))


def _by_address(services: Services, kind: Kind, near: str) -> Name:
    return Name(f"{kind}:a:{near}", services.limits.addresses[kind])


async def _known(services: Services, request: web.Request, scope: Scope, near: str) -> Caller:
    """Who calls. Refused credentials are counted by address: beyond the limit they are told 429 instead of 401, and the
    database is not asked about keys that nobody has seen before. Who has a good one is let in from there too.
    """
    refused = _by_address(services, Kind.CREDENTIALS, near)
    over = services.throttle.over(refused)
    try:
        return await services.access.caller(request, scope, strangers=over is None)
    except Problem as problem:
        if problem.status != 401:
            raise
        raise (over or await services.throttle.fail(refused) or problem) from problem
