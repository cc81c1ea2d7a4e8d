"""Our own processes as children: started, and started again with a pause when they end by themselves."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.local.process import Process
from deploy.migrations import CHECKOUT

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_HEALTHY_AFTER_S = 30.0
_STOP_DEADLINE_S = 10.0


_OWN_DATABASE_URL = {"web": "DATABASE_WEB_URL", "agents": "DATABASE_WORKER_URL"}
"""Our processes that log in to PostgreSQL, each as its own role where its URL is known."""


def python(name: str, arguments: Sequence[str], environment: Mapping[str, str], logs: Path) -> Process:
    """A child that runs `python -m ARGUMENTS` of this environment in the checkout; not started yet."""
    command = [sys.executable, "-m", *arguments]
    if arguments[0] in _OWN_DATABASE_URL:
        environment = _as_itself(arguments[0], environment)
    return Process(name, command, log=logs / f"{name}.log", env=environment, cwd=CHECKOUT)


def _as_itself(module: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this process's DATABASE_URL and nobody else's."""
    url = environment.get(_OWN_DATABASE_URL[module]) or environment.get("DATABASE_URL")
    others = {
        name: value
        for name, value in environment.items()
        if not (name.startswith("DATABASE_") and name.endswith("_URL"))
    }
    return others if url is None else {**others, "DATABASE_URL": url}


class Keeper:
    """A set of services kept running until `stop`."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.services: list[Process] = []
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._report = report

    def keep(self, service: Process) -> None:
        """Start a service and keep it running."""
        service.start()
        self.services.append(service)
        self._watches[service.name] = asyncio.create_task(self._watch(service))

    async def drop(self, service: Process) -> None:
        """Stop one service within a deadline and keep it no longer."""
        watch = self._watches.pop(service.name)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        self.services.remove(service)
        await service.stop(deadline_s=_STOP_DEADLINE_S)

    async def stop(self) -> None:
        """Stop every service within a deadline; harmless to repeat."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        await asyncio.gather(*(service.stop(deadline_s=_STOP_DEADLINE_S) for service in self.services))

    async def _watch(self, service: Process) -> None:
        pause_s, started = _FIRST_PAUSE_S, time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            if service.running:
                continue
            if time.monotonic() - started > _HEALTHY_AFTER_S:
                pause_s = _FIRST_PAUSE_S
            self._report(
                f"{service.name} ended with {service.exit_code}, again in {pause_s:.1f} s: {service.log}"
            )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            service.start()
            started = time.monotonic()
