"""What the carrier counts, for whoever serves /metrics: Prometheus' default registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

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
