-- Requests that wait for a second person.

-- name: request_approval(id, key, request_hash, action, path, body, summary, requested_by, requested_role, expires_s)
-- Once per key.
SELECT o_outcome, o_id FROM request_approval($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: decide_approval(id, state, decided_by, why)
SELECT decide_approval($1, $2, $3, $4);

-- name: approval_executed(id)
-- What was approved is done.
SELECT approval_executed($1);

-- name: get_approval(id)
SELECT id, idempotency_key, action, path, body, summary, requested_by, requested_role,
       CASE WHEN executed_at IS NULL AND state <> 'rejected' AND expires_at <= now() THEN 'expired' ELSE state END AS state,
       decided_by, why, created_at, expires_at, decided_at, executed_at
  FROM approvals WHERE id = $1;

-- name: get_approvals(before, state, limit_rows)
-- Approvals, the newest first, older than the one called before; of any state where that is null.
SELECT id, idempotency_key, action, path, body, summary, requested_by, requested_role, state, decided_by, why, created_at, expires_at, decided_at, executed_at
  FROM (SELECT a.id, a.idempotency_key, a.action, a.path, a.body, a.summary, a.requested_by, a.requested_role, a.decided_by, a.why, a.created_at,
               a.expires_at, a.decided_at, a.executed_at,
               CASE WHEN a.executed_at IS NULL AND a.state <> 'rejected' AND a.expires_at <= now() THEN 'expired' ELSE a.state END AS state
          FROM approvals a) AS a
 WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR state = $2) ORDER BY id DESC LIMIT $3;
