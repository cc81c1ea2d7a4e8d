-- The inbox of usage, and what became of each event.

-- name: insert_usage(principal, ids, event_ids, wallets, features, quantities, credits, communities, metadata, hashes, occurred, traceparent)
-- Store a caller's events as one set; says per event what it is.
SELECT insert_usage($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- name: get_usage_outcomes(keys)
-- Each stored event with its outcome, if there is one: the ledger's first, then why it has none yet or never will.
SELECT m.idempotency_key, m.event_id, m.wallet_id, m.feature, m.quantity, m.credits, m.occurred_at, m.created_at,
       CASE WHEN t.id IS NOT NULL THEN 'posted' WHEN f.idempotency_key IS NOT NULL THEN 'refused' WHEN q.reason IS NOT NULL THEN 'quarantined'
            WHEN r.state = 'due' THEN 'parked' WHEN r.state = 'dead' THEN 'dead' ELSE 'pending' END AS outcome,
       CASE WHEN t.id IS NULL THEN coalesce(f.reason, q.reason, r.reason) END AS reason,
       t.id AS transaction_id, coalesce(t.balance_after, f.balance_credits) AS balance_credits
  FROM usage_metering m
  LEFT JOIN wallet_transactions t ON t.idempotency_key = m.idempotency_key
  LEFT JOIN refusals f ON f.idempotency_key = m.idempotency_key
  LEFT JOIN LATERAL (SELECT x.reason FROM quarantine x WHERE x.idempotency_key = m.idempotency_key ORDER BY x.id LIMIT 1) q ON t.id IS NULL
  LEFT JOIN LATERAL (
    SELECT x.state, x.reason FROM retries x WHERE x.topic = 'wallet.debit' AND x.key = m.wallet_id::text AND x.state = 'due'
       AND x.payload ->> 'key' = m.idempotency_key
    UNION ALL
    SELECT x.state, x.reason FROM retries x WHERE x.key = m.wallet_id::text AND x.state = 'dead' AND x.topic = 'wallet.debit'
       AND x.payload ->> 'key' = m.idempotency_key
     LIMIT 1) r ON t.id IS NULL AND f.idempotency_key IS NULL
 WHERE m.idempotency_key = ANY ($1::text[]);

-- name: get_shown(from_at, consumer_group)
-- Traced requests heard of since, all of whose events are decided, those that were posted also in the billing windows: what a dashboard shows now.
SELECT m.traceparent, min(m.idempotency_key) AS first_key
  FROM usage_metering m
  LEFT JOIN wallet_transactions t ON t.idempotency_key = m.idempotency_key
  LEFT JOIN batches b ON b.id = t.batch_id
 WHERE m.traceparent IS NOT NULL AND m.created_at >= $1
 GROUP BY m.traceparent
HAVING count(t.id) > 0
   AND bool_and(t.id IS NOT NULL OR EXISTS (SELECT FROM refusals f WHERE f.idempotency_key = m.idempotency_key))
   AND NOT bool_or(EXISTS (SELECT FROM outbox o
                            LEFT JOIN producer_watermarks w ON w.topic = o.dest_topic AND w.partition = o.dest_partition
                             AND w.consumer_group = $2 AND w.producer_topic = o.producer_topic
                             AND w.producer_partition = o.producer_partition AND w.producer_group = o.producer_group
                           WHERE o.dest_topic = 'analytics.billing' AND o.producer_topic = b.topic AND o.producer_partition = b.partition
                             AND o.producer_group = b.consumer_group AND o.batch_no = b.batch_no
                             AND o.batch_no > coalesce(w.last_batch_no, 0)));
