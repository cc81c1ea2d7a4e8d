-- Payments to ask the gateway about.

-- name: lease_verifications(limit_rows, lease_s)
-- Take due ones, by deadline and then by amount.
SELECT payment_id, order_id, attempt, amount, user_id, wallet_id, device_id, ip, instrument, whole, cashfree_payment_id, offers FROM lease_verifications($1, $2);

-- name: record_verifications(batch_id, shard, results, verified_partition, mismatch_partition)
-- What the gateway answered.
SELECT * FROM record_verifications($1, $2, $3, $4, $5);

-- name: get_backlog()
-- What is due now, since when, and what nobody could settle.
SELECT count(*) FILTER (WHERE state = 'due' AND next_at <= now()) AS due,
       coalesce(extract(epoch FROM now() - min(next_at) FILTER (WHERE state = 'due' AND next_at <= now())), 0)::double precision AS oldest_s,
       count(*) FILTER (WHERE state = 'orphan') AS orphans
  FROM verifications WHERE state <> 'done';
