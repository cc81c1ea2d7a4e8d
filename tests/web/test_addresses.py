"""Where a request comes from is not for the client to say, unless our own proxy says it."""

from ipaddress import ip_network

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from domain.fraud import address_entity
from web.addresses import Proxies, neighbourhood, read_address

OURS = Proxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")], "x-forwarded-for")


class _Wire:
    """A connection from `peer`."""

    def __init__(self, peer: str) -> None:
        self.peer = peer

    def get_extra_info(self, name: str, default: object = None) -> object:
        return (self.peer, 1234) if name == "peername" else default


def client(proxies: Proxies, peer: str, *headers: tuple[str, str]) -> str:
    request = make_mocked_request("GET", "/", CIMultiDict(headers), transport=_Wire(peer))
    return str(proxies.client(request))


@pytest.mark.parametrize(
    ("peer", "said", "found"),
    [
        ("198.51.100.7", "192.0.2.1", "198.51.100.7"),  # no proxy of ours: nothing is believed
        ("10.0.0.1", "192.0.2.1", "192.0.2.1"),
        (
            "10.0.0.1",
            "1.1.1.1, 192.0.2.1",
            "192.0.2.1",
        ),  # what the client wrote stands left of what our proxy wrote
        ("10.0.0.1", "1.1.1.1, 192.0.2.1, 10.2.3.4", "192.0.2.1"),
        ("10.0.0.1", "192.0.2.1, 10.9.9.9, 10.2.3.4", "192.0.2.1"),
        ("10.0.0.1", "10.9.9.9", "10.9.9.9"),  # all ours: the farthest
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, not-an-address", "10.0.0.1"),
        ("10.0.0.1", "1.1.1.1, not-an-address, 10.2.2.2", "10.2.2.2"),
        ("10.0.0.1", "192.0.2.1:4711", "192.0.2.1"),
        ("10.0.0.1", "[2001:db8::9]:443", "2001:db8::9"),
        ("10.0.0.1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:10.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", "9" * 5000, "10.0.0.1"),
        ("fd00::1", "2001:db8::1%eth0", "2001:db8::1"),
    ],
)
def test_the_nearest_hop_that_is_not_our_proxy_is_the_client(peer: str, said: str, found: str) -> None:
    assert client(OURS, peer, ("X-Forwarded-For", said)) == found


def test_two_headers_are_one_list_and_only_the_header_of_our_proxies_is_read() -> None:
    two = (("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "192.0.2.1"))
    assert client(OURS, "10.0.0.1", *two) == "192.0.2.1"
    forwarded = ("Forwarded", 'for="[2001:db8::9]:443";proto=https, for=192.0.2.9')
    assert client(OURS, "10.0.0.1", forwarded) == "10.0.0.1"
    other = Proxies([ip_network("10.0.0.0/8")], "forwarded")
    assert client(other, "10.0.0.1", forwarded) == "192.0.2.9"
    assert client(other, "10.0.0.1", ("Forwarded", 'for="[2001:db8::9]:443"')) == "2001:db8::9"
    assert client(other, "10.0.0.1", ("Forwarded", "for=_hidden")) == "10.0.0.1"


def test_a_long_row_of_hops_ends_somewhere() -> None:
    assert (
        client(OURS, "10.0.0.1", ("X-Forwarded-For", "1.1.1.1," + ",".join(["10.1.1.1"] * 900))) == "10.1.1.1"
    )


def test_tls_is_believed_of_our_proxy_alone() -> None:
    def tls(peer: str, said: str) -> bool:
        request = make_mocked_request(
            "GET", "/", CIMultiDict({"X-Forwarded-Proto": said}), transport=_Wire(peer)
        )
        return OURS.secure(request)

    assert tls("10.0.0.1", "https")
    assert tls("10.0.0.1", "http, https")
    assert not tls("10.0.0.1", "https, http")
    assert not tls("192.0.2.1", "https")


def test_a_network_of_sixty_four_bits_is_one_neighbour_and_an_ipv4_address_is_one_too() -> None:
    assert neighbourhood(read_address("2001:db8:1:2::9")) == neighbourhood(
        read_address("2001:db8:1:2:ffff::1")
    )
    assert neighbourhood(read_address("2001:db8:1:3::9")) != neighbourhood(read_address("2001:db8:1:2::9"))
    assert neighbourhood(read_address("192.0.2.1")) != neighbourhood(read_address("192.0.2.2"))


def test_fraud_counts_a_global_address_and_the_64_of_an_ipv6_one() -> None:
    assert address_entity("8.8.8.8") == "8.8.8.8"
    assert address_entity("2a00:1450:4001:81b::200e") == "2a00:1450:4001:81b::/64"
    assert [address_entity(ip) for ip in ("10.0.0.1", "127.0.0.1", "::1", "fd00::1")] == [None] * 4
