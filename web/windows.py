"""What was taken in the last minute, by whom, as this process knows it: the limits while Redis is away, and its memory after.

A minute is thirteen slots of five seconds, the oldest counted whole: so no sixty seconds ever hold more than the limit, wherever
they begin. The oldest names are forgotten first, so the memory is bounded whoever comes.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

WINDOW_S: Final = 60
SLOT_S: Final = 5
SLOTS: Final = WINDOW_S // SLOT_S
REMEMBERED: Final = 20_000
UNTOLD: Final = -1


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
    __slots__ = ("era", "slots")

    def __init__(self) -> None:
        self.slots: dict[int, int] = {}
        self.era = 0


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

    def learn(self, name: str, used: int, now_s: float) -> None:
        """Redis says so much is used, by all processes. It counts here as used just now, which is never too little."""
        found = self._of(name)
        found.slots = {int(now_s // SLOT_S): used} if used else {}
        found.era = self._era

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
