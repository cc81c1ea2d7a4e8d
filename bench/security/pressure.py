"""What big, compressed and slow requests cost those who behave: memory of the web process, and how long genuine webhooks take.

`python -m bench.security.pressure` is the attacker, in a process of its own: one JSON job on its input, one line of figures out.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.security.door import PATH, Vector, chunked, request, send
from bench.security.genuine import Genuine
from bench.security.house import House
from deploy.migrations import CHECKOUT

BODY_BYTES: Final = 64 * 1024 + 1
BOMB_BYTES: Final = 16 * 1024 * 1024
ADDRESS: Final = "127.0.0.4"
EVERY_S: Final = 0.05
DRIP_S: Final = 1.0
ROUNDS: Final = 3
STANDS_S: Final = 3.0
"""Until the attacker's connections stand."""
LEAVES_S: Final = 1.5
"""So long before the end of a round, less what the attacker took to start, all leave at once: that is part of the attack."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to send to one web process, and for how long. `token` is a good credential."""

    url: str
    token: str
    seconds: float
    slow: int = 500
    big_per_s: float = 40.0
    bombs_per_s: float = 10.0


@dataclass(slots=True)
class Figures:
    """Under pressure, and before it. Memory is the web process's, resident."""

    rss_before_mb: float = 0.0
    max_rss_mb: float = 0.0
    slow_connections: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    p99_alone_ms: float = 0.0
    p99_attacked_ms: float = 0.0
    max_attacked_ms: float = 0.0
    """The moment in which all 500 leave."""

    @property
    def server_errors(self) -> int:
        """Answers that blame us."""
        return sum(n for status, n in self.statuses.items() if status >= 500)


async def press(
    house: House, genuine: Genuine, token: str, *, count: int, per_s: float, slow: int = 500
) -> Figures:
    """Genuine webhooks alone, then as many among the attack, in rounds; a percentile is the median of the rounds'.

    Errors: RuntimeError if the attacker fails.
    """
    figures = Figures(rss_before_mb=house.rss_mb())
    each = count // ROUNDS
    job = Job(url=house.url, token=token, seconds=STANDS_S + each / per_s - LEAVES_S, slow=slow)
    watching = asyncio.create_task(_watch(house, figures))
    try:
        for number in range(ROUNDS):
            await genuine.pace(each, per_s, f"alone {number}")
            attacking = asyncio.create_task(_attack(job))
            await asyncio.sleep(STANDS_S)
            await genuine.pace(each, per_s, f"attacked {number}")
            told = await attacking
            figures.slow_connections = max(figures.slow_connections, told["slow"])
            figures.statuses.update({int(status): n for status, n in told["statuses"].items()})
    finally:
        watching.cancel()
    figures.p99_alone_ms, figures.p99_attacked_ms = (
        median(genuine.p99_ms(f"{when} {number}") for number in range(ROUNDS))
        for when in ("alone", "attacked")
    )
    figures.max_attacked_ms = max(genuine.slowest_ms(f"attacked {number}") for number in range(ROUNDS))
    return figures


async def _attack(job: Job) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.security.pressure", cwd=CHECKOUT, stdin=-1, stdout=-1
    )
    answer, _ = await child.communicate(msgspec.json.encode(job))
    if child.returncode:
        raise RuntimeError("the attacker failed")
    told: dict[str, Any] = json.loads(answer)
    return told


async def _watch(house: House, figures: Figures) -> None:
    while True:
        figures.max_rss_mb = max(figures.max_rss_mb, round(house.rss_mb(), 1))
        await asyncio.sleep(EVERY_S)


class _Attacker:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._until = time.monotonic() + job.seconds
        self.statuses: Counter[int] = Counter()
        self.slow = 0
        self._open = 0

    async def run(self) -> None:
        """All three kinds at once, until the time is over."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._job.slow):
                group.create_task(self._slow(number))
            group.create_task(self._steadily(_big(self._job.token), self._job.big_per_s))
            group.create_task(self._steadily(_bombs(self._job.token), self._job.bombs_per_s))

    async def _steadily(self, make: Callable[[], bytes], per_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < self._until:
                group.create_task(self._one(make()))
                await asyncio.sleep(1 / per_s)

    async def _one(self, raw: bytes) -> None:
        with suppress(OSError):
            sent = await send(self._job.url, Vector("pressure", (raw,), (), patience_s=5.0), address=ADDRESS)
            self.statuses.update(sent.statuses)

    async def _slow(self, number: int) -> None:
        """A connection that says a byte a second, and comes again when it is closed."""
        where = urlsplit(self._job.url)
        body = request([(b"content-type", b"application/json"), (b"content-length", b"60000")], b'{"a":"')
        start = body if number % 2 else b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: x\r\nX-Slow: "
        while time.monotonic() < self._until:
            with suppress(OSError, RuntimeError):
                _, writer = await asyncio.open_connection(where.hostname, where.port, local_addr=(ADDRESS, 0))
                self._open += 1
                self.slow = max(self.slow, self._open)
                try:
                    writer.write(start)
                    while time.monotonic() < self._until and not writer.is_closing():
                        await asyncio.sleep(DRIP_S)
                        writer.write(b"x")
                        await writer.drain()
                finally:
                    self._open -= 1
                    writer.close()
            await asyncio.sleep(0.1)


def _headers(token: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"authorization", b"Bearer " + token.encode()),
        (b"idempotency-key", b"pressure"),
        (b"content-type", b"application/json"),
        (b"x-webhook-timestamp", b"1700000000000"),
        (b"x-webhook-signature", b"A" * 43 + b"="),
    ]


def _big(token: str) -> Callable[[], bytes]:
    body = b'{"external_id":"' + b"x" * (BODY_BYTES - 18) + b'"}'
    coded = [*_headers(token), (b"transfer-encoding", b"chunked")]
    parts = chunked(*(body[at : at + 8192] for at in range(0, len(body), 8192)))
    lines = (b"POST /v1/webhooks/cashfree HTTP/1.1", b"POST /v1/users HTTP/1.1")
    requests = [request(_headers(token), body, line=line) for line in lines]
    requests += [request(coded, b"", line=line, length=False) + parts for line in lines]
    return itertools.cycle(requests).__next__


def _bombs(token: str) -> Callable[[], bytes]:
    bomb = gzip.compress(b'{"external_id":"' + bytes(BOMB_BYTES) + b'"}')
    coded = [*_headers(token), (b"content-encoding", b"gzip")]
    lines = (b"POST /v1/webhooks/cashfree HTTP/1.1", b"POST /v1/users HTTP/1.1", b"POST /v1/usage HTTP/1.1")
    return itertools.cycle([request(coded, bomb, line=line) for line in lines]).__next__


async def _main() -> dict[str, Any]:
    os.nice(10)  # an attacker has a machine of his own: what he costs this one is not what we measure
    attacker = _Attacker(msgspec.json.decode(sys.stdin.buffer.read(), type=Job))
    await attacker.run()
    return {"slow": attacker.slow, "statuses": attacker.statuses}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_main())))
