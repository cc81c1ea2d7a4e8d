-- What became of usage events. As superuser.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: decided(at)
-- Outcomes of wallet.debit's batches since, and their first and last commit (seconds since the epoch).
SELECT coalesce(sum(posted + refused + existing + conflict + parked + quarantined), 0)::bigint AS decided, coalesce(sum(posted), 0)::bigint AS posted,
       count(*) AS batches, extract(epoch FROM min(created_at))::float8 AS first_at, extract(epoch FROM max(created_at))::float8 AS last_at
  FROM batches WHERE topic = 'wallet.debit' AND created_at >= $1::timestamptz;

-- name: counted(prefix, length)
-- How many of these events are posted, and how many postings that is.
SELECT count(DISTINCT source_id) AS events, count(*) AS n FROM wallet_transactions WHERE source = 'usage' AND left(source_id, $2::integer) = $1;

-- name: committed(prefix, length)
-- Per event: its number, and when it was committed.
SELECT substr(t.source_id, $2::integer + 1)::integer AS number, extract(epoch FROM min(b.created_at))::float8 AS at
  FROM wallet_transactions t JOIN batches b ON b.id = t.batch_id WHERE t.source = 'usage' AND left(t.source_id, $2::integer) = $1 GROUP BY 1;

-- name: refused(prefix, length)
SELECT count(*) AS n FROM refusals WHERE left(split_part(idempotency_key, ':', 2), $2::integer) = $1;

-- name: recent_batches(count)
SELECT topic, partition, consumer_group, to_offset, posted FROM batches WHERE topic = 'wallet.debit' AND posted > 0 ORDER BY created_at LIMIT $1;

-- name: lock_wallet(wallet)
SELECT available_credits, locked_credits, seq FROM wallets WHERE id = $1 FOR UPDATE;

-- name: find_key(key)
SELECT id FROM wallet_transactions WHERE idempotency_key = $1;

-- name: lock_lots(wallet)
SELECT id, free_credits FROM lots WHERE wallet_id = $1 AND open AND free_credits > 0
 ORDER BY priority, expires_at, promotional DESC, effective_at, id FOR UPDATE;

-- name: put_transaction(id, wallet, seq, credits, before, locked, source_id, feature, metadata, key, hash, batch)
INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after, source,
                                 source_id, feature, metadata, idempotency_key, request_hash, batch_id, ord, occurred_at)
  VALUES ($1, $2, $3, 'spend', -$4::bigint, $4::bigint, $5::bigint, $5::bigint - $4::bigint, $6, 'usage', $7, $8, $9, $10, $11, $12, 1, now());

-- name: put_entries(id, wallet, credits, paise)
INSERT INTO ledger_entries VALUES ($1, 1, 'wallet', $2, $3::bigint), ($1, 2, 'credits_spent', NULL, -$3::bigint),
                                  ($1, 3, 'deferred_revenue', NULL, $4::bigint), ($1, 4, 'revenue', NULL, -$4::bigint);

-- name: take_lot(lot, credits)
UPDATE lots SET free_credits = free_credits - $2::bigint, spent_credits = spent_credits + $2::bigint, open = free_credits + held_credits > $2::bigint WHERE id = $1;

-- name: put_consumption(id, lot, credits)
INSERT INTO lot_consumptions VALUES ($1, $2, $3, 0);

-- name: take_credits(wallet, credits)
UPDATE wallets SET available_credits = available_credits - $2::bigint, seq = seq + 1, updated_at = now() WHERE id = $1;

-- name: put_event(batch_no, partition, event)
INSERT INTO outbox (dest_topic, dest_partition, producer_topic, producer_partition, producer_group, batch_no, prev_batch_no, incarnation, n_events, events,
                    published_at)
  VALUES ('analytics.billing', $2, 'row', 0, 'row', $1::bigint, $1::bigint - 1, 1, 1, $3, now());
