-- The ledger's one door.

-- name: commit_batch(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, retry, attempt, decide, ids, wallets, kinds, credits, keys, hashes, occurred, offsets, sources, source_ids, features, communities, metadata, publishers, analytics, extras, expired_partition)
-- One batch of commands, one transaction (see migrations/0007_commit_batch.sql).
SELECT * FROM commit_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
  $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31);

-- name: sync_balance(wallet_id)
-- Recompute a wallet from its entries and lots.
SELECT o_outcome, o_stated, o_booked, o_case FROM sync_balance($1);

-- name: flag_overdue_holds(limit_rows)
-- Open a case for each hold past its time limit.
SELECT flag_overdue_holds($1);

-- name: get_overdue_holds(limit_rows)
-- Holds past their time limit, the oldest first; a refund's hold has none.
SELECT id, wallet_id, credits FROM holds WHERE state = 'held' AND expires_at < now() ORDER BY expires_at LIMIT $1;

-- name: make_months(ahead)
-- Partitions for this month and so many more, where they are not there yet; how many were made.
SELECT make_months($1);
