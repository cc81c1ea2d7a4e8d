"""What forgeries are made of: genuine events, their signature, and the secrets that must not count."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from bench.security.door import Due, Piece, Vector, request
from gateway.simulator.events import webhook_body
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import Attempt, Order

DAY_MS = 86_400_000
Change = Callable[[bytes], bytes]
"""Other bytes made of the right ones."""


def event(mark: str, *, paise: int = 17_000) -> bytes:
    """A payment's success as the gateway writes it; `mark` is its order and its payment."""
    order = Order(mark, 1, "s", paise, "INR", {"customer_id": "security"}, {}, None, None, [], 0, 0, "PAID")
    method: dict[str, Any] = {"upi": {"channel": "collect", "upi_id": "asha@upi"}}
    attempt = Attempt(0, mark, paise, "INR", "upi", method, 0, "SUCCESS", 0, "1")
    text = webhook_body("PAYMENT_SUCCESS_WEBHOOK", order, attempt, "2025-01-01", WebhookPlan(), 0)
    return text.replace(b'"cf_payment_id":"0"', b'"cf_payment_id":"%s"' % mark.encode())


@dataclass(slots=True)
class Forge:
    """Makes vectors for one run. `secret` counts, and so does `older`, which is being rotated out."""

    secret: bytes
    older: bytes
    now_ms: int
    name: str
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def stamp(self) -> str:
        """The time, as the gateway writes it."""
        return str(self.now_ms)

    def mark(self) -> str:
        """A payment that nobody has spoken of."""
        return f"sec-{self.name}-{next(self._numbers):06d}"

    def sign(self, body: bytes, *, stamp: str | bytes | None = None, secret: bytes | None = None) -> bytes:
        """The signature as the gateway makes it."""
        said = self.stamp if stamp is None else stamp
        text = said if isinstance(said, bytes) else said.encode()
        return base64.b64encode(hmac.digest(self.secret if secret is None else secret, text + body, "sha256"))

    def headers(
        self,
        body: bytes,
        *,
        stamp: str | bytes | None = None,
        signature: bytes | None = None,
        **more: bytes | None,
    ) -> list[tuple[bytes, bytes]]:
        """What a genuine delivery has; `more` replaces, adds, or with None removes (names with '_' for '-')."""
        said = self.stamp if stamp is None else stamp
        sent: dict[bytes, bytes | None] = {
            b"content-type": b"application/json",
            b"x-webhook-timestamp": said if isinstance(said, bytes) else said.encode(),
            b"x-webhook-signature": self.sign(body, stamp=said) if signature is None else signature,
            b"x-webhook-version": b"2025-01-01",
            b"x-webhook-attempt": b"1",
        }
        sent |= {name.replace("_", "-").encode(): value for name, value in more.items()}
        return [(name, value) for name, value in sent.items() if value is not None]

    def signed(
        self, name: str, mark: str, signature: bytes, body: bytes | None = None, **more: bytes | None
    ) -> Vector:
        """A vector that differs in its signature."""
        raw = event(mark) if body is None else body
        return self.vector(name, mark, request(self.headers(raw, signature=signature, **more), raw))

    def genuine(self, mark: str, *, secret: bytes | None = None) -> bytes:
        """A whole request that must be accepted."""
        body = event(mark)
        signature = self.sign(body, secret=secret)
        return request([*self.headers(body, signature=signature), (b"connection", b"close")], body)

    def vector(self, name: str, mark: str, *pieces: Piece, due: Due = Due.REFUSED) -> Vector:
        """A vector of these pieces."""
        return Vector(name, pieces, (mark,), due)


def digest(kind: str, secret: bytes, said: bytes) -> bytes:
    """Another MAC, in base64."""
    return base64.b64encode(hmac.digest(secret, said, kind))


def bare(kind: str, said: bytes) -> bytes:
    """A hash without a key, in base64."""
    return base64.b64encode(hashlib.new(kind, said, usedforsecurity=False).digest())


def flipped(text: bytes, at: int, bit: int = 1) -> bytes:
    """The same with one bit changed."""
    changed = bytearray(text)
    changed[at] ^= bit
    return bytes(changed)


def rewritten(body: bytes) -> bytes:
    """The same JSON, written by another writer."""
    return json.dumps(json.loads(body)).encode()
