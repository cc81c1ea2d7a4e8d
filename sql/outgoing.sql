-- Outgoing webhooks: events of an account numbered, deliveries leased by endpoint, and what owners see and do.

-- name: number_outgoing(limit_rows)
SELECT number_outgoing($1);

-- name: lease_endpoints(fit, unfit, batch, lease_s)
-- Endpoints for a turn each, and what they are due.
SELECT * FROM lease_endpoints($1, $2, $3, $4);

-- name: record_turn(endpoint, turn, ids, outcomes, statuses, errors, took_ms, schedule_s, trip, pause_s, cap_s, slow_ms, disable_s)
SELECT r_state, r_failures, r_disabled, r_given_up FROM record_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: purge_outgoing(age_s, limit_rows)
SELECT purge_outgoing($1, $2);

-- name: create_endpoint(id, key, request_hash, owner, url, description, kinds, secret, most, actor)
SELECT o_outcome, o_id, o_secret FROM create_endpoint($1, $2, $3, $4, $5, $6, $7, $8, $9, $10);

-- name: update_endpoint(id, url, description, kinds, every_kind, actor)
SELECT update_endpoint($1, $2, $3, $4, $5, $6);

-- name: rotate_endpoint_secret(id, secret, overlap_s, actor)
SELECT rotate_endpoint_secret($1, $2, $3, $4);

-- name: switch_endpoint(id, state, actor)
SELECT switch_endpoint($1, $2, $3);

-- name: replay_deliveries(endpoint, from_sequence, to_sequence, only_failed, limit_rows, actor)
SELECT r_replayed, r_last FROM replay_deliveries($1, $2, $3, $4, $5, $6);

-- name: get_endpoint(id)
-- An endpoint as its owner sees it; no row if it is deleted.
SELECT id, owner_id, url, description, kinds, state, why, last_sequence, failures, failing_since, nullif(blocked_until, '-infinity') AS blocked_until,
       delivered_at, error, created_at, updated_at
  FROM outgoing_endpoints WHERE id = $1 AND state <> 'deleted';

-- name: get_endpoints(owner, after, limit_rows)
-- An account's endpoints, in the order in which they were made.
SELECT id, owner_id, url, description, kinds, state, why, last_sequence, failures, failing_since, nullif(blocked_until, '-infinity') AS blocked_until,
       delivered_at, error, created_at, updated_at
  FROM outgoing_endpoints WHERE owner_id = $1 AND state <> 'deleted' AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3;

-- name: get_delivery(id)
SELECT d.id, d.endpoint_id, e.owner_id, d.event_id, b.kind, d.sequence, d.previous_sequence, d.state, d.attempts,
       CASE d.state WHEN 'pending' THEN d.next_at END AS next_at, d.status, d.error, d.took_ms, d.delivered_at, d.created_at
  FROM outgoing_deliveries d JOIN outgoing_endpoints e ON e.id = d.endpoint_id JOIN billing_events b ON b.id = d.event_id WHERE d.id = $1;

-- name: get_deliveries(endpoint, before, state, limit_rows)
-- An endpoint's deliveries, the highest number first, below one; of a state, where that is not null.
SELECT d.id, d.endpoint_id, e.owner_id, d.event_id, b.kind, d.sequence, d.previous_sequence, d.state, d.attempts,
       CASE d.state WHEN 'pending' THEN d.next_at END AS next_at, d.status, d.error, d.took_ms, d.delivered_at, d.created_at
  FROM outgoing_deliveries d JOIN outgoing_endpoints e ON e.id = d.endpoint_id JOIN billing_events b ON b.id = d.event_id
 WHERE d.endpoint_id = $1 AND ($2::bigint IS NULL OR d.sequence < $2) AND ($3::text IS NULL OR d.state = $3)
 ORDER BY d.sequence DESC LIMIT $4;
