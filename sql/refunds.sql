-- Refunds that we start, from the request to the money's way back.

-- name: request_refund(batch_id, shard, id, payment_id, amount, policy, requested_by, key, request_hash, reason, pack_prices, pack_credits, partitions)
-- Decide a refund under its payment's lock, hold its credits, make it due.
SELECT r_outcome, r_reason, r_refund FROM request_refund($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: refund_receipt(batch_id, shard, cf_payment_id, actor, refund_partition)
-- A person returns money that never was a sale.
SELECT r_outcome, r_refund FROM refund_receipt($1, $2, $3, $4, $5);

-- name: decide_refund_payout(batch_id, shard, refund_id, verdict, actor, detail, partitions)
-- A person's word about a refund that is too old for the gateway.
SELECT decide_refund_payout($1, $2, $3, $4, $5, $6, $7);

-- name: get_refundable(payment_id)
-- What a customer may still get back of a payment, in paise; NULL if it was never credited.
SELECT o_refundable FROM refundable($1);

-- name: get_refund(id)
-- One refund as it stands.
SELECT f.id, f.refund_id, f.payment_id, y.user_id, f.wallet_id, f.amount, f.policy, f.status, f.reason, f.failure, f.gateway_status,
       CASE WHEN f.status IN ('done', 'reversed') THEN f.credits_reversed ELSE coalesce(h.credits, 0) END AS credits, f.requested_by,
       f.taxable_amount, f.cgst_amount, f.sgst_amount, f.igst_amount, f.created_at, f.finished_at
  FROM refunds f JOIN payments y ON y.id = f.payment_id LEFT JOIN holds h ON h.id = f.hold_id WHERE f.id = $1;

-- name: get_payment_refunds(payment_id)
-- Every refund of a payment, the oldest first.
SELECT f.id, f.refund_id, f.payment_id, y.user_id, f.wallet_id, f.amount, f.policy, f.status, f.reason, f.failure, f.gateway_status,
       CASE WHEN f.status IN ('done', 'reversed') THEN f.credits_reversed ELSE coalesce(h.credits, 0) END AS credits, f.requested_by,
       f.taxable_amount, f.cgst_amount, f.sgst_amount, f.igst_amount, f.created_at, f.finished_at
  FROM refunds f JOIN payments y ON y.id = f.payment_id LEFT JOIN holds h ON h.id = f.hold_id WHERE f.payment_id = $1 ORDER BY f.created_at, f.id;

-- name: commit_refunds(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, ids, payment_ids, offsets)
-- Mark refunds due, with the offset.
SELECT * FROM commit_refunds($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: lease_refunds(limit_rows, lease_s)
-- Take those that the gateway must be asked about now.
SELECT id, refund_id, order_id, payment_id, user_id, amount, currency, policy, reason, attempt, again, known FROM lease_refunds($1, $2);

-- name: record_refund(batch_id, shard, refund_id, attempt, answer, again, status, cf_refund_id, detail, retry_s, partitions)
-- What the gateway answered about one.
SELECT * FROM record_refund($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: get_backlog()
-- What is due now, since when, and what a person must look at.
SELECT count(*) FILTER (WHERE next_at <= now()) AS due,
       coalesce(extract(epoch FROM now() - min(next_at) FILTER (WHERE next_at <= now())), 0)::double precision AS oldest_s,
       count(*) FILTER (WHERE status IN ('review', 'payout_requested')) AS for_a_person
  FROM refunds WHERE next_at < 'infinity' OR status IN ('review', 'payout_requested');
