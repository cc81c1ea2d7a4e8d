-- The inbox of usage, and what became of each event.

-- name: insert_usage(principal, ids, event_ids, wallets, features, quantities, credits, communities, metadata, hashes, occurred)
-- Store a caller's events as one set; says per event what it is.
SELECT insert_usage($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

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
