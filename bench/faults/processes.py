"""Faults of processes: killed, frozen, asked to end. What is killed is started again: ours by the keeper, servers here."""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

import psutil

from bench.faults.kinds import Kind, Scene, Since, fault
from bench.faults.stack import WORKERS
from deploy.local.process import Process

DOWN_S: Final = (0.2, 1.0)
"""How long a killed server stays down before whoever watches over it starts it again."""


def ours(scene: Scene, name: str, source: random.Random) -> Process:
    """A process of ours; one of the workers for `worker`."""
    return scene.system.processes[source.choice(WORKERS) if name == "worker" else name]


def kill(name: str) -> Kind:
    """kill -9 of one of our processes; the keeper starts it again."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        process = ours(scene, name, source)
        process.send(signal.SIGKILL)
        yield process.name

    alerts = () if name == "simulator" else ("ProcessDown",)
    return Kind(name, "kill -9", inject, since="injection", payment=name == "simulator", alerts=alerts)


def freeze(name: str, seconds: tuple[float, float]) -> Kind:
    """SIGSTOP, later SIGCONT. Of two workers the other takes over meanwhile; nobody stands in for web and simulator."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        process = ours(scene, name, source)
        process.send(signal.SIGSTOP)
        try:
            yield process.name
        finally:
            process.send(signal.SIGCONT)

    alone = name != "worker"
    since: Since = "healing" if alone else "injection"
    payment = name == "simulator"
    alerts = () if name == "simulator" else ("ProcessDown",)
    return Kind(
        name, "SIGSTOP", inject, seconds, since, payment=payment, until_alive=not alone, alerts=alerts
    )


@fault
async def end_worker(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """SIGTERM: it hands its partitions over and ends; the keeper starts it again."""
    process = ours(scene, "worker", source)
    process.send(signal.SIGTERM)
    yield process.name


@fault
async def kill_postgres(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """kill -9 of the postmaster, whose backends then end by themselves; crash recovery at the start."""
    postgres = scene.system.postgres
    backends = list(children(postgres.process))
    postgres.kill9()
    await asyncio.sleep(source.uniform(*DOWN_S))
    gone(backends)
    await postgres.start()
    yield "postmaster"


@fault
async def freeze_postgres(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """SIGSTOP of the server and all its backends."""
    process = scene.system.postgres.process
    frozen = [psutil.Process(process.pid), *children(process)]
    each(frozen, signal.SIGSTOP)
    try:
        yield f"postmaster and {len(frozen) - 1} backends"
    finally:
        each(frozen, signal.SIGCONT)


@fault
async def kill_backend(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """kill -9 of one backend: the server restarts all of them and recovers by itself."""
    backends = [p for p in children(scene.system.postgres.process) if "core_app" in " ".join(p.cmdline())]
    victim = source.choice(sorted(backends, key=lambda p: p.pid))
    victim.kill()
    yield "backend"


@fault
async def kill_rabbitmq(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """kill -9 of the broker, then its own recovery."""
    scene.system.broker.kill9()
    await asyncio.sleep(source.uniform(*DOWN_S))
    await scene.system.broker.start()
    yield "broker"


@fault
async def freeze_rabbitmq(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """SIGSTOP of the broker, shorter and longer than a heartbeat."""
    process = scene.system.broker.process
    process.send(signal.SIGSTOP)
    try:
        yield "broker"
    finally:
        process.send(signal.SIGCONT)


@fault
async def kill_valkey(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """kill -9 of Valkey; it may start empty."""
    valkey = scene.system.valkey
    valkey.kill9()
    await asyncio.sleep(source.uniform(1.0, 3.0))
    await valkey.start()
    yield "valkey"


@fault
async def freeze_valkey(scene: Scene, source: random.Random) -> AsyncIterator[str]:
    """SIGSTOP of Valkey: connections stay open and nothing answers."""
    process = scene.system.valkey.process
    process.send(signal.SIGSTOP)
    try:
        yield "valkey"
    finally:
        process.send(signal.SIGCONT)


def children(process: Process) -> Iterator[psutil.Process]:
    """What a process of ours has started, and they; only those may be touched."""
    try:
        yield from psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return


def each(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Signal those that still run."""
    for process in processes:
        if process.is_running():
            os.kill(process.pid, number)


def gone(processes: list[psutil.Process], deadline_s: float = 10.0) -> None:
    """Wait until all have ended; those that have not in time are killed."""
    end = time.monotonic() + deadline_s
    _, left = psutil.wait_procs(processes, timeout=max(0.0, end - time.monotonic()))
    for process in left:
        process.kill()


KINDS: Final = (
    kill("worker"),
    freeze("worker", (1.0, 4.0)),
    Kind("worker", "SIGTERM", end_worker, since="injection", alerts=("ProcessDown",)),
    kill("web"),
    freeze("web", (3.0, 5.0)),
    kill("simulator"),
    freeze("simulator", (2.0, 6.0)),
    Kind("postgres", "kill -9", kill_postgres, since="injection", alerts=("PostgresDown",)),
    Kind("postgres", "SIGSTOP", freeze_postgres, (2.0, 6.0), alerts=("PostgresDown", "ProcessDown")),
    Kind("postgres", "kill -9 of a backend", kill_backend, since="injection", alerts=("PostgresDown",)),
    Kind("rabbitmq", "kill -9", kill_rabbitmq, since="injection", alerts=("RabbitMQFailing",)),
    Kind("rabbitmq", "SIGSTOP", freeze_rabbitmq, (4.0, 12.0), alerts=("RabbitMQFailing",)),
    Kind("valkey", "kill -9", kill_valkey, since="injection", payment=True, alerts=("RedisDown",)),
    Kind("valkey", "SIGSTOP", freeze_valkey, (2.0, 5.0), payment=True, alerts=("RedisDown",)),
)
