-- How the system is doing: what readiness, /metrics and the live page ask.

-- name: get_applied_migrations()
SELECT version FROM schema_migrations;

-- name: get_gauges()
-- Work that waits, by kind.
SELECT (SELECT count(*) FROM usage_metering WHERE closed_at IS NULL) AS usage_open,
       (SELECT count(*) FROM payment_webhooks WHERE closed_at IS NULL) AS webhooks_open,
       (SELECT count(*) FROM verifications WHERE state = 'due') AS verifications_due,
       (SELECT count(*) FROM fraud_checks WHERE open) AS fraud_checks_open,
       (SELECT count(*) FROM retries WHERE state = 'due') AS retries_due,
       (SELECT count(*) FROM retries WHERE state = 'dead') AS retries_dead,
       (SELECT count(*) FROM quarantine) AS quarantined,
       (SELECT count(*) FROM holds WHERE state = 'held') AS holds_open,
       (SELECT count(*) FROM reconciliation_cases WHERE state = 'open') AS cases_open;

-- name: get_backlog(consumer_group)
-- Events per topic that are committed for it and not applied by it yet, and how old the oldest is.
SELECT x.topic, sum(x.events)::bigint AS events, extract(epoch FROM now() - min(x.since))::double precision AS oldest_s
  FROM (
    SELECT o.dest_topic AS topic, o.n_events AS events, o.created_at AS since
      FROM outbox o
      LEFT JOIN producer_watermarks m ON m.topic = o.dest_topic AND m.partition = o.dest_partition AND m.consumer_group = $1
       AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group
     WHERE o.batch_no > coalesce(m.last_batch_no, 0)
    UNION ALL
    SELECT 'webhook.processing', 1, w.created_at FROM payment_webhooks w WHERE w.closed_at IS NULL
    UNION ALL
    SELECT 'wallet.debit', 1, u.created_at FROM usage_metering u WHERE u.closed_at IS NULL
       AND NOT EXISTS (SELECT FROM wallet_transactions t WHERE t.idempotency_key = u.idempotency_key)
       AND NOT EXISTS (SELECT FROM refusals r WHERE r.idempotency_key = u.idempotency_key)
  ) x GROUP BY x.topic;

-- name: get_throughput(consumer_group, seconds)
-- Records each topic decided in the last seconds. A batch's id is a UUIDv7, so the primary key finds the newest.
SELECT topic, sum(n_records)::bigint AS records, sum(refused)::bigint AS refused, sum(quarantined)::bigint AS quarantined
  FROM batches WHERE id >= (SELECT uuidv7(make_interval(secs => -$2::double precision))) AND consumer_group = $1 GROUP BY topic;

-- name: get_owners(consumer_group)
-- Who owns how many partitions of each topic.
SELECT topic, owner, count(*) AS partitions FROM consumer_offsets
 WHERE consumer_group = $1 AND owner IS NOT NULL AND epoch > 0 GROUP BY topic, owner ORDER BY topic, owner;

-- name: get_series(from_at)
-- Minute windows since, summed per metric and the dimension that the live page shows.
WITH part AS (
  SELECT metric, window_start, CASE WHEN metric IN ('payments', 'credits_granted') THEN dimension ELSE '' END AS dimension,
         count, credits, amount_paise
    FROM billing_windows
   WHERE metric IN ('credits_granted', 'credits_spent', 'credits_expired', 'payments') AND resolution = '1m' AND window_start >= $1
)
SELECT metric, window_start, dimension, sum(count)::bigint AS count, sum(credits)::bigint AS credits, sum(amount_paise)::bigint AS amount_paise
  FROM part GROUP BY metric, window_start, dimension;

-- name: get_today()
-- Today's totals (an IST day) per metric and dimension; of spent credits, per feature.
WITH part AS (
  SELECT metric, CASE WHEN metric <> 'credits_spent' THEN dimension
                      ELSE coalesce((regexp_match(',' || dimension || ',', ',(feature=[^,]*),'))[1], 'feature=-') END AS dimension,
         count, credits, amount_paise
    FROM billing_windows WHERE resolution = '1d' AND window_start = date_trunc('day', now(), 'Asia/Kolkata')
)
SELECT metric, dimension, sum(count)::bigint AS count, sum(credits)::bigint AS credits, sum(amount_paise)::bigint AS amount_paise
  FROM part GROUP BY metric, dimension;

-- name: get_recent_statuses(limit_rows)
-- How the newest payments stand.
WITH newest AS (SELECT status FROM payments ORDER BY created_at DESC LIMIT $1)
SELECT status, count(*) AS count FROM newest GROUP BY status;
