-- migrate:up
-- Outgoing webhooks: an account's events numbered without a gap, one delivery per endpoint and event, tried until it is taken.
SET LOCAL ROLE core_owner;

-- What an endpoint is due is kept with it, so that one that hangs costs the others nothing: an endpoint is leased as a whole, for a turn.
CREATE TABLE outgoing_endpoints (
  id uuid PRIMARY KEY,
  owner_id uuid NOT NULL,                               -- of users
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,     -- '<principal>:<key>' of the request that made it
  request_hash bytea NOT NULL,
  url text NOT NULL CHECK (length(url) <= 500),
  description text NOT NULL DEFAULT '',
  kinds text[],                                         -- NULL: every kind, also those to come
  state text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled', 'deleted')),
  why text CHECK (why IN ('owner', 'failing', 'gone')), -- of a disabled one
  last_sequence bigint NOT NULL DEFAULT 0,              -- of the newest event that it was to get
  due_at timestamptz NOT NULL DEFAULT 'infinity',       -- when the first of its deliveries may be tried
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  turn bigint NOT NULL DEFAULT 0,                       -- the lease's token
  failures integer NOT NULL DEFAULT 0,                  -- one after the other, ended by any success
  failing_since timestamptz,
  blocked_until timestamptz NOT NULL DEFAULT '-infinity',   -- its breaker
  slow boolean NOT NULL DEFAULT false,
  delivered_at timestamptz,                             -- the last success
  error text,                                           -- the last failure, as a code
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  state_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT outgoing_why CHECK ((state = 'disabled') = (why IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX outgoing_endpoints_of_owner ON outgoing_endpoints (owner_id, id) WHERE state <> 'deleted';
CREATE INDEX outgoing_endpoints_due ON outgoing_endpoints (due_at) WHERE state = 'enabled';

-- What signs. Nobody who logs in may read it; lease_endpoints gives it to whoever sends.
CREATE TABLE outgoing_secrets (
  endpoint_id uuid NOT NULL,
  secret bytea NOT NULL CHECK (length(secret) BETWEEN 24 AND 64),
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT 'infinity',
  PRIMARY KEY (endpoint_id, secret)
);

-- An account is numbered from the first endpoint on that it ever had.
CREATE TABLE outgoing_accounts (
  owner_id uuid PRIMARY KEY,
  last_sequence bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
CREATE TABLE outgoing_events (
  owner_id uuid NOT NULL,
  sequence bigint NOT NULL CHECK (sequence > 0),
  event_id uuid NOT NULL UNIQUE,                        -- of billing_events
  PRIMARY KEY (owner_id, sequence)
);
-- Events that wait for their number, kept by the transaction that made the event.
CREATE TABLE outgoing_queue (
  event_id uuid PRIMARY KEY,
  owner_id uuid NOT NULL,
  kind text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- pending: to be tried at next_at; delivered: the receiver said 2xx; failed: given up, with the reason. Any of them can be replayed.
CREATE TABLE outgoing_deliveries (
  id uuid PRIMARY KEY DEFAULT uuidv7(),
  endpoint_id uuid NOT NULL,
  event_id uuid NOT NULL,
  sequence bigint NOT NULL,                             -- the account's
  previous_sequence bigint NOT NULL,                    -- of the event before it that this endpoint was to get; 0: none
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'failed')),
  attempts integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT now(),
  status integer,                                       -- of the last answer, if there was one
  error text,                                           -- of the last failure: a code, never the receiver's words
  took_ms integer,
  delivered_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT outgoing_once UNIQUE (endpoint_id, sequence)
) WITH (fillfactor = 70);
CREATE INDEX outgoing_deliveries_due ON outgoing_deliveries (endpoint_id, next_at) WHERE state = 'pending';

CREATE FUNCTION keep_outgoing() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO outgoing_queue (event_id, owner_id, kind)
    SELECT n.id, n.user_id, n.kind FROM new_rows n
     WHERE EXISTS (SELECT FROM outgoing_accounts a WHERE a.owner_id = n.user_id);
  RETURN NULL;
END $$;
CREATE TRIGGER keep_outgoing AFTER INSERT ON billing_events REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION keep_outgoing();

-- Number what waits, the oldest first, and make its deliveries; one at a time does it, so that numbers follow time. Returns how many events.
CREATE FUNCTION number_outgoing(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_event uuid[];
  v_owner uuid[];
  v_kind text[];
  v_sequence bigint[];
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('number_outgoing', 0)) THEN RETURN 0; END IF;
  WITH taken AS (
    DELETE FROM outgoing_queue q WHERE q.event_id IN (SELECT x.event_id FROM outgoing_queue x ORDER BY x.event_id LIMIT p_limit)
    RETURNING q.event_id, q.owner_id, q.kind
  ), moved AS (
    UPDATE outgoing_accounts a SET last_sequence = a.last_sequence + t.n
      FROM (SELECT owner_id, count(*) AS n FROM taken GROUP BY owner_id) t WHERE a.owner_id = t.owner_id
    RETURNING a.owner_id, a.last_sequence - t.n AS before
  ), numbered AS (
    INSERT INTO outgoing_events (owner_id, sequence, event_id)
      SELECT t.owner_id, m.before + row_number() OVER (PARTITION BY t.owner_id ORDER BY t.event_id), t.event_id
        FROM taken t JOIN moved m ON m.owner_id = t.owner_id
    RETURNING event_id, sequence)
  SELECT array_agg(t.event_id), array_agg(t.owner_id), array_agg(t.kind), array_agg(n.sequence)
    INTO v_event, v_owner, v_kind, v_sequence FROM taken t JOIN numbered n ON n.event_id = t.event_id;
  IF v_event IS NULL THEN RETURN 0; END IF;
  WITH made AS (
    INSERT INTO outgoing_deliveries (endpoint_id, event_id, sequence, previous_sequence)
      SELECT e.id, v.event, v.sequence, coalesce(lag(v.sequence) OVER (PARTITION BY e.id ORDER BY v.sequence), e.last_sequence)
        FROM unnest(v_event, v_owner, v_kind, v_sequence) AS v (event, owner, kind, sequence)
        JOIN outgoing_endpoints e ON e.owner_id = v.owner AND e.state <> 'deleted' AND (e.kinds IS NULL OR v.kind = ANY (e.kinds))
       ORDER BY e.id, v.sequence
    RETURNING endpoint_id, sequence)
  UPDATE outgoing_endpoints e SET last_sequence = m.last, due_at = least(e.due_at, greatest(now(), e.blocked_until))
    FROM (SELECT endpoint_id, max(sequence) AS last FROM made GROUP BY endpoint_id) m WHERE e.id = m.endpoint_id;
  RETURN cardinality(v_event);
END $$;

-- Take endpoints for a turn each, with what they are due; nobody else takes them for p_lease_s. Those that fail or are slow have places of
-- their own (p_unfit), so that they cannot fill the others'; one that fails is tried with a single delivery.
CREATE FUNCTION lease_endpoints(p_fit integer, p_unfit integer, p_batch integer, p_lease_s double precision)
RETURNS TABLE (endpoint_id uuid, turn bigint, fit boolean, url text, secrets bytea[], delivery_id uuid, attempt integer, sequence bigint, previous_sequence bigint,
               event_id uuid, kind text, user_id uuid, wallet_id uuid, payment_id uuid, credits bigint, amount bigint, detail text, source text,
               source_id text, occurred_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_id uuid[];
BEGIN
  WITH fit AS (
    SELECT e.id FROM outgoing_endpoints e
     WHERE e.state = 'enabled' AND e.due_at <= now() AND e.leased_until <= now() AND e.failures = 0 AND NOT e.slow
     ORDER BY e.due_at LIMIT p_fit FOR NO KEY UPDATE SKIP LOCKED
  ), unfit AS (
    SELECT e.id FROM outgoing_endpoints e
     WHERE e.state = 'enabled' AND e.due_at <= now() AND e.leased_until <= now() AND (e.failures > 0 OR e.slow)
     ORDER BY e.due_at LIMIT p_unfit FOR NO KEY UPDATE SKIP LOCKED)
  SELECT array_agg(x.id) INTO v_id FROM (SELECT id FROM fit UNION ALL SELECT id FROM unfit) x;
  IF v_id IS NULL THEN RETURN; END IF;
  RETURN QUERY
    WITH leased AS (
      UPDATE outgoing_endpoints e SET turn = e.turn + 1, leased_until = now() + make_interval(secs => p_lease_s)
       WHERE e.id = ANY (v_id) RETURNING e.id, e.turn, e.url, e.failures, e.slow)
    SELECT l.id, l.turn, l.failures = 0 AND NOT l.slow, l.url,
           (SELECT array_agg(s.secret ORDER BY s.created_at DESC) FROM outgoing_secrets s WHERE s.endpoint_id = l.id AND s.expires_at > now()),
           d.id, d.attempts + 1, d.sequence, d.previous_sequence, b.id, b.kind, b.user_id, b.wallet_id, b.payment_id, b.credits, b.amount,
           b.detail::text, b.source, b.source_id, b.occurred_at
      FROM leased l
      LEFT JOIN LATERAL (
        SELECT x.* FROM outgoing_deliveries x WHERE x.endpoint_id = l.id AND x.state = 'pending' AND x.next_at <= now()
         ORDER BY x.next_at, x.sequence LIMIT CASE WHEN l.failures > 0 THEN 1 ELSE p_batch END) d ON true
      LEFT JOIN LATERAL (SELECT x.* FROM billing_events x WHERE x.id = d.event_id LIMIT 1) b ON true
     ORDER BY l.id, d.sequence;
END $$;

-- What came of a turn: per delivery delivered | failed | gone (410: the receiver wants no more). A turn that is over decides nothing but what
-- was delivered. p_schedule_s: the pause after each attempt; after the last, it is given up. The breaker: from p_trip failures on, one after
-- the other, nothing is sent for p_pause_s, doubled each time up to p_cap_s. Failing for p_disable_s ends the endpoint until its owner enables
-- it; r_disabled says so, and the owner is told.
CREATE FUNCTION record_turn(p_endpoint uuid, p_turn bigint, d_id uuid[], d_outcome text[], d_status integer[], d_error text[], d_took_ms integer[],
  p_schedule_s double precision[], p_trip integer, p_pause_s double precision, p_cap_s double precision, p_slow_ms integer, p_disable_s double precision,
  OUT r_state text, OUT r_failures integer, OUT r_disabled boolean, OUT r_given_up integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  e outgoing_endpoints;
  v_good boolean := 'delivered' = ANY (d_outcome);
  v_bad integer := (SELECT count(*) FROM unnest(d_outcome) o WHERE o <> 'delivered');
BEGIN
  SELECT * INTO STRICT e FROM outgoing_endpoints WHERE id = p_endpoint FOR NO KEY UPDATE;
  UPDATE outgoing_deliveries d SET state = 'delivered', attempts = d.attempts + 1, delivered_at = now(), status = x.status, error = NULL, took_ms = x.took_ms
    FROM unnest(d_id, d_outcome, d_status, d_took_ms) AS x (id, outcome, status, took_ms)
   WHERE d.id = x.id AND x.outcome = 'delivered' AND d.state <> 'delivered';
  r_given_up := 0;
  r_disabled := false;
  IF e.turn = p_turn THEN
    WITH tried AS (
      UPDATE outgoing_deliveries d
         SET attempts = d.attempts + 1, status = x.status, error = x.error, took_ms = x.took_ms,
             state = CASE WHEN d.attempts >= cardinality(p_schedule_s) THEN 'failed' ELSE 'pending' END,
             next_at = now() + make_interval(secs => coalesce(p_schedule_s[d.attempts + 1], 0) * (0.9 + random() * 0.2))
        FROM unnest(d_id, d_outcome, d_status, d_error, d_took_ms) AS x (id, outcome, status, error, took_ms)
       WHERE d.id = x.id AND x.outcome <> 'delivered' AND d.state = 'pending' RETURNING d.state)
    SELECT count(*) INTO r_given_up FROM tried t WHERE t.state = 'failed';
    e.failures := CASE WHEN v_good THEN 0 ELSE e.failures + v_bad END;
    e.failing_since := CASE WHEN e.failures > 0 THEN coalesce(e.failing_since, now()) END;
    e.blocked_until := CASE WHEN e.failures >= p_trip
      THEN now() + make_interval(secs => least(p_cap_s, p_pause_s * power(2, least(e.failures - p_trip, 30))) * (0.9 + random() * 0.2)) ELSE '-infinity' END;
    IF e.state = 'enabled' AND ('gone' = ANY (d_outcome) OR e.failing_since <= now() - make_interval(secs => p_disable_s)) THEN
      r_disabled := true;
      e.state := 'disabled';
      e.state_at := now();
      e.why := CASE WHEN 'gone' = ANY (d_outcome) THEN 'gone' ELSE 'failing' END;
      PERFORM book_notices(ARRAY[e.owner_id], ARRAY['endpoint_disabled'], ARRAY[now()], ARRAY[NULL::uuid], ARRAY[NULL::uuid], ARRAY[NULL::bigint],
        ARRAY[NULL::bigint], ARRAY['webhook_endpoint'], ARRAY[e.id || '@' || e.turn]);
    END IF;
    UPDATE outgoing_endpoints x
       SET state = e.state, why = e.why, state_at = e.state_at, failures = e.failures, failing_since = e.failing_since, blocked_until = e.blocked_until,
           leased_until = now(), slow = coalesce((SELECT avg(t) > p_slow_ms FROM unnest(d_took_ms) t), x.slow),
           delivered_at = CASE WHEN v_good THEN now() ELSE x.delivered_at END,
           error = coalesce((SELECT y.error FROM unnest(d_error) AS y (error) WHERE y.error IS NOT NULL LIMIT 1), x.error),
           due_at = coalesce((SELECT greatest(min(d.next_at), e.blocked_until) FROM outgoing_deliveries d
                               WHERE d.endpoint_id = x.id AND d.state = 'pending'), 'infinity')
     WHERE x.id = e.id;
  END IF;
  r_state := e.state;
  r_failures := e.failures;
END $$;

-- Deliveries that are older than p_age_s and decided, or of an endpoint that is switched off, are forgotten; the events stay. Returns how many.
CREATE FUNCTION purge_outgoing(p_age_s double precision, p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH gone AS (
    DELETE FROM outgoing_deliveries d WHERE d.id IN (
      SELECT x.id FROM outgoing_deliveries x WHERE x.created_at < now() - make_interval(secs => p_age_s)
         AND (x.state <> 'pending' OR EXISTS (SELECT FROM outgoing_endpoints e WHERE e.id = x.endpoint_id AND e.state <> 'enabled'))
       ORDER BY x.id LIMIT p_limit) RETURNING 1)
  SELECT count(*)::integer FROM gone
$$;

INSERT INTO notice_kinds VALUES ('endpoint_disabled', true, true);

GRANT SELECT ON outgoing_endpoints, outgoing_accounts, outgoing_events, outgoing_queue, outgoing_deliveries TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
