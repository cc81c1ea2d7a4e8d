"""An issuer of tokens as the tests know it: keys that the API was told of, one that is over, and one of a stranger."""

import base64
import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from joserfc.jwk import OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from web.settings import JwtKey

ISSUER = "https://login.example.com"
AUDIENCE = "commdesk-core"


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def part(said: object) -> str:
    """A segment: bytes as they are, anything else as JSON."""
    return b64(said if isinstance(said, bytes) else json.dumps(said).encode())


@dataclass
class Issuer:
    """Signs whatever it is asked to; `settings` is what the API is told."""

    rsa: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048))
    ed: OKPKey = field(default_factory=lambda: OKPKey.generate_key("Ed25519"))
    over: OKPKey = field(default_factory=lambda: OKPKey.generate_key("Ed25519"))
    stranger: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048))

    def settings(self) -> dict[str, Any]:
        """The settings of an API that trusts this issuer."""
        yesterday = datetime.now(UTC) - timedelta(days=1)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        return {
            "jwt_issuer": ISSUER,
            "jwt_audience": AUDIENCE,
            "jwt_keys": (
                JwtKey(kid="rsa", alg="RS256", pem=public(self.rsa), not_after=tomorrow),
                JwtKey(kid="ed", alg="EdDSA", pem=public(self.ed)),
                JwtKey(kid="over", alg="EdDSA", pem=public(self.over), not_after=yesterday),
            ),
        }

    def claims(self, **more: Any) -> dict[str, Any]:
        """Good claims; a claim given as `...` is left out."""
        now = int(time.time())
        said = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "asha",
            "role": "support",
            "iat": now,
            "exp": now + 600,
            "jti": str(uuid4()),
        } | more
        return {name: value for name, value in said.items() if value is not ...}

    def token(
        self,
        header: object = None,
        payload: object = None,
        *,
        key: RSAKey | OKPKey | None = None,
        alg: str = "EdDSA",
        **claims: Any,
    ) -> str:
        """A token of this header and payload (good ones if not given), signed with `key` by `alg`."""
        head = part({"alg": alg, "typ": "at+jwt", "kid": "ed"} if header is None else header)
        body = part(self.claims(**claims) if payload is None else payload)
        signature = JWSRegistry.algorithms[alg].sign(f"{head}.{body}".encode(), key or self.ed)
        return f"{head}.{body}.{b64(signature)}"


def public(key: RSAKey | OKPKey) -> str:
    """The public half, as PEM."""
    pem: bytes = key.as_pem(private=False)
    return pem.decode()
