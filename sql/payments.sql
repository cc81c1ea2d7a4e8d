-- Payments: created by the API, asked about at the gateway.

-- name: get_buyer(user_id, wallet_id)
-- Whom an order is for: the user, if the wallet is theirs.
SELECT u.id, u.name, u.email, u.phone, u.state_code, u.gstin
  FROM users u JOIN wallets w ON w.owner_id = u.id WHERE u.id = $1 AND w.id = $2;

-- name: create_payment(batch_id, shard, id, key, request_hash, user_id, wallet_id, order_id, amount, base, bonus, taxable, cgst, sgst, igst, place_of_supply, phone, email, device_id, ip, metadata, delta_partition)
-- A payment before the gateway hears of it; idempotent by its key.
SELECT r_outcome, r_payment FROM create_payment($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22);

-- name: order_created(payment_id, cf_order_id, session_id, expires_at)
-- The gateway knows the order.
SELECT order_created($1, $2, $3, $4);

-- name: fail_order(batch_id, shard, payment_id, failure, delta_partition)
-- The gateway refused the order for good.
SELECT r_outcome FROM fail_order($1, $2, $3, $4, $5);

-- name: get_payment(payment_id)
SELECT id, user_id, wallet_id, order_id, status, amount, currency, base_credits, bonus_credits, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, place_of_supply, payment_session_id, cashfree_order_id, cashfree_payment_id, payment_group, instrument, customer_phone,
       customer_email, device_id, host(ip) AS ip, failure, webhook_verified, fraud_score, refund_amount, offer_amount, retry_count, created_at, expires_at,
       verified_at, credited_at, failed_at
  FROM payments WHERE id = $1;

-- name: get_payment_by_order(order_id)
SELECT id, user_id, wallet_id, order_id, status, amount, currency, base_credits, bonus_credits, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, place_of_supply, payment_session_id, cashfree_order_id, cashfree_payment_id, payment_group, instrument, customer_phone,
       customer_email, device_id, host(ip) AS ip, failure, webhook_verified, fraud_score, refund_amount, offer_amount, retry_count, created_at, expires_at,
       verified_at, credited_at, failed_at
  FROM payments WHERE order_id = $1;

-- name: get_recent_payments(before_created_at, before_id, limit_rows)
-- The newest payments, older than a (created_at, id); of any age if that is null.
SELECT id, user_id, wallet_id, order_id, status, amount, currency, base_credits, bonus_credits, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, place_of_supply, payment_session_id, cashfree_order_id, cashfree_payment_id, payment_group, instrument, customer_phone,
       customer_email, device_id, host(ip) AS ip, failure, webhook_verified, fraud_score, refund_amount, offer_amount, retry_count, created_at, expires_at,
       verified_at, credited_at, failed_at
  FROM payments WHERE $1::timestamptz IS NULL OR (created_at, id) < ($1, $2::uuid) ORDER BY created_at DESC, id DESC LIMIT $3;

-- name: get_attempts(order_id)
-- Every attempt to pay an order, in the order first heard of.
SELECT cashfree_payment_id, status, payment_group, amount, seen, occurred_at, first_seen_at
  FROM payment_attempts WHERE order_id = $1 ORDER BY first_seen_at, cashfree_payment_id;
