-- migrate:up
-- A payment from its row to its verification: created, reported by webhooks, asked for at the gateway, verified.
-- Locks are taken in one order everywhere: offset row, wallets by id, payments by id, named chain.
SET LOCAL ROLE core_owner;

-- One billing delta: payments that reached a status in a minute.
CREATE FUNCTION payment_delta(p_status text, p_minute timestamptz, p_count bigint, p_credits bigint, p_amount bigint) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT delta_event('payments', ARRAY['status', p_status], p_minute, p_count, p_credits, p_amount)
$$;

-- What a payment's user is told, for notifications.billing.
CREATE FUNCTION payment_notice(p_kind text, y payments, p_at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT notice_event(y.user_id, p_kind, p_at, y.id, y.wallet_id, y.credits_granted, y.amount)
$$;

-- A payment before the gateway hears of it. The pack and its GST split are the server's, computed by domain/; payment_tax checks the sum.
-- p_key is '<principal>:<key>', p_hash what the same key must repeat, p_delta_partition that of analytics.billing for status=created.
-- Outcomes: created; exists (the payment of that key); conflict (the key stands for another request); unknown_wallet (not this user's).
CREATE FUNCTION create_payment(
  p_batch_id uuid, p_shard integer, p_id uuid, p_key text, p_hash bytea, p_user uuid, p_wallet uuid, p_order_id text,
  p_amount bigint, p_base bigint, p_bonus bigint, p_taxable bigint, p_cgst bigint, p_sgst bigint, p_igst bigint, p_place text,
  p_phone text, p_email text, p_device text, p_ip inet, p_metadata jsonb, p_delta_partition integer,
  OUT r_outcome text, OUT r_payment uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_hash bytea;
  v_chain record;
BEGIN
  PERFORM FROM wallets w WHERE w.id = p_wallet AND w.owner_id = p_user;
  IF NOT FOUND THEN r_outcome := 'unknown_wallet'; RETURN; END IF;
  INSERT INTO payments (id, user_id, wallet_id, order_id, amount, base_credits, bonus_credits, credits_granted, taxable_amount, cgst_amount,
      sgst_amount, igst_amount, gst_amount, place_of_supply, customer_phone, customer_email, device_id, ip, metadata, idempotency_key, request_hash)
    VALUES (p_id, p_user, p_wallet, p_order_id, p_amount, p_base, p_bonus, p_base + p_bonus, p_taxable, p_cgst,
      p_sgst, p_igst, p_cgst + p_sgst + p_igst, p_place, p_phone, p_email, p_device, p_ip, coalesce(p_metadata, '{}'), p_key, p_hash)
  ON CONFLICT (idempotency_key) DO NOTHING RETURNING id INTO r_payment;
  IF r_payment IS NULL THEN
    SELECT y.id, y.request_hash INTO STRICT r_payment, v_hash FROM payments y WHERE y.idempotency_key = p_key;
    r_outcome := CASE WHEN v_hash = p_hash THEN 'exists' ELSE 'conflict' END;
    RETURN;
  END IF;
  r_outcome := 'created';
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['analytics.billing'], ARRAY[p_delta_partition],
                    ARRAY[payment_delta('created', now(), 1, p_base + p_bonus, p_amount)]);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '',
                       1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- The gateway knows the order: the customer can pay. Says it again without effect; a payment that is further stays there, also one of
-- which an attempt has failed already.
CREATE FUNCTION order_created(p_payment uuid, p_cf_order_id text, p_session_id text, p_expires_at timestamptz) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE payments SET cashfree_order_id = p_cf_order_id, payment_session_id = p_session_id, expires_at = p_expires_at, updated_at = now(),
                      status = CASE WHEN status IN ('created', 'failed') AND payment_session_id IS NULL AND NOT EXISTS (
                          SELECT FROM payment_attempts a WHERE a.order_id = payments.order_id) THEN 'active'
                        WHEN status = 'created' THEN 'active' ELSE status END
   WHERE id = p_payment RETURNING status
$$;

-- The gateway refused the order for good. Outcomes: failed; exists (it had left 'created' before); unknown.
CREATE FUNCTION fail_order(p_batch_id uuid, p_shard integer, p_payment uuid, p_failure text, p_delta_partition integer, OUT r_outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
  v_chain record;
BEGIN
  SELECT * INTO y FROM payments WHERE id = p_payment FOR NO KEY UPDATE;
  IF NOT FOUND THEN r_outcome := 'unknown'; RETURN; END IF;
  IF y.status <> 'created' THEN r_outcome := 'exists'; RETURN; END IF;
  r_outcome := 'failed';
  UPDATE payments SET status = 'failed', failed_at = coalesce(failed_at, now()), failure = p_failure, updated_at = now() WHERE id = p_payment;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  IF y.failed_at IS NULL THEN
    PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['analytics.billing'], ARRAY[p_delta_partition],
                      ARRAY[payment_delta('failed', now(), 1, y.credits_granted, y.amount)]);
  END IF;
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '',
                       1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- The inbox: webhooks whose bytes were verified, one set. A fact that is known already counts its delivery.
-- Returns, in the order given, whether each is new or a replay (also of one earlier in the set).
CREATE FUNCTION insert_webhooks(
  w_id uuid[], w_key text[], w_kind text[], w_type text[], w_order text[], w_payment text[], w_refund text[], w_status text[], w_group text[],
  w_method jsonb[], w_instrument text[], w_amount bigint[], w_offer text[], w_discount bigint[], w_currency text[], w_occurred timestamptz[],
  w_version text[], w_stale boolean[],
  w_ip inet[], w_body bytea[], w_trace text[])
RETURNS text[] LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
  WITH item AS (
    SELECT *, row_number() OVER (PARTITION BY key ORDER BY ord) AS nth, count(*) OVER (PARTITION BY key) AS deliveries
      FROM unnest(w_id, w_key, w_kind, w_type, w_order, w_payment, w_refund, w_status, w_group, w_method, w_instrument, w_amount, w_offer, w_discount, w_currency,
                  w_occurred, w_version, w_stale, w_ip, w_body, w_trace) WITH ORDINALITY
        AS i (id, key, kind, type, order_id, payment, refund, status, pay_group, method, instrument, amount, offer, discount, currency, occurred, version,
              stale, ip, body, trace, ord)
  ), stored AS (
    INSERT INTO payment_webhooks AS w (id, business_key, kind, event_type, order_id, cashfree_payment_id, refund_id, status, payment_group,
        payment_method, instrument, amount, offer_id, offer_amount, currency, occurred_at, version, stale, source_ip, deliveries, traceparent)
      SELECT id, key, kind, type, order_id, payment, refund, status, pay_group, method, instrument, amount, offer, discount, currency,
             greatest(least(coalesce(occurred, now()), now() + interval '5 minutes'), now() - interval '24 hours'),
             version, stale, ip, deliveries, trace
        FROM item WHERE nth = 1 ORDER BY key
    ON CONFLICT (business_key) DO UPDATE SET deliveries = w.deliveries + excluded.deliveries
    RETURNING new.business_key AS key, old.id IS NULL AS fresh
  ), kept AS (
    INSERT INTO webhook_bodies SELECT i.id, i.body FROM item i JOIN stored s USING (key) WHERE s.fresh AND i.nth = 1
  )
  SELECT array_agg(CASE WHEN s.fresh AND i.nth = 1 THEN 'new' ELSE 'replay' END ORDER BY i.ord) FROM item i JOIN stored s USING (key)
$$;

-- For the relay: up to p_limit webhooks that nobody has published yet, or whose outcome is still missing after p_stale_s seconds.
CREATE FUNCTION take_webhooks(p_limit integer, p_stale_s double precision)
RETURNS TABLE (id uuid, event_type text, order_id text, cashfree_payment_id text, refund_id text, status text, version text, received_at timestamptz,
              traceparent text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_ids uuid[];
BEGIN
  SELECT array_agg(id) INTO v_ids FROM (
    SELECT w.id FROM payment_webhooks w WHERE w.published_at IS NULL ORDER BY w.id LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED) x;
  IF coalesce(cardinality(v_ids), 0) < p_limit THEN
    SELECT v_ids || array_agg(id) INTO v_ids FROM (
      SELECT w.id FROM payment_webhooks w WHERE w.closed_at IS NULL AND w.published_at < now() - make_interval(secs => p_stale_s)
       ORDER BY w.published_at LIMIT p_limit - coalesce(cardinality(v_ids), 0) FOR NO KEY UPDATE SKIP LOCKED) x;
  END IF;
  IF v_ids IS NULL THEN RETURN; END IF;
  RETURN QUERY
    WITH claimed AS (UPDATE payment_webhooks w SET published_at = now() WHERE w.id = ANY (v_ids) RETURNING w.*)
    SELECT c.id, c.event_type, c.order_id, c.cashfree_payment_id, c.refund_id, c.status, c.version, c.created_at, c.traceparent
      FROM claimed c ORDER BY c.id;
END $$;

-- The settlement that a webhook of kind settlement is about: '<type>|<settlement>|<status>' is what such a fact is known by.
CREATE FUNCTION settlement_of(p_business_key text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT split_part(p_business_key, '|', 2) $$;

-- webhook.processing: close inbox rows and say what follows. The row decides, not the event that names it.
-- Per event: its inbox row and order, the payment.processing partition of that order, what its status means (success | failed | dropped |
-- other), and the refund.processing partition of its payment where the refund is known. Outcomes of a row, kept in it:
--   signalled  a payment's status: a PaymentSignal follows          ignored  a type nobody has told us about, or a test
--   refund     of a refund that we know: a RefundDue follows        noted    kept; for a dispute or a refund that is not ours, the order is
--   settled    money went to our bank: a SettlementDue follows               looked at (0019)
CREATE FUNCTION commit_webhooks(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb,
  w_inbox uuid[], w_order text[], w_signal text[], w_payment_partition integer[], w_refund_partition integer[], w_offset bigint[], p_partitions integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$   -- rows are looked up one by one, as in 0007
DECLARE
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_n integer := coalesce(cardinality(w_inbox), 0);
  v_bad integer;
  c record;
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  PERFORM FROM payment_webhooks w WHERE w.id = ANY (w_inbox) ORDER BY w.business_key FOR NO KEY UPDATE;

  SELECT array_agg(CASE WHEN w.id IS NULL THEN 'unknown_inbox'
                        WHEN coalesce(w.order_id, w.id::text) <> e.order_id THEN 'forged'
                        WHEN w.closed_at IS NOT NULL OR e.nth > 1 THEN 'exists'
                        WHEN w.kind = 'payment' AND w.order_id IS NOT NULL AND w.cashfree_payment_id IS NOT NULL THEN 'signalled'
                        WHEN w.kind = 'refund' AND f.id IS NOT NULL AND e.refund_partition IS NOT NULL THEN 'refund'
                        WHEN w.kind = 'settlement' AND length(settlement_of(w.business_key)) BETWEEN 1 AND 128 THEN 'settled'
                        WHEN w.kind IN ('unknown', 'test') THEN 'ignored'
                        ELSE 'noted' END ORDER BY e.ord)
    INTO r_outcome
    FROM (SELECT x.*, row_number() OVER (PARTITION BY x.inbox ORDER BY x.ord) AS nth
            FROM unnest(w_inbox, w_order, w_refund_partition) WITH ORDINALITY AS x (inbox, order_id, refund_partition, ord)) e
    LEFT JOIN LATERAL (SELECT * FROM payment_webhooks x WHERE x.id = e.inbox LIMIT 1) w ON true
    LEFT JOIN LATERAL (SELECT x.id FROM refunds x WHERE x.refund_id = w.refund_id LIMIT 1) f ON true;

  UPDATE payment_webhooks w SET closed_at = now(), outcome = e.outcome
    FROM (SELECT u.outcome, x.place FROM unnest(w_inbox, r_outcome) AS u (inbox, outcome)
           CROSS JOIN LATERAL (SELECT z.ctid AS place FROM payment_webhooks z WHERE z.id = u.inbox LIMIT 1) x
           WHERE u.outcome IN ('signalled', 'refund', 'settled', 'ignored', 'noted')) e
   WHERE w.ctid = e.place;
  -- Money that moved without our asking: look at the whole order.
  IF 'noted' = ANY (r_outcome) THEN
    PERFORM inquire(ARRAY(SELECT w.order_id FROM unnest(w_inbox, r_outcome) AS e (inbox, outcome) JOIN payment_webhooks w ON w.id = e.inbox
                           WHERE e.outcome = 'noted' AND w.kind IN ('refund', 'auto_refund', 'dispute')), 'webhook');
  END IF;

  IF r_outcome && ARRAY['unknown_inbox', 'forged'] THEN
    INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
      SELECT p_topic, p_partition, r_incarnation, e.source_offset, e.outcome,
             convert_to(jsonb_build_object('inbox_id', e.inbox, 'order_id', e.order_id, 'signal', e.signal)::text, 'UTF8'), p_batch_id
        FROM unnest(w_inbox, w_order, w_signal, w_offset, r_outcome) WITH ORDINALITY AS e (inbox, order_id, signal, source_offset, outcome, ord)
       WHERE e.outcome IN ('unknown_inbox', 'forged') ORDER BY e.ord;
  END IF;
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);

  SELECT count(*) FILTER (WHERE x = 'exists') + v_dropped AS existing, count(*) FILTER (WHERE x IN ('unknown_inbox', 'forged')) + v_bad AS quarantined
    INTO c FROM unnest(r_outcome) x;
  PERFORM finish_batch(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '',
    v_n + v_bad + v_dropped, (v_n + v_bad + v_dropped - c.existing - c.quarantined)::integer, 0, c.existing::integer, 0, 0, c.quarantined::integer, 0);

  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg(CASE e.outcome WHEN 'refund' THEN 'refund.processing' WHEN 'settled' THEN 'settlements.processing'
                                          ELSE 'payment.processing' END ORDER BY e.ord) AS t,
                 array_agg(CASE e.outcome WHEN 'refund' THEN e.refund_partition WHEN 'settled' THEN partition_of(settlement_of(w.business_key), p_partitions)
                                          ELSE e.payment_partition END ORDER BY e.ord) AS p,
                 array_agg(CASE e.outcome
                   WHEN 'refund' THEN refund_event(f.id, f.payment_id, w.occurred_at)
                   WHEN 'settled' THEN '{"settlement_id":' || event_text(settlement_of(w.business_key)) || ',"inbox_id":' || event_id(w.id)
                     || ',"occurred_at":' || event_time(w.occurred_at) || '}'
                   ELSE '{"order_id":' || event_text(w.order_id) || ',"inbox_id":' || event_id(w.id) || ',"kind":"' || e.signal
                     || '","occurred_at":' || event_time(w.occurred_at) || ',"cf_payment_id":' || event_text(w.cashfree_payment_id)
                     || ',"payment_group":' || event_text(w.payment_group) || '}' END ORDER BY e.ord) AS e
            FROM unnest(w_inbox, w_signal, w_payment_partition, w_refund_partition, r_outcome) WITH ORDINALITY
                   AS e (inbox, signal, payment_partition, refund_partition, outcome, ord)
           CROSS JOIN LATERAL (SELECT * FROM payment_webhooks x WHERE x.id = e.inbox LIMIT 1) w
            LEFT JOIN LATERAL (SELECT x.id, x.payment_id FROM refunds x WHERE x.refund_id = w.refund_id LIMIT 1) f ON true
           WHERE e.outcome IN ('signalled', 'refund', 'settled')) x,
         emit(p_topic, p_partition, p_group, r_incarnation, r_batch_no, x.t, x.p, x.e) m;
END $$;

-- The frame of a batch whose events each have an outcome of their own: its counts (what is none of the four is quarantined), row and link.
-- p_bad: quarantined besides; p_dropped: of slices that had been applied before.
CREATE FUNCTION finish_decided(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_batch_no bigint, p_epoch bigint,
  p_incarnation integer, p_from bigint, p_to bigint, p_link bytea, p_canonical text, p_outcome text[], p_bad integer, p_dropped integer)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  c record;
BEGIN
  SELECT count(*)::integer AS n, count(*) FILTER (WHERE x = 'posted')::integer AS posted, count(*) FILTER (WHERE x = 'exists')::integer AS existing,
         count(*) FILTER (WHERE x = 'conflict')::integer AS conflict, count(*) FILTER (WHERE x = 'parked')::integer AS parked
    INTO c FROM unnest(p_outcome) x;
  PERFORM finish_batch(p_batch_id, p_topic, p_partition, p_group, p_batch_no, p_epoch, p_incarnation, coalesce(p_from, 0), coalesce(p_to, 0), p_link,
    p_canonical, c.n + p_bad + p_dropped, c.posted, 0, c.existing + p_dropped, c.conflict, c.parked,
    c.n - c.posted - c.existing - c.conflict - c.parked + p_bad, 0);
END $$;

-- One parked item is tried again, on the chain retry/<topic>: under our epoch, and by nobody else. Errors: LG001 fenced, LG004 taken.
CREATE FUNCTION take_retry(p_topic text, p_partition integer, p_group text, p_epoch bigint, p_retry bigint, p_attempt integer) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM consumer_offsets o WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group
     AND o.epoch = p_epoch FOR SHARE;
  IF NOT FOUND THEN RAISE EXCEPTION 'fenced: %/%', p_topic, p_partition USING ERRCODE = 'LG001'; END IF;
  PERFORM FROM retries r WHERE r.id = p_retry AND r.attempt = p_attempt AND r.state = 'due' FOR UPDATE;
  IF NOT FOUND THEN RAISE EXCEPTION 'retry % is taken', p_retry USING ERRCODE = 'LG004'; END IF;
END $$;

-- What became of it: done; or parked again, with a pause that grows, and dead after twenty.
CREATE FUNCTION end_retry(p_retry bigint, p_outcome text, p_reason text) RETURNS void LANGUAGE sql AS $$
  UPDATE retries SET attempt = attempt + 1, reason = coalesce(p_reason, reason),
         next_at = now() + least(interval '10 minutes', interval '250 milliseconds' * power(2, attempt)) * (0.75 + random() / 2),
         state = CASE WHEN p_outcome <> 'parked' THEN 'done' WHEN attempt >= 20 THEN 'dead' ELSE 'due' END,
         finished_at = CASE WHEN p_outcome <> 'parked' OR attempt >= 20 THEN now() END
   WHERE id = p_retry
$$;

-- payment.processing: the gateway's word about attempts. Only SUCCESS is final; a success makes the payment's verification due, and
-- nothing else, since a webhook is a hint. An order that we do not know is parked under its id until its row appears.
-- Head as commit_batch: p_retry NULL for a stream's batch; else p_topic is 'retry/<topic>' and the one signal is the parked one.
CREATE FUNCTION commit_signals(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, p_retry bigint, p_attempt integer,
  s_order text[], s_inbox uuid[], s_kind text[], s_offset bigint[], p_failed_partition integer,
  p_partitions integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[], OUT r_reason text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_topic text := CASE WHEN p_retry IS NULL THEN p_topic ELSE substr(p_topic, 7) END;
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_n integer := coalesce(cardinality(s_order), 0);
  v_bad integer;
  v_known text[];
  v_whole boolean;
  v_plain bigint[];
  v_failed timestamptz[] := '{}';
  v_credits bigint[] := '{}';
  v_amounts bigint[] := '{}';
  v_notify integer[] := '{}';
  v_notices text[] := '{}';
  w payment_webhooks;
  y payments;
BEGIN
  IF p_retry IS NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
      FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  ELSE
    PERFORM take_retry(v_topic, p_partition, p_group, p_epoch, p_retry, p_attempt);
  END IF;
  PERFORM FROM payments z WHERE z.order_id = ANY (s_order) ORDER BY z.id FOR NO KEY UPDATE;
  IF p_retry IS NOT NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation FROM begin_chain(p_topic, p_partition, p_group) b;
  END IF;

  -- The first thing heard of an order, a success, is nearly all there is: those go as a set, the others one by one.
  WITH plain AS MATERIALIZED (
    SELECT e.ord, q.place, q.id, q.order_id, q.amount, q.verified_at, h.cashfree_payment_id, h.payment_group, h.payment_method, h.instrument,
           h.amount AS claimed, h.offer_id, h.offer_amount, h.occurred_at
      FROM (SELECT x.*, count(*) OVER (PARTITION BY x.order_id) AS n
              FROM unnest(s_order, s_inbox, s_kind) WITH ORDINALITY AS x (order_id, inbox, kind, ord)) e
     CROSS JOIN LATERAL (SELECT * FROM payment_webhooks z WHERE z.id = e.inbox AND z.order_id = e.order_id AND z.kind = 'payment' LIMIT 1) h
     CROSS JOIN LATERAL (SELECT z.*, z.ctid AS place FROM payments z WHERE z.order_id = e.order_id LIMIT 1) q
      LEFT JOIN LATERAL (SELECT true AS heard FROM payment_attempts z WHERE z.order_id = e.order_id LIMIT 1) a ON true
      LEFT JOIN LATERAL (SELECT true AS waits FROM retries z WHERE z.topic = v_topic AND z.key = e.order_id AND z.state = 'due' LIMIT 1) b ON true
     WHERE p_retry IS NULL AND e.n = 1 AND e.kind = 'success' AND h.status = 'SUCCESS' AND h.cashfree_payment_id IS NOT NULL
       AND NOT q.webhook_verified AND q.cashfree_payment_id IS NULL AND a.heard IS NULL AND b.waits IS NULL
  ), attempted AS (
    INSERT INTO payment_attempts (order_id, cashfree_payment_id, payment_id, status, payment_group, amount, offer_id, offer_amount, seen, occurred_at)
      SELECT p.order_id, p.cashfree_payment_id, p.id, 'SUCCESS', p.payment_group, p.claimed, p.offer_id, p.offer_amount, '{SUCCESS}', p.occurred_at
        FROM plain p
  ), marked AS (
    UPDATE payments x SET webhook_verified = true, updated_at = now(), cashfree_payment_id = p.cashfree_payment_id,
                          payment_group = p.payment_group, payment_method = p.payment_method, instrument = p.instrument
      FROM plain p WHERE x.ctid = p.place
  ), asked AS (
    INSERT INTO verifications AS v (payment_id, order_id, reason, next_at, amount, whole)
      SELECT p.id, p.order_id, 'webhook', now(), p.amount, coalesce(p.claimed = p.amount, false) FROM plain p WHERE p.verified_at IS NULL
    ON CONFLICT (payment_id) DO UPDATE
      -- A claim that is news starts the schedule anew, and answers asked for before it are no answers to it.
      SET state = 'due', attempt = 0, leased_until = CASE WHEN v.attempt > 0 THEN '-infinity' ELSE v.leased_until END,
          next_at = least(v.next_at, now()), finished_at = NULL, whole = excluded.whole
      WHERE v.state <> 'done'
  )
  SELECT array_agg(p.ord) INTO v_plain FROM plain p;

  FOR i IN 1 .. v_n LOOP
    r_outcome[i] := 'posted'; r_reason[i] := NULL;
    CONTINUE WHEN i = ANY (v_plain);
    SELECT * INTO w FROM payment_webhooks x WHERE x.id = s_inbox[i] AND x.order_id = s_order[i] AND x.kind = 'payment';
    IF NOT FOUND OR w.cashfree_payment_id IS NULL THEN
      r_outcome[i] := 'quarantined'; r_reason[i] := 'unknown_inbox';
      CONTINUE;
    END IF;
    SELECT * INTO y FROM payments x WHERE x.order_id = s_order[i];
    IF NOT FOUND OR p_retry IS NULL AND EXISTS (SELECT FROM retries r WHERE r.topic = v_topic AND r.key = s_order[i] AND r.state = 'due') THEN
      r_outcome[i] := 'parked'; r_reason[i] := CASE WHEN y.id IS NULL THEN 'unknown_order' ELSE 'behind_parked' END;
      IF p_retry IS NULL THEN
        INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, next_at, reason)
          VALUES (v_topic, p_partition, r_incarnation, s_offset[i], s_order[i],
                  jsonb_build_object('order_id', s_order[i], 'inbox_id', s_inbox[i], 'kind', s_kind[i]), now() + interval '250 milliseconds', r_reason[i]);
      END IF;
      CONTINUE;
    END IF;

    INSERT INTO payment_attempts AS a (order_id, cashfree_payment_id, payment_id, status, payment_group, amount, offer_id, offer_amount, seen, occurred_at)
      VALUES (s_order[i], w.cashfree_payment_id, y.id, coalesce(w.status, s_kind[i]), w.payment_group, w.amount, w.offer_id, w.offer_amount,
              ARRAY[coalesce(w.status, s_kind[i])], w.occurred_at)
    ON CONFLICT (order_id, cashfree_payment_id) DO UPDATE
      SET status = CASE WHEN attempt_moves(a.status, a.occurred_at, excluded.status, excluded.occurred_at) THEN excluded.status ELSE a.status END,
          occurred_at = CASE WHEN attempt_moves(a.status, a.occurred_at, excluded.status, excluded.occurred_at) THEN excluded.occurred_at ELSE a.occurred_at END,
          payment_group = coalesce(a.payment_group, excluded.payment_group), amount = coalesce(a.amount, excluded.amount),
          offer_id = coalesce(excluded.offer_id, a.offer_id), offer_amount = coalesce(excluded.offer_amount, a.offer_amount),
          seen = CASE WHEN excluded.status = ANY (a.seen) THEN a.seen ELSE a.seen || excluded.status END, updated_at = now()
    RETURNING old.seen INTO v_known;
    IF coalesce(w.status, s_kind[i]) = ANY (v_known) THEN r_outcome[i] := 'exists'; END IF;
    -- Anything but one success of the whole amount, and the attempts themselves must be looked at.
    IF r_outcome[i] = 'posted' THEN
      SELECT count(*) = 1 AND bool_and(a.status = 'SUCCESS' AND coalesce(a.amount = y.amount AND w.amount = y.amount, false)) INTO v_whole
        FROM payment_attempts a WHERE a.order_id = y.order_id;
      UPDATE verifications v SET whole = v_whole WHERE v.payment_id = y.id AND v.state <> 'done' AND v.whole <> v_whole;
    END IF;

    IF s_kind[i] = 'success' THEN
      -- Another attempt of this order succeeded too: it was paid twice, whatever comes of the first.
      IF y.verified_at IS NOT NULL AND y.cashfree_payment_id <> w.cashfree_payment_id
         OR EXISTS (SELECT FROM payment_attempts a WHERE a.order_id = y.order_id AND a.status = 'SUCCESS'
                       AND a.cashfree_payment_id <> w.cashfree_payment_id) THEN
        PERFORM inquire(ARRAY[y.order_id], 'paid_twice');
      END IF;
      UPDATE payments x SET webhook_verified = true, updated_at = now(),
             cashfree_payment_id = CASE WHEN y.webhook_verified OR y.verified_at IS NOT NULL THEN coalesce(y.cashfree_payment_id, w.cashfree_payment_id)
                                        ELSE w.cashfree_payment_id END,
             payment_group = CASE WHEN y.webhook_verified THEN y.payment_group ELSE w.payment_group END,
             payment_method = CASE WHEN y.webhook_verified THEN y.payment_method ELSE w.payment_method END,
             instrument = CASE WHEN y.webhook_verified THEN y.instrument ELSE w.instrument END
       WHERE x.id = y.id;
      IF y.verified_at IS NULL THEN
        INSERT INTO verifications AS v (payment_id, order_id, reason, next_at, amount, whole)
          VALUES (y.id, y.order_id, 'webhook', now(), y.amount, coalesce(v_whole, false))
        ON CONFLICT (payment_id) DO UPDATE
          SET state = 'due', attempt = CASE WHEN v.state = 'orphan' OR r_outcome[i] = 'posted' THEN 0 ELSE v.attempt END,
              leased_until = CASE WHEN r_outcome[i] = 'posted' AND v.attempt > 0 THEN '-infinity' ELSE v.leased_until END,
              next_at = least(v.next_at, now()), finished_at = NULL
          WHERE v.state <> 'done';
      END IF;
    ELSIF s_kind[i] IN ('failed', 'dropped') AND y.status IN ('created', 'active') THEN
      UPDATE payments x SET status = 'failed', failed_at = coalesce(x.failed_at, w.occurred_at), failure = coalesce(w.status, s_kind[i]),
                            updated_at = now() WHERE x.id = y.id;
      IF y.failed_at IS NULL THEN
        v_failed := v_failed || w.occurred_at; v_credits := v_credits || y.credits_granted; v_amounts := v_amounts || y.amount;
        IF s_kind[i] = 'failed' AND NOT y.webhook_verified THEN   -- who walked away knows; who paid as well is told that
          v_notify := v_notify || partition_of(y.user_id::text, p_partitions);
          v_notices := v_notices || payment_notice('payment_failed', y, w.occurred_at);
        END IF;
      END IF;
    END IF;
  END LOOP;

  IF 'quarantined' = ANY (r_outcome) THEN
    INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
      SELECT v_topic, p_partition, r_incarnation, s_offset[g], r_reason[g],
             convert_to(jsonb_build_object('order_id', s_order[g], 'inbox_id', s_inbox[g], 'kind', s_kind[g])::text, 'UTF8'), p_batch_id
        FROM generate_series(1, v_n) g WHERE r_outcome[g] = 'quarantined';
  END IF;
  v_bad := coalesce(quarantine_records(v_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);

  IF p_retry IS NOT NULL THEN PERFORM end_retry(p_retry, r_outcome[1], r_reason[1]); END IF;
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '', r_outcome, v_bad, v_dropped);
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg('analytics.billing'::text) AS t, array_agg(p_failed_partition) AS p, array_agg(d.event) AS e
            FROM (SELECT payment_delta('failed', date_trunc('minute', f.at), count(*), sum(f.credits)::bigint, sum(f.amount)::bigint) AS event
                    FROM unnest(v_failed, v_credits, v_amounts) AS f (at, credits, amount) GROUP BY date_trunc('minute', f.at)) d) x,
         emit(p_topic, p_partition, p_group, r_incarnation, r_batch_no, x.t || array_fill('notifications.billing'::text, ARRAY[cardinality(v_notices)]),
              x.p || v_notify, x.e || v_notices) m;
END $$;

-- Whether an attempt's status gives way to a newly heard one: never away from SUCCESS, always to it, never to a word nobody has told us
-- about, else to what happened later, and of what happened in the same second to what is further on.
CREATE FUNCTION attempt_moves(p_status text, p_at timestamptz, p_next text, p_next_at timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_status <> 'SUCCESS' AND (p_next = 'SUCCESS' OR p_next = ANY (r.rising)
    AND (p_next_at > p_at OR p_next_at = p_at AND array_position(r.rising, p_next) > coalesce(array_position(r.rising, p_status), 0)))
    FROM (SELECT ARRAY['NOT_ATTEMPTED', 'PENDING', 'FLAGGED', 'USER_DROPPED', 'CANCELLED', 'FAILED', 'VOID']) AS r (rising)
$$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
