"""Runs of a seed: prepare, play, come to rest, judge, replay from the beginning, judge again."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sql import ids
from tests.simulation.clock import Ids, VirtualLoop
from tests.simulation.database import Server
from tests.simulation.judge import Judge
from tests.simulation.nemesis import Nemesis
from tests.simulation.worker import track_tasks
from tests.simulation.world import Stuck, World


@dataclass
class Verdict:
    """What became of a seed. `digest` is of every decision and of every row; wrong is empty if all is well."""

    seed: int
    digest: str = ""
    wrong: list[str] = field(default_factory=list)
    fired: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Where a seed's time goes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


async def run(loop: VirtualLoop, server: Server, seed: int) -> Verdict:
    """Play one seed on an emptied database."""
    track_tasks(loop)
    watch = Stopwatch()
    rng = random.Random(seed)
    random.seed(seed)  # the jitter of the code under test
    loop.restart()
    with ids.drawn_from(Ids(loop)):
        with watch.part("reset"):
            await server.begin(seed)
        world = World(loop, server, rng)
        verdict = Verdict(seed, fired=world.trace.fired, lines=world.trace.lines, seconds=watch.seconds)
        try:
            with watch.part("open"):
                await world.open()
            nemesis = Nemesis(world, rng)
            with watch.part("play"):
                await nemesis.play(wishes=18, steps=420)
                await nemesis.end()
            with watch.part("drain"):
                await world.drain()
            await world.count_halts()
            judge = Judge(server, world.customers, world.gateway)
            with watch.part("judge"):
                verdict.wrong += await judge.judge()
                before = await judge.money()
            with watch.part("replay"):
                await world.replay()
            with watch.part("judge again"):
                after, verdict.wrong = await judge.digests(), verdict.wrong + await judge.invariants()
            changed = sorted(name for name in before if before[name] != after[name])
            verdict.wrong += [f"the replay changed {', '.join(changed)}"] if changed else []
            world.trace.lines += [f"{name} {digest}" for name, digest in sorted(after.items())]
        except Stuck as error:
            verdict.wrong.append(f"stuck: {error}")
        finally:
            world.close()
            await loop.settle()
        verdict.wrong += dict.fromkeys(world.bugs)
        verdict.digest = world.trace.digest
    return verdict
