"""What happens next, by seed: mostly life, and every kind of fault at every kind of moment."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from streams import amqp
from tests.simulation.schedule import Fate, Turn
from tests.simulation.worker import Worker
from tests.simulation.world import World

_FATES: Final[dict[str, tuple[tuple[Fate, ...], tuple[int, ...]]]] = {
    "database": ((Fate.FINE, Fate.NOT_SENT, Fate.NO_ANSWER, Fate.LATE), (92, 3, 3, 2)),
    "publish": ((Fate.FINE, Fate.NOT_SENT, Fate.NO_ANSWER, Fate.TWICE, Fate.LATE), (84, 6, 2, 4, 4)),
    "gateway": ((Fate.FINE, Fate.NOT_SENT, Fate.NO_ANSWER), (76, 8, 16)),
}
_NAMES: Final = {
    ("database", Fate.NOT_SENT): "a commit's statement is lost",
    ("database", Fate.NO_ANSWER): "a commit's answer is lost",
    ("database", Fate.LATE): "a commit is carried out after it was given up",
    ("publish", Fate.NOT_SENT): "messages are lost before the broker",
    ("publish", Fate.NO_ANSWER): "a confirm is lost",
    ("publish", Fate.TWICE): "messages are stored twice",
    ("publish", Fate.LATE): "messages arrive late",
    ("gateway", Fate.NOT_SENT): "the gateway cannot be reached",
    ("gateway", Fate.NO_ANSWER): "the gateway acts and its answer is lost",
}
_WRITES: Final = ("commit_", "record_", "retry_", "request_", "insert_", "create_", "decide_")
_JOINING: Final = ("get_watermarks", "waiting_keys", "get_partition_windows", "claim_partitions", "lock ")
_JOBS: Final = {
    "relay": 6,
    "verifier": 4,
    "refunder": 4,
    "reversals": 2,
    "sweep": 1,
    "fraud timer": 1,
    "mend": 2,
}
FAILPOINTS: Final = (
    *_NAMES.values(),
    "killed before a commit",
    "killed after a commit, before its messages are sent",
    "killed while it asks the gateway",
    "a worker freezes",
    "a frozen worker goes on",
    "fenced in the middle of a batch",
    "a partition moves to another worker",
    "the broker dies",
    "confirmed messages are lost",
    "a lost tail is noticed",
    "retention deletes messages",
    "a partition halts at what retention deleted",
    "offsets are skipped",
    "a webhook comes again",
    "a stream is deleted and made anew",
    "garbage is on a stream",
)
"""All that must have happened over enough seeds, and does."""


class Nemesis:
    """Plays one seed: `customers` things that people do, and then steps until all of them began."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng
        self._thawed: list[Worker] = []
        self._lost_tails: set[str] = set()
        self._asked = 0

    async def play(self, *, wishes: int, steps: int) -> None:
        """So many steps, or as many as it takes to begin all wishes."""
        world = self._world
        while self._asked < wishes or steps > 0:
            steps -= 1
            kind = self._rng.choices(
                ("turn", "deliver", "time", "wish", "news", "job", "late", "fault", "care"),
                (50, 16, 6, 9 if self._asked < wishes else 0, 5, 11, 2, 2.2, 2),
            )[0]
            match kind:
                case "turn":
                    await self._turn()
                case "deliver":
                    await world.deliver()
                case "time":
                    await world.pass_time(self._rng.choice([0.02, 0.1, 0.3, 0.3, 1.0, 2.5, 31.0]))
                case "wish":
                    self._wish()
                case "news":
                    self._news()
                case "job":
                    self._job()
                case "late":
                    await self._late()
                case "fault":
                    await self._fault()
                case "care":
                    await world.look_after()
            await world.loop.settle()
            await self._join()

    async def end(self) -> None:
        """Nothing is broken any more."""
        world = self._world
        world.broker.up = True
        for worker in list(world.workers):
            if worker.frozen:
                self._thaw(worker)
            if worker in self._thawed:
                self._notice(worker)
        while len(world.workers) < 2:
            await world.hire()
        while world.server.late:
            await world.server.arrive(0, world.trace)
        while world.network.under_way:
            world.network.arrive(*world.network.under_way.pop(0))
        await world.loop.settle()

    # -- life

    async def _join(self) -> None:
        """What a joining worker reads is mostly read at once: there is much of it, and it is all alike."""
        while joining := [turn for turn in self._eligible() if turn.label.startswith(_JOINING)]:
            if self._rng.random() < 0.05:
                return
            await self._world.schedule.release(joining[0], Fate.FINE)

    def _eligible(self) -> list[Turn]:
        frozen = {worker.name for worker in self._world.workers if worker.frozen}
        return [turn for turn in self._world.schedule.waiting if turn.actor not in frozen]

    async def _turn(self) -> None:
        eligible = self._eligible()
        if not eligible:
            return
        turn = self._rng.choice(eligible)
        fates, weights = _FATES[turn.kind]
        fate = self._rng.choices(fates, weights)[0]
        if fate is not Fate.FINE and (turn.kind != "database" or turn.label.startswith(_WRITES)):
            self._world.trace.fire(_NAMES[turn.kind, fate])
        await self._world.schedule.release(turn, fate)

    def _wish(self) -> None:
        world, people = self._world, self._world.customers
        self._asked += 1
        match self._rng.choices(
            ("use", "charge", "look", "order", "refund", "hold", "end"), (12, 12, 4, 12, 9, 4, 4)
        )[0]:
            case "use":
                world.outside(people.use())
            case "charge":
                world.outside(people.service.charge())
            case "look":
                world.outside(people.service.look())
            case "order":
                world.outside(people.order())
            case "refund":
                world.outside(people.ask_back())
            case "hold":
                world.outside(people.hold())
            case "end":
                world.outside(people.end_hold())

    def _news(self) -> None:
        """The gateway has something to tell, or makes up its mind about a refund."""
        world = self._world
        if world.gateway.webhooks or self._rng.random() < 0.1:
            world.tell()
        else:
            world.decide_refund()

    def _job(self) -> None:
        if awake := [worker for worker in self._world.workers if not worker.frozen]:
            worker = self._rng.choice(awake)
            worker.begin(
                self._rng.choices(list(worker.jobs), [_JOBS.get(job, 0.5) for job in worker.jobs])[0]
            )

    async def _late(self) -> None:
        world = self._world
        if world.server.late:
            await world.server.arrive(self._rng.randrange(len(world.server.late)), world.trace)
        if world.network.under_way and world.broker.up:
            world.network.arrive(
                *world.network.under_way.pop(self._rng.randrange(len(world.network.under_way)))
            )

    # -- faults

    async def _fault(self) -> None:
        world = self._world
        if world.broker.up and len(world.workers) < 3 and self._rng.random() < 0.2:
            await world.hire()
            return
        faults: dict[Callable[[], None], int] = {
            self._kill: 5,
            self._freeze: 2,
            self._wake: 5,
            self._move: 3,
            self._crash: 2,
            self._expire: 2,
            self._skip: 2,
            self._delete: 1,
            self._garbage: 1,
        }
        self._rng.choices(list(faults), list(faults.values()))[0]()

    def _skip(self) -> None:
        """The broker notes something for itself."""
        now_ms = int(self._world.loop.now.timestamp() * 1000)
        self._world.broker.logs[self._some_log()].keep_books(now_ms)
        self._world.trace.fire("offsets are skipped")

    def _kill(self) -> None:
        world = self._world
        if not world.workers:
            return
        worker = self._rng.choice(world.workers)
        for turn in world.schedule.waiting:
            if turn.actor == worker.name and (point := _death(turn)):
                world.trace.fire(point)
        world.trace.note(f"{worker.name} is killed")
        world.workers.remove(worker)
        worker.kill()

    def _freeze(self) -> None:
        """SIGSTOP: it does nothing, and the broker gives its partitions to others."""
        world = self._world
        if awake := [w for w in world.workers if not w.frozen]:
            worker = self._rng.choice(awake)
            worker.frozen = True
            world.trace.fire("a worker freezes")
            if worker.wire is not None:
                world.broker.drop(worker.wire, tell=False)

    def _wake(self) -> None:
        """SIGCONT: it goes on as if nothing had happened; later it finds its connection broken."""
        if self._thawed:
            self._notice(self._rng.choice(self._thawed))
        elif frozen := [w for w in self._world.workers if w.frozen]:
            self._thaw(self._rng.choice(frozen))

    def _thaw(self, worker: Worker) -> None:
        worker.frozen = False
        self._world.trace.fire("a frozen worker goes on")
        self._thawed.append(worker)

    def _notice(self, worker: Worker) -> None:
        self._thawed.remove(worker)
        if worker.wire is not None and not worker.wire.alive and worker in self._world.workers:
            worker.wire.tell("on_closed", ConnectionError("the connection was lost long ago"))

    def _move(self) -> None:
        groups = [group for group in self._world.broker.groups.values() if group.members]
        if groups and self._world.broker.move(self._rng.choice(groups)):
            self._world.trace.fire("a partition moves to another worker")

    def _crash(self) -> None:
        """The node dies and loses what was confirmed but not on its disk; or it comes back."""
        world = self._world
        if not world.broker.up:
            world.broker.up = True
            world.trace.note("the broker is back")
            return
        world.trace.fire("the broker dies")
        for worker in [w for w in world.workers if w.frozen]:
            if worker.wire is not None:
                world.broker.drop(worker.wire, tell=False)
        world.broker.crash()
        for log in world.broker.logs.values():
            if log.chunks and self._rng.random() < 0.4 and log.cut(self._rng.randint(1, 2)):
                world.trace.fire("confirmed messages are lost")

    def _expire(self) -> None:
        log = self._world.broker.logs[self._some_log()]
        if log.chunks:
            log.expire(self._rng.randint(1, len(log.chunks)))
            self._world.trace.fire("retention deletes messages")

    def _delete(self) -> None:
        world = self._world
        if world.broker.up:
            world.broker.delete(self._some_log())
            world.trace.fire("a stream is deleted and made anew")

    def _garbage(self) -> None:
        """Somebody writes what is no message of ours."""
        world = self._world
        if world.broker.up:
            nonsense = self._rng.choice([b"garbage", amqp.encode(b"k", b"{"), amqp.encode(b"k", None)])
            world.network.arrive(self._some_log(), [nonsense])
            world.trace.fire("garbage is on a stream")

    def _some_log(self) -> str:
        used = [name for name, log in self._world.broker.logs.items() if log.chunks]
        return self._rng.choice(used or sorted(self._world.broker.logs))


def _death(turn: Turn) -> str | None:
    """What it means that a process dies while this call of it waits."""
    if turn.kind == "database" and turn.label.startswith(("commit_", "record_")):
        return "killed before a commit"
    if turn.kind == "publish":
        return "killed after a commit, before its messages are sent"
    return "killed while it asks the gateway" if turn.kind == "gateway" else None
