"""One customer's random walk through the gateway, and the webhooks about it: late, twice, shuffled, forged, lost."""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, cast
from uuid import UUID

from uuid_utils.compat import uuid7

from domain.gst import split_inclusive
from domain.packs import PACKS, Pack, pack_for
from gateway.simulator.events import Subject, webhook_body
from gateway.simulator.plan import Version, WebhookPlan
from gateway.simulator.records import Attempt, Order, Refund
from sql import payments
from sql.payments import NewPayment
from streams.topics import partition_of

from .conftest import OLD_SECRET, PARTITIONS, SECRET, Stack
from .model import SUCCESS, Known

VERSIONS: Final[tuple[Version, ...]] = ("2023-08-01", "2025-01-01")
IDS: Final = (None, "int", "text")
LONG_AGO_MS: Final = 3_600_000
PAUSE_S: Final = 0.6
LATE_S: Final = 0.7
Spawn = Callable[[Coroutine[Any, Any, None]], None]


@dataclass
class Walk:
    """One order, from before its row to the last word about it. Its choices follow from its own seed alone."""

    stack: Stack
    spawn: Spawn
    random: random.Random
    user: str
    wallet: str
    known: Known = field(init=False)
    payment_id: UUID = field(init=False)
    order: Order = field(init=False)
    pack: Pack = field(init=False)
    story: list[str] = field(default_factory=list)
    asked_back: list[tuple[str, int]] = field(default_factory=list)
    """Our own refunds: (id, paise)."""
    pending: list[Attempt] = field(default_factory=list)
    forged: set[int] = field(default_factory=set)
    """Attempts of whose success a lie has told: the truth of them is a replay, and makes nobody look again."""
    returning: str = ""

    def __post_init__(self) -> None:
        self.pack = self.random.choice(PACKS)
        self.known = Known(self.pack.price_paise, self.pack.credits)

    # The customer's side.

    async def live(self, known: dict[str, Walk]) -> None:
        """Everything that happens to the order at the gateway, with pauses; `known` tells whose order it is."""
        if self.random.random() < 0.15:
            self.early()
        else:
            await self.create()
        known[self.order.order_id] = self
        await asyncio.sleep(self.random.uniform(0, 2))
        for _ in range(self.random.randint(1, 6)):
            step = self.choose()
            if step is None:
                return
            self.story.append(step.__name__)
            made = step()
            if made is not None:
                await made
            await asyncio.sleep(self.random.expovariate(1 / PAUSE_S))

    async def create(self) -> None:
        """Through the API: row, then the gateway's order."""
        said = {"user_id": self.user, "wallet_id": self.wallet, "pack_paise": self.pack.price_paise}
        answer = await self.stack.api.post("/v1/payments/orders", said)
        assert answer.status == 201, answer.body
        self.payment_id = UUID(answer.body["payment_id"])
        self.order = self.stack.sim.book.order(answer.body["order_id"])

    def early(self) -> None:
        """The gateway has the order, and our row comes late: what is said of it before that must wait."""
        self.payment_id = uuid7()
        self.order = self.stack.sim.book.create_order(
            order_id=f"cd_{self.payment_id.hex}",
            amount_paise=self.pack.price_paise,
            currency="INR",
            customer={"customer_id": self.user, "customer_phone": "9999999999"},
            meta={},
            tags=None,
            note=None,
            splits=[],
            expiry_ms=None,
        )
        self.story.append("early")
        self.spawn(self.row_after(self.random.uniform(0.5, 4)))

    async def row_after(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        new = NewPayment(
            id=self.payment_id,
            key=f"walk:{self.payment_id}",
            request_hash=b"walk",
            user_id=UUID(self.user),
            wallet_id=UUID(self.wallet),
            order_id=self.order.order_id,
            pack=pack_for(self.pack.price_paise),
            split=split_inclusive(self.pack.price_paise, inter_state=False),
            place_of_supply="29",
        )
        db, partition = self.stack.db, partition_of("status=created", PARTITIONS)
        await payments.create_payment(db, new, shard=0, created_partition=partition)
        await payments.order_created(
            db, new.id, cf_order_id=str(self.order.cf_order_id), session_id="s", expires_at=None
        )

    def choose(self) -> Callable[[], Coroutine[Any, Any, None] | None] | None:
        """The next step, of those that can happen now."""
        status = self.stack.sim.book.order(self.order.order_id).status
        weighed: list[tuple[int, Callable[[], Coroutine[Any, Any, None] | None]]] = [(1, self.forge)]
        weighed += [(1, self.break_in), (3, self.late)] if self.lost() else [(1, self.break_in)]
        weighed += [(4, self.resolve)] if self.pending else []
        if status == "ACTIVE":
            weighed += [(4, self.fail), (2, self.drop), (5, self.succeed), (2, self.begin), (2, self.expire)]
            weighed += [] if self.returning else [(1, self.succeed_with_offer)]
            weighed += [] if self.order.attempts else [(1, self.tamper)]
        elif status == "PAID":
            weighed += [(1, self.fail), (2, self.late_failure)]
            weighed += [(2, self.succeed)] if not self.once else []
            if self.known.sold and not self.once:
                weighed.append((3, self.ask_back))
            if self.known.sold and len(self.known.successes) == 1 and not self.returning:
                weighed.append((2, self.give_back))
        weights, steps = zip(*weighed, strict=True)
        return cast(
            Callable[[], Coroutine[Any, Any, None] | None], self.random.choices(steps, weights=weights)[0]
        )

    @property
    def once(self) -> bool:
        """Nobody pays this order again: its money goes back, or part of it was an offer's."""
        return self.returning in ("theirs", "offer")

    def start(self, offer_paise: int = 0) -> Attempt:
        return self.stack.sim.book.start_attempt(
            self.order,
            "upi",
            f"walk{self.order.cf_order_id}.{len(self.order.attempts)}@bank",
            offer_paise=offer_paise,
        )

    def invented(self) -> Attempt:
        """An attempt that the gateway knows nothing of."""
        self.start()
        return self.order.attempts.pop()

    def settle(self, attempt: Attempt, status: str) -> None:
        if status == SUCCESS:
            self.known.successes.append(str(attempt.cf_payment_id))
        self.stack.sim.book.resolve(self.order, attempt, status)

    def fail(self) -> None:
        self.settle(self.start(), "FAILED")

    def drop(self) -> None:
        self.settle(self.start(), "USER_DROPPED")

    def succeed(self) -> None:
        self.settle(self.start(), SUCCESS)

    def succeed_with_offer(self) -> None:
        """Less is paid than the price; only the webhook says why."""
        self.returning = "offer"
        self.settle(self.start(self.random.choice([1, 499, 5_000])), SUCCESS)

    def begin(self) -> None:
        self.pending.append(self.start())

    def resolve(self) -> None:
        """What began, perhaps before the order expired, ends."""
        again = len(self.known.successes) > 0 and self.once
        status = "FAILED" if again else self.random.choice(["FAILED", SUCCESS, SUCCESS])
        self.settle(self.pending.pop(), status)

    def lost(self) -> list[Attempt]:
        """Attempts that may still succeed."""
        over = self.forged if self.known.successes else ()
        tried = (a for a in self.order.attempts if a.status in ("FAILED", "USER_DROPPED"))
        return [attempt for attempt in tried if attempt.cf_payment_id not in over]

    def late(self) -> None:
        """What was reported as failed or dropped goes on after all."""
        attempt = self.random.choice(self.lost())
        if attempt.status == "USER_DROPPED" and self.random.random() < 0.4:
            self.settle(attempt, "FAILED")
        elif not (self.known.successes and self.once):
            self.settle(attempt, SUCCESS)

    def late_failure(self) -> None:
        """A FAILED of the attempt that paid, told after its SUCCESS."""
        paid = next(a for a in self.order.attempts if a.status == SUCCESS)
        self.announce("PAYMENT_FAILED_WEBHOOK", replaced(paid, "FAILED"), copies=1)

    def expire(self) -> None:
        self.order.expiry_ms = 0
        self.known.expired = self.stack.sim.book.order(self.order.order_id).status == "EXPIRED"

    def tamper(self) -> None:
        """The gateway's order is not the one we made."""
        if self.random.random() < 0.3:
            self.order.currency = self.known.currency = "USD"
        else:
            self.order.amount_paise += self.random.choice([-5_000, -1, 1, 100])
            self.known.order_paise = self.order.amount_paise

    def forge(self) -> None:
        """A success under a genuine signature that the gateway's own order denies."""
        tried = [a for a in self.order.attempts if a.status in ("FAILED", "USER_DROPPED")]
        attempt = self.random.choice(tried) if tried and self.random.random() < 0.5 else self.invented()
        self.forged.add(attempt.cf_payment_id)
        self.announce("PAYMENT_SUCCESS_WEBHOOK", replaced(attempt, SUCCESS), copies=1)

    async def break_in(self) -> None:
        """A success that nobody signed: refused at the door."""
        attempt = self.invented()
        body = self.body("PAYMENT_SUCCESS_WEBHOOK", replaced(attempt, SUCCESS), "2025-01-01", WebhookPlan())
        assert await self.stack.hear(body, "2025-01-01", secret="a guess") == 401

    async def ask_back(self) -> None:
        """A refund through our API, once the payment is credited."""
        self.returning = "ours"
        path = f"/v1/payments/{self.payment_id}"
        await self.stack.credited(self.payment_id)
        whole = self.random.random() < 0.3
        paise = self.pack.price_paise if whole else self.random.randint(100, self.pack.price_paise // 2)
        answer = await self.stack.api.post(f"{path}/refunds", {"amount_paise": paise})
        if answer.status == 201:
            self.asked_back.append((answer.body["refund_id"], paise))
        else:
            assert answer.code in ("insufficient_refundable", "not_refundable"), answer.body

    def give_back(self) -> None:
        """A refund in the gateway's own dashboard: we only hear of it."""
        self.returning = "theirs"
        whole = self.random.random() < 0.4
        paise = self.pack.price_paise if whole else self.random.randint(100, self.pack.price_paise)
        self.known.refunds.append(paise)
        self.known.refund_told = True
        self.stack.sim.book.refund(
            self.order.order_id,
            refund_id=f"dash_{self.order.cf_order_id}",
            amount_paise=paise,
            note=None,
            speed="STANDARD",
        )

    # The gateway's side.

    def body(self, event: str, subject: Subject, version: Version, plan: WebhookPlan) -> bytes:
        return webhook_body(event, self.order, subject, version, plan, self.stack.sim.clock.now_ms())

    def announce(self, event: str, subject: Subject, copies: int = 0) -> None:
        """Say it some times, each in some version, with ids as numbers or text, after some time; or never."""
        copies = self.random.choice([copies, 1, 1, 1, 2, 3])
        if isinstance(subject, Refund) or (
            isinstance(subject, Attempt)
            and subject.status == SUCCESS
            and (len(self.known.successes) > 1 or subject.offer_paise or self.known.expired)
        ):
            # Who is not told of these finds them in the settlements, which is another test: once an order is
            # paid, or has expired, the poller asks no more.
            copies = max(1, copies)
        lie = self.random.choice([None, None, None, 100])
        for _ in range(copies):
            version = self.random.choice(VERSIONS)
            plan = WebhookPlan(
                ids=self.random.choice(IDS), amount_paise=lie, unknown_field=self.random.random() < 0.1
            )
            raw = self.body(event, subject, version, plan)
            told = None
            if isinstance(subject, Attempt):
                told = (str(subject.cf_payment_id), subject.status)
            delay_s = self.random.expovariate(1 / LATE_S) if self.random.random() < 0.8 else 0.0
            self.spawn(self.deliver(raw, version, told, min(delay_s, 5.0), self.random.random()))

    async def deliver(
        self, raw: bytes, version: Version, told: tuple[str, str] | None, delay_s: float, luck: float
    ) -> None:
        await asyncio.sleep(delay_s)
        secret = OLD_SECRET if luck > 0.8 else SECRET
        age_ms = LONG_AGO_MS if luck < 0.1 else 0
        assert await self.stack.hear(raw, version, secret=secret, age_ms=age_ms) == 200
        if told is not None:
            self.known.told.add(told)


def replaced(attempt: Attempt, status: str) -> Attempt:
    """The attempt as somebody might claim it to be."""
    claimed = copy.copy(attempt)
    claimed.status = status
    return claimed


def listen(walks: dict[str, Walk]) -> Callable[[str, Order, Subject, WebhookPlan | None], None]:
    """What the simulator's book calls: each order's own walk spreads the news."""

    def announce(event: str, order: Order, subject: Subject, plan: WebhookPlan | None) -> None:
        if isinstance(subject, (Attempt, Refund)):
            walks[order.order_id].announce(event, subject)

    return announce
