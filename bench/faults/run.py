"""One run: start, load, nemesis, heal, drain, judge, replay, judge again."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

import structlog
from rich.console import Console

from bench.faults import alerts, books, replay
from bench.faults.alerts import Seen, Span
from bench.faults.canary import Canary
from bench.faults.gateway import USUAL, chance
from bench.faults.judge import judge
from bench.faults.kinds import Kind, Lane, Scene
from bench.faults.load import Load, Rates
from bench.faults.log import Log, Told
from bench.faults.nemesis import Injected, Nemesis
from bench.faults.report import Outcome
from bench.faults.stack import System, running
from bench.faults.web import Web
from sql import invariants
from sql.db import Database
from streams.publish import PublishError

WARM_UP_S = 2.0
DRAIN_S = 120.0
EVERY_S = 5.0

Tell = Callable[[str], None]


class Trouble(Protocol):
    """What breaks things: a nemesis, or a list of outages."""

    injected: list[Injected]
    now: dict[Lane, str]

    @property
    def spans(self) -> list[Span]: ...
    async def run(self, seconds: float) -> None: ...


Make = Callable[[Scene, Canary, Tell], Trouble]


def by_seed(seed: int, deck: Sequence[Kind]) -> Make:
    """A nemesis with this seed and deck."""
    return lambda scene, canary, tell: Nemesis(scene, canary, seed, deck, tell)


async def run(
    seed: int, seconds: float, make: Make, logs: Path, *, rates: Rates, watched: bool = False
) -> Outcome:
    """Do it all, on a system of its own; `watched`: with a Prometheus beside it. Errors: ServerError if that does not start."""
    began = time.monotonic()
    console = Console(highlight=False)

    def tell(what: str) -> None:
        console.print(f"[{time.monotonic() - began:6.1f} s] {what}", markup=False)

    tell(f"seed {seed}: starting the servers")
    async with running(logs, tell) as system, system.database() as db, quiet(logs / "client.log"):
        log = Log()
        async with Web(system.web_url, system.simulator_url, system.token, log) as web:
            load = Load(system, web, log, seed, rates)
            async with alerts.beside(system, logs) if watched else nullcontext(None) as seen:
                outcome = await _under_load(system, db, load, seed, seconds, make, tell, seen)
        outcome.seconds = time.monotonic() - began
        return outcome


@asynccontextmanager
async def quiet(file: Path) -> AsyncIterator[None]:
    """What our own client and pool log while everything breaks goes to a file."""
    before = structlog.get_config()
    handler = logging.FileHandler(file)
    root = logging.getLogger()
    with file.open("w") as out:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(out), cache_logger_on_first_use=False)
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            handler.close()
            structlog.configure(**before)


async def _under_load(
    system: System,
    db: Database,
    load: Load,
    seed: int,
    seconds: float,
    make: Make,
    tell: Tell,
    seen: Seen | None,
) -> Outcome:
    await load.open(db)
    scene = Scene(system, load)
    await chance(scene, USUAL)
    nemesis = make(scene, Canary(load), tell)
    sending = asyncio.create_task(load.run())
    watching = asyncio.create_task(_progress(load, nemesis, tell))
    try:
        await asyncio.sleep(WARM_UP_S)
        tell("the load runs; now the faults")
        await nemesis.run(seconds)
        load.stop()
        tell("healed; the last callers")
        late = []
        try:
            async with asyncio.timeout(DRAIN_S):
                await sending
        except TimeoutError:
            late.append("callers who never got an answer")
        watching.cancel()
        outcome = await _examine(db, scene, seed, nemesis, late, tell)
        if seen is not None:
            outcome.alerts = alerts.figures(nemesis.spans, seen)
        return outcome
    finally:
        watching.cancel()
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await load.close()


async def _examine(
    db: Database, scene: Scene, seed: int, nemesis: Trouble, left: list[str], tell: Tell
) -> Outcome:
    system, load = scene.system, scene.load
    tell("draining")
    # The gateway repeats what was not answered 200 after two minutes: let them pass on its clock.
    await load.web.simulate("/sim/clock/advance", {"seconds": 130})
    try:
        await load.settled(DRAIN_S)
    except (TimeoutError, PublishError) as error:
        left.append(f"our client: {error or 'events without an outcome'}")
    left += await replay.drained(system, db, deadline_s=DRAIN_S, tell=tell)
    tell(f"judging; left: {', '.join(left) or 'nothing'}")
    verdict = await judge(db, load.log, await books.gateway_orders(load.web))
    violations = await _invariants(system)
    incidents = await books.incidents(db)
    noticed = [t for t in scene.truncations if incidents[t.topic, t.partition] > t.incidents]
    for unnoticed in set(scene.truncations) - set(noticed):
        tell(f"not noticed: {unnoticed}")
    tell("reading every stream once more")
    changed, late = await replay.replay(system, db, deadline_s=DRAIN_S, tell=tell)
    again = await judge(db, load.log, await books.gateway_orders(load.web))
    verdict.differences += [
        f"after the replay: {line}" for line in again.wrong() if line not in verdict.wrong()
    ]
    violations += await _invariants(system)
    return Outcome(
        seed,
        load.log,
        nemesis.injected,
        verdict,
        violations,
        changed,
        [*left, *(f"replay: {x}" for x in late)],
        truncations_injected=len(scene.truncations),
        truncations_detected=len(noticed),
        raw_at_risk=scene.raw_at_risk,
    )


async def _invariants(system: System) -> Counter[str]:
    """Rows that contradict an invariant, by the invariant."""
    found = await invariants.check(system.postgres.url("core_readonly"))
    return Counter({str(violation): len(violation.rows) for violation in found})


async def _progress(load: Load, nemesis: Trouble, tell: Tell) -> None:
    """A line every few seconds."""
    while True:
        await asyncio.sleep(EVERY_S)
        log = load.log
        wrong = "; ".join(nemesis.now.values()) or "nothing is wrong"
        tell(f"  sent {log.count()}, acknowledged {log.count(Told.ACKNOWLEDGED)}; {wrong}")
