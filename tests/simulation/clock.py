"""Time, chance and ids of a simulated run: nothing of them comes from outside.

The event loop's clock moves only when it is told to, so every pause of the code lasts exactly as long as the
run decides. The database of a simulation has its own `now()`, `uuidv7()` and seeded `random()` in place of
PostgreSQL's before the migrations bind to them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVarTuple
from uuid import UUID

_Arguments = TypeVarTuple("_Arguments")
EPOCH: Final = datetime(2026, 11, 23, 6, 0, 30, tzinfo=UTC)
"""When every run begins."""

VIRTUAL_DATABASE: Final = """
ALTER FUNCTION pg_catalog.now() RENAME TO wall_now;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO wall_clock_timestamp;
ALTER FUNCTION pg_catalog.uuidv7() RENAME TO wall_uuidv7;
CREATE FUNCTION pg_catalog.now() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT current_setting('simulation.now')::timestamptz $$;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT now() $$;
CREATE SCHEMA simulation;
GRANT USAGE ON SCHEMA simulation TO PUBLIC;
CREATE SEQUENCE simulation.ids;
GRANT USAGE ON SEQUENCE simulation.ids TO PUBLIC;
CREATE FUNCTION pg_catalog.uuidv7() RETURNS uuid LANGUAGE sql VOLATILE
  AS $$ SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70009000'
                || lpad(to_hex(nextval('simulation.ids')), 12, '0'))::uuid $$;
DO $$ BEGIN
  EXECUTE format('ALTER DATABASE %I SET simulation.now = ''2026-11-23T06:00:30Z''', current_database());
END $$;
"""
"""Makes an empty database's clock, ids and chance those of a run. Needs a superuser."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still but for `advance`."""

    def __init__(self) -> None:
        super().__init__()
        self._now_us = 0
        self._timers = 0

    def time(self) -> float:
        return self._now_us / 1e6

    def call_at(
        self,
        when: float,
        callback: Callable[[*_Arguments], object],
        *args: *_Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As any loop's; but of timers for the same moment, the first one set is the first to go off."""
        self._timers += 1
        return super().call_at(when + self._timers * 1e-10, callback, *args, context=context)

    def advance(self, seconds: float) -> None:
        """Time passes; what waited for it becomes ready."""
        self._now_us += math.ceil(seconds * 1e6)

    def restart(self) -> None:
        """Time begins anew; whatever waited for it is forgotten."""
        self._now_us = self._timers = 0
        self._scheduled.clear()  # type: ignore[attr-defined]

    @property
    def now(self) -> datetime:
        """The time of day."""
        return EPOCH + timedelta(microseconds=self._now_us)

    @property
    def next_timer_s(self) -> float | None:
        """Seconds until something that waits for time becomes ready."""
        whens = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        return max(0.0, min(whens) - self.time()) if whens else None

    async def settle(self) -> None:
        """Run everything that waits for neither time nor a socket."""
        while True:
            await asyncio.sleep(0)
            if not self._ready:  # type: ignore[attr-defined]
                return


class Ids:
    """UUIDv7 that rise with the loop's time, told apart by a counter alone."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._made = 0

    def __call__(self) -> UUID:
        self._made += 1
        ms = int(self._loop.now.timestamp() * 1000)
        return UUID(int=ms << 80 | 0x7000 << 64 | 0x8000 << 48 | self._made)
