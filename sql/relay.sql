-- What waits to be published, and parked items whose time has come.

-- name: take_usage(limit_rows, stale_s)
SELECT id, principal, event_id, wallet_id, feature, quantity, credits, community_id, metadata, occurred_at, traceparent FROM take_usage($1, $2);

-- name: close_usage(limit_rows)
SELECT close_usage($1);

-- name: sweep_outbox(consumer_group, limit_rows, stale_s)
SELECT dest_topic, dest_partition, producer_topic, producer_partition, producer_group, batch_no, prev_batch_no, incarnation, events
  FROM sweep_outbox($1, $2, $3);

-- name: due_retries(topic, partitions, limit_rows)
SELECT id, partition, attempt, decide, source_offset, payload FROM due_retries($1, $2, $3);

-- name: due_retry_runs(topic, partitions, limit_rows)
SELECT id, partition, attempt, decide, source_offset, payload FROM due_retry_runs($1, $2, $3);
