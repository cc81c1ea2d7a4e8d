"""Customers and services at a modest, steady rate, through every door; some give up after an unknown answer, most ask again."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from agents.core import Outgoing
from bench.faults.accounts import Accounts
from bench.faults.log import Door, Log, Order, Refund, Told, Use
from bench.faults.stack import PARTITIONS, PUBLISHER, RAW_PUBLISHER, System
from bench.faults.web import Answer, Web
from domain.packs import PACKS
from sql import publishers
from sql.db import Database
from sql.errors import Unavailable
from streams import messages
from streams.events import UsageEvent
from streams.link import Outcome
from streams.publish import Publisher, PublishError
from streams.topics import partition_of
from streams.writer import BatchWriter

FEATURES: Final = ("chat.message", "ai.summary", "voice.minute")
GIVE_UP: Final = 0.25
"""Share of callers who do not ask again after an unknown answer."""
TWICE: Final = 0.03
"""Share of events that are sent twice though nothing went wrong."""
TOPIC: Final = "wallet.debit"


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second."""

    api: float = 60.0
    client: float = 50.0
    raw: float = 24.0
    orders: float = 1.5
    refunds: float = 0.3
    reads: float = 4.0


class Load:
    """One run of it. `open`, then `run` until `stop`, then `settled`."""

    def __init__(self, system: System, web: Web, log: Log, seed: int, rates: Rates) -> None:
        self.log, self.web, self.system = log, web, system
        self.accounts = Accounts()
        self.twice = TWICE
        """Share of direct events published twice: raised by the nemesis."""
        self._random = random.Random(seed)
        self._rates = rates
        self._stopping = asyncio.Event()
        self._closed = asyncio.Event()
        self._publisher: Publisher | None = None
        self._writer: BatchWriter | None = None
        self._raw_session = str(uuid4())
        self._raw_seq = dict.fromkeys(range(PARTITIONS), 0)

    async def open(self, db: Database) -> None:
        """Accounts and publishers. `db` shows our client what is covered, past every fault."""
        await self.accounts.open(self.web, self.log, self._random)
        secret, url = (
            self.system.publisher_secret,
            self.system.proxies["client", "rabbitmq"].through(
                self.system.broker.stream_url("core_service"),
            ),
        )
        for name in (PUBLISHER, RAW_PUBLISHER):
            await publishers.register(db, name, secret)

        async def watermarks(session: str) -> dict[int, int]:
            try:
                return await publishers.watermarks(db, PUBLISHER, session, TOPIC)
            except Unavailable:
                return {}

        self._publisher = Publisher(
            url, name=PUBLISHER, secret=secret, watermarks=watermarks, stall_s=600, republish_after_s=3.0
        )
        await self._publisher.start()
        self._writer = BatchWriter(url, name="bare", wait_s=3.0)
        await self._writer.start()

    async def run(self) -> None:
        """Send until stopped; returns when every caller is content or has given up."""
        rates = self._rates
        await asyncio.gather(
            self._paced(rates.api / 6, self._use_api),
            self._paced(rates.client / 5, self._use_client),
            self._paced(rates.raw / 4, self._use_raw, at_once=1),
            self._paced(rates.orders, self._buy),
            self._paced(rates.refunds, self._give_back),
            self._paced(rates.reads, self._read),
        )

    def stop(self) -> None:
        """No new work; what is under way goes on."""
        self._stopping.set()

    async def settled(self, timeout_s: float) -> None:
        """Wait until the core has decided all that our client keeps. Errors: TimeoutError, PublishError."""
        assert self._publisher is not None
        await self._publisher.settled(timeout_s=timeout_s)

    async def close(self) -> None:
        """Leave the broker."""
        self._stopping.set()
        self._closed.set()
        if self._publisher is not None:
            await self._publisher.stop(deadline_s=1.0)
        if self._writer is not None:
            await self._writer.stop()

    async def _paced(self, per_s: float, act: Callable[[], Awaitable[None]], *, at_once: int = 60) -> None:
        """Acts start on schedule whether or not the earlier ones are done, up to `at_once`."""
        loop = asyncio.get_running_loop()
        under_way: set[asyncio.Task[None]] = set()
        next_at = loop.time()
        while not self._stopping.is_set():
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            next_at = max(next_at + 1 / per_s, loop.time() - 0.5)
            under_way = {task for task in under_way if not self._finished(task)}
            if len(under_way) < at_once:
                under_way.add(asyncio.ensure_future(act()))
        await asyncio.gather(*under_way)

    def _finished(self, task: "asyncio.Future[None]") -> bool:
        if task.done():
            task.result()
        return task.done()

    # -- usage

    def _use(self, door: Door) -> Use:
        use = Use(
            f"{door}-{uuid4()}",
            door,
            self._random.choice(self.accounts.by_door[door]),
            self._random.choice(FEATURES),
            self._random.randint(1, 9),
        )
        self.log.uses[use.id] = use
        return use

    async def use_once(self) -> Answer:
        """One event by the API, sent once."""
        use = self._use("api")
        answer = await self.web.post("/v1/usage", {"events": [_body(use)]})
        self.log.tell([use.id], Told.ACKNOWLEDGED if answer.ok else Told.UNKNOWN)
        return answer

    async def _use_api(self) -> None:
        uses = [self._use("api") for _ in range(6)]
        ids = [use.id for use in uses]
        body = {"events": [_body(use) for use in uses]}
        asks_again = self._random.random() >= GIVE_UP
        twice = self._random.random() < TWICE
        while True:
            answer = await self.web.post("/v1/usage", body)
            if answer.ok:
                taken = [r["id"] for r in answer.body["results"] if r["status"] in ("accepted", "replayed")]
                self.log.tell(taken, Told.ACKNOWLEDGED)
                if not twice:
                    return
                twice = False
            elif answer.status not in (0, 500, 502, 503):
                self.log.tell(ids, Told.REFUSED)
                return
            else:
                self.log.tell(ids, Told.UNKNOWN)
                if not asks_again or self._closed.is_set():
                    return
                await asyncio.sleep(self._random.uniform(0.3, 1.0))
            self.log.sent_again += len(ids)

    async def flood(self, count: int) -> None:
        """So many events at once by our client."""
        await self._use_client(count)

    async def _use_client(self, count: int = 5) -> None:
        """Our client: events are taken in the order of the calls, and kept until they have their outcome."""
        assert self._publisher is not None
        uses = [self._use("client") for _ in range(count)]
        again = [use for use in uses if self._random.random() < self.twice]
        self.log.sent_again += len(again)
        try:
            await self._publisher.publish_many([_event(use) for use in (*uses, *again)])
        except PublishError:
            self.log.tell([use.id for use in uses], Told.UNKNOWN)
        else:
            self.log.tell([use.id for use in uses], Told.ACKNOWLEDGED)

    async def _use_raw(self) -> None:
        """No client: signed batches, one after another; what is not confirmed is not sent again."""
        assert self._writer is not None
        uses = [self._use("raw") for _ in range(4)]
        parts: dict[int, list[Use]] = {}
        for use in uses:
            parts.setdefault(partition_of(str(use.wallet_id), PARTITIONS), []).append(use)
        batches = [(p, part, self._raw(p, part)) for p, part in parts.items()]
        again = [batch for batch in batches if self._random.random() < self.twice]
        self.log.sent_again += sum(len(part) for _, part, _ in again)
        outcomes = await self._writer.publish([message for _, _, message in (*batches, *again)])
        for (_, part, _), outcome in zip(batches, outcomes, strict=False):
            told = {Outcome.CONFIRMED: Told.ACKNOWLEDGED, Outcome.REFUSED: Told.REFUSED}
            self.log.tell([use.id for use in part], told.get(outcome, Told.UNKNOWN))

    async def rubbish(self, count: int) -> None:
        """So many records that are no event, and as many that nobody signed; again until the broker has them."""
        assert self._writer is not None
        for _ in range(count):
            wallet = self._random.choice(self.accounts.by_door["raw"])
            stranger = Use(f"forged-{uuid4()}", "raw", wallet, "forged", 1)
            batch = messages.encode_usage_batch(str(uuid4()), 1, [messages.encode_usage(_event(stranger))])
            forged = {"publisher": RAW_PUBLISHER, "mac": messages.sign(batch, b"nobody's secret")}
            partition = partition_of(str(wallet), PARTITIONS)
            sent = [
                Outgoing(TOPIC, partition, "rubbish", f"{{{uuid4()}".encode(), {}),
                Outgoing(TOPIC, partition, str(wallet), batch, forged),
            ]
            while await self._writer.publish(sent) != [Outcome.CONFIRMED] * len(sent):
                await asyncio.sleep(0.3)

    def _raw(self, partition: int, uses: list[Use]) -> Outgoing:
        self._raw_seq[partition] += 1
        raw = [messages.encode_usage(_event(use)) for use in uses]
        value = messages.encode_usage_batch(self._raw_session, self._raw_seq[partition], raw)
        headers = {
            "publisher": RAW_PUBLISHER,
            "mac": messages.sign(value, self.system.publisher_secret),
        }
        return Outgoing(TOPIC, partition, str(uses[0].wallet_id), value, headers)

    # -- money

    async def _buy(self) -> None:
        """An order; most customers pay, some fail, some leave."""
        account = self._random.choice(self.accounts.payers)
        order = Order(str(uuid4()), account.wallet_id, self._random.choice(PACKS).price_paise)
        self.log.orders.append(order)
        outcome = self._random.choices(("success", "failed", "dropped"), weights=(88, 7, 5))[0]
        await self.order(order, account.user_id)
        if order.told is Told.ACKNOWLEDGED:
            await asyncio.sleep(self._random.uniform(0.05, 0.4))
            await self.pay(order, outcome)

    async def order(self, order: Order, user_id: UUID) -> None:
        """Make an order, asking again with the same key until there is a definite answer, for a while."""
        body = {
            "user_id": str(user_id), "wallet_id": str(order.wallet_id), "pack_paise": order.pack_paise,
            "device_id": f"device-{order.wallet_id}",
        }  # fmt: skip
        for _ in range(12):
            answer = await self.web.post("/v1/payments/orders", body, key=order.key)
            if answer.ok:
                order.payment_id = UUID(answer.body["payment_id"])
                order.order_id = answer.body["order_id"]
                order.told = Told.ACKNOWLEDGED
                return
            order.told = Told.UNKNOWN if answer.status in (0, 500, 502, 503) else Told.REFUSED
            if order.told is Told.REFUSED or self._closed.is_set():
                return
            await asyncio.sleep(self._random.uniform(0.4, 1.0))

    async def pay(self, order: Order, outcome: str = "success", *, safely: bool = False) -> None:
        """The customer pays, if the gateway answers; `safely`: the webhook is spared what befalls the others."""
        wish: dict[str, Any] = {"outcome": outcome, "instrument": f"{order.wallet_id}@upi"}
        if safely:
            wish["webhook"] = {}
        elif outcome == "success":
            wish["attempts_before"] = int(self._random.random() < 0.15)
        answer = await self.web.simulate(f"/sim/orders/{order.order_id}/pay", wish)
        order.paid = answer.ok and outcome == "success"

    async def _give_back(self) -> None:
        """A refund of a part, or of all, of something paid."""
        paid = [order for order in self.log.orders[:-5] if order.paid]
        if not paid:
            return
        order = self._random.choice(paid)
        assert order.payment_id is not None
        refund = Refund(str(uuid4()), order.payment_id, order.pack_paise // self._random.choice((1, 2, 5)))
        self.log.refunds.append(refund)
        body = {"amount_paise": refund.amount_paise, "reason": "faults"}
        for _ in range(12):
            answer = await self.web.post(f"/v1/payments/{order.payment_id}/refunds", body, key=refund.key)
            if answer.ok:
                refund.refund_id = answer.body["refund_id"]
                refund.told = Told.ACKNOWLEDGED
                return
            refund.told = Told.UNKNOWN if answer.status in (0, 500, 502, 503) else Told.REFUSED
            if refund.told is Told.REFUSED or self._closed.is_set():
                return
            await asyncio.sleep(self._random.uniform(0.4, 1.0))

    async def _read(self) -> None:
        await self.web.get(f"/v1/wallets/{self._random.choice(self.accounts.by_door['api'])}")


def _body(use: Use) -> dict[str, Any]:
    return {
        "id": use.id,
        "wallet_id": str(use.wallet_id),
        "feature": use.feature,
        "credits": use.credits,
    }


def _event(use: Use) -> UsageEvent:
    return UsageEvent(id=use.id, wallet_id=str(use.wallet_id), feature=use.feature, credits=use.credits)
