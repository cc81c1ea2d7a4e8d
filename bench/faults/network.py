"""Faults of the network between two of us: nothing passes, everything is late, connections are reset."""

import random
from collections.abc import AsyncIterator
from typing import Final

from bench.faults.kinds import Kind, Scene, fault
from bench.faults.proxy import Proxy

SERVERS: Final = ("postgres", "rabbitmq", "valkey", "simulator")


def between(scene: Scene, server: str, source: random.Random) -> tuple[str, list[Proxy]]:
    """One process cut off from the server, or all of them."""
    able = sorted(process for process, s in scene.system.proxies if s == server)
    chosen = source.choice(["everybody", *able])
    names = able if chosen == "everybody" else [chosen]
    return f"{chosen} from {server}", [scene.system.proxies[name, server] for name in names]


def partition(server: str) -> Kind:
    """Nothing passes and nothing is told; what was held arrives late, or the connections are reset at the end."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        what, proxies = between(scene, server, source)
        resets = source.random() < 0.5
        for proxy in proxies:
            proxy.hold()
        try:
            yield what
        finally:
            for proxy in proxies:
                if resets:
                    proxy.cut()
                proxy.release()

    return Kind(server, "partition", inject, (2.0, 9.0), payment=server in ("simulator", "valkey"))


def delay(server: str) -> Kind:
    """Every piece of data is kept back for a while."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        what, proxies = between(scene, server, source)
        seconds = source.uniform(0.05, 0.4)
        for proxy in proxies:
            proxy.delay_s = seconds
        try:
            yield f"{what}, {1000 * seconds:.0f} ms"
        finally:
            for proxy in proxies:
                proxy.delay_s = 0.0

    return Kind(server, "delay", inject, (3.0, 6.0), payment=server in ("simulator", "valkey"))


def reset(server: str) -> Kind:
    """Every connection is reset, at once."""

    @fault
    async def inject(scene: Scene, source: random.Random) -> AsyncIterator[str]:
        what, proxies = between(scene, server, source)
        for proxy in proxies:
            proxy.cut()
        yield what

    return Kind(server, "reset", inject, since="injection")


KINDS: Final = (
    *(partition(server) for server in SERVERS),
    *(delay(server) for server in ("postgres", "rabbitmq", "simulator")),
    *(reset(server) for server in ("postgres", "rabbitmq")),
)
