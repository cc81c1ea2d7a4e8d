"""Customers who pay through the simulator and services that charge for usage, by API and straight onto the stream."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import aiohttp

from bench.demo.log import Asked, GatewayRefund, Log, Truth
from domain.packs import PACKS
from streams.events import UsageEvent
from streams.publish import Publisher

FEATURES: Final = ("chat.message", "event.ticket", "ai.summary", "voice.minute", "storage.gb")
CALL_TIMEOUT: Final = aiohttp.ClientTimeout(total=10)
REFUSED: Final = 422
DUPLICATES: Final = 0.03
"""Share of events and webhooks that are sent twice."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Sends per second, by door."""

    payments: float = 6.0
    refunds: float = 1.5
    api_usage: float = 120.0
    direct_usage: float = 240.0
    api_batch: int = 12


class Traffic:
    """One run. `stop` ends the sending; what is under way is finished."""

    def __init__(self, web_url: str, simulator_url: str, token: str, rates: Rates, seed: int) -> None:
        self.log = Log()
        self._web = web_url
        self._simulator = simulator_url
        self._token = token
        self._rates = rates
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._users: list[UUID] = []
        self._wallets: list[UUID] = []
        self._paid: list[tuple[str, UUID, int]] = []
        self._communities = [uuid4() for _ in range(8)]
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Traffic":
        self._session = aiohttp.ClientSession(
            timeout=CALL_TIMEOUT, headers={"Authorization": f"Bearer {self._token}"}
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def wallets(self) -> list[UUID]:
        return self._wallets

    def stop(self) -> None:
        self._stopping.set()

    async def open_accounts(self, count: int) -> None:
        """Users and wallets; most get a welcome grant, the others are there to be refused."""
        for start in range(0, count, 20):
            await asyncio.gather(*(self._open_account(i) for i in range(start, min(count, start + 20))))

    async def _open_account(self, number: int) -> None:
        user = await self._post("/v1/users", {
            "external_id": f"demo-{uuid4()}", "name": f"Customer {number}", "email": f"customer{number}@example.com",
            "phone": "9999999999", "state_code": self._random.choice(("29", "27", "07", "33")),
        })  # fmt: skip
        wallet = await self._post("/v1/wallets", {
            "owner_id": user["id"], "community_id": str(self._random.choice(self._communities)),
        })  # fmt: skip
        wallet_id = UUID(wallet["id"])
        self._users.append(UUID(user["id"]))
        self._wallets.append(wallet_id)
        if number % 10:
            credits = self._random.randint(500, 5000)
            await self._post(f"/v1/wallets/{wallet_id}/grants", {"credits": credits, "reason": "welcome"})
            self.log.granted[wallet_id] = credits

    async def run(self, publisher: Publisher) -> None:
        """Send until stopped."""
        await self._simulate(
            "/sim/webhooks", {"duplicate": DUPLICATES, "two_versions": 0.02, "reorder": 0.2, "stale": 0.01}
        )
        doors = (
            self._paced(self._rates.payments, self._pay),
            self._paced(self._rates.refunds, self._refund),
            self._paced(self._rates.api_usage / self._rates.api_batch, self._use_api),
            self._paced(self._rates.direct_usage / 10, lambda: self._use_stream(publisher, 10)),
        )
        await asyncio.gather(*doors)

    async def _paced(self, per_s: float, act: Callable[[], Awaitable[None]]) -> None:
        """Open loop: acts start on schedule whether or not the earlier ones are done; at most 200 are under way."""
        loop = asyncio.get_running_loop()
        under_way: set[asyncio.Task[None]] = set()
        next_at = loop.time()
        while not self._stopping.is_set():
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            next_at = max(next_at + 1 / per_s, loop.time() - 1.0)
            if len(under_way) < 200:
                task = asyncio.create_task(self._guarded(act))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        if under_way:
            await asyncio.wait(under_way)

    async def _guarded(self, act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except (aiohttp.ClientError, TimeoutError) as error:
            self.log.error(type(error).__name__)

    async def _pay(self) -> None:
        """An order; the customer then pays, fails, fails and pays, drops, or thinks about it."""
        number = self._random.randrange(len(self._users))
        order = await self._post("/v1/payments/orders", {
            "user_id": str(self._users[number]), "wallet_id": str(self._wallets[number]),
            "pack_paise": self._random.choice(PACKS).price_paise, "device_id": f"device-{number}",
        })  # fmt: skip
        self.log.orders[order["order_id"]] = UUID(order["payment_id"])
        await asyncio.sleep(self._random.uniform(0.05, 0.5))
        outcome = self._random.choices(("success", "failed", "dropped"), weights=(88, 8, 4))[0]
        wish: dict[str, Any] = {"outcome": outcome, "instrument": f"customer{number}@upi"}
        if outcome == "success":
            wish |= {
                "attempts_before": int(self._random.random() < 0.15),
                "late": self._random.random() < 0.05,
            }
        await self._simulate(f"/sim/orders/{order['order_id']}/pay", wish)
        if outcome == "success":
            self._paid.append((order["order_id"], UUID(order["payment_id"]), order["amount_paise"]))

    async def _refund(self) -> None:
        """A customer wants money back of a payment that was credited: some of it or all, sometimes twice at once."""
        if not self._paid:
            return
        order_id, payment_id, price = self._paid.pop(self._random.randrange(len(self._paid)))
        if (await self._get(f"/v1/payments/{payment_id}"))["status"] != "credited":
            self._paid.append((order_id, payment_id, price))
            return
        share = self._random.choice((0.1, 0.25, 0.6, 1.0))
        wishes = [
            Asked(payment_id, order_id, int(price * share)) for _ in range(self._random.choice((1, 1, 2)))
        ]
        await asyncio.gather(*(self._ask_back(f"r-{uuid4()}", wish) for wish in wishes))

    async def _ask_back(self, key: str, asked: Asked) -> None:
        """Ask for one refund; after an unknown answer again under the same key, and some twice all the same."""
        self.log.refunds[key] = asked
        sends = 2 if self._random.random() < DUPLICATES * 5 else 1
        body = {"amount_paise": asked.amount_paise, "reason": "demo"}
        while sends:
            try:
                answer = await self._post(f"/v1/payments/{asked.payment_id}/refunds", body, key=key)
                asked.outcome, asked.refund_id = "created", UUID(answer["id"])
            except aiohttp.ClientResponseError as error:
                if error.status != REFUSED:
                    raise
                asked.outcome = "refused"
            except (aiohttp.ClientError, TimeoutError):
                self.log.unknown += 1
                if self._stopping.is_set():
                    return
                await asyncio.sleep(0.5)
                continue
            sends -= 1

    async def _use_api(self) -> None:
        """A batch of usage events by API; after an unknown answer the same batch again."""
        events = [self._event() for _ in range(self._rates.api_batch)]
        sends = 2 if self._random.random() < DUPLICATES else 1
        while sends:
            for event in events:
                self.log.send(event["id"], UUID(event["wallet_id"]), event["credits"])
            try:
                answer = await self._post("/v1/usage", {"events": events})
            except (aiohttp.ClientError, TimeoutError):
                self.log.unknown += len(events)
                if self._stopping.is_set():
                    return
                await asyncio.sleep(0.5)
                continue
            for event, result in zip(events, answer["results"], strict=True):
                if result["status"] in ("accepted", "replayed"):
                    self.log.acknowledge(event["id"])
                else:
                    self.log.error(f"usage {result['status']}")
            sends -= 1

    async def _use_stream(self, publisher: Publisher, count: int) -> None:
        """Usage events straight onto wallet.debit; the publisher keeps them until their outcome is covered."""
        for _ in range(count):
            said = self._event()
            event = UsageEvent(**said)
            for _ in range(2 if self._random.random() < DUPLICATES else 1):
                self.log.send(event.id, UUID(event.wallet_id), event.credits)
                await publisher.publish(event)
                self.log.acknowledge(event.id)

    def _event(self) -> dict[str, Any]:
        number = min(
            int(self._random.paretovariate(0.6)) - 1, len(self._wallets) - 1
        )  # a few wallets get most of it
        return {
            "id": f"e-{uuid4()}",
            "wallet_id": str(
                self._wallets[
                    number if self._random.random() < 0.5 else self._random.randrange(len(self._wallets))
                ]
            ),
            "feature": self._random.choice(FEATURES),
            "credits": self._random.randint(1, 12),
            "community_id": str(self._random.choice(self._communities)),
            "metadata": {"source": "demo"},
        }

    async def _get(self, path: str) -> dict[str, Any]:
        assert self._session is not None
        async with self._session.get(self._web + path) as answer:
            answer.raise_for_status()
            found: dict[str, Any] = await answer.json()
            return found

    async def _post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> dict[str, Any]:
        assert self._session is not None
        async with self._session.post(
            self._web + path, json=body, headers={"Idempotency-Key": key or str(uuid4())}
        ) as answer:
            if answer.status >= 400:
                if answer.status != REFUSED or key is None:
                    self.log.error(f"{path.split('/')[2]} {answer.status}")
                raise aiohttp.ClientResponseError(
                    answer.request_info, answer.history, status=answer.status, message=await answer.text()
                )
            found: dict[str, Any] = await answer.json()
            return found

    async def _simulate(self, path: str, body: dict[str, Any]) -> None:
        assert self._session is not None
        async with self._session.post(self._simulator + path, json=body) as answer:
            answer.raise_for_status()

    async def truth(self) -> Truth:
        """The gateway's own: which of our orders were paid, and every refund of theirs."""
        assert self._session is not None
        truth = Truth()
        after: str | None = None
        while True:
            query = {"limit": "1000"} | ({"after": after} if after else {})
            async with self._session.get(f"{self._simulator}/sim/orders", params=query) as answer:
                answer.raise_for_status()
                orders = await answer.json()
            if not orders:
                return truth
            for order in orders:
                if order["order_id"] in self.log.orders:
                    if order["status"] == "PAID":
                        truth.paid.add(order["order_id"])
                    truth.refunds += [
                        GatewayRefund(order["order_id"], **refund) for refund in order["refunds"]
                    ]
            after = orders[-1]["order_id"]
