-- migrate:up
-- What owners do with their webhook endpoints: make, change, rotate, switch, delete, replay. All of it is in the audit log.
SET LOCAL ROLE core_owner;

-- All of a URL that a log may have: a path can be a password.
CREATE FUNCTION url_host(p_url text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT substring(p_url FROM '^[A-Za-z]+://([^/?#]+)') $$;

-- An endpoint of an account, and its first secret. Outcomes: created | exists (the same request again; o_secret as long as it is its
-- newest) | conflict (the key stands for another request) | unknown_user | too_many.
CREATE FUNCTION create_endpoint(p_id uuid, p_key text, p_hash bytea, p_owner uuid, p_url text, p_description text, p_kinds text[], p_secret bytea,
  p_most integer, p_actor text, OUT o_outcome text, OUT o_id uuid, OUT o_secret bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  e outgoing_endpoints;
BEGIN
  IF NOT EXISTS (SELECT FROM users u WHERE u.id = p_owner) THEN o_outcome := 'unknown_user'; RETURN; END IF;
  INSERT INTO outgoing_accounts (owner_id) VALUES (p_owner) ON CONFLICT DO NOTHING;
  PERFORM FROM outgoing_accounts a WHERE a.owner_id = p_owner FOR UPDATE;
  SELECT * INTO e FROM outgoing_endpoints x WHERE x.idempotency_key = p_key;
  IF FOUND THEN
    o_outcome := CASE WHEN e.request_hash = p_hash THEN 'exists' ELSE 'conflict' END;
    o_id := e.id;
    IF o_outcome = 'exists' THEN
      SELECT s.secret INTO o_secret FROM outgoing_secrets s WHERE s.endpoint_id = e.id ORDER BY s.created_at DESC LIMIT 1;
    END IF;
    RETURN;
  END IF;
  IF (SELECT count(*) FROM outgoing_endpoints x WHERE x.owner_id = p_owner AND x.state <> 'deleted') >= p_most THEN o_outcome := 'too_many'; RETURN; END IF;
  INSERT INTO outgoing_endpoints (id, owner_id, idempotency_key, request_hash, url, description, kinds)
    VALUES (p_id, p_owner, p_key, p_hash, p_url, p_description, p_kinds);
  INSERT INTO outgoing_secrets (endpoint_id, secret) VALUES (p_id, p_secret);
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'endpoint.create', 'endpoint', p_id::text, jsonb_build_object('owner_id', p_owner, 'host', url_host(p_url), 'kinds', p_kinds));
  o_outcome := 'created';
  o_id := p_id;
  o_secret := p_secret;
END $$;

-- What is NULL stays as it is; p_every_kind takes the choice of kinds back. Whether there is such an endpoint.
CREATE FUNCTION update_endpoint(p_id uuid, p_url text, p_description text, p_kinds text[], p_every_kind boolean, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  e outgoing_endpoints;
BEGIN
  SELECT * INTO e FROM outgoing_endpoints WHERE id = p_id AND state <> 'deleted' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE outgoing_endpoints x
     SET url = coalesce(p_url, x.url), description = coalesce(p_description, x.description),
         kinds = CASE WHEN p_every_kind THEN NULL ELSE coalesce(p_kinds, x.kinds) END, updated_at = now() WHERE x.id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    SELECT p_actor, 'endpoint.update', 'endpoint', p_id::text,
           jsonb_build_object('before', jsonb_build_object('host', url_host(e.url), 'kinds', e.kinds),
                              'after', jsonb_build_object('host', url_host(x.url), 'kinds', x.kinds))
      FROM outgoing_endpoints x WHERE x.id = p_id;
  RETURN true;
END $$;

-- A new secret; those before it sign along for p_overlap_s, and at most two of them. Whether there is such an endpoint.
CREATE FUNCTION rotate_endpoint_secret(p_id uuid, p_secret bytea, p_overlap_s double precision, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM FROM outgoing_endpoints WHERE id = p_id AND state <> 'deleted' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN false; END IF;
  UPDATE outgoing_secrets SET expires_at = least(expires_at, now() + make_interval(secs => p_overlap_s)) WHERE endpoint_id = p_id;
  DELETE FROM outgoing_secrets s WHERE s.endpoint_id = p_id
     AND (s.expires_at <= now() OR s.secret NOT IN (SELECT x.secret FROM outgoing_secrets x WHERE x.endpoint_id = p_id ORDER BY x.created_at DESC LIMIT 2));
  INSERT INTO outgoing_secrets (endpoint_id, secret, created_at) VALUES (p_id, p_secret, clock_timestamp());
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'endpoint.rotate_secret', 'endpoint', p_id::text, jsonb_build_object('overlap_s', p_overlap_s));
  RETURN true;
END $$;

-- p_state: enabled (what waited is tried at once, and failures are forgotten) | disabled (it waits) | deleted (it is given up, and the secrets
-- go). Once more changes nothing. Whether there is such an endpoint.
CREATE FUNCTION switch_endpoint(p_id uuid, p_state text, p_actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  e outgoing_endpoints;
BEGIN
  SELECT * INTO e FROM outgoing_endpoints WHERE id = p_id FOR NO KEY UPDATE;
  IF NOT FOUND OR (e.state = 'deleted' AND p_state <> 'deleted') THEN RETURN false; END IF;
  IF e.state = p_state THEN RETURN true; END IF;
  IF p_state = 'enabled' THEN
    UPDATE outgoing_deliveries SET next_at = now() WHERE endpoint_id = p_id AND state = 'pending' AND next_at > now();
  ELSIF p_state = 'deleted' THEN
    UPDATE outgoing_deliveries SET state = 'failed', error = 'endpoint_deleted' WHERE endpoint_id = p_id AND state = 'pending';
    DELETE FROM outgoing_secrets WHERE endpoint_id = p_id;
  END IF;
  UPDATE outgoing_endpoints
     SET state = p_state, state_at = now(), updated_at = now(), why = CASE p_state WHEN 'disabled' THEN 'owner' END,
         failures = CASE p_state WHEN 'enabled' THEN 0 ELSE failures END, failing_since = CASE p_state WHEN 'enabled' THEN NULL ELSE failing_since END,
         blocked_until = CASE p_state WHEN 'enabled' THEN '-infinity' ELSE blocked_until END,
         due_at = CASE p_state WHEN 'enabled' THEN now() ELSE due_at END
   WHERE id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'endpoint.' || CASE p_state WHEN 'enabled' THEN 'enable' WHEN 'disabled' THEN 'disable' ELSE 'delete' END, 'endpoint', p_id::text,
            jsonb_build_object('before', e.state, 'why', e.why));
  RETURN true;
END $$;

-- Send again what an endpoint was to get with numbers from p_from to p_to, or only what was given up; from the first attempt, under the same
-- ids. At most p_limit, the lowest numbers first. Returns how many, and the highest number among them.
CREATE FUNCTION replay_deliveries(p_endpoint uuid, p_from bigint, p_to bigint, p_only_failed boolean, p_limit integer, p_actor text,
  OUT r_replayed integer, OUT r_last bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM FROM outgoing_endpoints WHERE id = p_endpoint AND state <> 'deleted' FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN; END IF;
  WITH again AS (
    UPDATE outgoing_deliveries d SET state = 'pending', attempts = 0, next_at = now(), error = NULL, status = NULL
     WHERE d.id IN (SELECT x.id FROM outgoing_deliveries x
                     WHERE x.endpoint_id = p_endpoint AND x.sequence BETWEEN p_from AND p_to
                       AND (x.state = 'failed' OR (x.state = 'delivered' AND NOT p_only_failed))
                     ORDER BY x.sequence LIMIT p_limit)
    RETURNING d.sequence)
  SELECT count(*), max(sequence) INTO r_replayed, r_last FROM again;
  IF r_replayed > 0 THEN
    UPDATE outgoing_endpoints SET due_at = least(due_at, greatest(now(), blocked_until)) WHERE id = p_endpoint;
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      VALUES (p_actor, 'endpoint.replay', 'endpoint', p_endpoint::text,
              jsonb_build_object('from', p_from, 'to', p_to, 'only_failed', p_only_failed, 'replayed', r_replayed));
  END IF;
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
