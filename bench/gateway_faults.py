"""`./dev bench gateway-faults`: payments and refunds through the whole stack while the gateway fails in every way.

Customers order through the API, pay at the simulator and are credited; a tenth of the webhooks is lost, so the poller must
find those; a fifth of the payments goes back. Meanwhile creating and reading orders and refunds fails by chance, from the
seed: carried out and then silent or 500, 502, 429 in both header styles, reset, answers that lag. Nothing may be lost or doubled.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from uuid import UUID

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.frame import Rig, machine, passed, report, say, share
from domain.packs import PACKS
from sql import fraud, invariants
from sql.bulk import bulk
from sql.db import Database, DatabaseSettings
from streams.topics import partition_of

NAME: Final = "gateway-faults"
TIMEOUT_S: Final = 1.5
SETTINGS: Final = {"CASHFREE_TIMEOUT_S": str(TIMEOUT_S), "POLLER_AGE_S": "5", "POLLER_EVERY_S": "1"}
"""What the stack under test is told: so that silence is noticed within the bench's time."""
ENDPOINTS: Final = ("create_order", "get_order", "create_refund", "get_refund")
KINDS: Final = {
    "commit_then_timeout": 0.01,
    "commit_then_500": 0.03,
    "502": 0.03,
    "429": 0.003,
    "429_reset": 0.003,
    "reset": 0.03,
    "lag": 0.03,
}
"""Each kind's chance, a call. A 429 stops its endpoint for all, so it is rarer."""
LOST_WEBHOOKS: Final = 0.1
REFUNDED: Final = 0.2
PER_BUYER: Final = 4
AT_ONCE: Final = 16
STUCK_S: Final = 8.0
DEADLINE_S: Final = 240.0


def kinds_of(endpoint: str) -> list[str]:
    """What may go wrong there: only what is read can lag."""
    return [kind for kind in KINDS if kind != "lag" or endpoint.startswith("get")]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the stack under test is."""

    web_url: str
    token: str
    simulator_url: str
    database_url: str
    admin_url: str
    readonly_url: str
    partitions: int


@dataclass
class Found:
    """What came of it. `lost`: paid at the gateway and not credited, or asked back and not returned."""

    payments: int = 0
    refunds: int = 0
    webhooks_lost: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    double_credits: int = 0
    double_refunds: int = 0
    wrong_balances: int = 0
    held: int = 0
    hours_passed: int = 0
    told_p50_s: float | None = None
    told_p99_s: float | None = None
    untold_p50_s: float | None = None
    untold_p99_s: float | None = None
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def double_posted(self) -> int:
        return self.double_credits + self.double_refunds


@dataclass
class Bought:
    """One payment: what we know of it from outside."""

    payment_id: str
    order_id: str
    wallet: str
    paise: int
    credits: int
    told: bool
    paid_at: float
    refund_id: str | None = None
    refund_paise: int = 0


class Drive:
    """One run against a place."""

    def __init__(self, place: Place, http: aiohttp.ClientSession, *, payments: int, seed: int) -> None:
        self.place = place
        self.found = Found(payments=payments)
        self._http = http
        self._random = random.Random(seed)
        self._keys = (f"bench-{seed}-{n}" for n in range(10**9))
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def call(self, method: str, url: str, body: object = None) -> Any:
        """One call, repeated under the same key until it is answered. Errors: RuntimeError for a refusal."""
        headers = {"Authorization": f"Bearer {self.place.token}", "Idempotency-Key": next(self._keys)}
        deadline = time.monotonic() + DEADLINE_S
        while True:
            async with self._http.request(method, url, json=body, headers=headers) as answer:
                said = await answer.json(content_type=None)
                if answer.status < 300:
                    return said
                if answer.status < 500 or time.monotonic() > deadline:
                    raise RuntimeError(f"{method} {url}: {answer.status} {said}")
            await asyncio.sleep(self._random.uniform(0.2, 1.0))

    async def ask(self, statement: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of one statement, as the superuser."""
        async with bulk(self.place.admin_url) as db:
            return [dict(row) for row in await db.rows(statement, *args)]

    async def run(self) -> Found:
        """Everything: buyers, faults, payments, refunds, the judgement."""
        began = time.monotonic()
        await self.ask("UPDATE fraud_rules SET enabled = false WHERE entity_kind = 'ip'")
        buyers = await asyncio.gather(*(self.buyer(n) for n in range(-(-self.found.payments // PER_BUYER))))
        await self.break_things()
        bought = await asyncio.gather(
            *(self.buy(n, buyers[n // PER_BUYER]) for n in range(self.found.payments))
        )
        await self.until("SELECT count(*) AS n FROM payments WHERE credited_at IS NULL")
        back = self._random.sample(bought, round(self.found.payments * REFUNDED))
        await asyncio.gather(*(self.ask_back(one) for one in back))
        await self.until("SELECT count(*) AS n FROM refunds WHERE status <> 'done'")
        await self.judge(list(bought))
        self.found.seconds = round(time.monotonic() - began, 1)
        return self.found

    async def buyer(self, number: int) -> tuple[str, str]:
        async with self._gate:
            said = {"external_id": f"b{number}", "phone": "9999999999", "state_code": "29"}
            user = (await self.call("POST", f"{self.place.web_url}/v1/users", said))["id"]
            wallet = await self.call("POST", f"{self.place.web_url}/v1/wallets", {"owner_id": user})
            return str(user), str(wallet["id"])

    async def break_things(self) -> None:
        """Every kind of fault on every endpoint, once for sure and by chance from then on."""
        for endpoint in ENDPOINTS:
            for kind in kinds_of(endpoint):
                seconds = 2 * TIMEOUT_S if kind.endswith("timeout") else 1.0
                rule = {"endpoint": endpoint, "kind": kind, "seconds": seconds}
                for more in ({"times": 1}, {"times": None, "probability": KINDS[kind]}):
                    await self.call("POST", f"{self.place.simulator_url}/sim/faults", rule | more)

    async def buy(self, number: int, buyer: tuple[str, str]) -> Bought:
        """Order through the API, pay at the gateway; the webhook is lost, comes once, or twice, in some version."""
        user, wallet = buyer
        pack = self._random.choice(PACKS)
        lost, twice = self._random.random() < LOST_WEBHOOKS, self._random.random() < 0.1
        version = self._random.choice(["2023-08-01", "2025-01-01"])
        async with self._gate:
            said = {"user_id": user, "wallet_id": wallet, "pack_paise": pack.price_paise}
            order = await self.call("POST", f"{self.place.web_url}/v1/payments/orders", said)
            wish = {
                "instrument": f"c{number}@upi",
                "attempts_before": int(number % 7 == 0),
                "webhook": {
                    "drop": lost,
                    "duplicate": int(twice),
                    "version": version,
                    "ids": ["int", "text"][number % 2],
                },
            }
            await self.call("POST", f"{self.place.simulator_url}/sim/orders/{order['order_id']}/pay", wish)
        self.found.webhooks_lost += lost
        price, credits = pack.price_paise, pack.credits
        return Bought(order["payment_id"], order["order_id"], wallet, price, credits, not lost, time.time())

    async def ask_back(self, one: Bought) -> None:
        whole = self._random.random() < 0.5
        one.refund_paise = one.paise if whole else self._random.randrange(100, one.paise)
        async with self._gate:
            url = f"{self.place.web_url}/v1/payments/{one.payment_id}/refunds"
            one.refund_id = (await self.call("POST", url, {"amount_paise": one.refund_paise}))["refund_id"]
        self.found.refunds += 1

    async def until(self, query: str) -> None:
        """Wait until none is left. Where nothing moves, an hour passes for what waits for its time."""
        deadline, best, moved_at = time.monotonic() + DEADLINE_S, 10**9, time.monotonic()
        while left := (await self.ask(query))[0]["n"]:
            if left < best:
                best, moved_at = left, time.monotonic()
            elif time.monotonic() - moved_at > STUCK_S:
                moved_at = time.monotonic()
                await self.an_hour_passes()
            if time.monotonic() > deadline:
                say(f"{left} are left: {query}")
                return
            await asyncio.sleep(0.25)

    async def an_hour_passes(self) -> None:
        """What the schedules put off is due now; a person clears what the fraud rules hold."""
        self.found.hours_passed += 1
        await self.ask(
            "UPDATE verifications SET next_at = now() WHERE state = 'due' AND next_at > now() RETURNING 1"
        )
        await self.ask(
            "UPDATE refunds SET next_at = now() WHERE next_at > now() AND next_at < 'infinity' RETURNING 1"
        )
        held = await self.ask("SELECT id FROM payments WHERE status = 'held'")
        if held:
            rejected = partition_of("status=rejected", self.place.partitions)
            async with await Database.connect(DatabaseSettings(database_url=self.place.database_url)) as db:
                for row in held:
                    await fraud.review_payment(
                        db, UUID(str(row["id"])), "release", "bench", shard=0, rejected_partition=rejected
                    )
            self.found.held += len(held)

    async def judge(self, bought: Sequence[Bought]) -> None:
        """The gateway's own account against our books."""
        found, truth = self.found, await self.truth()
        rows = await self.ask(_PURCHASES)
        purchases = Counter(str(row["payment_id"]) for row in rows)
        credited = {str(row["payment_id"]): float(row["credited"]) for row in rows}
        done = {
            row["refund_id"]: row
            for row in await self.ask(
                "SELECT refund_id, amount, credits_reversed FROM refunds WHERE status = 'done'"
            )
        }
        balances: Counter[str] = Counter()
        for one in bought:
            order = truth[one.order_id]
            found.lost += order["captured_paise"] == one.paise and not purchases[one.payment_id]
            found.double_credits += max(0, purchases[one.payment_id] - 1) + (
                order["captured_paise"] != one.paise
            )
            returned = [refund for refund in order["refunds"] if refund["status"] == "SUCCESS"]
            found.double_refunds += sum(refund["amount_paise"] for refund in returned) > one.refund_paise
            balances[one.wallet] += one.credits
            if one.refund_id is not None:
                mine = done.get(one.refund_id)
                at_gateway = [r["amount_paise"] for r in returned if r["refund_id"] == one.refund_id]
                found.lost += mine is None or at_gateway != [one.refund_paise]
                balances[one.wallet] -= -(-one.refund_paise * one.credits // one.paise)
        found.double_credits += len(set(purchases) - {one.payment_id for one in bought})
        wallets = await self.ask(
            "SELECT id, available_credits + locked_credits + pending_credits AS credits FROM wallets"
        )
        found.wrong_balances = sum(balances[str(row["id"])] != row["credits"] for row in wallets)
        found.violations = [str(violation) for violation in await invariants.check(self.place.readonly_url)]
        for told in (True, False):
            waits = [
                credited[b.payment_id] - b.paid_at
                for b in bought
                if b.told is told and b.payment_id in credited
            ]
            for name, part in (("p50", 0.5), ("p99", 0.99)):
                value = share(waits, part)
                setattr(
                    found,
                    f"{'told' if told else 'untold'}_{name}_s",
                    None if value is None else round(value, 3),
                )
        for rule in await self.call("GET", f"{self.place.simulator_url}/sim/faults"):
            name = f"{rule['endpoint']} {rule['kind']}"
            found.faults[name] = found.faults.get(name, 0) + rule["hits"]

    async def truth(self) -> dict[str, Any]:
        """Every order as the gateway has it."""
        orders: dict[str, Any] = {}
        after = ""
        while True:
            page = await self.call("GET", f"{self.place.simulator_url}/sim/orders?limit=500{after}")
            orders |= {order["order_id"]: order for order in page}
            if len(page) < 500:
                return orders
            after = f"&after={page[-1]['order_id']}"


_PURCHASES: Final = """
SELECT p.id AS payment_id, p.wallet_id, p.order_id, extract(epoch FROM t.created_at) AS credited
  FROM wallet_transactions t JOIN payments p ON p.id::text = t.source_id WHERE t.transaction_type = 'purchase'
"""


async def drive(place: Place, *, payments: int, seed: int) -> Found:
    """Run it; the figures."""
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=64)) as http:
        return await Drive(place, http, payments=payments, seed=seed).run()


def options(parser: argparse.ArgumentParser) -> None:
    """What this bench takes."""
    parser.add_argument("--payments", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)


async def run(options: argparse.Namespace) -> int:
    """Measure, show, write; 1 if anything was lost, doubled or out of balance."""
    about, runs, settings = machine(), [], {}
    for _ in range(options.runs):
        async with Rig(workers=options.workers, webhooks=True, extra=SETTINGS) as rig:
            await rig.start_services()
            place = Place(
                rig.environment["WEB_URL"],
                rig.environment["API_TOKEN"],
                rig.environment["SIMULATOR_URL"],
                rig.environment["DATABASE_WEB_URL"],
                rig.admin_url,
                rig.environment["DATABASE_READONLY_URL"],
                rig.partitions,
            )
            settings = rig.settings | {"payments": options.payments, "chances": dict(KINDS)}
            found = await drive(place, payments=options.payments, seed=options.seed)
            show(found)
            runs.append(asdict(found) | {"double_posted": found.double_posted})
    good = passed(report(options, NAME, settings, runs, about=about))
    return 0 if good and not any(one["wrong_balances"] for one in runs) else 1


def show(found: Found) -> None:
    """Tables for people."""
    faults = Table("fault", *ENDPOINTS, title=f"{sum(found.faults.values())} faults")
    for kind in KINDS:
        faults.add_row(kind, *(str(found.faults.get(f"{endpoint} {kind}", "-")) for endpoint in ENDPOINTS))
    result = Table("", "", title="gateway faults", show_header=False)
    for name, value in asdict(found).items():
        if name != "faults":
            result.add_row(name.replace("_", " "), str(value))
    console = Console(file=sys.stdout, width=110)
    console.print(faults)
    console.print(result)
