-- migrate:up
-- What the relay in the workers calls: take what waits to be published, sweep what was published and not consumed.
-- Two relays never take the same row at once (SKIP LOCKED); a row published twice changes nothing.
SET LOCAL ROLE core_owner;

-- Usage accepted by the API and not yet on its stream; or published p_stale_s ago and still without an outcome.
CREATE FUNCTION take_usage(p_limit integer, p_stale_s double precision)
RETURNS TABLE (id uuid, principal text, event_id text, wallet_id uuid, feature text, quantity bigint, credits bigint, community_id uuid,
               metadata jsonb, occurred_at timestamptz, traceparent text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH fresh AS (
    SELECT f.id FROM usage_metering f WHERE f.published_at IS NULL ORDER BY f.id LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), stale AS (
    SELECT f.id FROM usage_metering f WHERE f.closed_at IS NULL AND f.published_at < now() - make_interval(secs => p_stale_s)
     ORDER BY f.published_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  )
  UPDATE usage_metering u SET published_at = now()
    FROM (SELECT id FROM fresh UNION ALL SELECT id FROM stale) d WHERE u.id = d.id
  RETURNING u.id, u.principal, u.event_id, u.wallet_id, u.feature, u.quantity, u.credits, u.community_id, u.metadata, u.occurred_at,
            u.traceparent
$$;

-- Close usage whose outcome the consuming group has committed. Returns how many.
CREATE FUNCTION close_usage(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH done AS (
    SELECT u.idempotency_key FROM usage_metering u
     WHERE u.closed_at IS NULL AND u.published_at < now() - interval '1 second'
       AND (EXISTS (SELECT FROM wallet_transactions t WHERE t.idempotency_key = u.idempotency_key)
         OR EXISTS (SELECT FROM refusals r WHERE r.idempotency_key = u.idempotency_key)
         OR EXISTS (SELECT FROM quarantine q WHERE q.idempotency_key = u.idempotency_key))
     ORDER BY u.published_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), closed AS (
    UPDATE usage_metering u SET closed_at = now() FROM done d WHERE u.idempotency_key = d.idempotency_key RETURNING 1)
  SELECT count(*)::integer FROM closed
$$;

-- Outbox rows to publish: those that no publisher has taken (-infinity), and those published p_stale_s ago that their consumer
-- has still not applied. Those it has applied are deleted; those of a topic nobody consumes yet wait for their consumer.
CREATE FUNCTION sweep_outbox(p_group text, p_limit integer, p_stale_s double precision)
RETURNS TABLE (dest_topic text, dest_partition integer, producer_topic text, producer_partition integer, producer_group text,
               batch_no bigint, prev_batch_no bigint, incarnation integer, events text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH old AS (
    SELECT o.ctid AS at, o.published_at = '-infinity' AS fresh,
           coalesce(m.last_batch_no, 0) >= o.batch_no AS applied,
           EXISTS (SELECT FROM consumer_offsets c WHERE c.topic = o.dest_topic AND c.partition = o.dest_partition
                      AND c.consumer_group = p_group AND c.epoch > 0) AS consumed
      FROM outbox o
      LEFT JOIN producer_watermarks m ON m.topic = o.dest_topic AND m.partition = o.dest_partition AND m.consumer_group = p_group
       AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group
     WHERE o.published_at < now() - make_interval(secs => p_stale_s)
     ORDER BY o.published_at, o.batch_no LIMIT p_limit FOR UPDATE OF o SKIP LOCKED
  ), done AS (
    DELETE FROM outbox o USING old x WHERE o.ctid = x.at AND x.applied
  ), again AS (
    UPDATE outbox o SET published_at = CASE WHEN x.fresh OR x.consumed THEN now() ELSE now() + interval '1 hour' END
      FROM old x WHERE o.ctid = x.at AND NOT x.applied
    RETURNING o.*, x.fresh OR x.consumed AS publish
  )
  SELECT a.dest_topic, a.dest_partition, a.producer_topic, a.producer_partition, a.producer_group, a.batch_no, a.prev_batch_no,
         a.incarnation, a.events
    FROM again a WHERE a.publish ORDER BY a.dest_topic, a.dest_partition, a.batch_no
$$;

-- The lowest unfinished item of each key, of partitions that we own, whose time has come.
CREATE FUNCTION due_retries(p_topic text, p_partitions integer[], p_limit integer)
RETURNS TABLE (id bigint, partition integer, attempt integer, decide boolean, source_offset bigint, payload jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r.id, r.partition, r.attempt, r.decide_by <= now(), r.source_offset, r.payload
    FROM retries r
   WHERE r.topic = p_topic AND r.partition = ANY (p_partitions) AND r.state = 'due' AND (r.next_at <= now() OR r.decide_by <= now())
     AND NOT EXISTS (SELECT FROM retries b WHERE b.topic = r.topic AND b.key = r.key AND b.state = 'due' AND b.id < r.id)
   ORDER BY r.next_at LIMIT p_limit
$$;

-- The relay publishes usage in the core's own name; its key is made here and never leaves the database and the workers.
INSERT INTO publishers (name, secret)
  VALUES ('core', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));

-- As due_retries, but of each ready key all unfinished items in order: for a topic that decides them together.
CREATE FUNCTION due_retry_runs(p_topic text, p_partitions integer[], p_limit integer)
RETURNS TABLE (id bigint, partition integer, attempt integer, decide boolean, source_offset bigint, payload jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH lowest AS (
    SELECT DISTINCT ON (r.key) r.key, r.next_at, r.decide_by FROM retries r
     WHERE r.topic = p_topic AND r.partition = ANY (p_partitions) AND r.state = 'due' ORDER BY r.key, r.id)
  SELECT r.id, r.partition, r.attempt, r.decide_by <= now(), r.source_offset, r.payload
    FROM lowest l JOIN retries r ON r.topic = p_topic AND r.key = l.key AND r.state = 'due'
   WHERE l.next_at <= now() OR l.decide_by <= now() ORDER BY r.id LIMIT p_limit
$$;

CREATE FUNCTION register_publisher(p_name text, p_secret bytea, p_features text[], p_communities uuid[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO publishers (name, secret, features, communities) VALUES (p_name, p_secret, p_features, p_communities)
  ON CONFLICT (name) DO UPDATE SET secret = excluded.secret, features = excluded.features, communities = excluded.communities,
                                   enabled = true, updated_at = now()
$$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
