"""What the live page shows, in one value: the last hour per minute, today's totals, topics, the last payments."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sql import payments, status
from sql.payments import Payment
from sql.status import Sum
from streams.topics import TOPICS
from web.services import Services

MINUTES: Final = 60
RECENT: Final = 10
NEWEST: Final = 1000
FEATURES: Final = 5
RATE_S: Final = 15.0
_WHOLE_EVERY_S: Final = 20.0
_LATE_MINUTES: Final = 4
_LINES: Final = ("money_in_paise", "credits_granted", "credits_spent", "revenue_paise", "credited", "failed")
_FAILURES: Final = ("failed", "held", "rejected", "mismatch")
_ENDED_BADLY: Final = ("failed", "rejected", "mismatch", "expired")


@dataclass(slots=True)
class _Kept:
    """An answer and until when it will do."""

    value: Any = None
    until: float = float("-inf")


class Pulse:
    """The last five minutes in steps of five seconds, from the differences of the day's totals.

    Between two samples that are far apart (nobody looked) nothing is told.
    """

    STEP_S: Final = 5
    STEPS: Final = 60

    def __init__(self) -> None:
        self._steps: dict[int, dict[str, int]] = {}
        self._before: tuple[float, dict[str, int]] | None = None

    def sample(self, at: float, totals: dict[str, int]) -> dict[str, list[int]]:
        """Take the totals of an instant (epoch seconds); parallel lists, the last step still open."""
        step = int(at) // self.STEP_S
        if self._before is not None and at - self._before[0] < self.STEP_S:
            sums = self._steps.setdefault(step, dict.fromkeys(totals, 0))
            for name, total in totals.items():
                sums[name] += max(0, total - self._before[1][name])
        self._before = (at, totals)
        shown = range(step - self.STEPS + 1, step + 1)
        self._steps = {s: sums for s, sums in self._steps.items() if s in shown}
        lines = {name: [self._steps[s][name] if s in self._steps else 0 for s in shown] for name in totals}
        return {"steps": [s * self.STEP_S for s in shown], **lines}


class Observer:
    """Asks the database as seldom as it can: minutes that are over change little, so they are asked seldom."""

    def __init__(self, services: Services) -> None:
        self._db = services.db
        self._group = services.settings.consumer_group
        self._sums: dict[tuple[str, str, datetime], Sum] = {}
        self._whole_until = float("-inf")
        self._slow: dict[str, _Kept] = defaultdict(_Kept)
        self._pulse = Pulse()

    async def snapshot(self) -> dict[str, Any]:
        """Everything the page shows, in plain values. Errors: Unavailable."""
        now = datetime.now(UTC)
        await self._follow_series(now)
        backlog, throughput, recent = await asyncio.gather(
            status.get_backlog(self._db, self._group),
            status.get_throughput(self._db, self._group, seconds=RATE_S),
            payments.get_recent_payments(self._db, limit=RECENT),
        )
        today = await status.get_today(self._db)
        standing = await self._kept("ended", 2.0, status.get_recent_statuses(self._db, limit=NEWEST))
        owners = await self._kept("owners", 2.0, status.get_owners(self._db, self._group))
        waiting = await self._kept("waiting", 3.0, status.get_gauges(self._db))
        waits = {b.topic: b for b in backlog}
        rates = {t.topic: t for t in throughput}
        workers: defaultdict[str, int] = defaultdict(int)
        for share in owners:
            workers[share.owner] += share.partitions
        consumed = {share.topic for share in owners}
        return {
            "at": now,
            "series": self._series(now),
            "today": _totals(today) | {"features": _features(today)},
            "pulse": self._pulse.sample(time.time(), _totals(today)),
            "ended": {
                "credited": standing.get("credited", 0) + standing.get("refunded", 0),
                "failed": sum(standing.get(name, 0) for name in _ENDED_BADLY),
                "held": standing.get("held", 0),
            },
            "topics": [
                {
                    "name": name,
                    "backlog": waits[name].events if name in waits else 0,
                    "oldest_s": round(waits[name].oldest_s, 1) if name in waits else 0.0,
                    "per_s": round(rates[name].records / RATE_S, 1) if name in rates else 0.0,
                    "consumed": name in consumed,
                }
                for name in TOPICS
            ],
            "workers": [{"name": name, "partitions": n} for name, n in sorted(workers.items())],
            "waiting": waiting,
            "payments": [_shown(p) for p in recent],
        }

    async def _kept(self, name: str, for_s: float, ask: Any) -> Any:
        kept = self._slow[name]
        if time.monotonic() < kept.until:
            ask.close()
            return kept.value
        kept.value = await ask
        kept.until = time.monotonic() + for_s
        return kept.value

    async def _follow_series(self, now: datetime) -> None:
        minute = now.replace(second=0, microsecond=0)
        oldest = minute - timedelta(minutes=MINUTES - 1)
        whole = time.monotonic() >= self._whole_until
        since = oldest if whole else minute - timedelta(minutes=_LATE_MINUTES)
        fresh = await status.get_series(self._db, since)
        if whole:
            self._sums.clear()
            self._whole_until = time.monotonic() + _WHOLE_EVERY_S
        for found in fresh:
            assert found.minute is not None
            self._sums[found.metric, found.dimension, found.minute] = found
        for key in [key for key in self._sums if key[2] < oldest]:
            del self._sums[key]

    def _series(self, now: datetime) -> dict[str, Any]:
        """Parallel lists over the last hour's minutes, the last of which is still open."""
        minute = now.replace(second=0, microsecond=0)
        minutes = [minute - timedelta(minutes=back) for back in range(MINUTES - 1, -1, -1)]

        place = {at: index for index, at in enumerate(minutes)}
        lines = {name: [0] * MINUTES for name in _LINES}
        for (metric, dimension, at), found in self._sums.items():
            if at not in place:
                continue
            for name, field in _lines_of(metric, dimension):
                lines[name][place[at]] += getattr(found, field)
        return {"minutes": [int(at.timestamp()) for at in minutes], **lines}


def _lines_of(metric: str, dimension: str) -> Iterable[tuple[str, str]]:
    """Which lines a sum belongs to, and which of its fields counts there."""
    match metric:
        case "credits_granted":
            yield "credits_granted", "credits"
        case "credits_spent":
            yield "credits_spent", "credits"
            yield "revenue_paise", "amount_paise"
        case "payments" if dimension == "status=credited":
            yield "money_in_paise", "amount_paise"
            yield "credited", "count"
        case "payments" if dimension.removeprefix("status=") in _FAILURES:
            yield "failed", "count"


def _totals(today: Iterable[Sum]) -> dict[str, int]:
    totals = {
        "money_in_paise": 0,
        "credited": 0,
        "failed": 0,
        "credits_granted": 0,
        "credits_spent": 0,
        "revenue_paise": 0,
    }
    for s in today:
        for name, field in _lines_of(s.metric, s.dimension):
            totals[name] += getattr(s, field)
    return totals


def _features(today: Iterable[Sum]) -> list[dict[str, Any]]:
    """The features that credits were spent on most."""
    spent = [s for s in today if s.metric == "credits_spent"]
    spent.sort(key=lambda s: -s.credits)
    return [{"name": s.dimension.removeprefix("feature="), "credits": s.credits} for s in spent[:FEATURES]]


def _shown(payment: Payment) -> dict[str, Any]:
    """A payment for eyes on a wall: who it was stays masked."""
    return {
        "id": payment.id,
        "order": f"…{payment.order_id[-8:]}",
        "status": payment.status,
        "amount_paise": payment.amount_paise,
        "credits": payment.credits,
        "method": payment.payment_group,
        "customer": mask(payment.customer_email, payment.customer_phone),
        "score": payment.fraud_score,
        "created_at": payment.created_at,
        "done_ms": _between_ms(payment.created_at, payment.credited_at),
    }


def mask(email: str | None, phone: str | None) -> str:
    """'c•••@example.com', '••••••4321', or a dash."""
    if email and "@" in email:
        name, _, host = email.partition("@")
        return f"{name[:1]}•••@{host}"
    return f"••••••{phone[-4:]}" if phone and len(phone) > 4 else "–"


def _between_ms(start: datetime, end: datetime | None) -> int | None:
    return None if end is None else int((end - start).total_seconds() * 1000)
