-- migrate:up
-- What the API's lists read by, and what the Idempotency-Keys of writes that keep no key of their own stand for.
SET LOCAL ROLE core_owner;

CREATE INDEX holds_of_wallet ON holds (wallet_id, id);
CREATE INDEX refunds_status ON refunds (status, id);
CREATE INDEX invoices_newest ON invoices (issued_at, id);
CREATE INDEX fraud_holds ON fraud_events (id) WHERE verdict = 'hold';

-- The number of a wallet's first transaction recorded at p_at or later, give or take a transaction that was under way then;
-- one more than its last where there is none. About twenty look-ups in a million.
CREATE FUNCTION wallet_seq_at(p_wallet uuid, p_at timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
DECLARE
  v_low bigint := 1;
  v_high bigint := coalesce((SELECT w.seq FROM wallets w WHERE w.id = p_wallet), 0) + 1;
  v_middle bigint;
BEGIN
  WHILE v_low < v_high LOOP
    v_middle := (v_low + v_high) / 2;
    IF (SELECT t.created_at FROM wallet_transactions t WHERE t.wallet_id = p_wallet AND t.seq = v_middle) < p_at THEN v_low := v_middle + 1;
    ELSE v_high := v_middle; END IF;
  END LOOP;
  RETURN v_low;
END $$;

-- A key of a write and its answer, once it has one: the same request again gets the same answer. A secret is left out of what is kept.
-- What decides about money is kept for ever, the rest for thirty days.
CREATE TABLE request_keys (
  key text COLLATE "C" PRIMARY KEY,                     -- '<principal>:<key>'
  request_hash bytea NOT NULL,
  leased_until timestamptz NOT NULL,                    -- until then its first request is being done
  status integer,
  body bytea,
  keep boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX request_keys_old ON request_keys (created_at) WHERE NOT keep;

-- Outcomes: begun: do it, then say how it ended | done: o_status and o_body are the answer | busy: another is doing it | conflict: the key
-- stands for another request.
CREATE FUNCTION begin_request(p_key text, p_hash bytea, p_keep boolean, p_lease_s double precision,
  OUT o_outcome text, OUT o_status integer, OUT o_body bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  k request_keys;
BEGIN
  INSERT INTO request_keys (key, request_hash, leased_until, keep)
    VALUES (p_key, p_hash, now() + make_interval(secs => p_lease_s), p_keep) ON CONFLICT DO NOTHING;
  IF FOUND THEN o_outcome := 'begun'; RETURN; END IF;
  SELECT * INTO k FROM request_keys WHERE key = p_key FOR UPDATE;
  IF NOT FOUND THEN o_outcome := 'busy'; RETURN; END IF;
  IF k.request_hash <> p_hash THEN o_outcome := 'conflict';
  ELSIF k.status IS NOT NULL THEN o_outcome := 'done'; o_status := k.status; o_body := k.body;
  ELSIF k.leased_until > now() THEN o_outcome := 'busy';
  ELSE
    UPDATE request_keys SET leased_until = now() + make_interval(secs => p_lease_s) WHERE key = p_key;
    o_outcome := 'begun';
  END IF;
END $$;

-- The answer of a request that was begun; and a few keys that are over go.
CREATE FUNCTION finish_request(p_key text, p_status integer, p_body bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE request_keys SET status = p_status, body = p_body WHERE key = p_key AND status IS NULL;
  DELETE FROM request_keys WHERE key IN (
    SELECT o.key FROM request_keys o WHERE NOT o.keep AND o.created_at < now() - interval '30 days' ORDER BY o.created_at LIMIT 4 FOR UPDATE SKIP LOCKED);
END $$;

-- Nothing became of it: the same key may be tried again at once.
CREATE FUNCTION abandon_request(p_key text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  DELETE FROM request_keys WHERE key = p_key AND status IS NULL
$$;

GRANT EXECUTE ON FUNCTION wallet_seq_at TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
