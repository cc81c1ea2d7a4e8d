"""Who calls, and what they may do. Local runs know one development token; it has every scope."""

import hmac
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import Final

from aiohttp import web

from web.problems import Problem
from web.settings import WebSettings

COOKIE: Final = "core_token"
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Scope(StrEnum):
    """What a route asks of its caller."""

    PUBLIC = "public"
    SIGNED = "signed"  # the body's signature is the credential
    LIVE = "live"
    USERS_WRITE = "users:write"
    USERS_READ = "users:read"
    WALLETS_WRITE = "wallets:write"
    WALLETS_READ = "wallets:read"
    CREDITS_GRANT = "credits:grant"
    CREDITS_HOLD = "credits:hold"
    USAGE_WRITE = "usage:write"
    USAGE_READ = "usage:read"
    PAYMENTS_WRITE = "payments:write"
    PAYMENTS_READ = "payments:read"
    REFUNDS_WRITE = "refunds:write"
    REFUNDS_READ = "refunds:read"
    REFUNDS_STAFF = "refunds:staff"  # RETIER, and payouts of old payments
    PUBLISHERS_READ = "publishers:read"
    AGGREGATES_READ = "aggregates:read"
    RECON_READ = "reconciliation:read"
    RECON_WRITE = "reconciliation:write"
    QUEUES_READ = "queues:read"
    QUEUES_WRITE = "queues:write"


@dataclass(frozen=True, slots=True)
class Caller:
    """A known caller. `principal` scopes its idempotency keys and usage ids, and has no ':'."""

    principal: str
    scopes: frozenset[Scope]


NOBODY: Final = Caller("-", frozenset())
LOCAL: Final = Caller("local", frozenset(Scope))


def authenticate(request: web.Request, settings: WebSettings, scope: Scope) -> Caller:
    """The caller, if it may do what `scope` says. Errors: Problem 401, 403."""
    if scope in (Scope.PUBLIC, Scope.SIGNED):
        return NOBODY
    caller = _caller(request, settings, scope)
    if caller is None:
        raise Problem(
            401,
            "unauthorised",
            "send Authorization: Bearer <token>",
            headers={"WWW-Authenticate": 'Bearer realm="commdesk"'},
        )
    if scope not in caller.scopes:
        raise Problem(403, "forbidden", f"the scope {scope} is needed")
    return caller


def _caller(request: web.Request, settings: WebSettings, scope: Scope) -> Caller | None:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and _is_token(token.strip(), settings):
        return LOCAL
    if scope is Scope.LIVE and (
        _is_token(request.cookies.get(COOKIE, ""), settings) or _is_local(request, settings)
    ):
        return LOCAL
    return None


def _is_token(given: str, settings: WebSettings) -> bool:
    expected = settings.api_token.get_secret_value()
    return bool(expected) and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def _is_local(request: web.Request, settings: WebSettings) -> bool:
    """A browser on this machine, that says so in Host too: a foreign name for our address is not local."""
    host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    try:
        loopback = ip_address(request.remote or "").is_loopback and ip_address(settings.web_host).is_loopback
    except ValueError:
        return False
    return loopback and host in _LOCAL_HOSTS and "X-Forwarded-For" not in request.headers
