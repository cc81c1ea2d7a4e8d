"""Header fields: those that may come once only, and those that every answer carries."""

from collections import Counter
from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

from web.problems import Problem

ONCE: Final = frozenset(
    {
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "idempotency-key",
        "origin",
        "traceparent",
        "transfer-encoding",
        "x-csrf-token",
        "x-idempotency-key",
        "x-request-id",
        "x-webhook-attempt",
        "x-webhook-signature",
        "x-webhook-timestamp",
        "x-webhook-version",
    }
)
"""Two of them are two meanings: whoever stands before us may have read the other one."""

ALWAYS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Server": "CommDesk",
}
"""Unless a handler says otherwise."""
HSTS: Final = ("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
"""To whom came over TLS. Source: RFC 6797."""


def refuse_repeated(headers: CIMultiDictProxy[str]) -> None:
    """Errors: Problem 400 for a header that comes twice and may not."""
    names = [name.lower() for name, _ in headers.items()]
    if len(names) == len(set(names)):
        return
    twice = sorted(name for name, n in Counter(names).items() if n > 1 and name in ONCE)
    if twice:
        raise Problem(400, "repeated_header", f"{twice[0]} comes twice")


def protect(headers: CIMultiDict[str], *, tls: bool) -> None:
    """Give an answer the fields that all have."""
    for name, value in ALWAYS.items():
        if name not in headers:
            headers[name] = value
    if tls:
        headers[HSTS[0]] = HSTS[1]
