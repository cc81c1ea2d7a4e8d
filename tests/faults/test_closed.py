"""A connection that closes while we write to it is a lost connection, whichever event loop says so."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from streams.address import Address
from streams.wire import Wire


class Closed:
    """uvloop's transport a moment after it was closed."""

    transport = SimpleNamespace(abort=lambda: None)

    def write(self, data: bytes) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


def broken() -> tuple[Wire, list[Exception]]:
    wire = Wire(Address("localhost", 1, "u", "p"), name="test")
    wire._conn = cast(Any, SimpleNamespace(_writer=Closed()))
    heard: list[Exception] = []
    wire.on_closed = heard.append
    return wire, heard


async def test_a_write_to_a_closed_connection_is_told_once_as_its_end() -> None:
    wire, heard = broken()
    wire.answer_update(1, 0)
    wire.credit_now(1, 1)
    assert [type(error) for error in heard] == [ConnectionResetError]
    assert not wire.alive


async def test_whoever_waits_for_an_answer_then_gets_a_connection_error() -> None:
    wire, _ = broken()
    with pytest.raises(ConnectionError):
        await wire.stats("wallet.debit-0")


async def test_another_runtime_error_is_a_bug_and_comes_through() -> None:
    wire, _ = broken()

    async def wrong() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        await wire.request("something", wrong())
