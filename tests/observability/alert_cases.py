"""For each alert: series under which it fires, with its labels and value, and series just short of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """Series as promtool writes them, a sample a minute; looked at after `at` minutes."""

    fires: dict[str, str]
    quiet: dict[str, str]
    labels: dict[str, str] = field(default_factory=dict)
    value: str = ""
    at: int = 30


def waits(kind: str, fires: str, quiet: str) -> Case:
    series = f'core_waiting_oldest_seconds{{kind="{kind}"}}'
    return Case({series: fires}, {series: quiet})


STATUS = 'core_payments_total{status="%s"}'
HOOK = 'web_requests_total{route="/v1/webhooks/cashfree",status="%s"}'
HEARD = 'web_webhooks_total{outcome="%s"}'
CALLS = 'gateway_calls_total{endpoint="get_order",outcome="%s"}'
AT = '{topic="wallet.debit",partition="3"}'
PARTITION = {"topic": "wallet.debit", "partition": "3"}
TOPIC = {"topic": "wallet.debit"}
ON = '{topic="wallet.debit"}'

CASES = {
    "NegativeBalance": Case(
        {'core_invariant_violated{invariant="i3_balances_are_not_negative"}': "1x30"},
        {'core_invariant_violated{invariant="i4_sequences_are_gapless"}': "1x30"},
    ),
    "InvariantViolated": Case(
        {'core_invariant_violated{invariant="i4_sequences_are_gapless"}': "1x30"},
        {"core_invariant_check_age_seconds": "5x30"},
        {"invariant": "i4_sequences_are_gapless"},
    ),
    "InvariantsUnchecked": Case(
        {"core_invariant_check_age_seconds": "901x30"},
        {"core_invariant_check_age_seconds": "899x30", "core_invariant_unchecked_batches": "99999x30"},
    ),
    "RefundSpike": Case(
        {'core_refunds_total{policy="PRO_RATA"}': "0+0x10 0+3x20"},
        {'core_refunds_total{policy="PRO_RATA"}': "0+1x30"},
    ),
    "FraudSpike": Case(
        {STATUS % "held": "0+2x30", STATUS % "verified": "0+10x30"},
        {STATUS % "held": "0+2x30", STATUS % "verified": "0+100x30"},
    ),
    "PaymentMismatch": Case({STATUS % "mismatch": "0x20 1x10"}, {STATUS % "mismatch": "7x30"}),
    "ReconciliationDifferences": Case(
        {'core_reconciliation_cases{kind="unknown_settlement"}': "3x30"},
        {'core_reconciliation_cases{kind="unknown_settlement"}': "0x20 3x10"},
        {"kind": "unknown_settlement"},
        "3",
    ),
    "ReconciliationLate": Case(
        {"core_reconciliation_age_seconds": "108001x30"}, {"core_reconciliation_age_seconds": "107999x30"}
    ),
    "RefundsWaiting": waits("refunds", "901x30", "899x30"),
    "WebhooksFailing": Case({HOOK % "503": "0+6x30"}, {HOOK % "200": "0+600x30", HEARD % "new": "0+600x30"}),
    "WebhooksUnanswered": waits("webhook_inbox", "121x30", "119x30"),
    "WebhooksOutLate": waits("outgoing_endpoints", "121x30", "119x30"),
    "EndpointDisabled": Case(
        {'core_waiting{kind="endpoints_disabled"}': "2x30"},
        {'core_waiting{kind="endpoints_disabled"}': "0x30"},
        value="2",
    ),
    "RequestsFailing": Case(
        {
            'web_requests_total{route="/v1/usage",status="500"}': "0+2x30",
            'web_requests_total{route="/v1/usage",status="200"}': "0+98x30",
        },
        {
            'web_requests_total{route="/v1/usage",status="500"}': "0+1x30",
            'web_requests_total{route="/v1/usage",status="200"}': "0+999x30",
        },
    ),
    "WebSlow": Case(
        {
            'web_request_seconds_bucket{route="/v1/usage",le="1.0"}': "0+90x30",
            'web_request_seconds_bucket{route="/v1/usage",le="2.5"}': "0+100x30",
            'web_request_seconds_bucket{route="/v1/usage",le="+Inf"}': "0+100x30",
        },
        {
            'web_request_seconds_bucket{route="/v1/usage",le="0.5"}': "0+100x30",
            'web_request_seconds_bucket{route="/v1/usage",le="+Inf"}': "0+100x30",
        },
        {"route": "/v1/usage"},
    ),
    "GatewayFailing": Case(
        {CALLS % "TimedOut": "0+30x30", CALLS % "ok": "0+70x30"},
        {CALLS % "TimedOut": "0+10x30", CALLS % "ok": "0+90x30", CALLS % "NotFound": "0+50x30"},
    ),
    "VerificationsWaiting": waits("verifications", "301x30", "299x30"),
    "PaymentsOrphaned": Case(
        {'core_waiting{kind="verification_orphans"}': "1x120"},
        {'core_waiting{kind="verification_orphans"}': "0x80 1x40"},
        at=100,
    ),
    "QueueStuck": Case(
        {f"core_backlog_oldest_seconds{ON}": "121x30"}, {f"core_backlog_oldest_seconds{ON}": "119x30"}, TOPIC
    ),
    "OutboxUnpublished": waits("outbox_unpublished", "61x30", "59x30"),
    "LagNearRetention": Case(
        {
            f"stream_lag_records{AT}": "600x30",
            f"stream_stored_records{AT}": "1000x30",
            f"stream_first_offset{AT}": "5x30",
        },
        {
            f"stream_lag_records{AT}": "600x30",
            f"stream_stored_records{AT}": "1000x30",
            f"stream_first_offset{AT}": "0x30",
        },
        PARTITION,
    ),
    "PartitionHalted": Case(
        {f"stream_partition_halted{AT}": "1x30"}, {f"stream_partition_halted{AT}": "0x30"}, PARTITION
    ),
    "StreamTruncated": Case(
        {'core_stream_incidents_total{kind="truncated"}': "0x20 1x10"},
        {
            'core_stream_incidents_total{kind="gap_filled"}': "0+1x30",
            'core_stream_incidents_total{kind="truncated"}': "4x30",
        },
        {"kind": "truncated"},
    ),
    "DeadLetters": Case(
        {'core_retries{topic="wallet.debit",state="dead"}': "2x30"},
        {'core_retries{topic="wallet.debit",state="due"}': "9x30"},
        TOPIC,
        "2",
    ),
    "BreakerOpen": Case({f"core_breaker_open{ON}": "1x30"}, {f"core_breaker_open{ON}": "0x30"}, TOPIC),
    "BatchesFailing": Case(
        {f"stream_batch_faults_total{ON}": "0+15x30"}, {f"stream_batch_faults_total{ON}": "0+6x30"}, TOPIC
    ),
    "Quarantined": Case(
        {f"core_quarantined_total{ON}": "0x20 1x10"}, {f"core_quarantined_total{ON}": "8x30"}, TOPIC
    ),
    "PostgresConnections": Case(
        {"core_database_connections": "81x30", "core_database_connections_allowed": "100x30"},
        {"core_database_connections": "79x30", "core_database_connections_allowed": "100x30"},
    ),
    "PoolExhausted": Case(
        {
            'sql_pool_connections{job="commdesk-web",instance="a",state="busy"}': "6x30",
            'sql_pool_size{job="commdesk-web",instance="a"}': "6x30",
        },
        {
            'sql_pool_connections{job="commdesk-web",instance="a",state="busy"}': "5x30",
            'sql_pool_size{job="commdesk-web",instance="a"}': "6x30",
        },
        {"job": "commdesk-web", "instance": "a"},
    ),
    "PostgresDown": Case(
        {"web_database_up": "0x30"},
        {"web_database_up": "1x30", 'sql_unavailable_total{reason="40P01"}': "0+6x30"},
    ),
    "LongTransaction": Case(
        {"core_database_transaction_seconds": "301x30"}, {"core_database_transaction_seconds": "299x30"}
    ),
    "RedisDown": Case(
        {'gateway_budget_shared{instance="a"}': "1x30", 'gateway_budget_shared{instance="b"}': "0x30"},
        {'gateway_budget_shared{instance="a"}': "1x30"},
    ),
    "RabbitMQFailing": Case(
        {"core_broker_up": "0x30"},
        {"core_broker_up": "1x30", 'stream_reconnects_total{role="reader"}': "0+1x30"},
    ),
    "NobodyMeasures": Case({"web_database_up": "1x30"}, {"core_monitor_up": "1x30"}),
    "ProcessDown": Case(
        {'up{job="commdesk-worker",instance="b"}': "0x30"},
        {'up{job="commdesk-worker",instance="b"}': "1x30"},
        {"job": "commdesk-worker", "instance": "b"},
    ),
}
