-- Billing windows.

-- name: commit_windows(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, records, metrics, dimensions, minutes, counts, credits, amounts)
-- Fold deltas and move the offset, in one transaction.
SELECT * FROM commit_windows($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);
