"""What was taken in the last minute, by whom, as this process knows it: the limits while Redis is away, and its memory after.

A minute is thirteen slots of five seconds, the oldest counted whole: so no sixty seconds ever hold more than the limit, wherever
they begin. The oldest names are forgotten first, so the memory is bounded whoever comes.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60
SLOT_S: Final = 5
SLOTS: Final = WINDOW_S // SLOT_S
REMEMBERED: Final = 20_000
UNTOLD: Final = -1
TOGETHER_S: Final = 1.0
"""What others took between two answers is remembered for so long; between answers further apart it says nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a name stands: `used` of `limit`, and how many seconds until something is given back (0: nothing is used)."""

    limit: int
    used: int
    back_s: float

    @property
    def left(self) -> int:
        """How many more may come now."""
        return max(0, self.limit - self.used)


class _Taken:
    __slots__ = ("era", "learnt_s", "others", "others_s", "slots")

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        self.era = 0
        self.learnt_s = -math.inf
        self.others = 0
        self.others_s = -math.inf


class Windows:
    """By name. `era` changes whenever what Redis knows may be less than what we know."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._taken: OrderedDict[str, _Taken] = OrderedDict()
        self._remembered = remembered
        self._era = 0

    def look(self, name: str, limit: int, now_s: float) -> Standing:
        """How a name stands. Nothing is taken."""
        found = self._taken.get(name)
        if found is None:
            return Standing(limit, 0, 0.0)
        first = int(now_s // SLOT_S) - SLOTS
        for slot in [slot for slot in found.slots if slot < first]:
            del found.slots[slot]
        if not found.slots:
            return Standing(limit, 0, 0.0)
        return Standing(limit, sum(found.slots.values()), (min(found.slots) + SLOTS + 1) * SLOT_S - now_s)

    def take(self, name: str, n: int, now_s: float) -> None:
        """Take `n` that Redis does not know of."""
        found = self._of(name)
        slot = int(now_s // SLOT_S)
        found.slots[slot] = found.slots.get(slot, 0) + n
        found.era = UNTOLD

    def learn(self, name: str, used: int, now_s: float, *, taken: int = 0) -> None:
        """Redis says so much was used, by all processes, and took `taken` more for us. It counts here as used just now, which
        is never too little.
        """
        found = self._of(name)
        others = used - sum(found.slots.values())
        if now_s - found.learnt_s > TOGETHER_S:
            found.others, found.others_s = 0, now_s
        elif others >= found.others or now_s - found.others_s > TOGETHER_S:
            found.others, found.others_s = others, now_s
        found.slots = {int(now_s // SLOT_S): used + taken} if used + taken else {}
        found.era, found.learnt_s = self._era, now_s

    def presume(self, name: str, now_s: float) -> None:
        """Redis is away, and what others took since it last answered us is not known: it is taken to be as much as they
        lately took between two answers. So nobody gains by the moment in which it goes.
        """
        found = self._taken.get(name)
        if found is not None and found.others > 0:
            self.take(name, found.others, now_s)
            found.others = 0

    def untold(self, name: str, now_s: float) -> int:
        """What Redis may have to be told: what we know to be used of a name that it has not spoken of since it was away."""
        found = self._taken.get(name)
        return 0 if found is None or found.era == self._era else self.look(name, 0, now_s).used

    def lost(self) -> None:
        """Redis is away: whatever it says of a name later, it is told first."""
        self._era += 1

    def _of(self, name: str) -> _Taken:
        found = self._taken.get(name)
        if found is None:
            found = self._taken[name] = _Taken()
            if len(self._taken) > self._remembered:
                self._taken.popitem(last=False)
        else:
            self._taken.move_to_end(name)
        return found
