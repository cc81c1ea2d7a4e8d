"""Webhooks on their way: signed exact bytes, a bounded number at once, repeated after 2, 10 and 30
minutes.

Signatures carry the wall clock's time, the retries wait on the simulated clock. A retry keeps its
signature unless `sign_retries_anew` is set: it is not documented which of the two Cashfree does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import aiohttp
import msgspec

from gateway.signature import sign
from gateway.simulator.bodies import Body, iso
from gateway.simulator.book import Book
from gateway.simulator.events import Subject, webhook_body
from gateway.simulator.plan import Version, WebhookChances, WebhookPlan
from gateway.simulator.records import Order
from gateway.wire import Json

RETRY_AFTER_S: Final = (120.0, 600.0, 1800.0)
_HOUR_MS: Final = 3_600_000


@dataclass(slots=True)
class Delivery:
    """One message to one address; `signature` is made once unless retries are signed anew."""

    event_type: str
    about: str
    url: str
    body: bytes
    version: str
    delivery_key: str
    plan: WebhookPlan
    attempt: int = 1
    timestamp: str = ""
    signature: str = ""


@dataclass(slots=True)
class Counts:
    """What became of the webhooks."""

    announced: int = 0
    submitted: int = 0
    duplicated: int = 0
    reordered: int = 0
    dropped: int = 0
    sent: int = 0
    delivered: int = 0
    failed: int = 0
    given_up: int = 0


class Deliveries:
    """The sending side. `start` it inside a running loop, `stop` it before the loop ends."""

    def __init__(
        self, book: Book, *, url: str | None, secret: bytes, old_secret: bytes, concurrency: int = 64
    ) -> None:
        self.book = book
        self.default_url = url
        self.chances = WebhookChances()
        self.sign_retries_anew = False
        self.counts = Counts()
        self.recent: deque[dict[str, object]] = deque(maxlen=1000)
        self._secret, self._old_secret = secret, old_secret
        self._concurrency = concurrency
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self._workers: list[asyncio.Task[None]] = []
        self._http: aiohttp.ClientSession | None = None
        book.announce = self.announce

    async def start(self) -> None:
        """Open the connections."""
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._concurrency, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=10),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]

    async def stop(self) -> None:
        """Nothing more is sent."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    @property
    def queued(self) -> int:
        """Webhooks due now and not yet sent."""
        return self._queue.qsize()

    async def settled(self) -> None:
        """Wait until all that is due has been sent once."""
        await self._queue.join()

    def announce(self, event_type: str, order: Order, subject: Subject, plan: WebhookPlan | None) -> None:
        """Make webhooks of what happened to an order, by its plan or by chance."""
        now_ms = self.book.clock.now_ms()
        chosen = self._chosen(plan)
        self._send_all(
            event_type,
            order.order_id,
            order.meta.get("notify_url"),
            chosen,
            lambda version: webhook_body(event_type, order, subject, version, chosen, now_ms),
        )

    def announce_data(self, event_type: str, about: str, data: Body, plan: WebhookPlan | None) -> None:
        """Make webhooks of what has one shape in every version: mandates, payouts, disputes."""
        message = {"data": data, "event_time": iso(self.book.clock.now_ms()), "type": event_type}
        body = msgspec.json.encode(message)
        self._send_all(event_type, about, None, self._chosen(plan), lambda version: body)

    def _chosen(self, plan: WebhookPlan | None) -> WebhookPlan:
        self.counts.announced += 1
        return self.chances.draw(self.book.random) if plan is None else plan

    def _send_all(
        self,
        event_type: str,
        about: str,
        notify_url: Json,
        plan: WebhookPlan,
        body_of: Callable[[Version], bytes],
    ) -> None:
        url = notify_url or self.default_url
        if not isinstance(url, str) or not url:
            return
        if plan.drop:
            self.counts.dropped += 1
            return
        versions: list[Version] = [plan.version or self.chances.version]
        if plan.two_versions:
            versions.append("2022-09-01" if versions[0] != "2022-09-01" else "2025-01-01")
        for version in versions:
            body = body_of(version)
            for _ in range(1 + plan.duplicate):
                key = str(UUID(bytes=self.book.random.randbytes(16), version=4))
                self._submit(Delivery(event_type, about, url, body, version, key, plan))
        self.counts.duplicated += len(versions) * (1 + plan.duplicate) - 1

    def _submit(self, delivery: Delivery) -> None:
        self.counts.submitted += 1
        delay_s = delivery.plan.delay_s
        if delivery.plan.reorder:
            self.counts.reordered += 1
            delay_s += self.book.random.uniform(0, self.chances.reorder_window_s)
        if delay_s > 0:
            self.book.clock.call_later(delay_s, lambda: self._queue.put_nowait(delivery))
        else:
            self._queue.put_nowait(delivery)

    def _sign(self, delivery: Delivery) -> None:
        if delivery.signature and not self.sign_retries_anew:
            return
        now_ms = time.time_ns() // 1_000_000 - (_HOUR_MS if delivery.plan.stale else 0)
        secret = self._old_secret if delivery.plan.old_secret else self._secret
        if delivery.plan.bad_signature:
            secret = b"not the merchant's secret"
        delivery.timestamp = str(now_ms)
        delivery.signature = sign(secret, delivery.timestamp, delivery.body).decode()

    async def _work(self) -> None:
        while True:
            delivery = await self._queue.get()
            try:
                await self._send(delivery)
            finally:
                self._queue.task_done()

    async def _send(self, delivery: Delivery) -> None:
        assert self._http is not None
        self._sign(delivery)
        headers = {
            "Content-Type": "application/json",
            "x-webhook-signature": delivery.signature,
            "x-webhook-timestamp": delivery.timestamp,
            "x-webhook-version": delivery.version,
            "x-webhook-attempt": str(delivery.attempt),
        }
        if delivery.version >= "2025-01-01":
            headers["x-idempotency-key"] = delivery.delivery_key
        self.counts.sent += 1
        status = 0
        try:
            async with self._http.post(
                delivery.url, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                await response.read()
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError):
            status = 0
        self.recent.append(
            {
                "type": delivery.event_type,
                "about": delivery.about,
                "version": delivery.version,
                "attempt": delivery.attempt,
                "status": status,
            }
        )
        if status == 200:
            self.counts.delivered += 1
            return
        self.counts.failed += 1
        if delivery.attempt > len(RETRY_AFTER_S):
            self.counts.given_up += 1
            return
        wait_s = RETRY_AFTER_S[delivery.attempt - 1]
        delivery.attempt += 1
        self.book.clock.call_later(wait_s, lambda: self._queue.put_nowait(delivery))
