-- The audit log: read, written by the door, anchored, verified.

-- name: record_audit(actor, action, object_kind, object_id, detail)
SELECT record_audit($1, $2, $3, $4, $5);

-- name: get_entries(before, actor, action, object_kind, object_id, since, until, limit_rows)
-- The newest first, older than an id; of an actor, action, kind, object and time where those are not null.
SELECT id, chain, seq, actor, role, action, object_kind, object_id, host(source_ip) AS source_ip, request_id, detail, created_at,
       encode(link, 'hex') AS link
  FROM audit_logs
 WHERE ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR actor = $2) AND ($3::text IS NULL OR action = $3)
   AND ($4::text IS NULL OR object_kind = $4) AND ($5::text IS NULL OR object_id = $5)
   AND ($6::timestamptz IS NULL OR created_at >= $6) AND ($7::timestamptz IS NULL OR created_at < $7)
 ORDER BY id DESC LIMIT $8;

-- name: anchor_audit()
SELECT chain, seq, encode(link, 'hex') AS link, created_at FROM anchor_audit();

-- name: get_anchors()
SELECT chain, seq, encode(link, 'hex') AS link, created_at FROM audit_anchors ORDER BY created_at, chain;

-- name: get_anchor_age_s()
-- Seconds since the heads were kept last; NULL: never.
SELECT extract(epoch FROM now() - max(created_at))::double precision FROM audit_anchors;

-- name: get_link(chain, seq)
SELECT encode(link, 'hex') FROM audit_logs WHERE chain = $1 AND seq = $2;

-- name: broken_audit()
SELECT chain, seq, id, what FROM broken_audit() ORDER BY chain, seq LIMIT 1000;

-- name: count_entries()
SELECT count(*) AS entries, count(DISTINCT chain) AS chains FROM audit_logs;
