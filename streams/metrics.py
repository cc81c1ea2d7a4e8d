"""What the carrier counts, for whoever serves /metrics: Prometheus' default registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

PARTITIONS_OPEN = Gauge("stream_partitions_open", "Partitions this worker owns and reads", ["topic"])
PARTITION_HALTED = Gauge(
    "stream_partition_halted",
    "1 while a partition is stopped because records are missing",
    ["topic", "partition"],
)
REINCARNATIONS = Counter(
    "stream_reincarnations_total", "Times the broker's offsets no longer meant what they meant", ["topic"]
)
FENCED = Counter(
    "stream_fenced_total", "Batches dropped because somebody else had claimed the partition", ["topic"]
)
STUCK = Counter("stream_stuck_total", "Partitions read anew because records waited and none came", ["topic"])
CORRUPT = Counter("stream_corrupt_chunks_total", "Chunks whose checksum was wrong", ["topic"])
RECONNECTS = Counter("stream_reconnects_total", "Connections to the broker built anew", ["role"])
RECORDS = Counter("stream_records_total", "Records committed", ["topic"])
BATCH_FAULTS = Counter("stream_batch_faults_total", "Batches that failed and were tried again", ["topic"])
LAG = Gauge("stream_lag_records", "Records stored and not yet committed", ["topic", "partition"])
FIRST = Gauge(
    "stream_first_offset", "Offset of the first record that the broker still has", ["topic", "partition"]
)
STORED = Gauge("stream_stored_records", "Offsets from there to the end of the stream", ["topic", "partition"])
BATCH_SECONDS = Histogram(
    "stream_batch_seconds",
    "Time to decide, commit and publish one batch",
    ["topic"],
    buckets=(0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
BATCH_RECORDS = Histogram(
    "stream_batch_records", "Messages in one batch", ["topic"], buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500)
)


def clear_positions() -> None:
    """Show no stream's position: whoever measured them does not any more."""
    for gauge in (LAG, FIRST, STORED):
        gauge.clear()
