"""Auto-recharge: when a debit without the customer may run, and how early it must be started.

A customer-absent debit needs a notice a day ahead and UPI executes only outside its peak hours, so recharging
is predictive: it starts while the wallet still has what will be burned until the money can arrive. The clock
is always an argument.
"""

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from enum import StrEnum
from typing import Final

from domain.gst import IST
from domain.money import Credits, Paise, div_ceil

NOTICE: Final = timedelta(hours=24)
"""RBI e-mandate framework: the pre-debit notification."""
UNAUTHENTICATED_LIMIT_PAISE: Final = 1_500_000
ATTEMPTS: Final = 4
"""One execution and three retries."""
DEFAULT_FLOOR: Final = 200

_UPI_PEAKS: Final = ((time(10, 0), time(13, 0)), (time(17, 0), time(21, 30)))


def upi_slot(at: datetime) -> datetime:
    """When UPI executes a mandate, from `at` on: before 10:00, 13:00 to 17:00, or from 21:30 IST."""
    local = at.astimezone(IST)
    for start, end in _UPI_PEAKS:
        if start <= local.time() < end:
            return datetime.combine(local.date(), end, IST)
    return local


def debit_time(notice_at: datetime, *, upi: bool) -> datetime:
    """When a debit may run that the customer was told of at `notice_at` (IST)."""
    earliest = notice_at.astimezone(IST) + NOTICE
    return upi_slot(earliest) if upi else earliest


def threshold_credits(
    *, burn_per_hour: Credits, notice_at: datetime, upi: bool, floor: Credits = DEFAULT_FLOOR
) -> Credits:
    """The balance at which a recharge must start: what burns until the money can be there, plus the floor."""
    wait = debit_time(notice_at, upi=upi) - notice_at
    return div_ceil(burn_per_hour * (wait // timedelta(microseconds=1)), 3_600_000_000) + floor


def needs_authentication(amount_paise: Paise) -> bool:
    """Whether the customer must be present after all: above Rs 15,000 a mandate alone does not do."""
    return amount_paise > UNAUTHENTICATED_LIMIT_PAISE


class Recharge(StrEnum):
    """What to do about a balance. The waits name what they wait for."""

    NOT_NEEDED = "not_needed"
    ALREADY_PENDING = "already_pending"
    COOLING_DOWN = "cooling_down"
    DAILY_CAP = "daily_cap"
    SEND_LINK = "send_link"
    SEND_NOTICE = "send_notice"


@dataclass(frozen=True, slots=True)
class RechargeState:
    """What is known of one wallet's recharges. `today` counts those started on this IST day."""

    available: Credits
    pending: bool
    last_started_at: datetime | None
    today: int
    has_mandate: bool
    cooldown: timedelta = timedelta(hours=1)
    daily_cap: int = 3


def decide(state: RechargeState, *, threshold: Credits, amount_paise: Paise, at: datetime) -> Recharge:
    """Whether to start a recharge now: at most one under way, after a cooldown, so many a day.

    Without a mandate that suffices the customer gets a payment link at once.
    """
    if state.available > threshold:
        return Recharge.NOT_NEEDED
    if state.pending:
        return Recharge.ALREADY_PENDING
    if state.last_started_at is not None and at - state.last_started_at < state.cooldown:
        return Recharge.COOLING_DOWN
    if state.today >= state.daily_cap:
        return Recharge.DAILY_CAP
    if not state.has_mandate or needs_authentication(amount_paise):
        return Recharge.SEND_LINK
    return Recharge.SEND_NOTICE
