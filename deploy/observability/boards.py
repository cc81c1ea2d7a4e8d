"""What Grafana shows: dashboards of rows of panels of expressions. `grafana` makes the files of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One expression of a panel, and how its series are called."""

    expr: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart (or a number, if `number`). `unit` is Grafana's word: s, reqps, short, percentunit, bytes."""

    title: str
    lines: Sequence[Line]
    unit: str = "short"
    number: bool = False
    wide: int = 8


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard: rows of panels."""

    uid: str
    title: str
    rows: dict[str, list[Panel]]


def rate(metric: str, by: str = "", matching: str = "", over: str = "5m") -> str:
    """Events a second, summed over processes."""
    clause = f" by ({by})" if by else ""
    return f"sum{clause} (rate({metric}{matching}[{over}]))"


def quantile(q: float, histogram: str, by: str = "", matching: str = "") -> str:
    """A quantile of a histogram over all processes."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{matching}[5m])))"


def one(metric: str, by: str = "", matching: str = "") -> str:
    """A number that one process at a time shows."""
    clause = f" by ({by})" if by else ""
    return f"max{clause} ({metric}{matching})"


_CREDITED = '{status="credited"}'
_HELD = rate("core_payments_total", matching='{status=~"held|rejected"}', over="15m")
_VERIFIED = rate("core_payments_total", matching='{status="verified"}', over="15m")
_MEAN = "sum by (topic) (rate({0}_sum[5m])) / sum by (topic) (rate({0}_count[5m]))"
_HOOK = '{route="/v1/webhooks/cashfree"}'

PAYMENTS = Board(
    "commdesk-payments",
    "CommDesk: payments",
    {
        "Now": [
            Panel(
                "Payments credited a minute",
                [Line(f"60 * {rate('core_payments_total', matching=_CREDITED)}")],
                number=True,
                wide=4,
            ),
            Panel(
                "Money in a minute, paise",
                [Line(f"60 * {rate('core_payments_paise_total', matching=_CREDITED)}")],
                number=True,
                wide=4,
            ),
            Panel(
                "Oldest verification",
                [Line(one("core_waiting_oldest_seconds", matching='{kind="verifications"}'))],
                "s",
                number=True,
                wide=4,
            ),
            Panel(
                "Held or rejected",
                [Line(f"{_HELD} / {_VERIFIED}")],
                "percentunit",
                number=True,
                wide=4,
            ),
            Panel(
                "Refunds due", [Line(one("core_waiting", matching='{kind="refunds"}'))], number=True, wide=4
            ),
            Panel(
                "Open cases",
                [Line("sum(max by (kind) (core_reconciliation_cases)) or vector(0)")],
                number=True,
                wide=4,
            ),
        ],
        "Payments": [
            Panel("Payments by status", [Line(rate("core_payments_total", "status"), "{{status}}")], "ops"),
            Panel("Refunds by policy", [Line(rate("core_refunds_total", "policy"), "{{policy}}")], "ops"),
            Panel(
                "Credits booked by source",
                [Line(rate("core_credits_granted_total", "source"), "{{source}}")],
                "ops",
            ),
        ],
        "The gateway": [
            Panel(
                "Calls by outcome",
                [Line(rate("gateway_calls_total", "endpoint, outcome"), "{{endpoint}} {{outcome}}")],
                "reqps",
            ),
            Panel(
                "Time of a call, p95",
                [Line(quantile(0.95, "gateway_call_seconds", "endpoint"), "{{endpoint}}")],
                "s",
            ),
            Panel(
                "Waiting for budget",
                [
                    Line(rate("gateway_budget_wait_seconds_total", "endpoint"), "{{endpoint}}"),
                    Line("min(gateway_budget_shared)", "shared through Redis"),
                    Line(rate("gateway_budget_fallbacks_total"), "paced alone"),
                ],
            ),
        ],
        "Webhooks": [
            Panel(
                "Deliveries by outcome", [Line(rate("web_webhooks_total", "outcome"), "{{outcome}}")], "reqps"
            ),
            Panel(
                "Time to answer",
                [
                    Line(quantile(0.5, "web_request_seconds", matching=_HOOK), "p50"),
                    Line(quantile(0.99, "web_request_seconds", matching=_HOOK), "p99"),
                ],
                "s",
            ),
            Panel(
                "Without an outcome",
                [
                    Line(one("core_waiting", matching='{kind="webhook_inbox"}'), "webhooks"),
                    Line(one("core_waiting", matching='{kind="verifications"}'), "verifications"),
                    Line(one("core_waiting", matching='{kind="fraud_checks"}'), "fraud checks"),
                ],
            ),
        ],
    },
)

STREAMS = Board(
    "commdesk-streams",
    "CommDesk: streams and queues",
    {
        "Now": [
            Panel(
                "Records a second",
                [Line(rate("stream_records_total", over="1m"))],
                "ops",
                number=True,
                wide=4,
            ),
            Panel(
                "Oldest event",
                [Line("max(core_backlog_oldest_seconds) or vector(0)")],
                "s",
                number=True,
                wide=4,
            ),
            Panel("Lag", [Line("sum(max by (topic, partition) (stream_lag_records))")], number=True, wide=4),
            Panel(
                "Dead letters",
                [Line('sum(max by (topic) (core_retries{state="dead"})) or vector(0)')],
                number=True,
                wide=4,
            ),
            Panel("Topics stopped", [Line("sum(max by (topic) (core_breaker_open))")], number=True, wide=4),
            Panel("Broker", [Line("max(core_broker_up)")], number=True, wide=4),
        ],
        "Throughput": [
            Panel(
                "Records by topic",
                [Line(rate("stream_records_total", "topic", over="1m"), "{{topic}}")],
                "ops",
            ),
            Panel("Outcomes", [Line(rate("core_outcomes_total", "outcome"), "{{outcome}}")], "ops"),
            Panel(
                "Refused and conflicts by topic",
                [
                    Line(
                        rate(
                            "core_outcomes_total",
                            "topic, outcome",
                            '{outcome=~"refused|conflict|parked|quarantined"}',
                        ),
                        "{{topic}} {{outcome}}",
                    )
                ],
                "ops",
            ),
        ],
        "Batches": [
            Panel(
                "Time of a batch, p50 and p99",
                [
                    Line(quantile(0.5, "stream_batch_seconds", "topic"), "{{topic}} p50"),
                    Line(quantile(0.99, "stream_batch_seconds", "topic"), "{{topic}} p99"),
                ],
                "s",
            ),
            Panel(
                "Messages in a batch, mean",
                [
                    Line(
                        _MEAN.format("stream_batch_records"),
                        "{{topic}}",
                    )
                ],
            ),
            Panel(
                "Batches that failed",
                [
                    Line(rate("stream_batch_faults_total", "topic"), "{{topic}}"),
                    Line(rate("core_batches_total", "topic"), "{{topic}} committed"),
                ],
                "ops",
            ),
        ],
        "Waiting": [
            Panel(
                "Lag by topic",
                [Line("sum by (topic) (max by (topic, partition) (stream_lag_records))", "{{topic}}")],
            ),
            Panel("Events not applied", [Line(one("core_backlog_events", "topic"), "{{topic}}")]),
            Panel(
                "Age of the oldest",
                [
                    Line(one("core_waiting_oldest_seconds", "kind"), "{{kind}}"),
                    Line(one("core_backlog_oldest_seconds", "topic"), "{{topic}}"),
                ],
                "s",
            ),
            Panel(
                "Parked items",
                [
                    Line(one("core_retries", "topic, state"), "{{topic}} {{state}}"),
                    Line(one("core_retries_oldest_seconds", "topic, state"), "{{topic}} {{state}} oldest, s"),
                ],
            ),
            Panel(
                "Set aside and retried",
                [
                    Line(rate("core_events_set_aside_total", "topic"), "{{topic}} set aside"),
                    Line(rate("core_events_retried_total", "topic, outcome"), "{{topic}} {{outcome}}"),
                ],
                "ops",
            ),
            Panel("Quarantined", [Line(rate("core_quarantined_total", "topic"), "{{topic}}")], "ops"),
        ],
        "The broker": [
            Panel("Partitions owned", [Line("sum by (instance) (stream_partitions_open)", "{{instance}}")]),
            Panel(
                "Retention: what is stored, what is behind",
                [
                    Line("max by (topic) (stream_lag_records / (stream_stored_records > 0))", "{{topic}}"),
                    Line("count(stream_first_offset > 0) or vector(0)", "truncated streams"),
                ],
                "percentunit",
            ),
            Panel(
                "Incidents",
                [
                    Line("sum by (kind) (increase(core_stream_incidents_total[15m]))", "{{kind}}"),
                    Line(rate("stream_fenced_total"), "fenced"),
                    Line(rate("stream_reconnects_total", "role"), "reconnects {{role}}"),
                    Line(rate("stream_reincarnations_total"), "reincarnations"),
                    Line(rate("stream_stuck_total"), "stuck"),
                    Line(rate("stream_corrupt_chunks_total"), "corrupt"),
                    Line("sum(stream_partition_halted) or vector(0)", "halted"),
                ],
            ),
        ],
    },
)

BOOKS = Board(
    "commdesk-books",
    "CommDesk: books and servers",
    {
        "Books": [
            Panel(
                "Invariants violated",
                [Line("sum(max by (invariant) (core_invariant_violated)) or vector(0)")],
                number=True,
                wide=4,
            ),
            Panel("Last check", [Line(one("core_invariant_check_age_seconds"))], "s", number=True, wide=4),
            Panel("Batches unchecked", [Line(one("core_invariant_unchecked_batches"))], number=True, wide=4),
            Panel(
                "Last reconciliation",
                [Line(one("core_reconciliation_age_seconds"))],
                "s",
                number=True,
                wide=4,
            ),
            Panel("Open cases", [Line(one("core_reconciliation_cases", "kind"), "{{kind}}")], wide=4),
            Panel(
                "Oldest case",
                [Line(one("core_reconciliation_cases_oldest_seconds", "kind"), "{{kind}}")],
                "s",
                wide=4,
            ),
        ],
        "Web": [
            Panel("Requests by status", [Line(rate("web_requests_total", "status"), "{{status}}")], "reqps"),
            Panel(
                "Time by route, p99", [Line(quantile(0.99, "web_request_seconds", "route"), "{{route}}")], "s"
            ),
            Panel(
                "Usage by status, viewers",
                [
                    Line(rate("web_usage_events_total", "status"), "{{status}}"),
                    Line("sum(web_live_viewers)", "viewers"),
                ],
            ),
        ],
        "Database": [
            Panel(
                "Connections",
                [
                    Line(one("core_database_connections"), "in use"),
                    Line(one("core_database_connections_allowed"), "allowed"),
                ],
            ),
            Panel(
                "Pools",
                [
                    Line("sum by (instance, state) (sql_pool_connections)", "{{instance}} {{state}}"),
                    Line("sum by (instance) (sql_pool_size)", "{{instance}} size"),
                ],
            ),
            Panel(
                "Away, by reason",
                [
                    Line(rate("sql_unavailable_total", "reason"), "{{reason}}"),
                    Line("min(web_database_up)", "up"),
                ],
            ),
            Panel("Oldest transaction", [Line(one("core_database_transaction_seconds"))], "s"),
            Panel("Size", [Line(one("core_database_bytes"))], "bytes"),
            Panel(
                "Measured by",
                [
                    Line("core_monitor_up", "{{instance}}"),
                    Line("sum by (service) (core_process_info)", "{{service}}"),
                ],
            ),
        ],
        "Processes": [
            Panel("Processor", [Line("rate(process_cpu_seconds_total[5m])", "{{instance}}")], "percentunit"),
            Panel("Memory", [Line("process_resident_memory_bytes", "{{instance}}")], "bytes"),
            Panel("Open files", [Line("process_open_fds", "{{instance}}")]),
        ],
    },
)

BOARDS = (PAYMENTS, STREAMS, BOOKS)


def expressions() -> Iterator[tuple[str, str]]:
    """(panel, expression) of every board."""
    for board in BOARDS:
        for panels in board.rows.values():
            for panel in panels:
                yield from ((f"{board.uid}: {panel.title}", line.expr) for line in panel.lines)
