-- migrate:up
-- The audit log: who did what to which object, from where. Each kind of object has a chain, and each row's link hashes the link before it
-- and the row, so that a row that was changed, removed, put in or moved is found and named. Only what people and administrators do is in it;
-- money that machines move is in the ledger, which has chains of its own.
SET LOCAL ROLE core_owner;

-- The head of each chain. An audited transaction holds it until it commits, so only those of one kind wait for each other.
CREATE TABLE audit_chains (
  chain text COLLATE "C" PRIMARY KEY,
  seq bigint NOT NULL DEFAULT 0,
  link bytea NOT NULL DEFAULT '\x'
);
-- Heads as they once were, told to the outside on the day (the workers' log, ./dev audit anchor): what a chain had then it must have for ever.
CREATE TABLE audit_anchors (
  chain text COLLATE "C" NOT NULL,
  seq bigint NOT NULL,
  link bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (chain, seq)
);

-- What is hashed of a row, as text.
CREATE FUNCTION audit_line(a audit_logs) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT jsonb_build_array(a.id, a.chain, a.seq, a.actor, a.role, a.action, a.object_kind, a.object_id, host(a.source_ip), a.request_id, a.detail,
                           (extract(epoch FROM a.created_at) * 1000000)::bigint)::text
$$;
CREATE FUNCTION audit_link(p_previous bytea, a audit_logs) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT sha256(p_previous || convert_to(audit_line(a), 'UTF8'))
$$;

-- Whoever inserts says who, what and to which object; the rest is said by the transaction (core.caller) and by the chain.
CREATE FUNCTION chain_audit() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_caller jsonb := nullif(current_setting('core.caller', true), '')::jsonb;
  h audit_chains;
BEGIN
  new.role := coalesce(new.role, v_caller ->> 'role');
  new.source_ip := coalesce(new.source_ip, (v_caller ->> 'source')::inet);
  new.request_id := coalesce(new.request_id, v_caller ->> 'request_id');
  new.chain := new.object_kind;
  INSERT INTO audit_chains (chain) VALUES (new.chain) ON CONFLICT DO NOTHING;
  SELECT * INTO STRICT h FROM audit_chains c WHERE c.chain = new.chain FOR UPDATE;
  new.seq := h.seq + 1;
  new.created_at := clock_timestamp();
  new.link := audit_link(h.link, new);
  UPDATE audit_chains c SET seq = new.seq, link = new.link WHERE c.chain = new.chain;
  RETURN new;
END $$;
CREATE TRIGGER chain_audit BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION chain_audit();

CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON audit_anchors FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit_anchors FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION record_audit(p_actor text, p_action text, p_kind text, p_object text, p_detail jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail) VALUES (p_actor, p_action, p_kind, p_object, p_detail)
$$;

-- Keep the heads that have moved since they were kept last; returns those.
CREATE FUNCTION anchor_audit() RETURNS SETOF audit_anchors
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO audit_anchors (chain, seq, link)
    SELECT c.chain, c.seq, c.link FROM audit_chains c
     WHERE c.seq > 0 AND NOT EXISTS (SELECT FROM audit_anchors a WHERE a.chain = c.chain AND a.seq = c.seq) ORDER BY c.chain
  ON CONFLICT DO NOTHING RETURNING *
$$;

-- What is wrong with the log, row by row: 'changed' | 'missing before' | 'twice' | 'cut off after' | 'not what was anchored' | 'no head'.
CREATE FUNCTION broken_audit() RETURNS TABLE (chain text, seq bigint, id bigint, what text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH walked AS (
    SELECT a AS line, a.chain, a.seq, a.id, lag(a.seq, 1, 0::bigint) OVER run AS previous_seq, lag(a.link, 1, '\x'::bytea) OVER run AS previous_link,
           lead(a.id) OVER run IS NULL AS last
      FROM audit_logs a WINDOW run AS (PARTITION BY a.chain ORDER BY a.seq, a.id)
  ), judged AS (
    SELECT w.chain, w.seq, w.id, CASE WHEN w.seq = w.previous_seq THEN 'twice' WHEN w.seq <> w.previous_seq + 1 THEN 'missing before'
                                      WHEN (w.line).link <> audit_link(w.previous_link, w.line) THEN 'changed'
                                      WHEN w.last AND h.chain IS NULL THEN 'no head'
                                      WHEN w.last AND (h.seq, h.link) <> (w.seq, (w.line).link) THEN 'cut off after' END AS what
      FROM walked w LEFT JOIN audit_chains h ON h.chain = w.chain)
  SELECT j.chain, j.seq, j.id, j.what FROM judged j WHERE j.what IS NOT NULL
  UNION ALL
  SELECT h.chain, 0, NULL, 'cut off after' FROM audit_chains h WHERE h.seq > 0 AND NOT EXISTS (SELECT FROM audit_logs a WHERE a.chain = h.chain)
  UNION ALL
  SELECT x.chain, x.seq, a.id, 'not what was anchored' FROM audit_anchors x LEFT JOIN audit_logs a ON a.chain = x.chain AND a.seq = x.seq
   WHERE a.link IS DISTINCT FROM x.link
$$;

CREATE INDEX audit_logs_object ON audit_logs (object_kind, object_id, id);
CREATE INDEX audit_logs_actor ON audit_logs (actor, id);

GRANT SELECT ON audit_chains, audit_anchors TO core_readonly;
GRANT EXECUTE ON FUNCTION audit_line, audit_link, broken_audit TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
