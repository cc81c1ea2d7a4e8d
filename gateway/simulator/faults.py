"""What breaks on the API's side, on request: the next so many calls of an endpoint, or each by chance.

Before anything is done: `502`, `500`, `timeout`, `reset`, `429` (`x-ratelimit-*` headers), `429_reset`
(the other page's `X-RateLimit-Reset`), `redirect`, `slow` (answered after `seconds`), `lag` (a GET shows
the state before the last change). After it is done: `commit_then_timeout`, `commit_then_500`,
`commit_then_502`, `commit_then_reset`. In the answer: `unknown_enum`, `unknown_field`, `int_ids`,
`amount_mismatch`, `truncated`.
"""

from __future__ import annotations

import random
import time
from collections import deque
from typing import Final, Literal

import msgspec

Kind = Literal[
    "502",
    "500",
    "timeout",
    "reset",
    "429",
    "429_reset",
    "redirect",
    "slow",
    "lag",
    "commit_then_timeout",
    "commit_then_500",
    "commit_then_502",
    "commit_then_reset",
    "unknown_enum",
    "unknown_field",
    "int_ids",
    "amount_mismatch",
    "truncated",
]

AFTER: Final = frozenset({"commit_then_timeout", "commit_then_500", "commit_then_502", "commit_then_reset"})
IN_ANSWER: Final = frozenset({"unknown_enum", "unknown_field", "int_ids", "amount_mismatch", "truncated"})


class Fault(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One rule. `endpoint` is a name as in the budget's limits, or `*`; `times` None means for ever."""

    endpoint: str
    kind: Kind
    times: int | None = 1
    probability: float = 1.0
    seconds: float = 30.0
    hits: int = 0


class Faults:
    """The rules in force, and the rate limits if they are enforced."""

    def __init__(self, source: random.Random) -> None:
        self.rules: list[Fault] = []
        self.limits: dict[str, int] = {}
        self._random = source
        self._calls: dict[str, deque[float]] = {}

    def draw(self, endpoint: str) -> Fault | None:
        """The fault of this call, if any; its count goes down."""
        for rule in self.rules:
            if rule.endpoint not in ("*", endpoint) or rule.times == 0:
                continue
            if rule.probability < 1.0 and self._random.random() >= rule.probability:
                continue
            if rule.times is not None:
                rule.times -= 1
            rule.hits += 1
            return rule
        return None

    def over_limit_s(self, endpoint: str) -> float:
        """0 if the call is within the endpoint's limit (a sliding minute), else the seconds to wait."""
        limit = self.limits.get(endpoint)
        if limit is None:
            return 0.0
        now = time.monotonic()
        calls = self._calls.setdefault(endpoint, deque())
        while calls and calls[0] <= now - 60:
            calls.popleft()
        if len(calls) >= limit:
            return calls[0] + 60 - now
        calls.append(now)
        return 0.0
