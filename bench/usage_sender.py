"""The generator of usage: signed batches straight onto wallet.debit, in a process of its own.

`python -m bench.usage_sender` reads one JSON job from its input and writes one JSON line. With a rate each event has its
time before the run begins (open loop); with none everything is published at once.
"""

from __future__ import annotations

import array
import asyncio
import json
import random
import resource
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import msgspec
import uvloop

from agents.core import Outgoing
from streams import messages
from streams.events import UsageEvent
from streams.topics import partition_of
from streams.writer import BatchWriter

TOPIC: Final = "wallet.debit"
FEATURES: Final = ("chat.message", "ai.summary", "voice.minute")
_TICK_S: Final = 0.01
_REMEMBERED: Final = 5_000


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `count` events `<prefix><number>`. `wallets` is a file of wallet ids (16 bytes each) by rank, `ranks` one of
    the ranks to draw (uint32); `hot` is the share of rank 1 on top. `out` receives each event's time and rank (float64, uint32).
    """

    url: str
    publisher: str
    secret: str
    wallets: str
    ranks: str
    out: str
    prefix: str
    count: int
    partitions: int
    rate: float = 0.0
    hot: float = 0.0
    duplicates: float = 0.02
    per_message: int = 100
    seed: int = 1


class Sender:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._random = random.Random(job.seed)
        raw = Path(job.wallets).read_bytes()
        self._wallets = [str(UUID(bytes=raw[i : i + 16])) for i in range(0, len(raw), 16)]
        self._places = [partition_of(wallet, job.partitions) for wallet in self._wallets]
        self._ranks = array.array("I", Path(job.ranks).read_bytes())
        self._session = str(uuid4())
        self._seq: defaultdict[int, int] = defaultdict(int)
        self._past: list[tuple[int, UsageEvent]] = []
        self.chosen = array.array("I")
        self.duplicates = 0

    def events(self, first: int, count: int) -> list[tuple[int, UsageEvent]]:
        """The next events with their partitions, some of them sent before."""
        made: list[tuple[int, UsageEvent]] = []
        for number in range(first, first + count):
            chance = self._random.random()
            rank = 1 if chance < self._job.hot else self._ranks[number % len(self._ranks)]
            self.chosen.append(rank)
            event = UsageEvent(
                id=f"{self._job.prefix}{number}",
                wallet_id=self._wallets[rank - 1],
                feature=FEATURES[number % len(FEATURES)],
                credits=number % 5 + 1,
                metadata={"model": "small", "tokens": 812},
            )
            made.append((self._places[rank - 1], event))
            if self._past and self._random.random() < self._job.duplicates:
                made.append(self._random.choice(self._past))
                self.duplicates += 1
        self._past = [*self._past[-_REMEMBERED:], *made]
        return made

    def pack(self, made: list[tuple[int, UsageEvent]]) -> list[Outgoing]:
        """Events as signed messages, by partition."""
        by_partition: defaultdict[int, list[UsageEvent]] = defaultdict(list)
        for partition, event in made:
            by_partition[partition].append(event)
        secret = bytes.fromhex(self._job.secret)
        packed = []
        for partition, events in by_partition.items():
            for start in range(0, len(events), self._job.per_message):
                self._seq[partition] += 1
                part = events[start : start + self._job.per_message]
                batch = messages.UsageBatch(v=1, session=self._session, seq=self._seq[partition], events=part)
                value = messages.encode(batch)
                headers = {"publisher": self._job.publisher, "mac": messages.sign(value, secret)}
                packed.append(Outgoing(TOPIC, partition, part[0].wallet_id, value, headers))
        return packed

    async def run(self) -> dict[str, object]:
        """Send everything; the figures."""
        job = self._job
        scheduled = array.array("d")
        before, under_way = _cpu_s(), set()
        async with BatchWriter(job.url, name="bench") as writer:
            began, sent = time.time() + 0.2, 0
            while sent < job.count:
                if job.rate:
                    due = min(job.count, int((time.time() - began) * job.rate)) - sent
                    scheduled.extend(began + (sent + i) / job.rate for i in range(due))
                else:
                    due = min(5_000, job.count - sent)
                    scheduled.extend([time.time()] * due)
                if due > 0:
                    task = asyncio.ensure_future(writer.publish(self.pack(self.events(sent, due))))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    sent += due
                await asyncio.sleep(_TICK_S if job.rate else 0)
            seconds = time.time() - began
            await asyncio.gather(*under_way)
        Path(job.out).write_bytes(scheduled.tobytes() + self.chosen.tobytes())
        return {
            "sent": sent,
            "duplicates": self.duplicates,
            "seconds": seconds,
            "session": self._session,
            "cpu_s": _cpu_s() - before,
        }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Sender(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)).run())))
