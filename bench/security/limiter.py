"""How much more than the limit gets through: over two web processes, with Valkey and with it killed, whoever one says one is.

A bypass ratio is what was let through in one window, over the limit: 1.0 is the limit itself.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import aiohttp

from bench.security.edge import caller
from bench.security.house import House
from bench.security.tokens import PATH

CUSTOMER: Final = 200
ADDRESS: Final = 240
FAILURES: Final = 120
TIMES: Final = 2
"""How often the limit each attempt asks."""
AT_ONCE: Final = 24
PROXY: Final = "127.0.0.90"
_SETTINGS: Final = {
    "WEB_CUSTOMER_READS_PER_MINUTE": str(CUSTOMER),
    "WEB_READS_PER_MINUTE": str(ADDRESS),
    "WEB_ADDRESS_TIMES": "1",
    "WEB_REFUSED_CREDENTIALS_PER_MINUTE": str(FAILURES),
    "WEB_FORGED_WEBHOOKS_PER_MINUTE": str(FAILURES),
    "WEB_PROCESSES": "2",
    "WEB_TRUSTED_PROXIES": f"{PROXY}/32",
}
_CLAIMS: Final = (
    "X-Forwarded-For",
    "Forwarded",
    "X-Real-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Client-IP",
)


@dataclass(slots=True)
class Figures:
    """Each attempt's ratio; answers that were neither let through nor told how long to wait."""

    ratios: dict[str, float] = field(default_factory=dict)
    server_errors: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def worst(self) -> float:
        """The highest ratio."""
        return max(self.ratios.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of an attempt."""

    path: str
    headers: dict[str, str]
    method: str = "GET"
    body: bytes | None = None


class Limiter:
    """Tries to get through to two web processes that share their limits."""

    def __init__(self, house: House, seed: int) -> None:
        self._house = house
        self._random = random.Random(seed)
        self._hosts = itertools.count(20)
        self._urls: list[str] = []
        self.figures = Figures()

    async def run(self) -> Figures:
        """All attempts: with Valkey, then while it dies, while it is away, and when it is back."""
        for name in ("limited-1", "limited-2"):
            self._urls.append(await self._house.start_web(name, **_SETTINGS))
        await self._attempts("")
        if self._house.servers.valkey is not None:
            await self._while_valkey_dies()
        return self.figures

    async def _attempts(self, when: str) -> None:
        one = str(uuid4())
        await self._attempt(f"one customer, one token{when}", CUSTOMER, self._customer(one))
        two = str(uuid4())
        await self._attempt(
            f"one customer, a token each time{when}", CUSTOMER, self._customer(two, fresh=True)
        )
        three = str(uuid4())
        await self._attempt(f"one customer, spelt otherwise{when}", CUSTOMER, self._spelt(three))
        for name, headers in (("X-Forwarded-For", _CLAIMS[:1]), ("every such header", _CLAIMS)):
            await self._attempt(
                f"many callers of one address, {name} rotated{when}", ADDRESS, self._callers(headers)
            )
        await self._attempt(
            f"behind our proxy, X-Forwarded-For rotated{when}", ADDRESS, self._behind_proxy(), PROXY
        )
        await self._attempt(f"bad tokens, X-Forwarded-For rotated{when}", FAILURES, self._bad_tokens())
        await self._attempt(f"forged webhooks, X-Forwarded-For rotated{when}", FAILURES, self._forgeries())

    async def _while_valkey_dies(self) -> None:
        valkey = self._house.servers.valkey
        assert valkey is not None
        one = self._customer(str(uuid4()))
        address = self._address()
        through = await self._count(one, CUSTOMER // 2, address)
        valkey.kill9()
        through += await self._count(one, TIMES * CUSTOMER, address)
        self.figures.ratios["one customer, Valkey killed in the middle"] = through / CUSTOMER
        await self._attempts(", no Valkey")
        await self._money_stays()
        await valkey.start()
        for url in (*self._urls, self._house.url):
            await self._knows_valkey(url)
        through += await self._count(one, TIMES * CUSTOMER, address)
        self.figures.ratios["one customer, Valkey killed, and back with nothing"] = through / CUSTOMER

    async def _money_stays(self) -> None:
        """While nobody can be counted, no refund is even looked at."""
        async with caller(self._urls[0], address=self._address()) as edge:
            token = self._house.issuer.token(role="finance", sub="limits")
            answer = await edge.post(f"/v1/payments/{uuid4()}/refunds", {"amount_paise": 100}, token=token)
            if (answer.status, answer.code) != (503, "throttle_unavailable"):
                self.figures.wrong.append(f"a refund without Valkey: {answer.status} {answer.code}")

    async def _knows_valkey(self, url: str) -> None:
        """Until a process counts in Valkey again."""
        deadline = time.monotonic() + 15
        token = self._house.issuer.token(role="finance", sub="limits")
        async with caller(url, address=self._address()) as edge:
            while time.monotonic() < deadline:
                answer = await edge.post(
                    f"/v1/payments/{uuid4()}/refunds", {"amount_paise": 100}, token=token
                )
                if answer.status != 503:
                    return
                await asyncio.sleep(0.2)
        self.figures.wrong.append(f"{url} does not find Valkey again")

    async def _attempt(self, name: str, limit: int, asks: Iterator[Ask], address: str | None = None) -> None:
        through = await self._count(asks, TIMES * limit, address or self._address())
        self.figures.ratios[name] = round(through / limit, 3)
        if through < limit * 0.9:
            self.figures.wrong.append(
                f"{name}: {through} of {limit} got through, the limit itself is not reached"
            )

    async def _count(self, asks: Iterator[Ask], times: int, address: str) -> int:
        """Ask so often, in turn of both processes; how many got through."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with self._session(address) as http:

            async def one(ask: Ask, url: str) -> bool:
                async with (
                    gate,
                    http.request(ask.method, url + ask.path, data=ask.body, headers=ask.headers) as answer,
                ):
                    await answer.read()
                    self.figures.server_errors += answer.status >= 500
                    if answer.status == 429 and int(answer.headers.get("Retry-After", "0")) < 1:
                        self.figures.wrong.append("429 without Retry-After")
                    return answer.status != 429

            turns = itertools.cycle(self._urls)
            return sum(await asyncio.gather(*(one(next(asks), next(turns)) for _ in range(times))))

    @asynccontextmanager
    async def _session(self, address: str) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(local_addr=(address, 0), limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            yield http

    def _address(self) -> str:
        """A fresh address of this machine."""
        return f"127.0.1.{next(self._hosts)}"

    def _token(self, **claims: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._house.issuer.token(**claims)}"}

    def _customer(self, user: str, *, fresh: bool = False) -> Iterator[Ask]:
        once = self._token(role="customer", sub=user)
        while True:
            yield Ask(PATH, self._token(role="customer", sub=user) if fresh else once)

    def _spelt(self, user: str) -> Iterator[Ask]:
        headers = self._token(role="customer", sub=user)
        for path in itertools.cycle(
            [PATH, "/v1/%70acks", f"{PATH}?", f"/v1/users/{user}", f"/v1/wallets/{uuid4()}"]
        ):
            yield Ask(path, headers)

    def _claims(self, names: tuple[str, ...], address: Callable[[], str]) -> dict[str, str]:
        return {name: f"for={address()}" if name == "Forwarded" else address() for name in names}

    def _somewhere(self) -> str:
        return ".".join(str(self._random.randint(1, 250)) for _ in range(4))

    def _callers(self, names: tuple[str, ...]) -> Iterator[Ask]:
        for number in itertools.count():
            who = self._token(role="support", sub=f"caller-{number % 40}-{self._random.randint(1, 10**9)}")
            yield Ask(PATH, {**who, **self._claims(names, self._somewhere)})

    def _behind_proxy(self) -> Iterator[Ask]:
        real = self._somewhere()
        for number in itertools.count():
            who = self._token(role="support", sub=f"behind-{number % 40}-{self._random.randint(1, 10**9)}")
            yield Ask(PATH, {**who, "X-Forwarded-For": f"{self._somewhere()}, {self._somewhere()}, {real}"})

    def _bad_tokens(self) -> Iterator[Ask]:
        while True:
            token = f"cdk_{self._random.randbytes(8).hex()}_{'x' * 43}"
            yield Ask(PATH, {"Authorization": f"Bearer {token}", **self._claims(_CLAIMS, self._somewhere)})

    def _forgeries(self) -> Iterator[Ask]:
        while True:
            headers = {
                "Content-Type": "application/json",
                "x-webhook-timestamp": str(time.time_ns() // 1_000_000),
                "x-webhook-signature": "A" * 43 + "=",
                **self._claims(_CLAIMS, self._somewhere),
            }
            yield Ask("/v1/webhooks/cashfree", headers, "POST", b'{"a":1}')
