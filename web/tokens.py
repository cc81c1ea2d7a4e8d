"""Access tokens: JWTs of keys that we were told of, read strictly. No token chooses its own key or algorithm.

Checked in this order: size and form; a header of nothing but `alg`, `typ` and `kid`; a known key that is not over, with
its own algorithm; the signature; each claim. Source: RFC 7519, RFC 8725 (best practices), RFC 9068 (access tokens).
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import OKPKey, RSAKey
from msgspec import Meta, Struct

from web.auth import STAFF, Role
from web.settings import JwtKey, WebSettings
from web.strict import Decoder, Malformed

MAX_BYTES: Final = 4096
MIN_RSA_BITS: Final = 2048
ROLES: Final = STAFF | {Role.CUSTOMER}
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_ACCESS: Final = frozenset({"at+jwt", "application/at+jwt"})
_UNTYPED: Final = frozenset({None, "JWT"})

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@|-]{1,128}$(?!\n)")]
Seconds = Annotated[int, Meta(ge=0, le=253_402_300_799)]


class BadToken(Exception):
    """Not a token that we accept. The reason is for our log, not for the caller."""


class BadKey(ValueError):
    """A key of the settings that cannot be used."""


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    """`jku`, `x5u`, `jwk`, `crit` and all others are refused unread."""

    alg: str
    kid: str
    typ: str | None = None


class _Payload(Struct, frozen=True):
    """What every token must say; it may say more."""

    iss: str
    aud: str | list[str]
    sub: Name
    exp: Seconds
    iat: Seconds
    jti: Name
    role: str
    nbf: Seconds | None = None
    scope: str | None = None
    token_use: str | None = None


_HEADER: Final = Decoder(_Header)
_PAYLOAD: Final = Decoder(_Payload)


@dataclass(frozen=True, slots=True)
class Claims:
    """A token that was good at the time of asking. `scopes`: what it is narrowed to; None: all of its role."""

    subject: str
    role: Role
    jti: str
    issued_at: datetime
    expires_at: datetime
    scopes: frozenset[str] | None


class _OneAlgorithm(jws.JWSRegistry):
    """Knows the algorithm of one key and no other."""

    def __init__(self, name: str) -> None:
        super().__init__(algorithms=[name])
        self._name = name

    def get_alg(self, name: str) -> Any:
        """The algorithm. Errors: UnsupportedAlgorithmError for any other."""
        if name != self._name:
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


@dataclass(frozen=True, slots=True)
class _Known:
    key: RSAKey | OKPKey
    registry: _OneAlgorithm
    alg: str
    not_after: datetime | None


class Tokens:
    """Reads tokens by the keys of the settings. Errors: BadKey."""

    def __init__(self, settings: WebSettings) -> None:
        self._keys: Mapping[str, _Known] = {key.kid: _known(key) for key in settings.jwt_keys}
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._leeway_s = settings.jwt_leeway_s
        self._longest_s = settings.jwt_longest_s

    def read(self, token: str, now: datetime) -> Claims:
        """Errors: BadToken."""
        if len(token) > MAX_BYTES or _COMPACT.fullmatch(token) is None:
            raise BadToken("form")
        head, body, _ = (_bytes(part) for part in token.split("."))
        try:
            header = _HEADER.decode(head)
        except Malformed as error:
            raise BadToken(f"header: {error.code}") from error
        known = self._keys.get(header.kid)
        if known is None or header.alg != known.alg:
            raise BadToken("key or algorithm")
        if known.not_after is not None and now >= known.not_after:
            raise BadToken("the key is over")
        try:
            jws.deserialize_compact(token, known.key, registry=known.registry)
        except (JoseError, ValueError) as error:
            raise BadToken(f"signature: {type(error).__name__}") from error
        try:
            payload = _PAYLOAD.decode(body)
        except Malformed as error:
            raise BadToken(f"claims: {error.code}") from error
        return self._checked(header, payload, now)

    def _checked(self, header: _Header, said: _Payload, now: datetime) -> Claims:
        self._is_access(header, said)
        audiences = [said.aud] if isinstance(said.aud, str) else said.aud
        if said.iss != self._issuer or self._audience not in audiences:
            raise BadToken("issuer or audience")
        now_s, leeway_s = now.timestamp(), self._leeway_s
        if now_s >= said.exp + leeway_s:
            raise BadToken("expired")
        if max(said.iat, said.nbf or 0) > now_s + leeway_s:
            raise BadToken("not yet valid")
        if not 0 < said.exp - said.iat <= self._longest_s:
            raise BadToken("lifetime")
        if said.role not in ROLES:
            raise BadToken("role")
        role = Role(said.role)
        return Claims(
            subject=_user(said.sub) if role is Role.CUSTOMER else said.sub,
            role=role,
            jti=said.jti,
            issued_at=datetime.fromtimestamp(said.iat, UTC),
            expires_at=datetime.fromtimestamp(said.exp, UTC),
            scopes=None if said.scope is None else frozenset(said.scope.split()),
        )

    @staticmethod
    def _is_access(header: _Header, said: _Payload) -> None:
        """A token must call itself an access token, by `typ` or `token_use`, and nothing else by either."""
        typ = header.typ.lower() if header.typ not in _UNTYPED and header.typ is not None else None
        if (typ is not None and typ not in _ACCESS) or said.token_use not in (None, "access"):
            raise BadToken("another kind of token")
        if typ is None and said.token_use is None:
            raise BadToken("no kind of token")


def _known(said: JwtKey) -> _Known:
    """A key of the settings. Errors: BadKey."""
    try:
        key = RSAKey.import_key(said.pem) if said.alg == "RS256" else OKPKey.import_key(said.pem)
        if key.is_private:
            raise BadKey(f"JWT_KEYS {said.kid}: a private key does not belong here")
        native = key.public_key
        if said.alg == "RS256" and getattr(native, "key_size", 0) < MIN_RSA_BITS:
            raise BadKey(f"JWT_KEYS {said.kid}: RSA keys have {MIN_RSA_BITS} bits or more")
        if said.alg == "EdDSA" and key["crv"] != "Ed25519":
            raise BadKey(f"JWT_KEYS {said.kid}: Ed25519 is the curve we know")
    except BadKey:
        raise
    except (JoseError, ValueError, TypeError) as error:
        raise BadKey(f"JWT_KEYS {said.kid}: no {said.alg} public key in PEM: {error}") from error
    return _Known(key, _OneAlgorithm(said.alg), said.alg, said.not_after)


def _bytes(part: str) -> bytes:
    """Base64url as RFC 7515 wants it: no padding, and no second spelling of the same bytes. Errors: BadToken."""
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError as error:
        raise BadToken("base64") from error
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != part:
        raise BadToken("base64")
    return raw


def _user(subject: str) -> str:
    """A customer's subject is the id of a user, written as we write it. Errors: BadToken."""
    try:
        return str(msgspec.convert(subject, UUID))
    except msgspec.ValidationError as error:
        raise BadToken("subject") from error
