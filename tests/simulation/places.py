"""Databases for simulations, and one process's runs on one of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.queues import SimpleQueue

import structlog

from deploy.local.postgres import SUPERUSER, Postgres, psql
from deploy.migrations import migrate
from tests.simulation.clock import VIRTUAL_DATABASE, VirtualLoop
from tests.simulation.database import Server
from tests.simulation.simulation import Verdict, run

TIDY_EVERY = 50
AGAIN_EVERY = 10


async def make_template(postgres: Postgres, name: str) -> None:
    """A migrated database whose clock, ids and chance are a run's, to clone from."""
    await postgres.create_database(name)
    await psql(postgres.url(SUPERUSER, name), VIRTUAL_DATABASE)
    await migrate(postgres.url("core_migrator", name))


class Table:
    """Plays seeds in this process, one after the other."""

    def __init__(self, app_url: str, admin_url: str) -> None:
        self._runner = asyncio.Runner(loop_factory=VirtualLoop)
        self._loop = self._runner.get_loop()
        assert isinstance(self._loop, VirtualLoop)
        self._server = self._runner.run(Server.open(self._loop, app_url, admin_url))
        self._played = 0

    def play(self, seed: int) -> Verdict:
        """One seed; every tenth is played twice, and must be the same."""
        verdict = self._once(seed)
        if seed % AGAIN_EVERY == 0:
            again = self._once(seed)
            if again.digest != verdict.digest:
                verdict.wrong.append(f"not repeatable: {_first_difference(verdict.lines, again.lines)}")
        if not verdict.wrong:
            verdict.lines = []
        return verdict

    def _once(self, seed: int) -> Verdict:
        assert isinstance(self._loop, VirtualLoop)
        self._played += 1
        if self._played % TIDY_EVERY == 0:
            self._runner.run(self._server.tidy())
        return self._runner.run(run(self._loop, self._server, seed))

    def close(self) -> None:
        self._runner.run(self._server.close())
        self._runner.close()


@contextmanager
def table(app_url: str, admin_url: str) -> Iterator[Callable[[int], Verdict]]:
    """Plays seeds on a clone of the template; the code under test says nothing meanwhile."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    playing = Table(app_url, admin_url)
    try:
        yield playing.play
    finally:
        playing.close()
        structlog.configure(**before)


_here: Table | None = None


def begin(places: SimpleQueue[tuple[str, str]]) -> None:
    """A process of a pool begins: it takes one database for itself."""
    global _here
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    _here = Table(*places.get())


def play(seed: int) -> Verdict:
    """One seed, in a process of a pool."""
    assert _here is not None
    return _here.play(seed)


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    pairs = enumerate(zip(one, other, strict=False))
    return next(
        (f"step {n}: {a} | {b}" for n, (a, b) in pairs if a != b), f"{len(one)} and {len(other)} steps"
    )
