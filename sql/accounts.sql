-- Users and wallets: who owns credits, and what became of them.

-- name: create_user(key, request_hash, id, external_id, name, email, phone, state_code, gstin)
-- A user, once per key and external id.
SELECT o_outcome, o_id FROM create_user($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: create_wallet(key, request_hash, id, owner_id, community_id)
-- A wallet, once per key.
SELECT o_outcome, o_id FROM create_wallet($1, $2, $3, $4, $5);

-- name: get_user(user_id)
SELECT id, external_id, name, email, phone, state_code, gstin, created_at FROM users WHERE id = $1;

-- name: get_wallet(wallet_id)
SELECT id, owner_id, community_id, available_credits, locked_credits, pending_credits, debt_credits, lifetime_purchased_credits,
       auto_recharge_enabled, auto_recharge_threshold, seq, created_at, updated_at
  FROM wallets WHERE id = $1;

-- name: get_transactions(wallet_id, before_seq, limit_rows)
-- A wallet's transactions, the newest first, older than a seq; from the newest if that is null.
SELECT id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after, source, source_id, feature,
       community_id, metadata, occurred_at, created_at
  FROM wallet_transactions WHERE wallet_id = $1 AND ($2::bigint IS NULL OR seq < $2) ORDER BY seq DESC LIMIT $3;

-- name: get_consumptions(transaction_ids)
-- Which lots those transactions took from, and the payments the lots came from.
SELECT c.transaction_id, c.lot_id, c.credits, c.recognised_paise, l.promotional, l.payment_id
  FROM lot_consumptions c JOIN lots l ON l.id = c.lot_id WHERE c.transaction_id = ANY ($1::uuid[]) ORDER BY c.transaction_id, c.lot_id;

-- name: get_hold(hold_id)
SELECT id, wallet_id, credits, captured_credits, state, reason, lot_id, nullif(expires_at, 'infinity') AS expires_at, created_at, closed_at FROM holds WHERE id = $1;

-- name: get_known_command(key)
-- What a key already stands for in the ledger: the hash of its request, and why it was refused, if it was.
SELECT request_hash, NULL::text AS refused FROM wallet_transactions WHERE idempotency_key = $1
UNION ALL SELECT request_hash, reason AS refused FROM refusals WHERE idempotency_key = $1;
