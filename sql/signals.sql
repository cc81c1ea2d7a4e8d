-- The gateway's word about attempts to pay.

-- name: commit_signals(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, retry, attempt, order_ids, inbox_ids, kinds, offsets, failed_partition, partitions)
-- Attempts upserted, verifications made due, unknown orders parked.
SELECT * FROM commit_signals($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19);
