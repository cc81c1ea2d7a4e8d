-- What happens to a payment's money without our asking.

-- name: lease_inquiries(limit_rows, lease_s)
-- Take orders that must be looked at as a whole.
SELECT order_id, asked, payment_id, user_id FROM lease_inquiries($1, $2);

-- name: record_inquiry(batch_id, shard, order_id, asked, picture, partitions)
-- What the gateway shows of one.
SELECT * FROM record_inquiry($1, $2, $3, $4, $5, $6);

-- name: get_receipts(payment_id, state, after, limit_rows)
-- Money that never was a sale, the newest first, behind the one called after; of any payment and state where that is null.
SELECT cashfree_payment_id, payment_id, reason, amount, state, refund_id, created_at, updated_at FROM unapplied_receipts
 WHERE ($1::uuid IS NULL OR payment_id = $1) AND ($2::text IS NULL OR state = $2)
   AND ($3::text IS NULL OR (created_at, cashfree_payment_id) < (SELECT a.created_at, a.cashfree_payment_id FROM unapplied_receipts a WHERE a.cashfree_payment_id = $3))
 ORDER BY created_at DESC, cashfree_payment_id DESC LIMIT $4;

-- name: get_receipt(cf_payment_id)
SELECT cashfree_payment_id, payment_id, reason, amount, state, refund_id, created_at, updated_at FROM unapplied_receipts WHERE cashfree_payment_id = $1;

-- name: get_disputes(payment_id, status, after, limit_rows)
-- Disputes, the newest first, behind the one called after; of any payment and status where that is null.
SELECT dispute_id, payment_id, cashfree_payment_id, type, status, amount, respond_by, refund_id, reinstated_lot_id, created_at, updated_at FROM disputes
 WHERE ($1::uuid IS NULL OR payment_id = $1) AND ($2::text IS NULL OR status = $2)
   AND ($3::text IS NULL OR (created_at, dispute_id) < (SELECT a.created_at, a.dispute_id FROM disputes a WHERE a.dispute_id = $3))
 ORDER BY created_at DESC, dispute_id DESC LIMIT $4;

-- name: get_dispute(dispute_id)
SELECT dispute_id, payment_id, cashfree_payment_id, type, status, amount, respond_by, refund_id, reinstated_lot_id, created_at, updated_at
  FROM disputes WHERE dispute_id = $1;

-- name: ask_gateway(payment_id, whole)
-- Have a payment asked about now.
SELECT ask_gateway($1, $2);

-- name: is_answered(payment_id)
-- Whether the gateway has answered, or failed to, since it was asked.
SELECT NOT EXISTS (SELECT FROM verifications v WHERE v.payment_id = $1 AND v.state = 'due' AND v.attempt + v.deferrals = 0)
   AND NOT EXISTS (SELECT FROM payments y JOIN order_inquiries q ON q.order_id = y.order_id WHERE y.id = $1 AND q.next_at < 'infinity' AND q.attempt = 0);

-- name: count_retry(payment_id)
SELECT count_retry($1);

-- name: request_invoice(batch_id, shard, payment_id, invoice_partition)
SELECT request_invoice($1, $2, $3, $4);
