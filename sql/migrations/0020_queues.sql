-- migrate:up
-- Queues that recover: events set aside and tried again, dead letters, breakers, delayed events, what the broker lost, archives, and
-- the invariants checked as the ledger grows.
SET LOCAL ROLE core_owner;

-- How a topic's parked events are tried again: pause n is min(cap_s, base_s * 2^n), plus up to a quarter of it at random; dead after
-- max_attempts. blocks: a dead event keeps its followers of the same key waiting until a person decides (refunds).
CREATE TABLE retry_policies (
  topic text COLLATE "C" PRIMARY KEY,
  base_s double precision NOT NULL DEFAULT 0.5 CHECK (base_s > 0),
  cap_s double precision NOT NULL DEFAULT 600 CHECK (cap_s >= base_s),
  max_attempts integer NOT NULL DEFAULT 12 CHECK (max_attempts > 0),
  blocks boolean NOT NULL DEFAULT false
);
INSERT INTO retry_policies (topic, blocks)
  SELECT t, t = 'refund.processing'
    FROM unnest(ARRAY['webhook.processing', 'payment.processing', 'wallet.credit', 'wallet.debit', 'refund.processing', 'fraud.detection',
                      'invoice.generate', 'notifications.billing', 'settlements.processing', 'analytics.billing']) t;

CREATE INDEX retries_next ON retries (next_at) WHERE state = 'due';
CREATE INDEX retries_dead_items ON retries (topic, partition, id) WHERE state = 'dead';
CREATE INDEX retries_unmirrored ON retries (id) WHERE state = 'dead' AND mirrored_at IS NULL;

-- Park events of a batch under their keys: p_parked = [[offset, key, payload, reason, error or null, delay_s], ...], in order. A payload is
-- {"event": {...}, "publisher": name or null, "accepted_at": time}. finish_batch counts them (core.parked is this transaction's alone).
CREATE FUNCTION park_events(p_topic text, p_partition integer, p_incarnation integer, p_parked jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, next_at, reason, error)
    SELECT p_topic, p_partition, p_incarnation, (e ->> 0)::bigint, e ->> 1, e -> 2, now() + make_interval(secs => (e ->> 5)::double precision),
           e ->> 3, e ->> 4
      FROM jsonb_array_elements(p_parked) WITH ORDINALITY AS x (e, ord) ORDER BY ord;
  PERFORM set_config('core.parked', jsonb_array_length(p_parked)::text, true);
END $$;

-- Parked events that a batch decides: p_retry = [[id, attempt], ...]. Errors: LG004 one of them was decided or tried meanwhile.
CREATE FUNCTION finish_retries(p_retry jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_n integer;
BEGIN
  UPDATE retries r SET state = 'done', attempt = r.attempt + 1, finished_at = now()
    FROM jsonb_array_elements(p_retry) x WHERE r.id = (x ->> 0)::bigint AND r.attempt = (x ->> 1)::integer AND r.state = 'due';
  GET DIAGNOSTICS v_n = ROW_COUNT;
  IF v_n <> jsonb_array_length(p_retry) THEN RAISE EXCEPTION 'retries % are taken', p_retry USING ERRCODE = 'LG004'; END IF;
END $$;

-- Commit past records without handling them: their events are parked (p_progress) or quarantined (p_bad).
CREATE FUNCTION park_batch(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_link bytea;
  v_bad integer;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_batch(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '',
                       v_bad + v_dropped, 0, 0, v_dropped, 0, 0, v_bad, 0);
END $$;

-- The keys of a partition that have an event waiting (or dead, where that blocks): what comes later for them must wait too.
CREATE FUNCTION waiting_keys(p_topic text, p_partition integer) RETURNS SETOF text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r.key FROM retries r WHERE r.topic = p_topic AND r.partition = p_partition AND r.state = 'due' AND r.payload ? 'event'
  UNION
  SELECT r.key FROM retries r JOIN retry_policies y ON y.topic = r.topic AND y.blocks
   WHERE r.topic = p_topic AND r.partition = p_partition AND r.state = 'dead' AND r.payload ? 'event'
$$;

-- Parked events of these partitions whose time has come: the lowest unfinished one of each key.
CREATE FUNCTION due_events(p_topic text, p_partitions integer[], p_limit integer)
RETURNS TABLE (id bigint, partition integer, attempt integer, source_offset bigint, payload jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT r.id, r.partition, r.attempt, r.source_offset, r.payload
    FROM retries r JOIN retry_policies y ON y.topic = r.topic
   WHERE r.topic = p_topic AND r.partition = ANY (p_partitions) AND r.state = 'due' AND r.next_at <= now() AND r.payload ? 'event'
     AND NOT EXISTS (SELECT FROM retries b WHERE b.topic = r.topic AND b.key = r.key AND b.id < r.id
                        AND (b.state = 'due' OR (y.blocks AND b.state = 'dead')))
   ORDER BY r.next_at, r.id LIMIT p_limit
$$;

-- A parked item that failed again: it waits longer, or is dead. Nothing happens under an epoch that is over, or to an item tried meanwhile.
CREATE FUNCTION fail_retry(p_group text, p_epoch bigint, p_id bigint, p_attempt integer, p_error text, OUT r_state text, OUT r_topic text, OUT r_key text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM FROM retries r JOIN consumer_offsets o ON o.topic = r.topic AND o.partition = r.partition AND o.consumer_group = p_group AND o.epoch = p_epoch
    WHERE r.id = p_id FOR SHARE OF o;
  IF NOT FOUND THEN RAISE EXCEPTION 'fenced: retry %', p_id USING ERRCODE = 'LG001'; END IF;
  UPDATE retries r
     SET attempt = r.attempt + 1, error = left(p_error, 2000),
         state = CASE WHEN r.attempt + 1 >= y.max_attempts THEN 'dead' ELSE 'due' END,
         finished_at = CASE WHEN r.attempt + 1 >= y.max_attempts THEN now() END,
         next_at = now() + make_interval(secs => least(y.cap_s, y.base_s * power(2, least(r.attempt, 30))) * (1 + random() / 4))
    FROM retry_policies y
   WHERE y.topic = r.topic AND r.id = p_id AND r.attempt = p_attempt AND r.state = 'due'
  RETURNING r.state, r.topic, r.key INTO r_state, r_topic, r_key;
END $$;

-- Dead letters: try them again, from the first attempt. Returns those that were dead.
CREATE FUNCTION replay_dead(p_ids bigint[], p_actor text, p_why text) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH again AS (
    UPDATE retries r SET state = 'due', attempt = 0, next_at = now(), finished_at = NULL, mirrored_at = NULL
     WHERE r.id = ANY (p_ids) AND r.state = 'dead' RETURNING r.id, r.topic, r.key, r.error
  ), told AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      SELECT p_actor, 'dead_letter.replay', 'dead_letter', a.id::text,
             jsonb_build_object('why', p_why, 'topic', a.topic, 'key', a.key, 'error', a.error) FROM again a)
  SELECT id FROM again
$$;

-- Dead letters that nobody will try again; the row stays. Money that came in is never purged: a dead purchase is replayed, or its payment
-- refunded. Returns those that were purged.
CREATE FUNCTION purge_dead(p_ids bigint[], p_actor text, p_why text) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH gone AS (
    UPDATE retries r SET state = 'purged', finished_at = now()
     WHERE r.id = ANY (p_ids) AND r.state = 'dead'
       AND NOT (r.topic = 'wallet.credit' AND coalesce(r.payload ->> 'kind', r.payload -> 'event' ->> 'kind', '') = 'purchase'
                AND NOT EXISTS (SELECT FROM wallet_transactions t WHERE t.idempotency_key = 'core:purchase/'
                                  || coalesce(r.payload -> 'extra' ->> 'payment_id', r.payload -> 'event' ->> 'payment_id')))
    RETURNING r.id, r.topic, r.key, r.error
  ), told AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      SELECT p_actor, 'dead_letter.purge', 'dead_letter', g.id::text,
             jsonb_build_object('why', p_why, 'topic', g.topic, 'key', g.key, 'error', g.error) FROM gone g)
  SELECT id FROM gone
$$;

CREATE FUNCTION mark_mirrored(p_ids bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE retries SET mirrored_at = now() WHERE id = ANY (p_ids) AND state = 'dead'
$$;

-- Breakers: a topic of which too much fails is stopped for pause_s, then tried with one batch by one worker, and closed if that succeeds.
CREATE TABLE breakers (
  topic text COLLATE "C" PRIMARY KEY,
  state text NOT NULL DEFAULT 'closed' CHECK (state IN ('closed', 'open', 'half_open')),
  records bigint NOT NULL DEFAULT 0,                    -- of the window in which it tripped
  failures bigint NOT NULL DEFAULT 0,
  error text,
  trips bigint NOT NULL DEFAULT 0,
  pause_s double precision NOT NULL DEFAULT 0,
  opened_at timestamptz,
  retry_at timestamptz,
  trial_by text,
  trial_until timestamptz,
  changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO breakers (topic) SELECT topic FROM retry_policies;

-- Stop a topic. A trial that failed doubles the pause, up to p_cap_s.
CREATE FUNCTION trip_breaker(p_topic text, p_records bigint, p_failures bigint, p_error text, p_pause_s double precision, p_cap_s double precision)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH t AS (SELECT b.topic, CASE WHEN b.state = 'half_open' THEN least(p_cap_s, 2 * b.pause_s) ELSE p_pause_s END AS pause FROM breakers b WHERE b.topic = p_topic)
  UPDATE breakers b SET state = 'open', records = p_records, failures = p_failures, error = left(p_error, 2000), trips = b.trips + 1, pause_s = t.pause,
         opened_at = CASE WHEN b.state = 'closed' THEN now() ELSE b.opened_at END, retry_at = now() + make_interval(secs => t.pause),
         trial_by = NULL, trial_until = NULL, changed_at = now()
    FROM t WHERE b.topic = t.topic AND b.state <> 'open'
$$;

-- Try a stopped topic whose pause is over; one holder at a time, for p_lease_s. Returns whether the caller may.
CREATE FUNCTION try_breaker(p_topic text, p_holder text, p_lease_s double precision) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH taken AS (
    UPDATE breakers SET state = 'half_open', trial_by = p_holder, trial_until = now() + make_interval(secs => p_lease_s), changed_at = now()
     WHERE topic = p_topic AND ((state = 'open' AND retry_at <= now()) OR (state = 'half_open' AND (trial_until < now() OR trial_by = p_holder)))
    RETURNING 1)
  SELECT EXISTS (SELECT FROM taken)
$$;

-- Go on. p_holder: whose trial succeeded; NULL: a person says so, who is told in the audit log.
CREATE FUNCTION close_breaker(p_topic text, p_holder text, p_actor text, p_why text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH closed AS (
    UPDATE breakers SET state = 'closed', pause_s = 0, retry_at = NULL, trial_by = NULL, trial_until = NULL, changed_at = now()
     WHERE topic = p_topic AND state <> 'closed' AND (p_holder IS NULL OR trial_by = p_holder) RETURNING topic, error
  ), told AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      SELECT p_actor, 'breaker.close', 'topic', c.topic, jsonb_build_object('why', p_why, 'error', c.error) FROM closed c WHERE p_holder IS NULL)
  SELECT EXISTS (SELECT FROM closed)
$$;

-- Delayed events: kept until their time, then emitted to their partition like any other. p_source names the cause; once per source.
CREATE TABLE delayed_events (
  source text COLLATE "C" PRIMARY KEY,
  topic text COLLATE "C" NOT NULL REFERENCES retry_policies,
  partition integer NOT NULL CHECK (partition >= 0),
  event text NOT NULL,                                  -- JSON
  run_at timestamptz NOT NULL,
  released_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX delayed_due ON delayed_events (run_at) WHERE released_at IS NULL;

CREATE FUNCTION delay_event(p_source text, p_topic text, p_partition integer, p_event text, p_run_at timestamptz) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH kept AS (
    INSERT INTO delayed_events (source, topic, partition, event, run_at) VALUES (p_source, p_topic, p_partition, p_event::json::text, p_run_at)
    ON CONFLICT (source) DO NOTHING RETURNING 1)
  SELECT EXISTS (SELECT FROM kept)
$$;
CREATE FUNCTION cancel_delayed(p_source text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH gone AS (DELETE FROM delayed_events WHERE source = p_source AND released_at IS NULL RETURNING 1)
  SELECT EXISTS (SELECT FROM gone)
$$;

-- Emit what is due, on the chain delay/<shard>. r_batch_no is NULL if nothing was.
CREATE FUNCTION release_delayed(p_batch_id uuid, p_shard integer, p_limit integer,
  OUT r_released integer, OUT r_batch_no bigint, OUT r_incarnation integer, OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_topic text[];
  v_partition integer[];
  v_event text[];
  v_chain record;
BEGIN
  WITH due AS (
    SELECT d.source FROM delayed_events d WHERE d.released_at IS NULL AND d.run_at <= now() ORDER BY d.run_at LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), taken AS (
    UPDATE delayed_events d SET released_at = now() FROM due WHERE d.source = due.source RETURNING d.*
  )
  SELECT array_agg(t.topic ORDER BY t.run_at, t.source), array_agg(t.partition ORDER BY t.run_at, t.source), array_agg(t.event ORDER BY t.run_at, t.source)
    INTO v_topic, v_partition, v_event FROM taken t;
  r_released := coalesce(cardinality(v_event), 0);
  IF r_released = 0 THEN RETURN; END IF;
  SELECT * INTO v_chain FROM begin_chain('delay', p_shard, 'core');
  r_batch_no := v_chain.batch_no; r_incarnation := v_chain.incarnation;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM emit('delay', p_shard, 'core', r_incarnation, r_batch_no, v_topic, v_partition, v_event) m;
  PERFORM finish_batch(p_batch_id, 'delay', p_shard, 'core', r_batch_no, 0, r_incarnation, 0, 0, v_chain.link, '', r_released, r_released, 0, 0, 0, 0, 0, 0);
END $$;

-- One holder of a background duty at a time. Returns whether the caller holds it now.
CREATE TABLE duties (duty text COLLATE "C" PRIMARY KEY, holder text NOT NULL, held_until timestamptz NOT NULL);
CREATE FUNCTION take_duty(p_duty text, p_holder text, p_lease_s double precision) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH taken AS (
    INSERT INTO duties AS d VALUES (p_duty, p_holder, now() + make_interval(secs => p_lease_s))
    ON CONFLICT (duty) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until WHERE d.holder = p_holder OR d.held_until < now()
    RETURNING 1)
  SELECT EXISTS (SELECT FROM taken)
$$;

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['retry_policies', 'breakers', 'delayed_events', 'duties'] LOOP
    EXECUTE format('GRANT SELECT ON %I TO core_readonly', t);
  END LOOP;
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
