"""The webhook signature, judged on the raw bytes. No I/O, no clock: the caller brings both.

`x-webhook-signature` is base64(HMAC-SHA256(secret, `x-webhook-timestamp` + raw body)). Three traps decide
the form of the check. JSON written anew is other bytes (`170.00` becomes `170`), so the raw body is
verified. Base64 is malleable, so the *encoded* text is compared, in constant time, never the decoded
bytes. Timestamp and body are joined without a separator, so digits could move from one to the other: the
timestamp must be exactly 13 digits and the body must start with `{`.

A stale but validly signed webhook is accepted and marked: it is not documented whether a retry is signed
anew.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_BODY_BYTES = 64 * 1024
STALE_AFTER_MS = 5 * 60 * 1000
FUTURE_TOLERANCE_MS = 5 * 60 * 1000

SIGNATURE = "x-webhook-signature"
TIMESTAMP = "x-webhook-timestamp"
VERSION = "x-webhook-version"
ATTEMPT = "x-webhook-attempt"
DELIVERY_KEY = "x-idempotency-key"

_TIMESTAMP_FORM = re.compile(r"[0-9]{13}")
_ONCE = frozenset(
    {
        SIGNATURE,
        TIMESTAMP,
        VERSION,
        ATTEMPT,
        DELIVERY_KEY,
        "content-type",
        "content-length",
        "content-encoding",
    }
)

Headers = Mapping[str, str] | Iterable[tuple[str, str]]


class Reason(StrEnum):
    """Why a webhook was refused; `status` is the HTTP answer it deserves."""

    OK = "ok"
    TOO_LARGE = "too_large"
    ENCODED = "encoded_body"
    MEDIA_TYPE = "not_json_type"
    REPEATED_HEADER = "repeated_header"
    MISSING_HEADER = "missing_header"
    TIMESTAMP = "bad_timestamp"
    BODY = "body_is_not_an_object"
    SIGNATURE = "signature_mismatch"
    FUTURE = "timestamp_in_the_future"

    @property
    def status(self) -> int:
        """200, 400, 401, 413 or 415."""
        return _STATUS.get(self, 400)


_STATUS = {
    Reason.OK: 200,
    Reason.TOO_LARGE: 413,
    Reason.ENCODED: 415,
    Reason.MEDIA_TYPE: 415,
    Reason.SIGNATURE: 401,
    Reason.FUTURE: 401,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the signature check found.

    `secret_index` is the position of the secret that matched (rotation: above 0 means an older key).
    `stale` is true when the signature is valid but older than five minutes.
    """

    reason: Reason
    timestamp_ms: int | None = None
    secret_index: int | None = None
    stale: bool = False
    version: str | None = None
    attempt: str | None = None
    delivery_key: str | None = None

    @property
    def ok(self) -> bool:
        """The webhook is authentic: store it."""
        return self.reason is Reason.OK


def sign(secret: bytes, timestamp: str, raw_body: bytes) -> bytes:
    """The encoded signature, as it stands in the header.

    Source: Cashfree, webhook signature verification; known answers in the tests.
    """
    return base64.b64encode(hmac.digest(secret, timestamp.encode("ascii") + raw_body, "sha256"))


def matching_secret(
    signature: bytes, timestamp: str, raw_body: bytes, secrets: Sequence[bytes]
) -> int | None:
    """The index of the secret that made this signature, or None. Every secret is tried, always."""
    found: int | None = None
    for index, secret in enumerate(secrets):
        if hmac.compare_digest(sign(secret, timestamp, raw_body), signature) and found is None:
            found = index
    return found


def refused_unread(headers: Headers) -> Reason | None:
    """What can be refused before the body is read: its type, its encoding, its declared size, repeated
    headers.

    aiohttp inflates an encoded body before a handler sees it, so any `Content-Encoding` is refused.
    """
    once = _gather(headers)
    if isinstance(once, Reason):
        return once
    if once.get("content-encoding", "identity").strip().lower() != "identity":
        return Reason.ENCODED
    if once.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        return Reason.MEDIA_TYPE
    length = once.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > MAX_BODY_BYTES:
        return Reason.TOO_LARGE
    return None


def verify(
    raw_body: bytes,
    headers: Headers,
    secrets: Sequence[bytes],
    now_ms: int,
    *,
    stale_after_ms: int = STALE_AFTER_MS,
    future_tolerance_ms: int = FUTURE_TOLERANCE_MS,
) -> Verdict:
    """Judge a webhook by its raw body and headers.

    `headers` is a multidict or pairs: a header sent twice must be visible as two. `secrets` are tried in
    order, newest first. Units: milliseconds since the epoch.
    Errors: none for what the world sends; ValueError if there is no secret to check with (our own
    mistake).
    """
    if not secrets or not all(secrets):
        raise ValueError("a webhook cannot be verified without a secret")
    if len(raw_body) > MAX_BODY_BYTES:
        return Verdict(Reason.TOO_LARGE)
    once = _gather(headers)
    if isinstance(once, Reason):
        return Verdict(once)
    signature, timestamp = once.get(SIGNATURE), once.get(TIMESTAMP)
    if not signature or not timestamp:
        return Verdict(Reason.MISSING_HEADER)
    if _TIMESTAMP_FORM.fullmatch(timestamp) is None:
        return Verdict(Reason.TIMESTAMP)
    if raw_body[:1] != b"{":
        return Verdict(Reason.BODY)
    index = matching_secret(signature.encode("utf-8", "surrogatepass"), timestamp, raw_body, secrets)
    if index is None:
        return Verdict(Reason.SIGNATURE)
    timestamp_ms = int(timestamp)
    if timestamp_ms - now_ms > future_tolerance_ms:
        return Verdict(Reason.FUTURE, timestamp_ms)
    return Verdict(
        Reason.OK,
        timestamp_ms,
        index,
        stale=now_ms - timestamp_ms > stale_after_ms,
        version=once.get(VERSION),
        attempt=once.get(ATTEMPT),
        delivery_key=once.get(DELIVERY_KEY),
    )


def _gather(headers: Headers) -> dict[str, str] | Reason:
    """Headers by lower-case name; a header that must come once and came twice is a refusal."""
    once: dict[str, str] = {}
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        key = name.lower()
        if key in once and key in _ONCE:
            return Reason.REPEATED_HEADER
        once[key] = value
    return once
