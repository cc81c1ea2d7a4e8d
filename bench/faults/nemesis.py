"""Which fault when: all of it drawn from the seed, one after another in each of two lanes, each ended and recovered from."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.faults import books
from bench.faults.alerts import Span
from bench.faults.canary import Canary
from bench.faults.kinds import Kind, Lane, Scene

PAUSE_S: Final[dict[Lane, tuple[float, float]]] = {"parts": (0.5, 2.0), "messages": (0.5, 3.0)}
PER_FAULT_S: Final[dict[Lane, float]] = {"parts": 7.5, "messages": 6.0}
"""How many faults are dealt to a run of so many seconds."""
OVERTIME: Final = 2.5
"""A hand that takes longer than the run was to last is played to its end, up to this many times the run."""

WHOLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Injected:
    """One fault that happened. `recovery_s` None: it stopped nobody."""

    kind: Kind
    what: str
    at_s: float
    held_s: float
    recovery_s: float | None
    recovered: bool


class Nemesis:
    """Plays the seed's hand of faults on a scene."""

    def __init__(
        self, scene: Scene, canary: Canary, seed: int, deck: Sequence[Kind], tell: Callable[[str], None]
    ) -> None:
        self.injected: list[Injected] = []
        self.now: dict[Lane, str] = {}
        """What is wrong just now, by lane."""
        self._scene, self._canary, self._seed, self._deck, self._tell = scene, canary, seed, deck, tell
        self._began = time.monotonic()

    async def run(self, seconds: float) -> None:
        """Both lanes, for about so long."""
        self._began = time.monotonic()
        async with asyncio.TaskGroup() as lanes:
            for lane in PAUSE_S:
                lanes.create_task(self._play(lane, seconds))

    @property
    def spans(self) -> list[Span]:
        """When each fault held, its recovery included."""
        return [
            Span(
                str(fault.kind),
                fault.kind.alerts,
                self._began + fault.at_s,
                self._began + fault.at_s + fault.held_s + (fault.recovery_s or 0.0),
            )
            for fault in self.injected
        ]

    async def _play(self, lane: Lane, seconds: float) -> None:
        source = random.Random(f"{self._seed}/{lane}")
        for kind in hand(self._deck, lane, self._seed, max(1, round(seconds / PER_FAULT_S[lane]))):
            pause_s = source.uniform(*PAUSE_S[lane])
            if time.monotonic() - self._began + pause_s > OVERTIME * seconds:
                return
            await asyncio.sleep(pause_s)
            if lane == "parts":
                await self._whole()
            await self._inject(kind, random.Random(f"{self._seed}/{kind}/{source.random()}"))

    async def _whole(self) -> None:
        """Wait, not for ever, until who was struck last is back at work: a stand-in is what recovers quickly."""
        deadline = time.monotonic() + WHOLE_S
        while not await books.whole(self._scene.system) and time.monotonic() < deadline:
            await asyncio.sleep(0.25)

    async def _inject(self, kind: Kind, source: random.Random) -> None:
        began = time.monotonic()
        self.now[kind.lane] = str(kind)
        alive, recovery_s = True, None
        async with kind.inject(self._scene, source) as what:
            self._tell(f"{kind}: {what}")
            self.now[kind.lane] = f"{kind}: {what}"
            if kind.since == "injection":
                alive = await self._canary.alive(payment=kind.payment)
                recovery_s = time.monotonic() - began
            if kind.since != "injection" or kind.until_alive:
                await asyncio.sleep(source.uniform(*kind.seconds))
            healed = time.monotonic()  # healing may take time, and that counts
        self.now.pop(kind.lane, None)
        if kind.since == "healing":
            alive = await self._canary.alive(payment=kind.payment)
            recovery_s = time.monotonic() - healed
        self.injected.append(Injected(kind, what, began - self._began, healed - began, recovery_s, alive))
        if not alive:
            self._tell(f"{kind}: {what}: did not recover")


def hand(deck: Sequence[Kind], lane: Lane, seed: int, count: int) -> list[Kind]:
    """The kinds of one run: consecutive seeds deal the whole deck, shuffled anew each round, so that all come equally often."""
    kinds = [kind for kind in deck if kind.lane == lane]
    if not kinds:
        return []
    places = range(seed * count, seed * count + count)
    return [_shuffled(kinds, lane, place // len(kinds))[place % len(kinds)] for place in places]


def _shuffled(kinds: Sequence[Kind], lane: Lane, round_no: int) -> list[Kind]:
    dealt = list(kinds)
    random.Random(f"{lane}/{round_no}").shuffle(dealt)
    return dealt
