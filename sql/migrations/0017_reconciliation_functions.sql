-- migrate:up
-- Orders that nobody told us about, settlements and their lines, and the cases that a person decides. Nothing is corrected by overwriting.
SET LOCAL ROLE core_owner;

-- The header of a posting that is no wallet's: its legs are ledger_entries with transaction_id = id, its text is in its batch's link.
-- What concerns an attempt to pay carries metadata.cashfree_payment_id.
CREATE TABLE journal_entries (
  id uuid PRIMARY KEY,
  kind text COLLATE "C" NOT NULL,                       -- settlement, unapplied, unapplied_reversed, unapplied_refunded, ...
  source text COLLATE "C" NOT NULL,
  source_id text COLLATE "C" NOT NULL,
  occurred_at timestamptz NOT NULL,
  batch_id uuid NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz NOT NULL DEFAULT now(),        -- recorded at
  CONSTRAINT journal_source UNIQUE (kind, source, source_id)
);
CREATE INDEX journal_attempt ON journal_entries ((metadata ->> 'cashfree_payment_id')) WHERE metadata ? 'cashfree_payment_id';

-- A transfer to our bank, as the gateway lists it; its totals are NULL until it has said them.
CREATE TABLE gateway_settlements (
  id text COLLATE "C" PRIMARY KEY,                      -- the gateway's
  utr text,
  settled_at timestamptz,
  gross_paise bigint,                                   -- payments before anything is taken off
  fee_paise bigint,
  fee_gst_paise bigint,
  net_paise bigint,                                     -- what reached the bank
  created_at timestamptz NOT NULL DEFAULT now()
);

-- One event inside a settlement, known by the gateway's ids. Signed: what we are paid is positive, what is taken back negative.
CREATE TABLE settlement_lines (
  settlement_id text COLLATE "C" NOT NULL REFERENCES gateway_settlements,
  event_type text COLLATE "C" NOT NULL,                 -- PAYMENT, REFUND, DISPUTE, ...
  event_id text COLLATE "C" NOT NULL,
  order_id text COLLATE "C" NOT NULL,                   -- '' where the line names none
  cashfree_payment_id text COLLATE "C" NOT NULL,
  refund_id text COLLATE "C" NOT NULL,
  amount_paise bigint NOT NULL,                         -- of gateway_clearing
  bank_paise bigint NOT NULL,
  fee_paise bigint NOT NULL,
  fee_gst_paise bigint NOT NULL,
  occurred_at timestamptz,
  journal_id uuid NOT NULL,                             -- the posting that covers it
  recorded_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (settlement_id, event_type, event_id),
  CONSTRAINT line_adds_up CHECK (amount_paise = bank_paise + fee_paise + fee_gst_paise)
);
CREATE INDEX settlement_lines_order ON settlement_lines (order_id);
CREATE INDEX settlement_lines_recorded ON settlement_lines (recorded_at);

-- Work that one worker at a time does, and how far it has come.
CREATE TABLE recon_jobs (
  job text COLLATE "C" PRIMARY KEY CHECK (job IN ('poll', 'reconcile')),
  holder text,
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  next_at timestamptz NOT NULL,
  window_start timestamptz,                             -- settlements being fetched; NULL: none
  window_end timestamptz,
  page_cursor text,                                     -- of the next page; NULL: the first
  done_through timestamptz,                             -- settlements up to here are all recorded
  finished_at timestamptz,
  result jsonb
);

-- The next hour at which nobody waits for us: 02:30 of India.
CREATE FUNCTION next_night() RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT (CASE WHEN n.now < n.night THEN n.night ELSE n.night + interval '1 day' END) AT TIME ZONE 'Asia/Kolkata'
    FROM (SELECT now() AT TIME ZONE 'Asia/Kolkata' AS now, date_trunc('day', now() AT TIME ZONE 'Asia/Kolkata') + interval '150 minutes' AS night) n
$$;
INSERT INTO recon_jobs (job, next_at) VALUES ('poll', now()), ('reconcile', next_night());

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['journal_entries', 'settlement_lines'] LOOP
    EXECUTE format('CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['gateway_settlements', 'reconciliation_cases'] LOOP
    EXECUTE format('CREATE TRIGGER refuse_delete BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['journal_entries', 'settlement_lines', 'gateway_settlements', 'reconciliation_cases'] LOOP
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
  END LOOP;
  FOREACH t IN ARRAY ARRAY['journal_entries', 'gateway_settlements', 'settlement_lines', 'recon_jobs'] LOOP
    EXECUTE format('GRANT SELECT ON %I TO core_readonly', t);
  END LOOP;
END $$;

-- Payments.

-- 'closed': the gateway says that the order has ended unpaid, or was never made; only a webhook or a settlement asks about it again (W13).
ALTER TABLE verifications DROP CONSTRAINT verifications_state_check;
ALTER TABLE verifications ADD CONSTRAINT verifications_state_check CHECK (state IN ('due', 'done', 'orphan', 'closed'));
CREATE INDEX verifications_orphans ON verifications (finished_at) WHERE state = 'orphan';
CREATE INDEX verifications_answered ON verifications (payment_id) WHERE state IN ('due', 'orphan') AND result IS NOT NULL;
CREATE INDEX payments_unpaid ON payments (created_at) WHERE unpaid;

-- Payments that nobody has told us about for p_age_s: to be asked about at once, then after 1 h and 1 d, then orphans (the last steps of
-- record_verifications' schedule). Webhooks come first: while p_most_due wait already, none is added. Returns how many.
CREATE FUNCTION poll_payments(p_limit integer, p_most_due integer, p_age_s double precision) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH waiting AS (
    SELECT FROM verifications v WHERE v.state = 'due' AND v.next_at <= now() LIMIT p_most_due
  ), lost AS (
    SELECT y.id, y.order_id, y.amount, y.status FROM payments y
     WHERE y.unpaid AND y.created_at < now() - make_interval(secs => p_age_s)
       AND (y.status <> 'failed' OR y.cashfree_order_id IS NOT NULL)
       AND NOT EXISTS (SELECT FROM verifications v WHERE v.payment_id = y.id)
     ORDER BY y.created_at LIMIT least(p_limit, p_most_due - (SELECT count(*) FROM waiting)) FOR NO KEY UPDATE SKIP LOCKED
  ), asked AS (
    INSERT INTO verifications (payment_id, order_id, reason, attempt, next_at, amount)
      SELECT l.id, l.order_id, CASE l.status WHEN 'created' THEN 'unknown_order' ELSE 'no_webhook' END, 4, now(), l.amount FROM lost l
    ON CONFLICT (payment_id) DO NOTHING RETURNING 1)
  SELECT count(*)::integer FROM asked
$$;

-- Payments whose creation nobody answered, and what the gateway has said since: a status (the order exists: adopt it), or not_found twice,
-- an hour apart (it was never made: nobody can pay it).
CREATE FUNCTION unknown_orders(p_limit integer) RETURNS TABLE (payment_id uuid, order_id text, result text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT y.id, y.order_id, v.result FROM verifications v JOIN payments y ON y.id = v.payment_id
   WHERE v.state IN ('due', 'orphan') AND v.result IS NOT NULL AND y.status = 'created'
     AND (v.result <> 'not_found' AND v.result NOT IN ('EXPIRED', 'TERMINATED') OR v.result = 'not_found' AND v.attempt >= 6)
   ORDER BY y.id LIMIT p_limit
$$;

-- Orders that the gateway calls over end here as well, and those we gave up as never made. Where a webhook claims a success we keep asking.
CREATE FUNCTION close_payments(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH over AS (
    SELECT y.id, y.status, y.webhook_verified AS claimed FROM verifications v JOIN payments y ON y.id = v.payment_id
     WHERE v.state IN ('due', 'orphan') AND v.result IS NOT NULL AND y.verified_at IS NULL
       AND (v.result IN ('EXPIRED', 'TERMINATED') AND y.status IN ('created', 'active', 'failed')
            OR v.result = 'not_found' AND y.status = 'failed' AND y.cashfree_order_id IS NULL AND NOT y.webhook_verified)
     ORDER BY y.id LIMIT p_limit FOR NO KEY UPDATE OF y SKIP LOCKED
  ), ended AS (
    UPDATE payments y SET status = 'expired', updated_at = now() FROM over o
     WHERE y.id = o.id AND NOT (o.status = 'failed' AND y.cashfree_order_id IS NULL)
  ), closed AS (
    UPDATE verifications v SET state = 'closed', attempt = 0, deferrals = 0, finished_at = now() FROM over o
     WHERE v.payment_id = o.id AND v.state IN ('due', 'orphan') AND NOT o.claimed)
  SELECT count(*)::integer FROM over
$$;

-- Become the one who does a job, or go on being it: if it is due (next_at), or its holder died, or now (p_force). False: somebody else, or too early.
CREATE FUNCTION take_job(p_job text, p_holder text, p_lease_s double precision, p_force boolean) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE recon_jobs SET holder = p_holder, leased_until = now() + make_interval(secs => p_lease_s),
                        next_at = CASE WHEN holder = p_holder AND leased_until >= now() THEN next_at ELSE 'infinity' END
   WHERE job = p_job AND (leased_until < now() AND (p_force OR next_at <= now() OR leased_until > '-infinity')
                          OR holder = p_holder AND leased_until >= now())
  RETURNING true
$$;

-- Done: next due after p_after_s (NULL: next night), or at once if somebody has asked for it meanwhile.
CREATE FUNCTION finish_job(p_job text, p_holder text, p_after_s double precision, p_result jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE recon_jobs SET leased_until = '-infinity', finished_at = now(), result = coalesce(p_result, result),
                        next_at = least(next_at, coalesce(now() + make_interval(secs => p_after_s), next_night()))
   WHERE job = p_job AND holder = p_holder
$$;

-- A person wants the books compared now: a worker does it within seconds.
CREATE FUNCTION request_reconciliation(p_actor text) RETURNS timestamptz
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH said AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id) VALUES (p_actor, 'reconciliation.run', 'job', 'reconcile'))
  UPDATE recon_jobs SET next_at = least(next_at, now()) WHERE job = 'reconcile' RETURNING next_at
$$;

-- Begin to fetch what was settled until p_end, p_overlap_s of what is known already included, at most 31 days at once; or go on with what was begun.
CREATE FUNCTION begin_window(p_holder text, p_end timestamptz, p_overlap_s double precision)
RETURNS TABLE (window_start timestamptz, window_end timestamptz, page_cursor text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE recon_jobs j
     SET window_start = CASE WHEN j.window_end IS NULL THEN w.start ELSE j.window_start END,
         window_end = CASE WHEN j.window_end IS NULL THEN least(p_end, w.start + interval '31 days') ELSE j.window_end END
    FROM (SELECT coalesce(k.done_through - make_interval(secs => p_overlap_s), (SELECT min(created_at) FROM payments), p_end) - interval '1 minute' AS start
            FROM recon_jobs k WHERE k.job = 'reconcile') w
   WHERE j.job = 'reconcile' AND j.holder = p_holder AND j.leased_until >= now()
  RETURNING j.window_start, j.window_end, j.page_cursor
$$;

CREATE FUNCTION canonical_journal(p_id uuid, p_kind text, p_source text, p_source_id text, p_occurred timestamptz, p_metadata jsonb, p_legs text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT 'journal|' || p_id::text || '|' || p_kind || '|' || p_source || '|' || p_source_id || '|'
      || (extract(epoch FROM p_occurred) * 1000000)::bigint::text || '|' || p_metadata::text || '|' || coalesce(p_legs, '') || E'\n'
$$;

-- Post one, once per (kind, source, source_id). Zero legs are dropped. Returns its canonical text; NULL if it was posted before.
-- Errors: LG011 unbalanced, or credits (or the money they were sold for) on the way to a partner (closed loop).
CREATE FUNCTION post_journal(p_batch_id uuid, p_id uuid, p_kind text, p_source text, p_source_id text, p_occurred timestamptz, p_metadata jsonb,
  p_accounts ledger_account[], p_amounts bigint[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_legs text;
BEGIN
  IF EXISTS (SELECT FROM unnest(p_accounts, p_amounts) AS l (account, amount) JOIN ledger_accounts a ON a.account = l.account
              GROUP BY a.asset HAVING sum(l.amount) <> 0) THEN
    RAISE EXCEPTION 'unbalanced: % %', p_kind, p_source_id USING ERRCODE = 'LG011';
  ELSIF 'community_payable' = ANY (p_accounts) AND EXISTS (
    SELECT FROM unnest(p_accounts) x WHERE x <= 'credits_reversed' OR x IN ('deferred_revenue', 'revenue', 'breakage', 'credit_debt_receivable')) THEN
    RAISE EXCEPTION 'credits never become a partner''s money: % %', p_kind, p_source_id USING ERRCODE = 'LG011';
  END IF;
  INSERT INTO journal_entries (id, kind, source, source_id, occurred_at, batch_id, metadata)
    VALUES (p_id, p_kind, p_source, p_source_id, p_occurred, p_batch_id, p_metadata) ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN RETURN NULL; END IF;
  WITH leg AS (
    INSERT INTO ledger_entries (transaction_id, leg, account, amount)
      SELECT p_id, row_number() OVER (ORDER BY l.ord), l.account, l.amount
        FROM unnest(p_accounts, p_amounts) WITH ORDINALITY AS l (account, amount, ord) WHERE l.amount <> 0
    RETURNING leg, account, amount)
  SELECT string_agg(account || ':' || amount, ',' ORDER BY leg) INTO v_legs FROM leg;
  RETURN canonical_journal(p_id, p_kind, p_source, p_source_id, p_occurred, p_metadata, v_legs);
END $$;

-- Settlements.

-- What the gateway says of whole settlements: [{"id", "utr", "settled_at", "gross", "fee", "fee_gst", "net"}, ...]. The first word stands;
-- another one later is a case. Returns how many were news.
CREATE FUNCTION tell_settlements(p_said jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_n integer;
BEGIN
  PERFORM open_cases(array_agg('settlement_changed'::text), array_agg(s.id), array_agg(
            jsonb_build_object('gross_paise', s.gross_paise, 'fee_paise', s.fee_paise, 'fee_gst_paise', s.fee_gst_paise, 'net_paise', s.net_paise)),
            array_agg(jsonb_build_object('gross_paise', x.gross, 'fee_paise', x.fee, 'fee_gst_paise', x.fee_gst, 'net_paise', x.net)), 'recon')
     FROM jsonb_to_recordset(p_said) AS x (id text, gross bigint, fee bigint, fee_gst bigint, net bigint)
     JOIN gateway_settlements s ON s.id = x.id
    WHERE s.net_paise IS NOT NULL
      AND (s.gross_paise, s.fee_paise, s.fee_gst_paise, s.net_paise) IS DISTINCT FROM (x.gross, x.fee, x.fee_gst, x.net);
  WITH told AS (
    INSERT INTO gateway_settlements AS s (id, utr, settled_at, gross_paise, fee_paise, fee_gst_paise, net_paise)
      SELECT DISTINCT ON (x.id) x.id, x.utr, x.settled_at, x.gross, x.fee, x.fee_gst, x.net
        FROM jsonb_to_recordset(p_said) AS x (id text, utr text, settled_at timestamptz, gross bigint, fee bigint, fee_gst bigint, net bigint)
       ORDER BY x.id
    ON CONFLICT (id) DO UPDATE
      SET utr = coalesce(s.utr, excluded.utr), settled_at = coalesce(s.settled_at, excluded.settled_at), gross_paise = excluded.gross_paise,
          fee_paise = excluded.fee_paise, fee_gst_paise = excluded.fee_gst_paise, net_paise = excluded.net_paise
      WHERE s.net_paise IS NULL AND excluded.net_paise IS NOT NULL
    RETURNING 1)
  SELECT count(*) INTO v_n FROM told;
  RETURN v_n;
END $$;

-- One page of settled lines, in one transaction: new lines, one posting per settlement for them (Dr bank, gateway_fee, gst_input |
-- Cr gateway_clearing) on the chain recon/0, unverified payments put up for verification, and the cursor moved from p_cursor to p_next
-- (NULL: that was all). A line that is known is left alone; one that says something else now is a case. p_lines:
--   [{"settlement", "utr", "type", "id", "order_id", "payment_id", "refund_id", "amount", "bank", "fee", "fee_gst", "at"}, ...]
-- Outcomes: recorded; moved: this page is behind or ahead of the stored cursor, or the job is somebody else's by now.
CREATE FUNCTION commit_settled_lines(p_batch_id uuid, p_holder text, p_lease_s double precision, p_cursor text, p_next text, p_lines jsonb,
  OUT r_outcome text, OUT r_new integer, OUT r_known integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  j recon_jobs;
  g record;
  v_id uuid;
  v_chain record;
  v_canonical text := '';
BEGIN
  r_outcome := 'moved'; r_new := 0; r_known := 0;
  SELECT * INTO j FROM recon_jobs WHERE job = 'reconcile' FOR UPDATE;
  IF j.holder IS DISTINCT FROM p_holder OR j.leased_until < now() OR j.window_end IS NULL OR j.page_cursor IS DISTINCT FROM p_cursor THEN
    RETURN;
  END IF;
  r_outcome := 'recorded';
  UPDATE recon_jobs SET page_cursor = p_next, leased_until = now() + make_interval(secs => p_lease_s),
      done_through = CASE WHEN p_next IS NULL THEN greatest(done_through, window_end) ELSE done_through END,
      window_start = CASE WHEN p_next IS NULL THEN NULL ELSE window_start END, window_end = CASE WHEN p_next IS NULL THEN NULL ELSE window_end END
   WHERE job = 'reconcile';

  PERFORM FROM payments y WHERE y.verified_at IS NULL AND y.order_id IN (SELECT e ->> 'order_id' FROM jsonb_array_elements(p_lines) e)
    ORDER BY y.id FOR NO KEY UPDATE;
  INSERT INTO verifications AS v (payment_id, order_id, reason, next_at, amount)
    SELECT DISTINCT y.id, y.order_id, 'settled', now(), y.amount
      FROM jsonb_to_recordset(p_lines) AS x (type text, order_id text, amount bigint) JOIN payments y ON y.order_id = x.order_id
     WHERE x.type = 'PAYMENT' AND x.amount > 0 AND y.verified_at IS NULL AND y.status <> 'mismatch'
  ON CONFLICT (payment_id) DO UPDATE SET state = 'due', attempt = 0, next_at = now(), finished_at = NULL WHERE v.state IN ('orphan', 'closed');

  -- Another attempt of a paid order settled as well: the watcher of reversals looks at that order.
  PERFORM inquire(array_agg(DISTINCT y.order_id), 'settled')
     FROM jsonb_to_recordset(p_lines) AS x (settlement text, type text, id text, order_id text, payment_id text) JOIN payments y ON y.order_id = x.order_id
    WHERE x.type = 'PAYMENT' AND y.cashfree_payment_id <> x.payment_id
      AND NOT EXISTS (SELECT FROM settlement_lines l WHERE l.settlement_id = x.settlement AND l.event_type = x.type AND l.event_id = x.id);

  INSERT INTO gateway_settlements (id, utr)
    SELECT DISTINCT ON (x.settlement) x.settlement, x.utr FROM jsonb_to_recordset(p_lines) AS x (settlement text, utr text) ORDER BY x.settlement
  ON CONFLICT (id) DO NOTHING;
  PERFORM open_cases(array_agg('line_changed'::text), array_agg(concat_ws('/', l.settlement_id, l.event_type, l.event_id)),
            array_agg(jsonb_build_object('amount_paise', l.amount_paise, 'fee_paise', l.fee_paise, 'fee_gst_paise', l.fee_gst_paise, 'order_id', l.order_id)),
            array_agg(jsonb_build_object('amount_paise', x.amount, 'fee_paise', x.fee, 'fee_gst_paise', x.fee_gst, 'order_id', x.order_id)), 'recon')
     FROM jsonb_to_recordset(p_lines) AS x (settlement text, type text, id text, order_id text, amount bigint, fee bigint, fee_gst bigint)
     JOIN settlement_lines l ON l.settlement_id = x.settlement AND l.event_type = x.type AND l.event_id = x.id
    WHERE (l.amount_paise, l.fee_paise, l.fee_gst_paise, l.order_id) <> (x.amount, x.fee, x.fee_gst, x.order_id);

  FOR g IN
    SELECT n.settlement, count(*) AS n, sum(n.amount)::bigint AS amount, sum(n.bank)::bigint AS bank,
           sum(n.fee)::bigint AS fee, sum(n.fee_gst)::bigint AS fee_gst, jsonb_agg(to_jsonb(n)) AS lines,
           string_agg(concat_ws('|', n.type, n.id, n.order_id, n.payment_id, n.refund_id, n.amount, n.bank, n.fee, n.fee_gst), E'\n'
                      ORDER BY n.type, n.id) AS written
      FROM (SELECT DISTINCT ON (x.settlement, x.type, x.id) x.*
              FROM jsonb_to_recordset(p_lines) AS x (settlement text, type text, id text, order_id text, payment_id text, refund_id text,
                     amount bigint, bank bigint, fee bigint, fee_gst bigint, at timestamptz)
             WHERE NOT EXISTS (SELECT FROM settlement_lines l WHERE l.settlement_id = x.settlement AND l.event_type = x.type AND l.event_id = x.id)
             ORDER BY x.settlement, x.type, x.id) n
     GROUP BY n.settlement ORDER BY n.settlement
  LOOP
    v_id := uuidv7();
    v_canonical := v_canonical || post_journal(p_batch_id, v_id, 'settlement', 'gateway_settlement',
      g.settlement || '/' || (SELECT count(DISTINCT l.journal_id) + 1 FROM settlement_lines l WHERE l.settlement_id = g.settlement),
      coalesce((SELECT s.settled_at FROM gateway_settlements s WHERE s.id = g.settlement), now()),
      jsonb_build_object('settlement_id', g.settlement, 'lines', g.n, 'sha256', encode(sha256(convert_to(g.written, 'UTF8')), 'hex')),
      ARRAY['bank', 'gateway_fee', 'gst_input', 'gateway_clearing']::ledger_account[], ARRAY[g.bank, g.fee, g.fee_gst, -g.amount]);
    INSERT INTO settlement_lines (settlement_id, event_type, event_id, order_id, cashfree_payment_id, refund_id, amount_paise, bank_paise,
                                  fee_paise, fee_gst_paise, occurred_at, journal_id)
      SELECT g.settlement, x.type, x.id, x.order_id, x.payment_id, x.refund_id, x.amount, x.bank, x.fee, x.fee_gst, x.at, v_id
        FROM jsonb_to_recordset(g.lines) AS x (type text, id text, order_id text, payment_id text, refund_id text, amount bigint, bank bigint,
               fee bigint, fee_gst bigint, at timestamptz);
    r_new := r_new + g.n;
  END LOOP;
  r_known := jsonb_array_length(p_lines) - r_new;
  IF r_new > 0 THEN
    SELECT * INTO v_chain FROM begin_chain('recon', 0, 'core');
    PERFORM finish_batch(p_batch_id, 'recon', 0, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, v_canonical,
      r_new + r_known, r_new, 0, r_known, 0, 0, 0, 0);
  END IF;
END $$;

-- Each attempt to pay that settlements recorded since p_since speak of: what they say of it against what the ledger has (paise).
--   credit, debit          settled to us, taken back from us                       own   the attempt that the payment's credit stands for
--   captured, refunded     of the payment's sale, in gateway_clearing         back, reinstated   what a won dispute brings back: settled, booked
--   unapplied, returned    set aside as money without a sale, and given back of it
CREATE FUNCTION settlement_matches(p_since timestamptz)
RETURNS TABLE (attempt text, order_id text, payment_id uuid, status text, own boolean, credit_paise bigint, debit_paise bigint, back_paise bigint,
  captured_paise bigint, refunded_paise bigint, reinstated_paise bigint, unapplied_paise bigint, returned_paise bigint, settlements text[],
  recorded_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH touched AS (
    SELECT DISTINCT l.order_id FROM settlement_lines l WHERE l.recorded_at >= p_since
  ), tried AS MATERIALIZED (
    SELECT l.order_id, coalesce(f.cashfree_payment_id, nullif(l.cashfree_payment_id, ''), l.event_type || '/' || l.event_id) AS attempt,
           coalesce(sum(l.amount_paise) FILTER (WHERE l.event_type = 'PAYMENT'), 0)::bigint AS credit,
           coalesce(-sum(l.amount_paise) FILTER (WHERE l.event_type <> 'PAYMENT' AND l.amount_paise < 0), 0)::bigint AS debit,
           coalesce(sum(l.amount_paise) FILTER (WHERE l.event_type <> 'PAYMENT' AND l.amount_paise > 0), 0)::bigint AS back,
           array_agg(DISTINCT l.settlement_id) AS settlements, max(l.recorded_at) AS recorded_at
      FROM touched t JOIN settlement_lines l ON l.order_id = t.order_id
      -- Which of two payments a refund returned, we know better than its line.
      LEFT JOIN refunds f ON f.refund_id = l.refund_id AND f.policy = 'UNAPPLIED' GROUP BY 1, 2
  ), aside AS (
    SELECT a.attempt, sum(x.amount) FILTER (WHERE n.kind <> 'unapplied_refunded') AS unapplied,
           -sum(x.amount) FILTER (WHERE n.kind = 'unapplied_refunded') AS returned
      FROM (SELECT DISTINCT attempt FROM tried) a
      JOIN journal_entries n ON n.metadata ->> 'cashfree_payment_id' = a.attempt AND n.metadata ? 'cashfree_payment_id'
      JOIN ledger_entries x ON x.transaction_id = n.id AND x.account = 'gateway_clearing' GROUP BY a.attempt
  ), placed AS (
    SELECT a.*, y.id AS payment_id, y.status,
           y.id IS NOT NULL AND coalesce(a.attempt = y.cashfree_payment_id,
             row_number() OVER (PARTITION BY a.order_id ORDER BY a.credit > 0 DESC, a.attempt) = 1) AS own
      FROM tried a LEFT JOIN payments y ON y.order_id = a.order_id
  )
  SELECT p.attempt, p.order_id, p.payment_id, p.status, p.own, p.credit, p.debit, p.back,
         CASE WHEN p.own THEN coalesce(e.amount, 0) ELSE 0 END,
         CASE WHEN p.own THEN coalesce((SELECT sum(f.amount) FROM refunds f WHERE f.payment_id = p.payment_id AND f.status IN ('done', 'reversed')
                                           AND f.policy <> 'UNAPPLIED'), 0)::bigint ELSE 0 END,
         CASE WHEN p.own THEN coalesce((SELECT sum(f.amount) FROM refunds f WHERE f.payment_id = p.payment_id AND f.status = 'reversed'), 0)::bigint ELSE 0 END,
         coalesce(u.unapplied, 0)::bigint, coalesce(u.returned, 0)::bigint, p.settlements, p.recorded_at
    FROM placed p
    LEFT JOIN wallet_transactions t ON t.transaction_type = 'purchase' AND t.source = 'payment' AND t.source_id = p.payment_id::text
    LEFT JOIN ledger_entries e ON e.transaction_id = t.id AND e.account = 'gateway_clearing'
    LEFT JOIN aside u ON u.attempt = p.attempt
$$;

-- Money that settled without a sale is set aside (Dr gateway_clearing | Cr unapplied_receipts), what the gateway returned of it leaves again, and
-- what found its sale after all is turned back: the sale has its own posting. One batch on the chain recon/0. Returns how many postings.
CREATE FUNCTION book_unapplied(p_batch_id uuid, p_since timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  m record;
  v_text text;
  v_canonical text := '';
  v_n integer := 0;
  v_chain record;
BEGIN
  PERFORM FROM recon_jobs WHERE job = 'reconcile' FOR UPDATE;
  FOR m IN
    SELECT x.attempt, x.order_id, x.recorded_at, p.kind, p.mark, p.amount
      FROM settlement_matches(p_since) x CROSS JOIN LATERAL (VALUES
        ('unapplied', '', CASE WHEN x.captured_paise = 0 AND x.unapplied_paise = 0 AND x.credit_paise > 0 THEN x.credit_paise ELSE 0 END),
        ('unapplied_reversed', '', CASE WHEN x.captured_paise > 0 THEN -x.unapplied_paise ELSE 0 END),
        ('unapplied_refunded', '/' || x.debit_paise, CASE WHEN x.captured_paise = 0 AND x.credit_paise > 0 AND x.debit_paise > x.returned_paise
                                                          THEN x.returned_paise - x.debit_paise ELSE 0 END)) AS p (kind, mark, amount)
     WHERE p.amount <> 0 ORDER BY x.attempt, p.kind
  LOOP
    v_text := post_journal(p_batch_id, uuidv7(), m.kind, 'payment_attempt', m.attempt || m.mark, m.recorded_at,
      jsonb_build_object('cashfree_payment_id', m.attempt, 'order_id', m.order_id),
      ARRAY['gateway_clearing', 'unapplied_receipts']::ledger_account[], ARRAY[m.amount, -m.amount]);
    IF v_text IS NOT NULL THEN v_canonical := v_canonical || v_text; v_n := v_n + 1; END IF;
  END LOOP;
  IF v_n > 0 THEN
    SELECT * INTO v_chain FROM begin_chain('recon', 0, 'core');
    PERFORM finish_batch(p_batch_id, 'recon', 0, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, v_canonical,
      v_n, v_n, 0, 0, 0, 0, 0, 0);
  END IF;
  RETURN v_n;
END $$;

CREATE FUNCTION case_event(p_event text, p_actor text, p_more jsonb) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('event', p_event, 'at', now(), 'actor', p_actor) || p_more
$$;

-- A case tells its own story: one entry per change, none ever taken back.
CREATE FUNCTION keep_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF tg_op = 'INSERT' THEN
    new.history := jsonb_build_array(case_event('opened', coalesce(new.history -> 0 ->> 'actor', 'core'),
                                                jsonb_build_object('expected', new.expected, 'actual', new.actual)));
  ELSIF (new.id, new.kind, new.subject, new.created_at) IS DISTINCT FROM (old.id, old.kind, old.subject, old.created_at)
     OR jsonb_array_length(new.history) <> jsonb_array_length(old.history) + 1 OR new.history - -1 <> old.history THEN
    RAISE EXCEPTION 'a case''s history only grows' USING ERRCODE = 'LG010';
  END IF;
  RETURN new;
END $$;
CREATE TRIGGER keep_history BEFORE INSERT OR UPDATE ON reconciliation_cases FOR EACH ROW EXECUTE FUNCTION keep_history();

-- Differences become cases, one per kind and subject. Outcomes, in the order given: opened; reopened (it was resolved, and is there again;
-- not if it was accepted with these very values); changed (open, other values now); known (nothing new).
CREATE FUNCTION open_cases(c_kind text[], c_subject text[], c_expected jsonb[], c_actual jsonb[], p_actor text) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  c reconciliation_cases;
  d record;
  v_outcome text[] := '{}';
  v_same boolean;
BEGIN
  PERFORM FROM reconciliation_cases x JOIN unnest(c_kind, c_subject) AS y (kind, subject) ON y.kind = x.kind AND y.subject = x.subject
    ORDER BY x.id FOR UPDATE OF x;
  FOR d IN SELECT * FROM unnest(c_kind, c_subject, c_expected, c_actual) WITH ORDINALITY AS x (kind, subject, expected, actual, ord)
            ORDER BY kind, subject, ord LOOP
    INSERT INTO reconciliation_cases (kind, subject, expected, actual, history)
      VALUES (d.kind, d.subject, d.expected, d.actual, jsonb_build_array(jsonb_build_object('actor', p_actor)))
    ON CONFLICT DO NOTHING;
    IF FOUND THEN v_outcome[d.ord] := 'opened'; CONTINUE; END IF;
    SELECT * INTO STRICT c FROM reconciliation_cases WHERE kind = d.kind AND subject = d.subject FOR UPDATE;
    v_same := (c.expected, c.actual) = (d.expected, d.actual);
    v_outcome[d.ord] := CASE WHEN v_same AND (c.state = 'open' OR c.accepted) THEN 'known' WHEN c.state = 'open' THEN 'changed' ELSE 'reopened' END;
    IF v_outcome[d.ord] <> 'known' THEN
      UPDATE reconciliation_cases SET expected = d.expected, actual = d.actual, state = 'open', accepted = false, resolved_at = NULL,
             history = history || case_event(v_outcome[d.ord], p_actor, jsonb_build_object('expected', d.expected, 'actual', d.actual)) WHERE id = c.id;
    END IF;
  END LOOP;
  RETURN v_outcome;
END $$;

-- Outcomes: assigned; exists (theirs already); resolved (too late); unknown.
CREATE FUNCTION assign_case(p_id uuid, p_owner text, p_actor text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  c reconciliation_cases;
BEGIN
  SELECT * INTO c FROM reconciliation_cases WHERE id = p_id FOR UPDATE;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF c.state = 'resolved' THEN RETURN 'resolved'; END IF;
  IF c.owner = p_owner THEN RETURN 'exists'; END IF;
  UPDATE reconciliation_cases SET owner = p_owner, history = history || case_event('assigned', p_actor, jsonb_build_object('owner', p_owner)) WHERE id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'case.assign', 'reconciliation_case', p_id::text, jsonb_build_object('owner', p_owner, 'before', c.owner));
  RETURN 'assigned';
END $$;

-- A person's last word, with its reason. p_accept: the difference stays and is right so; the same values again are no news.
-- Outcomes: resolved; exists (it was already); note_required; unknown.
CREATE FUNCTION resolve_case(p_id uuid, p_note text, p_accept boolean, p_actor text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  c reconciliation_cases;
BEGIN
  IF coalesce(btrim(p_note), '') = '' THEN RETURN 'note_required'; END IF;
  SELECT * INTO c FROM reconciliation_cases WHERE id = p_id FOR UPDATE;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF c.state = 'resolved' THEN RETURN 'exists'; END IF;
  UPDATE reconciliation_cases SET state = 'resolved', accepted = p_accept, resolved_at = now(),
         history = history || case_event('resolved', p_actor, jsonb_build_object('note', p_note, 'accepted', p_accept)) WHERE id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'case.resolve', 'reconciliation_case', p_id::text,
            jsonb_build_object('note', p_note, 'accepted', p_accept, 'kind', c.kind, 'subject', c.subject, 'expected', c.expected, 'actual', c.actual));
  RETURN 'resolved';
END $$;

GRANT EXECUTE ON FUNCTION settlement_matches, canonical_journal TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
