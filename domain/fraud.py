"""Velocity: how suspicious a payment is by how much its user, device, address and instrument did lately.

The rules are data. The score is the sum of the points of the rules that are exceeded, at most 100; from
`HOLD_AT` on the payment is held for a person instead of credited. An entity whose counts never arrived is no
excuse: it costs points and has a reason code of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from domain.money import Paise

MAX_SCORE: Final = 100
HOLD_AT: Final = 60
MISSING_POINTS: Final = 20


class Entity(StrEnum):
    """Who or what is counted."""

    USER = "user"
    DEVICE = "device"
    IP = "ip"
    INSTRUMENT = "instrument"


class Window(StrEnum):
    """The windows in which payments are counted, the payment in question included."""

    MINUTE = "1m"
    HOUR = "1h"
    DAY = "24h"


class Metric(StrEnum):
    COUNT = "count"
    AMOUNT = "amount"


@lru_cache(maxsize=65_536)
def address_entity(ip: str) -> str | None:
    """What an address is counted as: itself, or the /64 of an IPv6 address, in which one customer has as many as they like.

    None for one that is not global: it is a proxy's or a neighbour's, shared by everybody. Errors: ValueError.
    """
    address = ip_address(ip)
    if not address.is_global:
        return None
    return str(address) if address.version == 4 else str(ip_network((address, 64), strict=False))


@dataclass(frozen=True, slots=True)
class Velocity:
    """One entity's payments in each window: how many, and how much (paise)."""

    count_1m: int = 0
    count_1h: int = 0
    count_24h: int = 0
    amount_1m_paise: Paise = 0
    amount_1h_paise: Paise = 0
    amount_24h_paise: Paise = 0

    def value(self, window: Window, metric: Metric) -> int:
        values = {
            (Window.MINUTE, Metric.COUNT): self.count_1m,
            (Window.HOUR, Metric.COUNT): self.count_1h,
            (Window.DAY, Metric.COUNT): self.count_24h,
            (Window.MINUTE, Metric.AMOUNT): self.amount_1m_paise,
            (Window.HOUR, Metric.AMOUNT): self.amount_1h_paise,
            (Window.DAY, Metric.AMOUNT): self.amount_24h_paise,
        }
        return values[window, metric]


@dataclass(frozen=True, slots=True)
class Rule:
    """More than `threshold` (payments, or paise) of `entity` in `window` is worth `points`."""

    entity: Entity
    window: Window
    metric: Metric
    threshold: int
    points: int

    @property
    def code(self) -> str:
        return f"{self.entity}_{self.metric}_{self.window}"


RULES: Final = (
    Rule(Entity.USER, Window.MINUTE, Metric.COUNT, 5, 30),
    Rule(Entity.USER, Window.HOUR, Metric.COUNT, 20, 30),
    Rule(Entity.USER, Window.DAY, Metric.COUNT, 50, 20),
    Rule(Entity.USER, Window.HOUR, Metric.AMOUNT, 1_000_000, 30),
    Rule(Entity.USER, Window.DAY, Metric.AMOUNT, 2_500_000, 30),
    Rule(Entity.DEVICE, Window.MINUTE, Metric.COUNT, 5, 30),
    Rule(Entity.DEVICE, Window.HOUR, Metric.COUNT, 20, 30),
    Rule(Entity.DEVICE, Window.DAY, Metric.AMOUNT, 2_500_000, 20),
    Rule(Entity.IP, Window.MINUTE, Metric.COUNT, 20, 20),
    Rule(Entity.IP, Window.HOUR, Metric.COUNT, 200, 20),
    Rule(Entity.IP, Window.HOUR, Metric.AMOUNT, 10_000_000, 20),
    Rule(Entity.INSTRUMENT, Window.MINUTE, Metric.COUNT, 3, 40),
    Rule(Entity.INSTRUMENT, Window.HOUR, Metric.COUNT, 10, 40),
    Rule(Entity.INSTRUMENT, Window.DAY, Metric.AMOUNT, 2_500_000, 30),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """0..100 and why: the codes of the rules exceeded (`user_count_1m`), and `missing_<entity>`."""

    score: int
    reasons: tuple[str, ...]

    @property
    def hold(self) -> bool:
        return self.score >= HOLD_AT


def score(
    counts: Mapping[Entity, Velocity],
    *,
    expected: Iterable[Entity] = tuple(Entity),
    rules: tuple[Rule, ...] = RULES,
) -> Verdict:
    """Judge one payment by the counts of its entities; `expected` are those the payment named."""
    exceeded = [
        rule
        for rule in rules
        if rule.entity in counts and counts[rule.entity].value(rule.window, rule.metric) > rule.threshold
    ]
    missing = [entity for entity in expected if entity not in counts]
    points = sum(rule.points for rule in exceeded) + MISSING_POINTS * len(missing)
    reasons = tuple(rule.code for rule in exceeded) + tuple(f"missing_{entity}" for entity in missing)
    return Verdict(min(points, MAX_SCORE), reasons)
