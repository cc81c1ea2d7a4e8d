"""Where a request comes from: the address nearest to us that is not one of our own proxies.

Anybody can write a forwarding header, so it is believed hop by hop from the right, and only as far as the hops are proxies that
we were told of. Only the one header that those proxies write is looked at. Source: RFC 7239; MDN, X-Forwarded-For.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from aiohttp import web

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_HOPS: Final = 16
_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"([^"]*)"|([^;,\s]*))', re.IGNORECASE)
_LONGEST: Final = 64


def read_address(said: str) -> Address | None:
    """An address without its port, zone and IPv4 mapping; None for anything else."""
    return _read(said) if len(said) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _read(said: str) -> Address | None:
    text = said.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


@lru_cache(maxsize=4096)
def neighbourhood(address: Address | None) -> str:
    """What shares one limit: an IPv4 address, or the /64 of an IPv6 address, which one customer has whole."""
    if address is None:
        return "-"
    if isinstance(address, IPv6Address):
        return str(ip_network((address, 64), strict=False))
    return str(address)


def within(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether one of the networks has it."""
    return address is not None and any(address in network for network in networks)


class Proxies:
    """Our own proxies, and the header that they write: `x-forwarded-for` or `forwarded`."""

    def __init__(self, trusted: Sequence[Network], header: str) -> None:
        self._trusted = tuple(trusted)
        self._header = header

    def trusts(self, address: Address | None) -> bool:
        """Whether it is one of ours."""
        return within(address, self._trusted)

    def client(self, request: web.Request) -> Address | None:
        """The client's address; None where the connection has none (a socket of the file system)."""
        peer = read_address(request.remote) if request.remote else None
        if not self._trusted or not self.trusts(peer):
            return peer
        client = peer
        for hop in self._hops(request)[:MOST_HOPS]:
            if hop is None:
                break
            client = hop
            if not self.trusts(hop):
                break
        return client

    def secure(self, request: web.Request) -> bool:
        """Whether the client came over TLS, to us or to our nearest proxy."""
        if request.secure:
            return True
        if not self._trusted or not self.trusts(read_address(request.remote or "")):
            return False
        said = request.headers.getall("X-Forwarded-Proto", [])
        return bool(said) and said[-1].rpartition(",")[2].strip().lower() == "https"

    def _hops(self, request: web.Request) -> list[Address | None]:
        """From the nearest on; None for one that cannot be read."""
        parts = ",".join(request.headers.getall(self._header, [])).split(",")
        if self._header == "forwarded":
            found = [_FOR.search(part) for part in parts]
            parts = [(one[1] or one[2] or "") if one else "" for one in found]
        return [read_address(part) for part in reversed(parts)]
