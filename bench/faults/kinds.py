"""What a kind of fault is: how it is put in, how it ends, and from when its recovery is counted."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, ParamSpec

from bench.faults.books import Place
from bench.faults.load import Load
from bench.faults.stack import System
from sql.db import Row

Since = Literal["injection", "healing", "nothing"]
"""From when recovery counts. `nothing`: the fault stops nobody, so there is nothing to recover from."""
Lane = Literal["parts", "messages"]
"""Faults of parts follow each other, each recovered from; faults of messages, which stop nobody, run beside them."""
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Truncation:
    """A stream that ended at `before` and then at `after`; its group had read up to `consumed`.

    `incidents` is how many the system had noticed of this partition before.
    """

    topic: str
    partition: int
    before: int
    after: int
    consumed: int
    incidents: int


def truncations(
    before: Mapping[Place, int],
    after: Mapping[Place, int],
    stand: Mapping[Place, Row],
    noticed: Mapping[Place, int],
) -> list[Truncation]:
    """Which streams end earlier than they did, or than they were read to: more may have come after the look `before`.

    `stand` and `noticed` are what the database said of positions and incidents meanwhile.
    """
    cut = []
    for place, end_after in after.items():
        consumed = stand[place]["next_offset"] if place in stand else 0
        end = max(before[place], consumed)
        if end_after < end:
            cut.append(Truncation(*place, end, end_after, consumed, noticed[place]))
    return cut


@dataclass(slots=True)
class Scene:
    """What a fault works on, and what it leaves to be judged.

    `raw_at_risk` counts faults that may lose what was published without our client.
    """

    system: System
    load: Load
    truncations: list[Truncation] = field(default_factory=list)
    raw_at_risk: int = 0


Inject = Callable[[Scene, random.Random], AbstractAsyncContextManager[str]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind. `inject` yields what was hit, in words, and heals when it is left; `seconds` is how long it is held.

    `until_alive`: held until the system works without what was hit (then for `seconds` more), as when a process freezes.
    `alerts`: one of them must fire, where anybody watches.
    """

    component: str
    name: str
    inject: Inject
    seconds: tuple[float, float] = (0.0, 0.0)
    since: Since = "healing"
    lane: Lane = "parts"
    payment: bool = False
    until_alive: bool = False
    alerts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.component}: {self.name}"


def fault(make: Callable[P, AsyncIterator[str]]) -> Callable[P, AbstractAsyncContextManager[str]]:
    """A generator as an `inject`: what comes after its yield heals."""
    return asynccontextmanager(make)
