-- Who may call: API keys, tokens that are no longer good, and whose an object is.

-- name: create_api_key(id, name, prefix, secret_hash, scopes, expires_at, actor)
SELECT create_api_key($1, $2, $3, $4, $5::text[], $6::timestamptz, $7);

-- name: rotate_api_key(old, id, prefix, secret_hash, overlap_s, actor)
-- A new key of the same name and scopes; the old one goes on for the overlap.
SELECT rotate_api_key($1, $2, $3, $4, $5, $6);

-- name: revoke_api_key(id, actor)
SELECT revoke_api_key($1, $2);

-- name: touch_api_key(id)
-- It was used just now; written once a minute.
SELECT touch_api_key($1);

-- name: get_live_key(prefix)
-- A key that is neither revoked nor over.
SELECT id, name, secret_hash, scopes, nullif(expires_at, 'infinity') AS expires_at FROM api_keys
 WHERE prefix = $1 AND revoked_at IS NULL AND expires_at > now();

-- name: get_api_key(id)
SELECT id, name, prefix, scopes, created_by, created_at, nullif(expires_at, 'infinity') AS expires_at, last_used_at, revoked_at FROM api_keys WHERE id = $1;

-- name: get_api_keys(before, limit_rows)
-- Keys, the newest first, older than the one called before.
SELECT id, name, prefix, scopes, created_by, created_at, nullif(expires_at, 'infinity') AS expires_at, last_used_at, revoked_at FROM api_keys
 WHERE $1::uuid IS NULL OR id < $1 ORDER BY id DESC LIMIT $2;

-- name: revoke_token(jti, until, actor)
SELECT revoke_token($1, $2, $3);

-- name: revoke_subject(subject, issued_before, actor)
SELECT revoke_subject($1, $2, $3);

-- name: is_revoked(jti, subject, issued_at)
-- Whether a token is no longer good: it, or all that its subject was given until then.
SELECT EXISTS (SELECT FROM revoked_tokens WHERE jti = $1) OR EXISTS (SELECT FROM revoked_subjects WHERE subject = $2 AND issued_before >= $3);

-- name: owner_of_user(id)
SELECT id FROM users WHERE id = $1;

-- name: owner_of_wallet(id)
SELECT owner_id FROM wallets WHERE id = $1;

-- name: owner_of_hold(id)
SELECT w.owner_id FROM holds h JOIN wallets w ON w.id = h.wallet_id WHERE h.id = $1;

-- name: owner_of_payment(id)
SELECT user_id FROM payments WHERE id = $1;

-- name: owner_of_refund(id)
SELECT p.user_id FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.id = $1;

-- name: owner_of_invoice(id)
SELECT user_id FROM invoices WHERE id = $1;

-- name: owner_of_endpoint(id)
SELECT owner_id FROM outgoing_endpoints WHERE id = $1;

-- name: owner_of_delivery(id)
SELECT e.owner_id FROM outgoing_deliveries d JOIN outgoing_endpoints e ON e.id = d.endpoint_id WHERE d.id = $1;

-- name: owner_of_transaction(id)
SELECT w.owner_id FROM wallet_transactions t JOIN wallets w ON w.id = t.wallet_id WHERE t.id = $1;

-- name: requester_of_approval(id)
SELECT requested_by FROM approvals WHERE id = $1;
