"""Who may go on: every call that leaves a process waits here until the run lets it pass, and learns its fate."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from tests.simulation.clock import VirtualLoop


class Fate(Enum):
    """What becomes of a call."""

    FINE = "fine"
    NOT_SENT = "lost on its way there: nothing happened"
    NO_ANSWER = "lost on its way back: it happened, and the caller cannot know"
    LATE = "believed lost by the caller; happens later"
    TWICE = "happens twice"


@dataclass(eq=False)
class Turn:
    """One call of one process, waiting. `kind` is database, publish or gateway."""

    actor: str
    kind: str
    label: str
    go: asyncio.Future[Fate]
    done: asyncio.Future[None]


@dataclass
class Trace:
    """Everything that a run decided, in order; two runs of one seed have the same digest."""

    lines: list[str] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)

    def note(self, line: str) -> None:
        self.lines.append(line)

    def fire(self, failpoint: str) -> None:
        """A fault happened."""
        self.fired[failpoint] += 1
        self.lines.append(f"! {failpoint}")

    @property
    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


class Schedule:
    """The calls that wait. `release` lets one pass and runs everything up to the next ones."""

    def __init__(self, loop: VirtualLoop, trace: Trace) -> None:
        self.trace = trace
        self.waiting: list[Turn] = []
        self._loop = loop

    @asynccontextmanager
    async def turn(self, actor: str, kind: str, label: str) -> AsyncIterator[Fate]:
        """Wait for this call's turn; the block is the call."""
        turn = Turn(actor, kind, label, self._loop.create_future(), self._loop.create_future())
        self.waiting.append(turn)
        try:
            fate = await turn.go
        except asyncio.CancelledError:
            if turn in self.waiting:
                self.waiting.remove(turn)
            raise
        try:
            yield fate
        finally:
            turn.done.set_result(None)

    async def release(self, turn: Turn, fate: Fate) -> None:
        """Let a call happen. Returns when everybody waits again."""
        self.waiting.remove(turn)
        self.trace.note(f"{self._loop.time():.6f} {turn.actor} {turn.kind} {turn.label} {fate.name}")
        turn.go.set_result(fate)
        await turn.done
        await self._loop.settle()
