"""What the gateway counts: calls by outcome, their time, waits for budget, and whether the budget is
shared.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

CALLS: Final = Counter("gateway_calls_total", "Requests sent to the payment gateway", ["endpoint", "outcome"])
CALL_SECONDS: Final = Histogram(
    "gateway_call_seconds",
    "Time of one request to the payment gateway",
    ["endpoint"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BUDGET_WAIT_SECONDS: Final = Counter(
    "gateway_budget_wait_seconds_total", "Time spent waiting for the outbound budget", ["endpoint"]
)
BUDGET_SHARED: Final = Gauge(
    "gateway_budget_shared",
    "1 while the outbound budget is shared through Redis, 0 while this process paces alone, NaN without a Redis",
)
BUDGET_SHARED.set(float("nan"))
BUDGET_FALLBACKS: Final = Counter(
    "gateway_budget_fallbacks_total", "Times the shared budget could not be asked and the local share decided"
)
