-- What one worker at a time measures for Prometheus. Each query reads through an index that holds only what is open, or few rows.

-- name: take_duty(holder, lease_s)
-- Be the one who measures.
SELECT take_duty('monitor', $1, $2);

-- name: get_waits()
-- Work that waits, by kind, and how long the oldest of it has: since it is there, or, where it may wait for its time (next_at), since that came.
SELECT w.kind, w.n AS waiting, greatest(0, coalesce(extract(epoch FROM now() - w.since), 0))::double precision AS oldest_s
  FROM (
    SELECT 'usage_inbox' AS kind, count(*) AS n, min(created_at) AS since FROM usage_metering WHERE closed_at IS NULL
    UNION ALL SELECT 'webhook_inbox', count(*), min(created_at) FROM payment_webhooks WHERE closed_at IS NULL
    UNION ALL SELECT 'outbox_unpublished', count(*), min(created_at) FROM outbox WHERE published_at = '-infinity'
    UNION ALL SELECT 'verifications', count(*), min(next_at) FROM verifications WHERE state = 'due' AND next_at <= now()
    UNION ALL SELECT 'verification_orphans', count(*), min(finished_at) FROM verifications WHERE state = 'orphan'
    UNION ALL SELECT 'fraud_checks', count(*), min(requested_at) FROM fraud_checks WHERE open
    UNION ALL SELECT 'refunds', count(*), min(CASE status WHEN 'due' THEN created_at ELSE next_at END) FROM refunds
               WHERE next_at < 'infinity' AND (status = 'due' OR next_at <= now())   -- the gateway has a pending one, and is asked at next_at
    UNION ALL SELECT 'holds_overdue', count(*), min(expires_at) FROM holds WHERE state = 'held' AND expires_at < now()
    UNION ALL SELECT 'invoice_pdfs', count(*), min(render_after) FROM invoices WHERE rendered_at IS NULL AND render_after <= now()
    UNION ALL SELECT 'mails', count(*), min(next_at) FROM notifications
               WHERE channel = 'email' AND state IN ('queued', 'failed') AND next_at <= now()
    UNION ALL SELECT 'outgoing_events', count(*), min(created_at) FROM outgoing_queue
    UNION ALL SELECT 'outgoing_endpoints', count(*), min(due_at) FROM outgoing_endpoints
               WHERE state = 'enabled' AND due_at <= now() AND failures = 0
    UNION ALL SELECT 'endpoints_disabled', count(*), min(state_at) FROM outgoing_endpoints
               WHERE state = 'disabled' AND why <> 'owner' AND state_at > now() - interval '1 day'
  ) w;

-- name: get_retries()
-- Parked items per topic and state.
SELECT topic, 'due' AS state, count(*) AS items, extract(epoch FROM now() - min(created_at))::double precision AS oldest_s
  FROM retries WHERE state = 'due' GROUP BY topic
UNION ALL
SELECT topic, 'dead' AS state, count(*) AS items, extract(epoch FROM now() - min(created_at))::double precision AS oldest_s
  FROM retries WHERE state = 'dead' GROUP BY topic;

-- name: count_quarantined(after_id, older_s)
-- Records set aside as unreadable or forged, per topic, after one of them; those younger than so many seconds are left to the next look.
SELECT topic, count(*) AS records, max(id) AS last_id FROM quarantine
 WHERE id > $1 AND created_at < now() - make_interval(secs => $2) GROUP BY topic;

-- name: count_outcomes(from_id, until_id)
-- What became of the records of batches whose ids (UUIDv7) lie between two.
SELECT topic, count(*) AS batches, sum(posted)::bigint AS posted, sum(refused)::bigint AS refused, sum(existing)::bigint AS existing,
       sum(conflict)::bigint AS conflict, sum(parked)::bigint AS parked, sum(quarantined)::bigint AS quarantined
  FROM batches WHERE id >= $1::uuid AND id < $2::uuid GROUP BY topic;

-- name: get_totals(older_s)
-- Payments by status, refunds by policy, grants by source: everything ever until so many seconds ago, from the daily windows without the newest
-- minutes.
SELECT x.metric, x.dimension, sum(x.count)::bigint AS count, sum(x.amount_paise)::bigint AS amount_paise
  FROM (
    SELECT metric, dimension, count, amount_paise FROM billing_windows
     WHERE metric IN ('payments', 'refunds', 'credits_granted') AND resolution = '1d'
    UNION ALL
    SELECT metric, dimension, -count, -amount_paise FROM billing_windows
     WHERE metric IN ('payments', 'refunds', 'credits_granted') AND resolution = '1m' AND $1::double precision > 0
       AND window_start > now() - make_interval(secs => $1)
  ) x GROUP BY x.metric, x.dimension;

-- name: get_cases()
-- Open differences by kind, and the age of the oldest.
SELECT kind, count(*) AS cases, extract(epoch FROM now() - min(created_at))::double precision AS oldest_s
  FROM reconciliation_cases WHERE state = 'open' GROUP BY kind;

-- name: get_reconciliation_age()
-- Seconds since the books were last compared with the gateway's; NULL: never.
SELECT extract(epoch FROM now() - finished_at)::double precision AS age_s FROM recon_jobs WHERE job = 'reconcile';

-- name: count_incidents(older_s)
-- How often the broker's log was not what it should be, or was mended, until so many seconds ago.
SELECT kind, count(*) AS incidents FROM stream_incidents WHERE created_at <= now() - make_interval(secs => $1) GROUP BY kind;

-- name: get_last_check()
-- What the newest check of the new batches found, and the newest of everything; NULL age: there was none.
WITH newest AS (
  SELECT * FROM invariant_runs WHERE scope = 'new' ORDER BY id DESC LIMIT 1
), whole AS (
  SELECT * FROM invariant_runs WHERE scope = 'all' ORDER BY created_at DESC LIMIT 1
), both_runs AS (
  SELECT violated, behind, created_at FROM newest UNION ALL SELECT violated, 0, created_at FROM whole
)
SELECT coalesce((SELECT array_agg(v) FROM both_runs CROSS JOIN unnest(violated) v), '{}') AS violated,
       coalesce(max(behind), 0) AS behind, extract(epoch FROM now() - max(created_at))::double precision AS age_s
  FROM both_runs;

-- name: get_server()
-- Connections to the server in use and allowed, the longest open transaction of ours, and the database's size.
SELECT count(*) AS connections, current_setting('max_connections')::integer AS allowed,
       coalesce(extract(epoch FROM now() - min(xact_start)), 0)::double precision AS transaction_s, pg_database_size(current_database()) AS bytes
  FROM pg_stat_activity WHERE backend_type = 'client backend';
