-- What the database says of itself, for every bench. As superuser.

-- name: functions()
-- Milliseconds spent in each function, waiting included.
SELECT funcname, calls, round(self_time::numeric, 1)::float8 AS self_ms FROM pg_stat_user_functions ORDER BY self_time DESC LIMIT 40;

-- name: batches_since(at)
-- Batches and records by topic.
SELECT topic, count(*) AS batches, sum(n_records) AS records FROM batches WHERE created_at >= $1::timestamptz GROUP BY topic ORDER BY topic;
