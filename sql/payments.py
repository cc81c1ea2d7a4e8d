"""Payments as the API creates and reads them; the gateway's word about them comes through the streams."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, Literal, cast
from uuid import UUID

from domain.gst import GstSplit
from domain.packs import Pack
from sql.db import Database, Row
from sql.ids import uuid7
from sql.queries import load

_Q: Final = load("payments")


@dataclass(frozen=True, slots=True)
class Buyer:
    """Whom an order is for. `state_code` is the GST State of a B2C sale, `gstin` that of a B2B one."""

    id: UUID
    name: str | None
    email: str | None
    phone: str | None
    state_code: str | None
    gstin: str | None


@dataclass(frozen=True, slots=True)
class NewPayment:
    """A payment to store before the gateway hears of it.

    `key` is '<principal>:<key>', `request_hash` what the same key must repeat; `order_id` is ours, 3 to 45 of
    [A-Za-z0-9_-]; `split` sums to the pack's price; `place_of_supply` is a GST State code.
    """

    id: UUID
    key: str
    request_hash: bytes
    user_id: UUID
    wallet_id: UUID
    order_id: str
    pack: Pack
    split: GstSplit
    place_of_supply: str
    customer_phone: str | None = None
    customer_email: str | None = None
    device_id: str | None = None
    ip: IPv4Address | IPv6Address | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as it stands. Amounts are paise, times UTC; `offer_paise` of the amount an offer paid.

    status: created | active | failed | expired | verified | held | rejected | credited | mismatch | refunded.
    """

    id: UUID
    user_id: UUID
    wallet_id: UUID
    order_id: str
    status: str
    amount_paise: int
    currency: str
    base_credits: int
    bonus_credits: int
    taxable_paise: int
    cgst_paise: int
    sgst_paise: int
    igst_paise: int
    place_of_supply: str
    payment_session_id: str | None
    cashfree_order_id: str | None
    cashfree_payment_id: str | None
    payment_group: str | None
    instrument: str | None
    customer_phone: str | None
    customer_email: str | None
    device_id: str | None
    ip: str | None
    failure: str | None
    webhook_verified: bool
    fraud_score: int | None
    refund_paise: int
    offer_paise: int
    retry_count: int
    created_at: datetime
    expires_at: datetime | None
    verified_at: datetime | None
    credited_at: datetime | None
    failed_at: datetime | None

    @property
    def credits(self) -> int:
        """What the pack grants: base and bonus."""
        return self.base_credits + self.bonus_credits


Outcome = Literal["created", "exists", "conflict", "unknown_wallet"]


@dataclass(frozen=True, slots=True)
class Created:
    """The answer to `create_payment`: the payment that has the key; None unless created or exists."""

    outcome: Outcome
    payment: Payment | None


async def get_buyer(db: Database, user_id: UUID, wallet_id: UUID) -> Buyer | None:
    """The user, if there is one and the wallet is theirs."""
    row = await db.row(_Q["get_buyer"], user_id, wallet_id)
    return None if row is None else Buyer(*row.values())


async def create_payment(db: Database, new: NewPayment, *, shard: int, created_partition: int) -> Created:
    """Store a payment, once per key; send it again after an unknown outcome.

    `shard` spreads the calls over the chains api/<shard>; `created_partition` is that of analytics.billing
    for 'status=created'. Errors: Unavailable.
    """
    row = await db.row(
        _Q["create_payment"],
        uuid7(),
        shard,
        new.id,
        new.key,
        new.request_hash,
        new.user_id,
        new.wallet_id,
        new.order_id,
        new.pack.price_paise,
        new.pack.base,
        new.pack.bonus,
        new.split.taxable_paise,
        new.split.cgst_paise,
        new.split.sgst_paise,
        new.split.igst_paise,
        new.place_of_supply,
        new.customer_phone,
        new.customer_email,
        new.device_id,
        new.ip,
        None if new.metadata is None else json.dumps(dict(new.metadata)),
        created_partition,
    )
    assert row is not None
    outcome = cast(Outcome, row["r_outcome"])
    return Created(
        outcome, await get_payment(db, row["r_payment"]) if outcome in ("created", "exists") else None
    )


async def order_created(
    db: Database, payment_id: UUID, *, cf_order_id: str, session_id: str | None, expires_at: datetime | None
) -> str | None:
    """Store what the gateway called our order; returns the payment's status. Errors: Unavailable."""
    return cast(
        str | None, await db.value(_Q["order_created"], payment_id, cf_order_id, session_id, expires_at)
    )


async def fail_order(
    db: Database, payment_id: UUID, failure: str, *, shard: int, failed_partition: int
) -> str:
    """The gateway refused the order for good: failed | exists (it is further already) | unknown.

    `failed_partition` is that of analytics.billing for 'status=failed'. Not for an unknown outcome: then ask
    the gateway again with the same order id. Errors: Unavailable.
    """
    return cast(
        str, await db.value(_Q["fail_order"], uuid7(), shard, payment_id, failure[:500], failed_partition)
    )


async def get_payment(db: Database, payment_id: UUID) -> Payment | None:
    """A payment by our id."""
    return _payment(await db.row(_Q["get_payment"], payment_id))


async def get_payment_by_order(db: Database, order_id: str) -> Payment | None:
    """A payment by its order id."""
    return _payment(await db.row(_Q["get_payment_by_order"], order_id))


async def get_recent_payments(
    db: Database, *, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Payment]:
    """The newest payments first; `before` continues after the (created_at, id) of a page's last one."""
    created_at, payment_id = before or (None, None)
    rows = await db.rows(_Q["get_recent_payments"], created_at, payment_id, limit)
    return [Payment(*row.values()) for row in rows]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to pay an order. `status` is the gateway's word that stands, `seen` all it said."""

    cf_payment_id: str
    status: str
    payment_group: str | None
    amount_paise: int | None
    seen: list[str]
    occurred_at: datetime
    first_seen_at: datetime


async def get_attempts(db: Database, order_id: str) -> list[Attempt]:
    """Every attempt to pay an order, in the order first heard of."""
    return [Attempt(*row.values()) for row in await db.rows(_Q["get_attempts"], order_id)]


def _payment(row: Row | None) -> Payment | None:
    return None if row is None else Payment(*row.values())
