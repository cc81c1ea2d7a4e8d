-- What happens to a payment's money without our asking.

-- name: lease_inquiries(limit_rows, lease_s)
-- Take orders that must be looked at as a whole.
SELECT order_id, asked, payment_id, user_id FROM lease_inquiries($1, $2);

-- name: record_inquiry(batch_id, shard, order_id, asked, picture, partitions)
-- What the gateway shows of one.
SELECT * FROM record_inquiry($1, $2, $3, $4, $5, $6);

-- name: get_receipts(payment_id)
-- Money of a payment that never was a sale, the oldest first.
SELECT cashfree_payment_id, reason, amount, state, refund_id FROM unapplied_receipts WHERE payment_id = $1 ORDER BY created_at, cashfree_payment_id;

-- name: get_disputes(payment_id)
-- A payment's disputes, the oldest first.
SELECT dispute_id, type, status, amount, respond_by, refund_id, reinstated_lot_id FROM disputes WHERE payment_id = $1 ORDER BY created_at, dispute_id;
