"""Who calls: a token, an API key of a service or, where DEVELOPMENT is set, the development token.

One answer, 401, for whatever is wrong with a credential; our log has the reason. What was revoked is asked of PostgreSQL and
remembered for `access_cache_s`; while it is away nobody new is let in (503).
"""

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final, Generic, TypeVar
from uuid import UUID

import structlog
from aiohttp import web

from sql import access
from sql.access import LiveKey
from sql.db import Database
from web.auth import LOCAL, NOBODY, OPEN, Caller, Role, Scope
from web.ownership import principal_of
from web.problems import Problem
from web.settings import WebSettings
from web.tokens import BadToken, Claims, Tokens

log = structlog.get_logger("web.access")

COOKIE: Final = "core_token"
KEY_MARK: Final = "cdk"
_KEY: Final = re.compile(rf"{KEY_MARK}_(?P<prefix>[0-9a-f]{{16}})_[A-Za-z0-9_-]{{43}}", re.ASCII)
_LOCAL_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_REMEMBERED: Final = 10_000
_TOUCH_S: Final = 60.0

V = TypeVar("V")


def new_key() -> tuple[str, str, bytes]:
    """A fresh API key: the key itself, its public prefix, and the hash to store."""
    prefix = secrets.token_hex(8)
    key = f"{KEY_MARK}_{prefix}_{secrets.token_urlsafe(32)}"
    return key, prefix, hash_of(key)


def hash_of(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


class Access:
    """One per web process. `scopes_of`: what the policy gives each role. Errors: BadKey."""

    def __init__(
        self, settings: WebSettings, db: Database, scopes_of: Mapping[Role, frozenset[Scope]]
    ) -> None:
        self._settings = settings
        self._db = db
        self._scopes = scopes_of
        self._tokens = Tokens(settings)
        self._revoked: _Memory[bool] = _Memory(settings.access_cache_s)
        self._keys: _Memory[LiveKey | None] = _Memory(settings.access_cache_s)
        self._touched: _Memory[bool] = _Memory(_TOUCH_S)
        _say_development(settings)

    def scopes_of(self, role: Role) -> frozenset[Scope]:
        """All that a role may be given."""
        return self._scopes[role]

    async def caller(self, request: web.Request, scope: Scope, *, strangers: bool = True) -> Caller:
        """Who calls. Without `strangers` the database is asked of no API key that is new here.

        Errors: Problem 401; Unavailable.
        """
        if scope in OPEN:
            return NOBODY
        given = request.headers.getall("Authorization", [])
        try:
            if len(given) > 1:
                raise BadToken("two credentials")
            kind, _, token = (given[0] if given else "").partition(" ")
            if kind.lower() == "bearer" and token.strip():
                return await self._of_token(token.strip(), strangers)
            if scope is Scope.LIVE and self._may_look(request):
                return LOCAL
            raise BadToken("none")
        except BadToken as error:
            log.info("credential refused", reason=str(error))
            raise _unauthorised() from error

    async def _of_token(self, token: str, strangers: bool) -> Caller:
        if self._is_development(token):
            return LOCAL
        if token.startswith(f"{KEY_MARK}_"):
            return await self._of_key(token, strangers)
        claims = self._tokens.read(token, datetime.now(UTC))
        if await self._revoked.get(f"{claims.jti}\n{claims.subject}", lambda: self._ask(claims)):
            raise BadToken("revoked")
        may = self.scopes_of(claims.role)
        return Caller(
            principal=_principal(claims),
            role=claims.role,
            scopes=may if claims.scopes is None else may & claims.scopes,
        )

    async def _of_key(self, key: str, strangers: bool) -> Caller:
        form = _KEY.fullmatch(key)
        if form is None:
            raise BadToken("form of the key")
        prefix = form["prefix"]
        if not strangers and self._keys.last(prefix) is None:
            raise BadToken("a new key from where too many were refused")
        found = await self._keys.get(prefix, lambda: access.get_live_key(self._db, prefix))
        expected = found.secret_hash if found is not None else bytes(32)
        if not hmac.compare_digest(hash_of(key), expected) or found is None:
            raise BadToken("unknown key")
        if found.expires_at is not None and found.expires_at <= datetime.now(UTC):
            raise BadToken("the key is over")
        await self._touched.get(str(found.id), lambda: self._touch(found))
        return Caller(
            principal=f"service/{found.name}",
            role=Role.SERVICE,
            scopes=self.scopes_of(Role.SERVICE) & frozenset(found.scopes),
        )

    async def _ask(self, claims: Claims) -> bool:
        return await access.is_revoked(self._db, claims.jti, claims.subject, claims.issued_at)

    async def _touch(self, key: LiveKey) -> bool:
        await access.touch_api_key(self._db, key.id)
        return True

    def _is_development(self, given: str) -> bool:
        expected = self._settings.api_token.get_secret_value()
        usable = self._settings.development and bool(expected)
        return usable and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())

    def _may_look(self, request: web.Request) -> bool:
        """At the live page, in development: with the token as a cookie, or from this machine."""
        return self._is_development(request.cookies.get(COOKIE, "")) or self._is_local(request)

    def _is_local(self, request: web.Request) -> bool:
        """A browser on this machine, that says so in Host too: a foreign name for our address is not local."""
        host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
        try:
            near = (
                ip_address(request.remote or "").is_loopback
                and ip_address(self._settings.web_host).is_loopback
            )
        except ValueError:
            return False
        return (
            self._settings.development
            and near
            and host in _LOCAL_HOSTS
            and "X-Forwarded-For" not in request.headers
        )


class _Memory(Generic[V]):
    """Answers, each for a while; the least recently asked are forgotten first."""

    def __init__(self, for_s: float) -> None:
        self._for_s = for_s
        self._kept: OrderedDict[str, tuple[float, V]] = OrderedDict()

    async def get(self, name: str, ask: Callable[[], Awaitable[V]]) -> V:
        kept = self._kept.get(name)
        if kept is not None and time.monotonic() < kept[0]:
            self._kept.move_to_end(name)
            return kept[1]
        began = time.monotonic()
        value = await ask()
        self._kept[name] = (began + self._for_s, value)
        self._kept.move_to_end(name)
        while len(self._kept) > _REMEMBERED:
            self._kept.popitem(last=False)
        return value

    def last(self, name: str) -> V | None:
        """The last answer, however old."""
        kept = self._kept.get(name)
        return None if kept is None else kept[1]


def _principal(claims: Claims) -> str:
    """No two kinds of callers share a principal."""
    if claims.role is Role.CUSTOMER:
        return principal_of(UUID(claims.subject))
    return f"staff/{claims.subject}"


def _unauthorised() -> Problem:
    return Problem(
        401,
        "unauthorised",
        "send Authorization: Bearer <token>",
        headers={"WWW-Authenticate": 'Bearer realm="commdesk"'},
    )


def _say_development(settings: WebSettings) -> None:
    if settings.development and settings.api_token.get_secret_value():
        log.warning(
            "DEVELOPMENT IS SET: API_TOKEN may do everything, a browser on this machine sees the live page. Never in production"
        )
    elif settings.api_token.get_secret_value():
        log.warning("API_TOKEN is set and not used: it counts only where DEVELOPMENT is set")
