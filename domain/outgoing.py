"""What outgoing webhooks promise: where they may go, how they are signed, when they are tried again, what they tell.

Source: Standard Webhooks 1.0 (headers, signature, schedule); RFC 6890 and its registries (special addresses).
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

RETRY_S: Final = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Pause after each failed attempt, ± 10 %; ten attempts in 75 hours."""
PORTS: Final = frozenset({443, 8443})
MAX_URL: Final = 500
SECRET_MARK: Final = "whsec_"
SECRET_BYTES: Final = 32
MIN_SECRET_BYTES: Final = 24

EVENT_KINDS: Final[dict[str, str]] = {
    "credits_added": "a payment was verified and its credits are in the wallet",
    "credits_granted": "free credits were given",
    "credits_expired": "credits lapsed at their expiry",
    "credits_expiring": "credits lapse within a few days",
    "credits_refunded": "credits were taken back against money returned",
    "credits_charged_back": "credits were taken back because the bank returned the money",
    "credits_reinstated": "a dispute was won: what was taken back is in the wallet again",
    "low_balance": "the wallet went below its threshold",
    "payment_created": "an order exists and waits to be paid",
    "payment_verified": "the gateway confirmed that it was paid",
    "payment_held": "it was paid, and a person looks at it before it is credited",
    "payment_rejected": "it was paid, and is given back after a person looked at it",
    "payment_failed": "it was not paid",
    "payment_expired": "its order ended without a payment",
    "payment_mismatch": "another amount was paid than the order's; a person looks at it",
    "payment_refunded": "all of it was given back",
    "payment_returned": "the money went back to the payer",
    "payment_reversed": "the bank took the money back",
    "refund_initiated": "a refund was asked of the gateway",
    "refund_done": "the money of a refund has arrived",
    "refund_failed": "a refund did not reach the payer; it is tried another way",
    "refund_declined": "a refund was refused",
    "dispute_won": "a disputed payment stays ours",
    "invoice_issued": "a tax invoice or credit note exists",
    "endpoint_disabled": "a webhook endpoint failed for too long and gets nothing any more",
}
"""Kinds of events, and what each means. New ones may come: a receiver ignores those it does not know."""


class BadUrl(ValueError):
    """A URL that we send nothing to; the text says why, for people."""


class BadAddress(ValueError):
    """An address that no outgoing request may reach."""


_NEVER: Final = tuple(
    ip_network(text)
    for text in (
        "192.0.0.0/24",  # protocol assignments, a cloud's metadata among them
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a public address that is a cloud's own inside of it
        "::/96",  # an IPv4 address in old clothes
        "100::/64",
        "fec0::/10",
    )
)
_CARRIES_V4: Final = ((IPv6Network("64:ff9b::/96"), 0), (IPv6Network("2002::/16"), 80))
"""IPv6 ranges that lead to an IPv4 address, and how far from the right it lies."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is somebody's on the internet: not private, loopback, link-local, shared, reserved, multicast,
    a cloud's metadata, or an IPv6 address that leads to such a one.
    """
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address.teredo is not None:
            return False
        for network, shift in _CARRIES_V4:
            if address in network:
                return is_public(IPv4Address(int(address) >> shift & 0xFFFF_FFFF))
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _NEVER)


def check_address(text: str, *, local: bool = False) -> None:
    """Errors: BadAddress for one that is not public; with `local`, this machine's own are allowed too."""
    try:
        address = ip_address(text)
    except ValueError:
        raise BadAddress(f"{text!r} is no address") from None
    if not is_public(address) and not (local and address.is_loopback):
        raise BadAddress(f"{address} is not a public address")


def check_url(url: str, *, local: bool = False) -> None:
    """Whether events may be sent there, as far as the URL alone can tell; its name is resolved, and every address
    checked, at each attempt. `local` allows http, any port and this machine. Errors: BadUrl.
    """
    if len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise BadUrl(f"at most {MAX_URL} printable ASCII characters")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadUrl("this is no URL") from None
    if parts.scheme not in (("https", "http") if local else ("https",)):
        raise BadUrl("only https")
    if "@" in parts.netloc:
        raise BadUrl("no user and password in the URL")
    if parts.fragment or url.endswith("#"):
        raise BadUrl("no fragment")
    if not local and (443 if port is None else port) not in PORTS:
        raise BadUrl(f"only ports {', '.join(map(str, sorted(PORTS)))}")
    _check_host(host, local=local)


def _check_host(host: str, *, local: bool) -> None:
    literal = ":" in host or host.rpartition(".")[2].isdigit() or host.rpartition(".")[2].startswith("0x")
    if literal:
        try:
            check_address(host, local=local)
        except BadAddress as error:
            raise BadUrl(str(error)) from None
        return
    if not host or host.endswith(".") or not all(_is_label(label) for label in host.split(".")):
        raise BadUrl("this is no host name")
    if "." not in host and not (local and host == "localhost"):
        raise BadUrl("a host name of the internet has a dot")


def _is_label(label: str) -> bool:
    plain = label.replace("-", "").replace("_", "")
    return 0 < len(label) <= 63 and plain.isalnum() and not label.startswith("-") and not label.endswith("-")


def show_secret(secret: bytes) -> str:
    """As receivers are given it: `whsec_` and base64."""
    return SECRET_MARK + base64.b64encode(secret).decode()


def read_secret(text: str) -> bytes:
    """The bytes of a secret. Errors: ValueError, without the text."""
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_MARK), validate=True)
    except binascii.Error:
        raise ValueError("a secret is whsec_ and base64") from None
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes")
    return secret


def sign(secrets: Iterable[bytes], id: str, timestamp: int, body: bytes) -> str:
    """The header webhook-signature: one `v1,<base64>` per secret, the newest first, so that a receiver that still has
    the older one accepts it too. `timestamp`: Unix seconds.
    """
    signed = f"{id}.{timestamp}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
        for secret in secrets
    )
