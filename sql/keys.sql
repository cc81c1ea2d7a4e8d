-- Idempotency-Keys of writes that keep no key of their own.

-- name: begin_request(key, request_hash, keep, lease_s)
-- Whether to do it, or what came of it before.
SELECT o_outcome, o_status, o_body FROM begin_request($1, $2, $3, $4);

-- name: finish_request(key, status, body)
SELECT finish_request($1, $2, $3);

-- name: abandon_request(key)
SELECT abandon_request($1);
