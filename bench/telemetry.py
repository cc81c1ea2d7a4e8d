"""What telling costs: a batch and a request with tracing off, on and not sampled, sampled; a line of log.

python -m bench.telemetry          processor time per call, best of several runs
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext

import structlog

from streams.batches import Batch, Record
from streams.telemetry import carriers, logs, tracing
from streams.telemetry.batches import told
from streams.telemetry.settings import TelemetrySettings

ROUNDS = 2_000
RUNS = 7
RECORDS = 100


def batch(sampled: int) -> Batch:
    """A batch of slices, some of them with a context in their headers."""
    context = f"00-{7:032x}-{9:016x}-01"
    records = [
        Record(i, 0, b"k", VALUE, {carriers.ONE: context} if i < sampled else {}, False)
        for i in range(RECORDS)
    ]
    return Batch("wallet.credit", 3, 1, 1, 0, RECORDS, RECORDS - 1, b"", records)


VALUE = (
    b'{"type":"slice","v":1,"producer":{"topic":"fraud.detection","partition":1,"group":"commdesk"},"incarnation":1,'
    b'"batch_no":2,"prev_batch_no":1,"events":[{"kind":"purchase","payment_id":"0193b4c8-0000-7000-8000-000000000001",'
    b'"wallet_id":"0193b4c8-0000-7000-8000-000000000002","credits":5500,"occurred_at":"2026-01-01T00:00:00Z"}]}'
)


async def nothing(_: Batch) -> None:
    """A handler that does nothing, so that only the wrapper is measured."""


def best_us(call: Callable[[], object], rounds: int) -> float:
    """Processor time of one call in microseconds, the best of several runs."""
    found = []
    for _ in range(RUNS):
        began = time.process_time_ns()
        for _ in range(rounds):
            call()
        found.append((time.process_time_ns() - began) / rounds / 1000)
    return min(found)


def measure(sampled: int) -> float:
    """The wrapper around an agent's handler, for a batch of `RECORDS` messages."""
    given, loop = batch(sampled), asyncio.new_event_loop()

    def cost(handler: Callable[[Batch], Awaitable[None]]) -> float:
        async def many() -> None:
            for _ in range(100):
                await handler(given)

        return best_us(lambda: loop.run_until_complete(many()), ROUNDS // 200) / 100

    found = cost(told(nothing)) - cost(nothing)
    loop.close()
    return found


def request() -> None:
    """What the middleware adds to a request."""
    with tracing.request("POST /x", None, {"http.route": "/x"}) if tracing.on() else nullcontext():
        pass


def main() -> None:
    rows = [
        ("a batch of 100 messages, tracing off", measure(0)),
        ("a request, tracing off", best_us(request, ROUNDS)),
    ]
    tracing.configure(
        "bench", TelemetrySettings(otel_exporter_otlp_endpoint="http://127.0.0.1:9", trace_sample_ratio=0)
    )
    rows += [
        ("a batch, on, none sampled", measure(0)),
        ("a request, on, not sampled", best_us(request, ROUNDS)),
    ]
    rows.append(("a batch, on, one message sampled", measure(1)))
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115, PTH123 - the lines go nowhere
    logs.configure("bench", TelemetrySettings(log_format="json"))
    log = structlog.get_logger("bench")
    line = best_us(
        lambda: log.info(
            "request", method="POST", route="/v1/usage", status=200, ms=1.25, request_id="0193b4c8-0000"
        ),
        ROUNDS,
    )
    sys.stdout = sys.__stdout__
    for name, us in [*rows, ("a line of log, scrubbed, as JSON", line)]:
        print(f"{name:<40}{us:>8.2f} µs")


if __name__ == "__main__":
    main()
