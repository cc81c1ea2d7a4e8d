"""The generator of orders: customers who order over the API and pay at the simulator, in a process of its own.

`python -m bench.orders_sender` reads one JSON job from its input and writes one JSON line. Open loop: every order has its time
before the run begins. Who is answered pays at once; the webhook is the simulator's. What the gateway was too busy for is asked
again under the same key, and so are some that were answered: that must be the same order.
"""

from __future__ import annotations

import array
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
import uvloop

from bench.lines import Lines
from bench.prepare import PRICE_PAISE

_LATE_S: Final = 30.0
_TICK_S: Final = 0.001
_AGAIN_S: Final = 0.5


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to order: `count` orders at `rate` a second. `people` is a file of user and wallet ids (32 bytes) by rank, `ranks` one
    of the ranks to draw (uint32); `out` receives the scheduled times (float64, epoch s), `ids` the order ids, a line each.
    """

    web: str
    simulator: str
    token: str
    people: str
    ranks: str
    out: str
    ids: str
    prefix: str
    rate: float
    count: int
    duplicates: float = 0.02
    connections: int = 64
    seed: int = 1


class _Made(msgspec.Struct):
    order_id: str


class Sender:
    """One job under way."""

    def __init__(self, job: Job, web: Lines, simulator: Lines) -> None:
        self._job = job
        self._web = web
        self._simulator = simulator
        self._random = random.Random(job.seed)
        self._people = Path(job.people).read_bytes()
        self._ranks = array.array("I", Path(job.ranks).read_bytes())
        self._ids = [""] * job.count
        self._scheduled = array.array("d")
        self._statuses: Counter[str] = Counter()
        self._latencies = array.array("d")
        self._under_way = 0
        self._others = 0

    async def run(self) -> dict[str, object]:
        """Order everything, pay what was made; the figures."""
        job = self._job
        began = time.time() + 0.2
        used, number = _cpu_s(), 0
        while number < job.count:
            now = time.time()
            while number < job.count and began + number / job.rate <= now:
                self._scheduled.append(began + number / job.rate)
                self._order(number)
                number += 1
            await asyncio.sleep(_TICK_S)
        ended = time.time()
        while self._under_way and time.time() < ended + _LATE_S:
            await asyncio.sleep(0.01)
        Path(job.out).write_bytes(self._scheduled.tobytes())
        Path(job.ids).write_text("\n".join(self._ids))
        ordered = sorted(self._latencies)
        return {
            "made": sum(map(bool, self._ids)),
            "statuses": dict(self._statuses),
            "unanswered": self._under_way,
            "other_orders": self._others,
            "seconds": ended - began,
            "order_p50_s": ordered[len(ordered) // 2] if ordered else None,
            "order_p99_s": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else None,
            "cpu_s": _cpu_s() - used,
        }

    def _order(self, number: int, *, repeated: bool = False) -> None:
        rank = self._ranks[number % len(self._ranks)]
        who = self._people[32 * (rank - 1) : 32 * rank]
        body = msgspec.json.encode(
            {
                "user_id": UUID(bytes=who[:16]),
                "wallet_id": UUID(bytes=who[16:]),
                "pack_paise": PRICE_PAISE,
                "device_id": f"device-{rank}",
            }
        )
        headers = (
            f"authorization: Bearer {self._job.token}\r\ncontent-type: application/json\r\n"
            f"idempotency-key: {self._job.prefix}-{number}\r\n"
            f"x-forwarded-for: 13.{rank >> 16}.{rank >> 8 & 255}.{rank & 255}\r\n"
        )
        self._under_way += 1

        def answered(status: int, said: bytes) -> None:
            self._under_way -= 1
            self._statuses[f"order {status}"] += 1
            if status in (0, 429, 502, 503):
                self._under_way += 1
                asyncio.get_running_loop().call_later(_AGAIN_S, self._again, number)
            elif status < 300:
                self._ordered(number, rank, msgspec.json.decode(said, type=_Made).order_id, repeated)

        self._web.ask("POST", "/v1/payments/orders", headers, body, answered)

    def _again(self, number: int) -> None:
        self._under_way -= 1
        self._order(number)

    def _ordered(self, number: int, rank: int, order_id: str, repeated: bool) -> None:
        if self._ids[number]:
            self._others += order_id != self._ids[number]
            return
        self._ids[number] = order_id
        self._latencies.append(time.time() - self._scheduled[number])
        twice = self._random.random() < self._job.duplicates
        wish = {"instrument": f"u{rank}@bench", "webhook": {"duplicate": int(twice)}}
        self._under_way += 1

        def paid(status: int, _: bytes) -> None:
            self._under_way -= 1
            self._statuses[f"pay {status}"] += 1

        self._simulator.ask("POST", f"/sim/orders/{order_id}/pay", "", msgspec.json.encode(wish), paid)
        if not repeated and self._random.random() < self._job.duplicates:
            self._order(number, repeated=True)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _main(job: Job) -> dict[str, object]:
    places = [urlsplit(url) for url in (job.web, job.simulator)]
    web, simulator = [
        await Lines.connect(place.hostname or "127.0.0.1", place.port or 80, job.connections)
        for place in places
    ]
    return await Sender(job, web, simulator).run()


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_main(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)))))
