-- migrate:up
-- Who may call: API keys of services, tokens that are no longer good, and what a second person must approve.
SET LOCAL ROLE core_owner;

-- Keys of one name are one caller: while a service moves to its new key, the old one goes on until it expires.
CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  name text COLLATE "C" NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
  prefix text COLLATE "C" NOT NULL UNIQUE,              -- the key's public part, by which it is found
  secret_hash bytea NOT NULL CHECK (length(secret_hash) = 32),   -- SHA-256 of the whole key: 256 random bits need no slow hash
  scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL DEFAULT 'infinity',
  last_used_at timestamptz,
  revoked_at timestamptz
);
CREATE INDEX api_keys_name ON api_keys (name);

CREATE TABLE revoked_tokens (
  jti text COLLATE "C" PRIMARY KEY,
  until timestamptz NOT NULL,                           -- when the token ends by itself
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE revoked_subjects (
  subject text COLLATE "C" PRIMARY KEY,
  issued_before timestamptz NOT NULL,                   -- tokens issued at this second or earlier are no longer good
  created_at timestamptz NOT NULL DEFAULT now()
);

-- A request that waits for a second person. It is kept whole, so that the approval does what was asked and nothing else.
CREATE TABLE approvals (
  id uuid PRIMARY KEY,
  idempotency_key text COLLATE "C" NOT NULL UNIQUE,     -- '<principal>:<key>' of the request
  request_hash bytea NOT NULL,
  action text COLLATE "C" NOT NULL,                     -- 'POST /v1/…' as the table of routes writes it
  path jsonb NOT NULL,
  body jsonb NOT NULL,
  summary text NOT NULL,
  requested_by text COLLATE "C" NOT NULL,
  requested_role text NOT NULL,
  state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'approved', 'rejected')),
  decided_by text COLLATE "C",
  why text,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  decided_at timestamptz,
  executed_at timestamptz,
  CONSTRAINT approval_by_another CHECK (decided_by <> requested_by),
  CONSTRAINT approval_decided CHECK ((state = 'pending') = (decided_by IS NULL))
);
CREATE INDEX approvals_pending ON approvals (created_at) WHERE state = 'pending';

CREATE FUNCTION create_api_key(p_id uuid, p_name text, p_prefix text, p_hash bytea, p_scopes text[], p_expires timestamptz, p_actor text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH made AS (
    INSERT INTO api_keys (id, name, prefix, secret_hash, scopes, created_by, expires_at)
      VALUES (p_id, p_name, p_prefix, p_hash, p_scopes, p_actor, coalesce(p_expires, 'infinity')))
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'api_key.create', 'api_key', p_id::text, jsonb_build_object('name', p_name, 'scopes', p_scopes))
$$;

-- A new key of the same name and scopes; the old one ends after p_overlap_s, or earlier if it would have. NULL: there is no such live key.
CREATE FUNCTION rotate_api_key(p_old uuid, p_id uuid, p_prefix text, p_hash bytea, p_overlap_s double precision, p_actor text) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  k api_keys;
BEGIN
  SELECT * INTO k FROM api_keys WHERE id = p_old FOR UPDATE;
  IF NOT FOUND OR k.revoked_at IS NOT NULL OR k.expires_at <= now() THEN RETURN NULL; END IF;
  INSERT INTO api_keys (id, name, prefix, secret_hash, scopes, created_by, expires_at)
    VALUES (p_id, k.name, p_prefix, p_hash, k.scopes, p_actor, k.expires_at);
  UPDATE api_keys SET expires_at = least(expires_at, now() + make_interval(secs => p_overlap_s)) WHERE id = p_old;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'api_key.rotate', 'api_key', p_id::text, jsonb_build_object('name', k.name, 'replaces', p_old, 'overlap_s', p_overlap_s));
  RETURN p_id;
END $$;

-- Whether there is such a key; once more changes nothing.
CREATE FUNCTION revoke_api_key(p_id uuid, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE api_keys SET revoked_at = now() WHERE id = p_id AND revoked_at IS NULL;
  IF FOUND THEN INSERT INTO audit_logs (actor, action, object_kind, object_id) VALUES (p_actor, 'api_key.revoke', 'api_key', p_id::text); END IF;
  RETURN EXISTS (SELECT FROM api_keys WHERE id = p_id);
END $$;

CREATE FUNCTION touch_api_key(p_id uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE api_keys SET last_used_at = now() WHERE id = p_id AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')
$$;

CREATE FUNCTION revoke_token(p_jti text, p_until timestamptz, p_actor text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH revoked AS (
    INSERT INTO revoked_tokens (jti, until) VALUES (p_jti, p_until) ON CONFLICT (jti) DO UPDATE SET until = greatest(revoked_tokens.until, excluded.until)),
  gone AS (DELETE FROM revoked_tokens WHERE until < now() - interval '1 day' AND jti <> p_jti)
  INSERT INTO audit_logs (actor, action, object_kind, object_id) VALUES (p_actor, 'token.revoke', 'token', p_jti)
$$;

CREATE FUNCTION revoke_subject(p_subject text, p_before timestamptz, p_actor text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH revoked AS (
    INSERT INTO revoked_subjects (subject, issued_before) VALUES (p_subject, p_before)
      ON CONFLICT (subject) DO UPDATE SET issued_before = greatest(revoked_subjects.issued_before, excluded.issued_before))
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'subject.revoke', 'subject', p_subject, jsonb_build_object('issued_before', p_before))
$$;

-- Ask for a second person's word, once per key. Outcomes: created | exists | conflict; o_id is the approval.
CREATE FUNCTION request_approval(p_id uuid, p_key text, p_hash bytea, p_action text, p_path jsonb, p_body jsonb, p_summary text, p_by text, p_role text,
  p_expires_s double precision, OUT o_outcome text, OUT o_id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  a approvals;
BEGIN
  INSERT INTO approvals (id, idempotency_key, request_hash, action, path, body, summary, requested_by, requested_role, expires_at)
    VALUES (p_id, p_key, p_hash, p_action, p_path, p_body, p_summary, p_by, p_role, now() + make_interval(secs => p_expires_s)) ON CONFLICT DO NOTHING;
  IF FOUND THEN
    o_outcome := 'created'; o_id := p_id;
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      VALUES (p_by, 'approval.request', 'approval', p_id::text, jsonb_build_object('action', p_action, 'summary', p_summary, 'path', p_path, 'body', p_body));
    RETURN;
  END IF;
  SELECT * INTO STRICT a FROM approvals WHERE idempotency_key = p_key;
  o_outcome := CASE WHEN a.request_hash = p_hash THEN 'exists' ELSE 'conflict' END;
  o_id := a.id;
END $$;

-- Outcomes: decided (also when the same was decided before) | same_person | over (decided otherwise) | expired | unknown.
CREATE FUNCTION decide_approval(p_id uuid, p_state text, p_by text, p_why text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  a approvals;
BEGIN
  SELECT * INTO a FROM approvals WHERE id = p_id FOR UPDATE;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF a.requested_by = p_by THEN RETURN 'same_person'; END IF;
  IF a.executed_at IS NULL AND a.state <> 'rejected' AND a.expires_at <= now() THEN RETURN 'expired'; END IF;
  IF a.state <> 'pending' THEN RETURN CASE WHEN a.state = p_state THEN 'decided' ELSE 'over' END; END IF;
  UPDATE approvals SET state = p_state, decided_by = p_by, decided_at = now(), why = p_why WHERE id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_by, 'approval.' || CASE p_state WHEN 'approved' THEN 'approve' ELSE 'reject' END, 'approval', p_id::text,
            jsonb_build_object('action', a.action, 'summary', a.summary, 'requested_by', a.requested_by, 'why', p_why));
  RETURN 'decided';
END $$;

CREATE FUNCTION approval_executed(p_id uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE approvals SET executed_at = now() WHERE id = p_id AND state = 'approved' AND executed_at IS NULL
$$;

GRANT SELECT ON revoked_tokens, revoked_subjects, approvals TO core_readonly;   -- not the keys' hashes

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
