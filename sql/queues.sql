-- Parked events, dead letters, breakers, delayed events.

-- name: park_batch(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad)
-- Commit past records whose events are parked or quarantined.
SELECT * FROM park_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: waiting_keys(topic, partition)
SELECT k AS key FROM waiting_keys($1, $2) k;

-- name: due_events(topic, partitions, limit_rows)
SELECT id, partition, attempt, source_offset, payload FROM due_events($1, $2, $3);

-- name: get_due_topics()
-- Topics with a parked event whose time has come.
SELECT DISTINCT topic FROM retries WHERE state = 'due' AND next_at <= now() AND payload ? 'event';

-- name: get_position(topic, partition, consumer_group)
SELECT epoch, incarnation, next_offset, last_offset, last_digest FROM consumer_offsets WHERE topic = $1 AND partition = $2 AND consumer_group = $3;

-- name: fail_retry(consumer_group, epoch, retry_id, attempt, error)
SELECT r_state, r_topic, r_key FROM fail_retry($1, $2, $3, $4, $5);

-- name: get_dead_letters(before, topic, state, limit_rows)
-- The newest first, older than an id; of any topic and state (dead, purged) where that is null.
SELECT id, topic, partition, incarnation, source_offset, key, payload, state, attempt, reason, error, created_at, finished_at FROM retries
 WHERE state IN ('dead', 'purged') AND ($1::bigint IS NULL OR id < $1) AND ($2::text IS NULL OR topic = $2) AND ($3::text IS NULL OR state = $3)
 ORDER BY id DESC LIMIT $4;

-- name: get_dead_letter(retry_id)
-- One parked item, whatever became of it.
SELECT id, topic, partition, incarnation, source_offset, key, payload, state, attempt, reason, error, created_at, finished_at FROM retries WHERE id = $1;

-- name: get_dead_letter_story(retry_id)
-- What people did to it, the newest first.
SELECT actor, action, detail ->> 'why' AS why, created_at FROM audit_logs
 WHERE object_kind = 'dead_letter' AND object_id = $1::bigint::text ORDER BY id DESC LIMIT 100;

-- name: get_dead_ids(topic, limit_rows)
-- The oldest dead items of a topic.
SELECT id FROM retries WHERE state = 'dead' AND topic = $1 ORDER BY id LIMIT $2;

-- name: replay_dead(ids, actor, why)
SELECT id FROM replay_dead($1, $2, $3) id;

-- name: purge_dead(ids, actor, why)
SELECT id FROM purge_dead($1, $2, $3) id;

-- name: get_unmirrored(limit_rows)
-- Dead items without a copy on their topic's stream of dead letters.
SELECT id, topic, partition, incarnation, source_offset, key, payload, state, attempt, reason, error, created_at, finished_at FROM retries
 WHERE state = 'dead' AND mirrored_at IS NULL ORDER BY id LIMIT $1;

-- name: mark_mirrored(ids)
SELECT mark_mirrored($1);

-- name: count_queues()
-- Parked items per topic: those that wait, whose time has come, dead ones; how long the oldest waits.
SELECT topic, count(*) FILTER (WHERE state = 'due') AS waiting, count(*) FILTER (WHERE state = 'due' AND next_at <= now()) AS due,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE state = 'due')), 0)::double precision AS oldest_s
  FROM retries WHERE state IN ('due', 'dead') GROUP BY topic ORDER BY topic;

-- name: get_breakers()
SELECT topic, state, records, failures, error, trips, pause_s, opened_at, retry_at, coalesce(retry_at <= now() OR trial_until < now(), false) AS may_try
  FROM breakers ORDER BY topic;

-- name: trip_breaker(topic, records, failures, error, pause_s, cap_s)
SELECT trip_breaker($1, $2, $3, $4, $5, $6);

-- name: try_breaker(topic, holder, lease_s)
SELECT try_breaker($1, $2, $3);

-- name: close_breaker(topic, holder, actor, why)
SELECT close_breaker($1, $2, $3, $4);

-- name: delay_event(source, topic, partition, event, run_at)
SELECT delay_event($1, $2, $3, $4, $5);

-- name: cancel_delayed(source)
SELECT cancel_delayed($1);

-- name: release_delayed(batch_id, shard, limit_rows)
SELECT * FROM release_delayed($1, $2, $3);

-- name: take_duty(duty, holder, lease_s)
SELECT take_duty($1, $2, $3);
