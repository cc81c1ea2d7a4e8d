"""What a bench starts from: customers, wallets with three lots, payments that await their webhook, loaded in bulk."""

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from uuid import UUID

from sql.bulk import bulk
from sql.queries import parse

_Q: Final = parse((Path(__file__).parent / "prepare.sql").read_text())
PRICE_PAISE: Final = 30_000
"""What each prepared order costs."""


@dataclass(frozen=True, slots=True)
class World:
    """Wallets by rank (the first is drawn most often) and, per prepared order, the rank of its wallet (from 1)."""

    wallets: Sequence[UUID]
    orders: Sequence[int]


def zipf(seed: int, population: int, draws: int, *, exponent: float = 1.1) -> list[int]:
    """Ranks from 1 to `population`, rank r in proportion to 1 / r ** exponent."""
    weights = itertools.accumulate(rank**-exponent for rank in range(1, population + 1))
    return random.Random(seed).choices(range(1, population + 1), cum_weights=list(weights), k=draws)


def order_id(number: int) -> str:
    """The id of a prepared order; numbers start at 1."""
    return f"bench_{number:08d}"


async def prepare(
    admin_url: str, *, wallets: int, orders: int = 0, seed: int = 1, uniform: bool = False
) -> World:
    """Fill an empty migrated database, as its superuser; `uniform` draws every wallet alike. Errors: what the database says."""
    at = datetime.now(UTC).replace(microsecond=0)
    ranks = zipf(seed, wallets, orders, exponent=0.0 if uniform else 1.1)
    async with bulk(admin_url) as db:
        await db.run(_Q["begin"])
        await db.run(_Q["make_people"], wallets)
        await db.run(_Q["make_batches"], wallets)
        await db.run(_Q["make_lots"], at)
        for name in (
            "make_users",
            "make_wallets",
            "put_lots",
            "put_bought_payments",
            "put_transactions",
            "put_entries",
            "put_batches",
            "link_batches",
        ):
            await db.run(_Q[name])
        for start in range(0, orders, 50_000):
            await db.run(_Q["put_open_payments"], ranks[start : start + 50_000], at, start)
        await db.run(_Q["put_windows"])
        await db.run(_Q["let_everybody_pass"])
        await db.run(_Q["settle"])
        await db.run("CHECKPOINT")
        ids = [row["wallet_id"] for row in await db.run(_Q["wallet_ids"], wallets)]
    return World(ids, ranks)
