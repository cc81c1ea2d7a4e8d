-- What a load generator compares its own log with. Read-only.

-- name: posted_usage(since)
-- Usage debits posted since, with when they were sent to the books.
SELECT t.source_id AS event_id, t.wallet_id, t.amount_credits, b.created_at AS committed_at
  FROM wallet_transactions t JOIN batches b ON b.id = t.batch_id
 WHERE t.source = 'usage' AND t.transaction_type = 'spend' AND t.created_at >= $1;

-- name: refused_usage(since)
SELECT split_part(idempotency_key, ':', 2) AS event_id, wallet_id, amount_credits FROM refusals WHERE created_at >= $1;

-- name: quarantined_usage(since)
SELECT split_part(idempotency_key, ':', 2) AS event_id FROM quarantine WHERE created_at >= $1 AND idempotency_key IS NOT NULL;

-- name: payments_since(since)
-- Payments made since, with the purchases posted for each.
SELECT p.id, p.order_id, p.wallet_id, p.status, p.credits_granted, p.amount,
       (SELECT count(*) FROM wallet_transactions t WHERE t.source = 'payment' AND t.source_id = p.id::text) AS purchases,
       (SELECT sum(t.amount_credits) FROM wallet_transactions t WHERE t.source = 'payment' AND t.source_id = p.id::text) AS posted_credits,
       w.received_at, b.created_at AS committed_at
  FROM payments p
  LEFT JOIN LATERAL (SELECT min(h.created_at) AS received_at FROM payment_webhooks h WHERE h.order_id = p.order_id AND h.status = 'SUCCESS') w ON true
  LEFT JOIN wallet_transactions t ON t.source = 'payment' AND t.source_id = p.id::text
  LEFT JOIN batches b ON b.id = t.batch_id
 WHERE p.created_at >= $1;

-- name: refunds_since(since)
-- Refunds asked for since, with their payments; the key is the caller's own.
SELECT substr(f.idempotency_key, strpos(f.idempotency_key, ':') + 1) AS key, f.refund_id, f.payment_id, p.wallet_id, f.status, f.amount, f.credits_reversed,
       p.amount AS price, p.credits_granted
  FROM refunds f JOIN payments p ON p.id = f.payment_id WHERE f.created_at >= $1;

-- name: wallet_totals(wallets)
-- Balance of each wallet, and what its posted transactions other than usage add up to.
SELECT w.id, w.available_credits, w.locked_credits,
       coalesce(sum(t.credits) FILTER (WHERE t.source = 'usage'), 0)::bigint AS used,
       coalesce(sum(t.credits) FILTER (WHERE t.source <> 'usage'), 0)::bigint AS other
  FROM wallets w LEFT JOIN wallet_transactions t ON t.wallet_id = w.id
 WHERE w.id = ANY ($1::uuid[]) GROUP BY w.id;

-- name: outcome_counts(since)
-- Outcomes of the wallet topics' batches, retries apart (their items were counted as parked).
SELECT coalesce(sum(posted), 0)::bigint AS posted, coalesce(sum(refused), 0)::bigint AS refused, coalesce(sum(existing), 0)::bigint AS exists,
       coalesce(sum(conflict), 0)::bigint AS conflict, coalesce(sum(parked), 0)::bigint AS parked,
       coalesce(sum(quarantined), 0)::bigint AS quarantined
  FROM batches WHERE topic IN ('wallet.debit', 'wallet.credit') AND created_at >= $1;

-- name: open_work()
-- What is still on its way.
SELECT (SELECT count(*) FROM usage_metering WHERE published_at IS NULL) AS usage_unpublished,
       (SELECT count(*) FROM payment_webhooks WHERE closed_at IS NULL) AS webhooks_open,
       (SELECT count(*) FROM verifications WHERE state = 'due') AS verifications_due,
       (SELECT count(*) FROM fraud_checks WHERE awaited > 0) AS fraud_checks_open,
       (SELECT count(*) FROM retries WHERE state = 'due') AS retries_due,
       (SELECT count(*) FROM refunds WHERE status IN ('requested', 'due', 'pending')) AS refunds_open;
