"""Who takes part: users with wallets, each wallet charged through one door only, so that its order can be judged."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from bench.faults.log import Door, Log
from bench.faults.stack import PARTITIONS
from bench.faults.web import Web
from streams.topics import partition_of

PLENTY = 1_000_000
SCARCE = 400


@dataclass(frozen=True, slots=True)
class Account:
    """A user and a wallet."""

    user_id: UUID
    wallet_id: UUID


@dataclass(slots=True)
class Accounts:
    """Wallets by door; `payers` also buy. `canaries` has one wallet of each partition."""

    by_door: dict[Door, list[UUID]] = field(default_factory=dict)
    payers: list[Account] = field(default_factory=list)
    canaries: list[UUID] = field(default_factory=list)
    canary_payers: list[Account] = field(default_factory=list)
    poisoned: UUID = field(default_factory=uuid4)
    """The wallet that is charged what a bug of ours cannot book."""

    async def open(self, web: Web, log: Log, source: random.Random) -> None:
        """Make them all over the API."""
        doors: tuple[tuple[Door, int, int], ...] = (
            ("api", 10, PLENTY),
            ("client", 8, PLENTY),
            ("raw", 6, PLENTY),
        )
        for door, count, credits in doors:
            made = await asyncio.gather(*(open_account(web, log, source, credits) for _ in range(count)))
            self.by_door[door] = [account.wallet_id for account in made]
        scarce = await asyncio.gather(*(open_account(web, log, source, SCARCE) for _ in range(6)))
        self.by_door["client"] += [account.wallet_id for account in scarce]
        log.exact |= {account.wallet_id for account in scarce}
        self.payers = list(
            await asyncio.gather(
                *(open_account(web, log, source, source.choice((100, 2000, 20000))) for _ in range(24))
            )
        )
        self.by_door["api"] += [account.wallet_id for account in self.payers]
        self.canary_payers = [await open_account(web, log, source, 0) for _ in range(8)]
        self.poisoned = (await open_account(web, log, source, PLENTY)).wallet_id
        missing = set(range(PARTITIONS))
        while missing:
            account = await open_account(web, log, source, PLENTY)
            partition = partition_of(str(account.wallet_id), PARTITIONS)
            if partition in missing:
                missing.discard(partition)
                self.canaries.append(account.wallet_id)


async def open_account(web: Web, log: Log, source: random.Random, credits: int) -> Account:
    """A user, a wallet, and a grant."""
    external = uuid4()
    user = await web.must("/v1/users", {
        "external_id": f"faults-{external}", "name": "Customer", "email": f"{external}@example.com",
        "phone": "9999999999", "state_code": source.choice(("29", "27", "07")),
    })  # fmt: skip
    wallet: dict[str, Any] = await web.must("/v1/wallets", {"owner_id": user["id"]})
    wallet_id = UUID(wallet["id"])
    if credits:
        await web.must(f"/v1/wallets/{wallet_id}/grants", {"credits": credits, "reason": "welcome"})
    log.granted[wallet_id] = credits
    return Account(UUID(user["id"]), wallet_id)
