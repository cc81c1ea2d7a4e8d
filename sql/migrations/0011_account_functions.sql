-- migrate:up
-- What the API writes besides payments, webhooks and the ledger: users, wallets, and the inbox of usage.
-- Who serves must be able to tell whether every migration was applied.
GRANT SELECT ON schema_migrations TO core_readonly;
SET LOCAL ROLE core_owner;

-- What a caller's key has made: the same key answers the same object, for ever. '<principal>:<key>'.
CREATE TABLE idempotency_keys (
  idempotency_key text COLLATE "C" PRIMARY KEY,
  request_hash bytea NOT NULL,
  object_kind text NOT NULL CHECK (object_kind IN ('user', 'wallet')),
  object_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON idempotency_keys TO core_readonly;

-- Items that nobody will try again by itself, by what order is kept by: the outcome of a usage event looks here.
CREATE INDEX retries_dead ON retries (key) WHERE state = 'dead';

-- Claim a key for a new object. Outcomes: created (the caller may go on); exists (o_id is what the key made); conflict.
CREATE FUNCTION claim_key(p_key text, p_hash bytea, p_kind text, p_id uuid, OUT o_outcome text, OUT o_id uuid) LANGUAGE plpgsql AS $$
DECLARE
  k idempotency_keys;
BEGIN
  INSERT INTO idempotency_keys (idempotency_key, request_hash, object_kind, object_id) VALUES (p_key, p_hash, p_kind, p_id) ON CONFLICT DO NOTHING;
  IF FOUND THEN o_outcome := 'created'; o_id := p_id; RETURN; END IF;
  SELECT * INTO STRICT k FROM idempotency_keys WHERE idempotency_key = p_key;
  IF k.request_hash = p_hash AND k.object_kind = p_kind THEN o_outcome := 'exists'; o_id := k.object_id; ELSE o_outcome := 'conflict'; END IF;
END $$;

-- Outcomes: created | exists | conflict, and taken: another key made a user of that external id (o_id).
CREATE FUNCTION create_user(p_key text, p_hash bytea, p_id uuid, p_external_id text, p_name text, p_email text, p_phone text,
  p_state_code text, p_gstin text, OUT o_outcome text, OUT o_id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  SELECT c.o_outcome, c.o_id INTO o_outcome, o_id FROM claim_key(p_key, p_hash, 'user', p_id) c;
  IF o_outcome <> 'created' THEN RETURN; END IF;
  INSERT INTO users (id, external_id, name, email, phone, state_code, gstin, request_hash)
    VALUES (p_id, p_external_id, p_name, p_email, p_phone, p_state_code, p_gstin, p_hash) ON CONFLICT (external_id) DO NOTHING;
  IF NOT FOUND THEN
    DELETE FROM idempotency_keys WHERE idempotency_key = p_key;
    o_outcome := 'taken';
    SELECT u.id INTO STRICT o_id FROM users u WHERE u.external_id = p_external_id;
  END IF;
END $$;

-- Outcomes: created | exists | conflict, and unknown_owner.
CREATE FUNCTION create_wallet(p_key text, p_hash bytea, p_id uuid, p_owner uuid, p_community uuid, OUT o_outcome text, OUT o_id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM FROM users WHERE id = p_owner;
  IF NOT FOUND THEN o_outcome := 'unknown_owner'; RETURN; END IF;
  SELECT c.o_outcome, c.o_id INTO o_outcome, o_id FROM claim_key(p_key, p_hash, 'wallet', p_id) c;
  IF o_outcome = 'created' THEN
    INSERT INTO wallets (id, owner_id, community_id, request_hash) VALUES (p_id, p_owner, p_community, p_hash);
  END IF;
END $$;

-- The inbox of usage: one caller's events as one set; u_occurred is clamped already. Per event, in the order given:
-- accepted | replayed (the id stands for this very event) | conflict (it stands for another) | unknown_wallet.
-- An event that comes twice in one set is judged against its first.
CREATE FUNCTION insert_usage(p_principal text, u_id uuid[], u_event_id text[], u_wallet uuid[], u_feature text[], u_quantity bigint[],
  u_credits bigint[], u_community uuid[], u_metadata jsonb[], u_hash bytea[], u_occurred timestamptz[],
  p_traceparent text)
RETURNS text[] LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_new uuid[];
  v_outcome text[];
BEGIN
  -- In key order: two sets that share keys wait for each other instead of deadlocking.
  WITH stored AS (
    INSERT INTO usage_metering (idempotency_key, id, principal, event_id, wallet_id, feature, quantity, credits, community_id, metadata,
                                request_hash, occurred_at, traceparent)
      SELECT p_principal || ':' || u.event_id, u.id, p_principal, u.event_id, u.wallet, u.feature, u.quantity, u.credits, u.community, u.metadata,
             u.hash, u.occurred, p_traceparent
        FROM unnest(u_id, u_event_id, u_wallet, u_feature, u_quantity, u_credits, u_community, u_metadata, u_hash, u_occurred)
               WITH ORDINALITY AS u (id, event_id, wallet, feature, quantity, credits, community, metadata, hash, occurred, ord)
        JOIN wallets w ON w.id = u.wallet
       ORDER BY (p_principal || ':' || u.event_id) COLLATE "C", u.ord
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING id)
  SELECT array_agg(s.id) INTO v_new FROM stored s;

  -- A new snapshot sees what a concurrent set has stored meanwhile.
  SELECT array_agg(CASE WHEN u.id = ANY (v_new) THEN 'accepted'
                        WHEN m.id IS NULL THEN 'unknown_wallet'
                        WHEN m.request_hash = u.hash THEN 'replayed'
                        ELSE 'conflict' END ORDER BY u.ord)
    INTO v_outcome
    FROM unnest(u_id, u_event_id, u_hash) WITH ORDINALITY AS u (id, event_id, hash, ord)
    LEFT JOIN usage_metering m ON m.idempotency_key = p_principal || ':' || u.event_id;
  RETURN v_outcome;
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
