-- The lists of the API, each the newest first, each continued after the last row of the page before (null: from the start).

-- name: list_payments(user_id, wallet_id, status, before_created_at, before_id, limit_rows)
SELECT id, user_id, wallet_id, order_id, status, amount, currency, base_credits, bonus_credits, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, place_of_supply, payment_session_id, cashfree_order_id, cashfree_payment_id, payment_group, instrument, customer_phone,
       customer_email, device_id, host(ip) AS ip, failure, webhook_verified, fraud_score, refund_amount, offer_amount, retry_count, created_at, expires_at,
       verified_at, credited_at, failed_at
  FROM payments
 WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR wallet_id = $2) AND ($3::text IS NULL OR status = $3)
   AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5::uuid)) ORDER BY created_at DESC, id DESC LIMIT $6;

-- name: list_attempts(order_ids)
-- Every attempt to pay these orders, in the order first heard of.
SELECT order_id, cashfree_payment_id, status, payment_group, amount, seen, occurred_at, first_seen_at
  FROM payment_attempts WHERE order_id = ANY ($1::text[]) ORDER BY order_id, first_seen_at, cashfree_payment_id;

-- name: list_refunds(user_id, payment_id, status, before_id, limit_rows)
SELECT f.id, f.refund_id, f.payment_id, y.user_id, f.wallet_id, f.amount, f.policy, f.status, f.reason, f.failure, f.gateway_status,
       CASE WHEN f.status IN ('done', 'reversed') THEN f.credits_reversed ELSE coalesce(h.credits, 0) END AS credits, f.requested_by,
       f.taxable_amount, f.cgst_amount, f.sgst_amount, f.igst_amount, f.created_at, f.finished_at
  FROM refunds f JOIN payments y ON y.id = f.payment_id LEFT JOIN holds h ON h.id = f.hold_id
 WHERE ($1::uuid IS NULL OR y.user_id = $1) AND ($2::uuid IS NULL OR f.payment_id = $2) AND ($3::text IS NULL OR f.status = $3)
   AND ($4::uuid IS NULL OR f.id < $4) ORDER BY f.id DESC LIMIT $5;

-- name: list_invoices(user_id, payment_id, before_issued_at, before_id, limit_rows)
SELECT id, kind, number, payment_id, user_id, refund_id, invoice_id, place_of_supply, gross_amount, taxable_amount, cgst_amount, sgst_amount,
       igst_amount, document, issued_at, rendered_at, storage_key, voided_at, void_reason
  FROM invoices
 WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR payment_id = $2)
   AND ($3::timestamptz IS NULL OR (issued_at, id) < ($3, $4::uuid)) ORDER BY issued_at DESC, id DESC LIMIT $5;

-- name: list_holds(wallet_id, state, before_id, limit_rows)
SELECT id, wallet_id, credits, captured_credits, state, reason, lot_id, nullif(expires_at, 'infinity') AS expires_at, created_at, closed_at
  FROM holds WHERE wallet_id = $1 AND ($2::text IS NULL OR state = $2) AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4;

-- name: list_wallets(owner_id, before_id, limit_rows)
SELECT id, owner_id, community_id, available_credits, locked_credits, pending_credits, debt_credits, lifetime_purchased_credits,
       auto_recharge_enabled, auto_recharge_threshold, seq, created_at, updated_at
  FROM wallets WHERE owner_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3;

-- name: get_transaction(id)
SELECT id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after, source, source_id, feature,
       community_id, metadata, occurred_at, created_at, wallet_id
  FROM wallet_transactions WHERE id = $1;

-- name: list_usage(wallet_id, feature, from_at, to_at, before_seq, limit_rows)
-- What a wallet was charged for usage, recorded in [from, to). The search for where that period lies is a minute generous, the last
-- condition exact.
SELECT id, seq, source_id, feature, community_id, credits, balance_after, metadata, occurred_at, created_at
  FROM wallet_transactions
 WHERE wallet_id = $1 AND source = 'usage' AND ($2::text IS NULL OR feature = $2)
   AND ($3::timestamptz IS NULL OR seq >= (SELECT wallet_seq_at($1, $3 - interval '1 minute')))
   AND ($4::timestamptz IS NULL OR seq < (SELECT wallet_seq_at($1, $4 + interval '1 minute')))
   AND created_at >= coalesce($3, '-infinity') AND created_at < coalesce($4, 'infinity')
   AND ($5::bigint IS NULL OR seq < $5) ORDER BY seq DESC LIMIT $6;

-- name: list_reviews(state, before_id, limit_rows)
-- Payments that were held, and what a person said of each. state: pending | released | rejected.
SELECT f.id, f.payment_id, y.user_id, y.wallet_id, y.amount, y.credits_granted, y.status AS payment_status, f.score, f.reasons, f.missing,
       CASE r.verdict WHEN 'release' THEN 'released' WHEN 'reject' THEN 'rejected' ELSE 'pending' END AS state,
       r.actor, r.created_at AS decided_at, f.created_at
  FROM fraud_events f JOIN payments y ON y.id = f.payment_id LEFT JOIN fraud_reviews r ON r.payment_id = f.payment_id
 WHERE f.verdict = 'hold' AND ($2::uuid IS NULL OR f.id < $2)
   AND ($1::text IS NULL OR $1 = CASE r.verdict WHEN 'release' THEN 'released' WHEN 'reject' THEN 'rejected' ELSE 'pending' END)
 ORDER BY f.id DESC LIMIT $3;

-- name: get_review(payment_id)
SELECT f.id, f.payment_id, y.user_id, y.wallet_id, y.amount, y.credits_granted, y.status AS payment_status, f.score, f.reasons, f.missing,
       CASE r.verdict WHEN 'release' THEN 'released' WHEN 'reject' THEN 'rejected' ELSE 'pending' END AS state,
       r.actor, r.created_at AS decided_at, f.created_at
  FROM fraud_events f JOIN payments y ON y.id = f.payment_id LEFT JOIN fraud_reviews r ON r.payment_id = f.payment_id
 WHERE f.verdict = 'hold' AND f.payment_id = $1;

-- name: list_received(before_id, limit_rows)
-- The inbox of webhooks, without what is in them.
SELECT id, event_type, version, order_id, cashfree_payment_id, refund_id, status, amount, deliveries, stale, outcome, occurred_at, created_at,
       published_at, closed_at
  FROM payment_webhooks WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2;
