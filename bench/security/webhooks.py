"""The attack on the webhooks' door, and its judge, who believes the database alone."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bench.security.door import Due, Sent, Vector, request, send
from bench.security.edge import Rows
from bench.security.forge import Forge, event

ADDRESS: Final = "127.0.0.2"
AT_ONCE: Final = 16
_MARK: Final = re.compile(rb"sec-[a-z0-9]+-[0-9]{6}")
_ROWS: Final = (
    "SELECT kind, stale, deliveries::int, body FROM payment_webhooks JOIN webhook_bodies ON webhook_id = id"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What the inbox has of a payment. `actionable`: somebody would act on it."""

    actionable: bool
    stale: bool
    deliveries: int


@dataclass(slots=True)
class Attacked:
    """Every vector with what came of it; the copies of an exact replay are one vector."""

    sent: list[tuple[Vector, Sent]] = field(default_factory=list)
    replayed: list[Sent] = field(default_factory=list)


@dataclass(slots=True)
class Judged:
    """The figures. `wrong` says what each of the others found."""

    vectors: int = 0
    forged_accepted: int = 0
    unexpected_5xx: int = 0
    genuine_sent: int = 0
    genuine_accepted: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def attack(url: str, vectors: Sequence[Vector], seed: int, *, at_once: int = AT_ONCE) -> Attacked:
    """Send all of them, in an order by the seed, so many at once; slow ones besides."""
    order = list(vectors)
    random.Random(seed).shuffle(order)
    gate = asyncio.Semaphore(at_once)
    found = Attacked()

    async def one(vector: Vector) -> None:
        if vector.name.startswith("slow"):
            found.sent.append((vector, await send(url, vector, address=ADDRESS)))
            return
        async with gate:
            found.sent.append((vector, await send(url, vector, address=ADDRESS)))

    async with asyncio.TaskGroup() as group:
        for vector in order:
            group.create_task(one(vector))
    return found


async def replay(url: str, forge: Forge, copies: int) -> Attacked:
    """One delivery that nobody has seen, so many times at once; then as its headers, which nobody signs, can be changed."""
    mark = forge.mark()
    body = event(mark)
    raw = forge.genuine(mark)
    first = Vector(f"replay: the same bytes, {copies} times at once", (raw,), (mark,), Due.REPLAY)
    found = Attacked()
    found.replayed = list(await asyncio.gather(*(send(url, first, address=ADDRESS) for _ in range(copies))))
    found.sent.append((first, found.replayed[0]))
    close = (b"connection", b"close")
    for name, headers in {
        "another version": forge.headers(body, x_webhook_version=b"2022-09-01"),
        "another attempt": forge.headers(body, x_webhook_attempt=b"3"),
        "another delivery key": forge.headers(body, x_idempotency_key=b"another"),
        "signed anew later": forge.headers(body, stamp=str(forge.now_ms + 1)),
        "by the older secret": forge.headers(body, signature=forge.sign(body, secret=forge.older)),
    }.items():
        vector = Vector(f"replay: {name}", (request([*headers, close], body),), (mark,), Due.REPLAY)
        found.sent.append((vector, await send(url, vector, address=ADDRESS)))
    return found


async def inbox(rows: Rows) -> dict[str, list[Row]]:
    """What the inbox has, by the payment that a row's body speaks of."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in await rows(_ROWS):
        for mark in set(_MARK.findall(bytes(row["body"]))):
            found[mark.decode()].append(Row(row["kind"] != "unknown", row["stale"], row["deliveries"]))
    return found


def judge(
    attacked: Iterable[Attacked], stored: dict[str, list[Row]], genuine: Sequence[str], answers: Counter[int]
) -> Judged:
    """Compare what was sent with what is stored. `genuine` are the payments of the gateway's own, `answers` theirs."""
    found = Judged(genuine_sent=len(genuine), statuses=Counter(answers))
    for mark in genuine:
        actionable = [row for row in stored.get(mark, []) if row.actionable and not row.stale]
        found.genuine_accepted += len(actionable) == 1
        if len(actionable) != 1:
            found.wrong.append(f"genuine {mark}: {len(actionable)} rows")
    if answers[200] != len(genuine):
        found.wrong.append(f"genuine: answered {dict(answers)}")
        found.genuine_accepted = min(found.genuine_accepted, answers[200])
    for one in attacked:
        for vector, sent in one.sent:
            _judge_one(found, vector, sent, [row for m in vector.marks for row in stored.get(m, [])])
        for sent in one.replayed:
            found.statuses.update(sent.statuses)
        refused = [sent for sent in one.replayed if sent.statuses != [200]]
        if refused:
            found.wrong.append(
                f"replay: {len(refused)} copies answered {Counter(s for r in refused for s in r.statuses)}"
            )
    found.unexpected_5xx = sum(n for status, n in found.statuses.items() if status >= 500)
    return found


def _judge_one(found: Judged, vector: Vector, sent: Sent, rows: list[Row]) -> None:
    found.vectors += 1
    found.statuses.update(sent.statuses)
    actionable = [row for row in rows if row.actionable]
    allowed = 1 if vector.due in (Due.STALE, Due.REPLAY) else 0
    fresh = [row for row in actionable if not row.stale] if vector.due is Due.STALE else []
    said: dict[str, Any] = {"statuses": sent.statuses, "rows": len(rows)}
    if len(actionable) > allowed or fresh:
        found.forged_accepted += 1
        found.wrong.append(f"accepted: {vector.name} {said}")
    elif vector.due in (Due.STALE, Due.REPLAY) and (len(actionable) != 1 or 200 not in sent.statuses):
        found.wrong.append(f"not taken as {vector.due}: {vector.name} {said}")
    elif vector.due is Due.REFUSED and 200 in sent.statuses and "behind another" not in vector.name:
        found.wrong.append(f"answered 200: {vector.name} {said}")
    elif sent.hung and not vector.name.startswith("slow"):
        found.wrong.append(f"no answer: {vector.name}")
    if any(status >= 500 for status in sent.statuses):
        found.wrong.append(f"5xx: {vector.name} {said}")
