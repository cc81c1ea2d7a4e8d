"""Creating exactly once, step by step: what is sent and what is looked up, in every order of answers."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest

from gateway import once
from gateway.errors import (
    AlreadyExists,
    BadRequest,
    ContentMismatch,
    GatewayError,
    NotFound,
    OutcomeUnknown,
    OverBudget,
    TimedOut,
    Unreachable,
)

Step = int | type[GatewayError]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "_VISIBLE_AFTER_S", 0.0)


class Gateway:
    """Answers as scripted; a number is an entity of that amount."""

    def __init__(self, sends: list[Step], finds: list[Step]) -> None:
        self.sends, self.finds = sends, finds
        self.trace = ""

    async def send(self) -> int:
        """The next scripted answer of the POST."""
        self.trace += "S"
        return self._answer(self.sends)

    async def find(self) -> int:
        """The next scripted answer of the GET."""
        self.trace += "F"
        return self._answer(self.finds)

    def _answer(self, script: list[Step]) -> int:
        step = script.pop(0)
        if isinstance(step, int):
            return step
        raise step("e", "scripted")

    def create(self, *, again: bool = False) -> Awaitable[int]:
        """Create the thing of amount 5."""
        return once.create_once("e", "id_1", self.send, self.find, lambda found: found == 5, again=again)


@pytest.mark.parametrize(
    ("sends", "finds", "trace"),
    [
        ([5], [], "S"),
        ([TimedOut], [5], "SF"),
        ([TimedOut, 5], [NotFound], "SFS"),
        ([AlreadyExists], [5], "SF"),
        ([TimedOut, AlreadyExists], [NotFound, 5], "SFSF"),
        ([TimedOut, BadRequest], [NotFound, 5], "SFSF"),
        ([TimedOut, Unreachable, 5], [NotFound, NotFound], "SFSFS"),
    ],
)
async def test_it_ends_with_one_thing(sends: list[Step], finds: list[Step], trace: str) -> None:
    gateway = Gateway(sends, finds)
    assert await gateway.create() == 5
    assert gateway.trace == trace


@pytest.mark.parametrize(
    ("sends", "finds", "error"),
    [
        ([BadRequest], [], BadRequest),
        ([OverBudget], [], OverBudget),
        ([6], [], ContentMismatch),
        ([AlreadyExists], [6], ContentMismatch),
        ([TimedOut], [TimedOut], OutcomeUnknown),
        ([TimedOut], [OverBudget], OutcomeUnknown),
        ([TimedOut, BadRequest, BadRequest], [NotFound] * 3, OutcomeUnknown),
        ([AlreadyExists] * 3, [NotFound] * 3, OutcomeUnknown),
    ],
)
async def test_it_ends_with_what_can_be_said(
    sends: list[Step], finds: list[Step], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        await Gateway(sends, finds).create()


@pytest.mark.parametrize(
    ("sends", "finds", "trace"),
    [([], [5], "F"), ([5], [NotFound], "FS"), ([BadRequest], [NotFound, 5], "FSF")],
)
async def test_after_an_earlier_doubt_it_looks_before_it_sends(
    sends: list[Step], finds: list[Step], trace: str
) -> None:
    gateway = Gateway(sends, finds)
    assert await gateway.create(again=True) == 5
    assert gateway.trace == trace
