"""The load generator: signed webhooks over plain sockets on a fixed schedule, in a process of its own.

`python -m bench.sender` reads one JSON job from its input and writes one JSON line of figures. Open loop: every
send has its time before the run begins, latency counts from that time, and nobody waits for an answer
before the next send. So a system that falls behind shows it, and the generator's own CPU is known.
"""

from __future__ import annotations

import array
import asyncio
import base64
import hmac
import json
import random
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.prepare import PRICE_PAISE, order_id
from gateway.simulator.events import webhook_body
from gateway.simulator.plan import WebhookPlan
from gateway.simulator.records import Attempt, Order

_LATE_S: Final = 30.0
"""How long after the last send answers are waited for."""
_TICK_S: Final = 0.001
_PLACES: Final = ("@order@", "@payment@", "@upi@", "@time@")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to send: `count` orders' webhooks from number `first` on. `ranks` is a file of their wallets' ranks (uint32), `out`
    receives the scheduled times (float64, epoch s). With a `window` the loop is closed: as fast as so many under way go.
    """

    url: str
    secret: str
    rate: float
    first: int
    count: int
    ranks: str
    out: str
    duplicates: float = 0.02
    connections: int = 32
    window: int = 0
    seed: int = 1
    begin_at: float = 0.0


def body_template() -> tuple[bytes, ...]:
    """A success webhook as the gateway writes it, cut where order, payment, instrument and time go."""
    order = Order(
        "@order@", 1, "s", PRICE_PAISE, "INR", {"customer_id": "bench"}, {}, None, None, [], 0, 0, "PAID"
    )
    attempt = Attempt(
        0,
        "@order@",
        PRICE_PAISE,
        "INR",
        "upi",
        {"upi": {"channel": "collect", "upi_id": "@upi@"}},
        0,
        "SUCCESS",
        0,
        "1",
    )
    text = webhook_body("PAYMENT_SUCCESS_WEBHOOK", order, attempt, "2025-01-01", WebhookPlan(), 0)
    text = text.replace(b'"cf_payment_id":"0"', b'"cf_payment_id":"@payment@"').replace(
        b"1970-01-01T05:30:00+05:30", b"@time@"
    )
    for number, place in enumerate(_PLACES):
        text = text.replace(place.encode(), b"\0" + bytes([number + 1]))
    return tuple(text.split(b"\0"))


def body_of(template: tuple[bytes, ...], number: int, rank: int, now: float) -> bytes:
    """The body of one prepared order's webhook."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now)).encode()
    said = (
        order_id(number).encode(),
        str(2_000_000_000 + number).encode(),
        f"u{rank}@bench".encode(),
        moment,
    )
    return template[0] + b"".join(said[part[0] - 1] + part[1:] for part in template[1:])


class Door(asyncio.Protocol):
    """One keep-alive connection: requests are written as they fall due, answers come back in order."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._waiting: deque[float] = deque()
        self._left = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._sender.failed += len(self._waiting)
        self._waiting.clear()
        self.transport = None

    def send(self, due: float, request: bytes) -> None:
        """Write one request that was due at that time."""
        if self.transport is None:
            self._sender.failed += 1
            return
        self._waiting.append(due)
        self.transport.write(request)

    @property
    def under_way(self) -> int:
        return len(self._waiting)

    def data_received(self, data: bytes) -> None:
        data = self._left + data
        at = 0
        while True:
            end = data.find(b"\r\n\r\n", at)
            if end < 0:
                break
            head = data[at:end].lower()
            mark = head.find(b"content-length:")
            length = int(head[mark + 15 :].split(b"\r\n", 1)[0]) if mark >= 0 else 0
            if len(data) < end + 4 + length:
                break
            self._sender.answered(self._waiting.popleft(), data[at + 9 : at + 12])
            at = end + 4 + length
        self._left = data[at:]


class Sender:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self.failed = 0
        self._job = job
        self._sent_now = 0
        self._latencies = array.array("d")
        self._statuses: dict[str, int] = {}
        self._secret = job.secret.encode()
        self._template = body_template()
        self._random = random.Random(job.seed)
        where = urlsplit(job.url)
        self._host, self._port = where.hostname or "127.0.0.1", where.port or 80
        self._head = (
            f"POST {where.path} HTTP/1.1\r\nhost: {where.netloc}\r\ncontent-type: application/json\r\n"
            "x-webhook-version: 2025-01-01\r\nx-webhook-attempt: 1\r\n"
        ).encode()

    def answered(self, due: float, status: bytes) -> None:
        """One answer came."""
        self._latencies.append(time.time() - due)
        text = status.decode()
        self._statuses[text] = self._statuses.get(text, 0) + 1

    def request(self, number: int, rank: int, now: float) -> bytes:
        """The whole request of one order's webhook, signed now."""
        body = body_of(self._template, number, rank, now)
        stamp = str(int(now * 1000)).encode()
        signature = base64.b64encode(hmac.digest(self._secret, stamp + body, "sha256"))
        return b"%bx-webhook-timestamp: %b\r\nx-webhook-signature: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            self._head, stamp, signature, len(body), body,
        )  # fmt: skip

    def _has_room(self) -> bool:
        return self._sent_now - len(self._latencies) - self.failed < self._job.window

    async def run(self) -> dict[str, object]:
        """Send everything; the figures."""
        job, loop = self._job, asyncio.get_running_loop()
        ranks = array.array("I", Path(job.ranks).read_bytes())
        doors = [
            (await loop.create_connection(lambda: Door(self), self._host, self._port))[1]
            for _ in range(job.connections)
        ]
        scheduled = array.array("d")
        again: deque[tuple[float, int]] = deque()
        began = max(job.begin_at, time.time() + 0.2)
        sent = duplicates = turn = 0
        used_before = _cpu_s()
        while sent < job.count or again:
            now = time.time()
            while sent < job.count and (self._has_room() if job.window else began + sent / job.rate <= now):
                due, number = now if job.window else began + sent / job.rate, job.first + sent
                scheduled.append(due)
                turn += 1
                doors[turn % len(doors)].send(
                    due, self.request(number, ranks[(number - 1) % len(ranks)], now)
                )
                sent += 1
                self._sent_now += 1
                if self._random.random() < job.duplicates:
                    again.append((now + self._random.uniform(0, 2), number))
            while again and (again[0][0] <= now or sent >= job.count):
                _, number = again.popleft()
                turn += 1
                duplicates += 1
                doors[turn % len(doors)].send(
                    now, self.request(number, ranks[(number - 1) % len(ranks)], now)
                )
                self._sent_now += 1
            await asyncio.sleep(_TICK_S)
        ended = time.time()
        while any(door.under_way for door in doors) and time.time() < ended + _LATE_S:
            await asyncio.sleep(0.01)
        Path(job.out).write_bytes(scheduled.tobytes())
        ordered = sorted(self._latencies)
        return {
            "sent": sent,
            "duplicates": duplicates,
            "statuses": self._statuses,
            "failed": self.failed + sum(door.under_way for door in doors),
            "began": began,
            "seconds": ended - began,
            "accept_p50_s": _share(ordered, 0.5),
            "accept_p99_s": _share(ordered, 0.99),
            "cpu_s": _cpu_s() - used_before,
        }


def _share(ordered: list[float], share: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(uvloop.run(Sender(msgspec.json.decode(sys.stdin.buffer.read(), type=Job)).run())))
