-- migrate:up
-- From the gateway's PAID to a credit: verification, the fan-in of velocity counts, one decision, and a person's review.
-- Locks as in 0009: offset row, wallets by id, payments by id, named chain.
SET LOCAL ROLE core_owner;

-- Take payments that are due to be asked about, the oldest deadline first and of those the largest amount; nobody else takes them for
-- p_lease_s. A lease that ends without an answer (its holder died) is simply taken again. whole: the order alone decides; if not, offers are
-- those on record by attempt, {cashfree_payment_id: [offer_id, paise off] or null if its webhook named none}, and cashfree_payment_id is the
-- attempt that a webhook called successful.
CREATE FUNCTION lease_verifications(p_limit integer, p_lease_s double precision)
RETURNS TABLE (payment_id uuid, order_id text, attempt integer, amount bigint, user_id uuid, wallet_id uuid, device_id text, ip text, instrument text,
               whole boolean, cashfree_payment_id text, offers jsonb)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
  WITH due AS (
    SELECT v.ctid AS place FROM verifications v WHERE v.state = 'due' AND v.next_at <= now() AND v.leased_until < now()
     ORDER BY v.next_at, v.amount DESC LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), leased AS (
    UPDATE verifications v SET leased_until = now() + make_interval(secs => p_lease_s)
      FROM due d WHERE v.ctid = d.place RETURNING v.*
  )
  SELECT l.payment_id, l.order_id, l.attempt, l.amount, y.user_id, y.wallet_id, y.device_id, host(y.ip), y.instrument,
         l.whole, y.cashfree_payment_id,
         CASE WHEN NOT l.whole THEN (SELECT jsonb_object_agg(a.cashfree_payment_id, CASE WHEN a.offer_id IS NOT NULL THEN jsonb_build_array(a.offer_id, a.offer_amount) END)
                                       FROM payment_attempts a WHERE a.order_id = l.order_id AND a.status = 'SUCCESS') END
    FROM leased l CROSS JOIN LATERAL (SELECT * FROM payments x WHERE x.id = l.payment_id LIMIT 1) y ORDER BY l.next_at, l.amount DESC
$$;

-- What fraud.detection is asked about a verified payment: a signal for each of its entities, to the partition that counts it.
CREATE FUNCTION fraud_signals(p_payment uuid, p_entities text[], p_partitions integer[], p_amount bigint, p_at timestamptz)
RETURNS TABLE (n bigint, partition integer, event text) LANGUAGE sql STABLE AS $$
  SELECT e.n, e.partition, '{"payment_id":' || event_id(p_payment) || ',"entity_kind":"' || e.kind || '","entity":' || event_text(e.entity)
                             || ',"amount_paise":' || p_amount || ',"occurred_at":' || event_time(p_at) || '}'
    FROM unnest(entity_kinds(), p_entities, p_partitions) WITH ORDINALITY AS e (kind, entity, partition, n) WHERE e.entity IS NOT NULL
$$;

-- What the gateway answered about leased payments, on the chain verify/<shard>. p_results is an array of
--   {"payment", "attempt", "answer": "order" | "not_found" | "unavailable", "status", "paid", "amount", "currency", "cf_order_id",
--    "retry_s", "credit_partition", "entities": [entity or null, ...] by entity_kinds(), "partitions": [of fraud.detection, ...] of the same},
--    and where its attempts were looked at
--   "cf_payment_id": the attempt that paid, "paid_amount": what it paid, "offer": {"id", "amount"} on record for it or null,
--   "mismatch": why it must not be credited or null, "successes": how many attempts succeeded
-- Outcomes: verified   PAID, amount and currency equal ours, and what was paid is that less the offer on record: pending credits rise, each
--                      entity is asked for its counts
--           mismatch   PAID, but something else than we sold: a case for a person, no credit
--           unpaid     not PAID (yet): asked again by the schedule; orphan after it
--           deferred   no answer: asked again, and it counts as no attempt
--           exists     decided before, or by another holder of the lease: nothing changes
CREATE FUNCTION record_verifications(p_batch_id uuid, p_shard integer, p_results jsonb, p_verified_partition integer, p_mismatch_partition integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$   -- rows are looked up one by one, as in 0007
DECLARE
  c_schedule CONSTANT interval[] := ARRAY['5 seconds', '15 seconds', '1 minute', '5 minutes', '1 hour', '1 day']::interval[];
  v_ids uuid[] := ARRAY(SELECT (e ->> 'payment')::uuid FROM jsonb_array_elements(p_results) e);
  v_n integer := cardinality(v_ids);
  v_wallets uuid[];
  v_plain bigint[];
  v_topics text[] := '{}';
  v_partitions integer[] := '{}';
  v_events text[] := '{}';
  v_at timestamptz;
  v_entities text[];
  v_chain record;
  v_counts record;
  e jsonb;
  y payments;
  v verifications;
BEGIN
  SELECT array_agg(DISTINCT z.wallet_id) INTO v_wallets FROM payments z WHERE z.id = ANY (v_ids);
  PERFORM FROM wallets w WHERE w.id = ANY (v_wallets) ORDER BY w.id FOR NO KEY UPDATE;
  PERFORM FROM payments z WHERE z.id = ANY (v_ids) ORDER BY z.id FOR NO KEY UPDATE;
  PERFORM FROM verifications z WHERE z.payment_id = ANY (v_ids) ORDER BY z.payment_id FOR UPDATE;

  -- Paid, as we sold it and nothing else to look at: those go as a set, the others one by one.
  WITH plain AS MATERIALIZED (
    SELECT r.ord, r.cf_order_id, r.credit_partition, r.entities, r.partitions, q.place, q.id, q.wallet_id, q.amount, q.credits_granted, k.place AS check_place,
           greatest(least(coalesce(a.at, now()), now()), now() - interval '1 hour') AS at
      FROM (SELECT x.*, count(*) OVER (PARTITION BY x.payment) AS n
              FROM ROWS FROM (jsonb_to_recordset(p_results) AS (payment uuid, answer text, paid boolean, amount bigint, currency text,
                                                               cf_order_id text, credit_partition integer, entities text[], partitions integer[],
                                                               paid_amount bigint))
                     WITH ORDINALITY AS x (payment, answer, paid, amount, currency, cf_order_id, credit_partition, entities, partitions, paid_amount, ord)) r
     CROSS JOIN LATERAL (SELECT z.*, z.ctid AS place FROM payments z WHERE z.id = r.payment LIMIT 1) q
     CROSS JOIN LATERAL (SELECT z.state, z.ctid AS place FROM verifications z WHERE z.payment_id = r.payment LIMIT 1) k
     CROSS JOIN LATERAL (SELECT max(z.occurred_at) AS at FROM payment_attempts z WHERE z.order_id = q.order_id AND z.status = 'SUCCESS') a
     WHERE r.n = 1 AND r.answer = 'order' AND r.paid AND r.amount = q.amount AND r.currency = q.currency
       AND r.paid_amount IS NULL AND q.verified_at IS NULL AND k.state <> 'done'
  ), pending AS (
    UPDATE wallets w SET pending_credits = w.pending_credits + s.credits, updated_at = now()
      FROM (SELECT z.place, p.credits FROM (SELECT wallet_id, sum(credits_granted)::bigint AS credits FROM plain GROUP BY wallet_id) p
             CROSS JOIN LATERAL (SELECT x.ctid AS place FROM wallets x WHERE x.id = p.wallet_id LIMIT 1) z) s
     WHERE w.ctid = s.place
  ), verified AS (
    UPDATE payments x SET status = 'verified', verified_at = now(), cashfree_order_id = coalesce(x.cashfree_order_id, p.cf_order_id),
                          credit_partition = p.credit_partition, updated_at = now()
      FROM plain p WHERE x.ctid = p.place
  ), answered AS (
    UPDATE verifications x SET state = 'done', result = 'verified', leased_until = '-infinity', deferrals = 0, finished_at = now()
      FROM plain p WHERE x.ctid = p.check_place
  ), asked AS (
    INSERT INTO fraud_checks (payment_id, entities, amount, occurred_at, awaited)
      SELECT p.id, p.entities, p.amount, p.at, cardinality(array_remove(p.entities, NULL)) FROM plain p ORDER BY p.id
  )
  SELECT (SELECT array_agg(p.ord) FROM plain p), coalesce(array_agg('fraud.detection'::text), '{}'),
         coalesce(array_agg(s.partition ORDER BY p.ord, s.n), '{}'), coalesce(array_agg(s.event ORDER BY p.ord, s.n), '{}')
    INTO v_plain, v_topics, v_partitions, v_events FROM plain p CROSS JOIN LATERAL fraud_signals(p.id, p.entities, p.partitions, p.amount, p.at) s;

  FOR i IN 1 .. v_n LOOP
    IF i = ANY (v_plain) THEN
      r_outcome[i] := 'verified';
      CONTINUE;
    END IF;
    e := p_results -> i - 1;
    SELECT * INTO STRICT y FROM payments WHERE id = v_ids[i];
    SELECT * INTO STRICT v FROM verifications WHERE payment_id = v_ids[i] FOR UPDATE;
    IF y.verified_at IS NOT NULL OR v.state = 'done' THEN
      r_outcome[i] := 'exists';
    ELSIF e ->> 'answer' = 'order' AND (e ->> 'paid')::boolean AND (e ->> 'amount')::bigint = y.amount AND e ->> 'currency' = y.currency
      AND e ->> 'mismatch' IS NULL AND coalesce((e ->> 'paid_amount')::bigint, y.amount) + coalesce((e -> 'offer' ->> 'amount')::bigint, 0) = y.amount THEN
      r_outcome[i] := 'verified';
      UPDATE wallets SET pending_credits = pending_credits + y.credits_granted, updated_at = now() WHERE id = y.wallet_id;
      UPDATE payments SET status = 'verified', verified_at = now(), cashfree_order_id = coalesce(cashfree_order_id, e ->> 'cf_order_id'),
             cashfree_payment_id = coalesce(e ->> 'cf_payment_id', cashfree_payment_id), offer_id = e -> 'offer' ->> 'id',
             offer_amount = coalesce((e -> 'offer' ->> 'amount')::bigint, 0),
             credit_partition = (e ->> 'credit_partition')::integer, updated_at = now() WHERE id = y.id;
      IF (e ->> 'successes')::integer > 1 THEN PERFORM inquire(ARRAY[y.order_id], 'paid_twice'); END IF;
      -- Velocity is of payments, not of our catching up: the time of the success, of the last hour at most.
      SELECT greatest(least(coalesce(max(a.occurred_at), now()), now()), now() - interval '1 hour') INTO v_at
        FROM payment_attempts a WHERE a.order_id = y.order_id AND a.status = 'SUCCESS';
      v_entities := ARRAY(SELECT x FROM jsonb_array_elements_text(e -> 'entities') WITH ORDINALITY AS t (x, n) ORDER BY n);
      INSERT INTO fraud_checks (payment_id, entities, amount, occurred_at, awaited)
        VALUES (y.id, v_entities, y.amount, v_at, cardinality(array_remove(v_entities, NULL)));
      SELECT v_topics || array_agg('fraud.detection'::text), v_partitions || array_agg(s.partition ORDER BY s.n), v_events || array_agg(s.event ORDER BY s.n)
        INTO v_topics, v_partitions, v_events
        FROM fraud_signals(y.id, v_entities, ARRAY(SELECT x::integer FROM jsonb_array_elements_text(e -> 'partitions') WITH ORDINALITY AS t (x, n) ORDER BY n),
                           y.amount, v_at) s;
    ELSIF e ->> 'answer' = 'order' AND (e ->> 'paid')::boolean THEN
      r_outcome[i] := 'mismatch';
      UPDATE payments SET status = 'mismatch', updated_at = now() WHERE id = y.id;
      PERFORM open_case('payment_mismatch', y.id::text, jsonb_build_object('order_id', y.order_id, 'amount_paise', y.amount, 'currency', y.currency),
                        jsonb_build_object('status', e ->> 'status', 'amount_paise', (e ->> 'amount')::bigint, 'currency', e ->> 'currency')
                          || CASE WHEN e ? 'paid_amount' THEN jsonb_build_object('why', e -> 'mismatch', 'paid_paise', e -> 'paid_amount', 'offer', e -> 'offer')
                                  ELSE '{}' END);
      PERFORM inquire(ARRAY[y.order_id], 'mismatch');
    ELSIF v.state <> 'due' OR v.attempt <> (e ->> 'attempt')::integer THEN
      r_outcome[i] := 'exists';
    ELSIF e ->> 'answer' = 'unavailable' THEN
      r_outcome[i] := 'deferred';
    ELSE
      r_outcome[i] := CASE WHEN v.attempt >= cardinality(c_schedule) THEN 'orphan' ELSE 'unpaid' END;
    END IF;

    UPDATE verifications SET leased_until = '-infinity',
        state = CASE r_outcome[i] WHEN 'verified' THEN 'done' WHEN 'mismatch' THEN 'done' WHEN 'orphan' THEN 'orphan' ELSE state END,
        result = CASE r_outcome[i] WHEN 'deferred' THEN result WHEN 'exists' THEN result WHEN 'unpaid' THEN coalesce(e ->> 'status', e ->> 'answer')
                                   WHEN 'orphan' THEN CASE WHEN e ->> 'status' IN ('EXPIRED', 'TERMINATED') THEN e ->> 'status' ELSE 'orphan' END
                                   ELSE r_outcome[i] END,
        attempt = attempt + (r_outcome[i] IN ('unpaid', 'orphan'))::integer,
        deferrals = CASE r_outcome[i] WHEN 'deferred' THEN deferrals + 1 ELSE 0 END,
        next_at = CASE r_outcome[i]
          WHEN 'unpaid' THEN now() + c_schedule[attempt + 1] * (0.9 + random() / 5)
          WHEN 'deferred' THEN now() + make_interval(secs => greatest(coalesce((e ->> 'retry_s')::double precision, 0),
                                                                      least(20, 0.5 * power(2, least(deferrals, 10)))) * (1 + random() / 2))
          ELSE next_at END,
        finished_at = CASE WHEN r_outcome[i] IN ('verified', 'mismatch', 'orphan') THEN now() ELSE finished_at END
     WHERE payment_id = y.id AND r_outcome[i] <> 'exists';
  END LOOP;

  SELECT count(*) FILTER (WHERE x IN ('verified', 'mismatch'))::integer AS posted, count(*) FILTER (WHERE x = 'exists')::integer AS existing,
         count(*) FILTER (WHERE x IN ('unpaid', 'orphan', 'deferred'))::integer AS parked INTO v_counts FROM unnest(r_outcome) x;
  IF v_counts.posted = 0 THEN RETURN; END IF;
  SELECT * INTO v_chain FROM begin_chain('verify', p_shard, 'core');
  r_batch_no := v_chain.batch_no; r_incarnation := v_chain.incarnation;
  SELECT v_topics || array_agg('analytics.billing'::text), v_partitions || array_agg(d.p), v_events || array_agg(d.event)
    INTO v_topics, v_partitions, v_events
    FROM (SELECT CASE o.outcome WHEN 'verified' THEN p_verified_partition ELSE p_mismatch_partition END AS p,
                 payment_delta(o.outcome, now(), count(*), sum(z.credits_granted)::bigint, sum(z.amount)::bigint) AS event
            FROM unnest(v_ids, r_outcome) AS o (id, outcome) CROSS JOIN LATERAL (SELECT * FROM payments x WHERE x.id = o.id LIMIT 1) z
           WHERE o.outcome IN ('verified', 'mismatch') GROUP BY o.outcome) d;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM emit('verify', p_shard, 'core', r_incarnation, r_batch_no, v_topics, v_partitions, v_events) m;
  PERFORM finish_batch(p_batch_id, 'verify', p_shard, 'core', r_batch_no, 0, r_incarnation, 0, 0, v_chain.link, '',
    v_n, v_counts.posted, 0, v_counts.existing, 0, v_counts.parked, 0, 0);
END $$;

-- What fraud.detection, the timer and a person send on when a payment may be credited.
CREATE FUNCTION credit_command(p_payment uuid, p_wallet uuid, p_credits bigint, p_at timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT '{"kind":"purchase","payment_id":' || event_id(p_payment) || ',"wallet_id":' || event_id(p_wallet) || ',"credits":' || p_credits
      || ',"occurred_at":' || event_time(p_at) || '}'
$$;

-- What a payment's counts say by the rules in force, and 20 points for each entity that has not answered. `known`: without those.
CREATE FUNCTION fraud_score(p_payment uuid) RETURNS TABLE (points integer, known integer, reasons text[], missing text[])
LANGUAGE sql STABLE AS $$
  SELECT coalesce(sum(k.points), 0)::integer, coalesce(sum(k.points) FILTER (WHERE k.kind IS NULL), 0)::integer,
         coalesce(array_agg(k.code ORDER BY k.code), '{}'), coalesce(array_agg(k.kind ORDER BY k.kind) FILTER (WHERE k.kind IS NOT NULL), '{}')
    FROM fraud_checks c
   CROSS JOIN LATERAL (
     SELECT r.code, r.points, NULL AS kind FROM fraud_rules r WHERE r.enabled AND c.counts[r.place] > r.threshold
     UNION ALL
     SELECT 'missing_' || e.kind, 20, e.kind FROM unnest(entity_kinds(), c.entities) WITH ORDINALITY AS e (kind, entity, n)
      WHERE c.awaited > 0 AND e.entity IS NOT NULL AND c.counts[6 * e.n] IS NULL) k
   WHERE c.payment_id = p_payment
$$;

-- The one decision about each payment of p_ids: they are locked, verified and undecided. A rule fires above its threshold; its points and
-- 20 for each entity that did not answer add up to at most 100, and 60 is a hold (domain/fraud.py is the specification). Returns what follows.
CREATE FUNCTION decide_payments(p_ids uuid[], p_held_partition integer, p_partitions integer)
RETURNS TABLE (t text, p integer, event text) LANGUAGE sql AS $$
  WITH scored AS MATERIALIZED (
    SELECT y.place, y.id, y.user_id, y.wallet_id, y.amount, y.credits_granted, y.verified_at, y.credit_partition,
           least(100, x.points) AS score, x.reasons, x.missing
      FROM unnest(p_ids) AS i (id)
     CROSS JOIN LATERAL (SELECT z.*, z.ctid AS place FROM payments z WHERE z.id = i.id LIMIT 1) y
     CROSS JOIN LATERAL fraud_score(i.id) x
  ), told AS (
    INSERT INTO fraud_events (payment_id, user_id, score, reasons, missing, verdict)
      SELECT s.id, s.user_id, s.score, s.reasons, s.missing, CASE WHEN s.score >= 60 THEN 'hold' ELSE 'allow' END FROM scored s ORDER BY s.id
  ), decided AS (
    UPDATE payments y SET fraud_score = s.score, fraud_decided_at = now(), updated_at = now(),
                          status = CASE WHEN s.score >= 60 THEN 'held' ELSE y.status END
      FROM scored s WHERE y.ctid = s.place
  )
  SELECT 'wallet.credit', s.credit_partition, credit_command(s.id, s.wallet_id, s.credits_granted, s.verified_at) FROM scored s WHERE s.score < 60
  UNION ALL
  SELECT 'analytics.billing', p_held_partition, payment_delta('held', now(), count(*), sum(s.credits_granted)::bigint, sum(s.amount)::bigint)
    FROM scored s WHERE s.score >= 60 HAVING count(*) > 0
  UNION ALL
  SELECT 'notifications.billing', partition_of(s.user_id::text, p_partitions), payment_notice('payment_held', y.whole, now())
    FROM scored s CROSS JOIN LATERAL (SELECT z AS whole FROM payments z WHERE z.id = s.id LIMIT 1) y WHERE s.score >= 60
$$;

-- fraud.detection: counts of the entities, folded by the partition's owner; a payment whose last count arrives here is decided here.
-- s_counts: six for each signal (payments and paise in 1 m, 1 h and 24 h); s_folded is false where the owner took it for one that is not to be
-- folded (known already, or unknown). w_*: the window rows after the fold, with the (partition, offset) each was read at (NULL: there was none).
-- Locks: the checks by payment, then the payments that are complete by id.
-- Errors: LG006, the owner's picture is not what is stored: read again and fold again.
CREATE FUNCTION commit_fraud(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb,
  s_payment uuid[], s_kind text[], s_entity text[], s_amount bigint[], s_occurred timestamptz[], s_offset bigint[], s_folded boolean[],
  s_counts bigint[],
  w_kind text[], w_entity text[], w_buckets jsonb[], w_last_at timestamptz[], w_partition integer[], w_offset bigint[], p_held_partition integer,
  p_partitions integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$   -- see 0007: plans made while the tables were empty serve for long, so rows are looked up one by one
DECLARE
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_n integer := coalesce(cardinality(s_payment), 0);
  v_bad integer;
  v_stale boolean;
  v_complete uuid[];
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  PERFORM FROM fraud_checks k WHERE k.payment_id = ANY (s_payment) ORDER BY k.payment_id FOR NO KEY UPDATE;

  -- Under the locks: which signals are news, and does the owner agree?
  SELECT array_agg(CASE WHEN k.payment_id IS NULL THEN 'quarantined' WHEN k.count IS NOT NULL OR e.nth > 1 THEN 'exists' ELSE 'posted' END ORDER BY e.ord),
         bool_or((k.payment_id IS NOT NULL AND k.count IS NULL AND e.nth = 1) <> e.folded)
    INTO r_outcome, v_stale
    FROM (SELECT x.*, array_position(entity_kinds(), x.kind) AS place, row_number() OVER (PARTITION BY x.payment, x.kind ORDER BY x.ord) AS nth
            FROM unnest(s_payment, s_kind, s_entity, s_amount, s_occurred, s_folded) WITH ORDINALITY
              AS x (payment, kind, entity, amount, occurred, folded, ord)) e
    LEFT JOIN LATERAL (SELECT x.payment_id, x.counts[6 * e.place] AS count FROM fraud_checks x
                        WHERE x.payment_id = e.payment AND x.entities[e.place] = e.entity AND x.amount = e.amount AND x.occurred_at = e.occurred LIMIT 1) k ON true;
  IF v_stale OR EXISTS (
    SELECT FROM unnest(w_kind, w_entity, w_partition, w_offset) AS r (kind, entity, at_partition, at_offset)
      LEFT JOIN LATERAL (SELECT * FROM fraud_windows x WHERE x.entity_kind = r.kind AND x.entity = r.entity LIMIT 1) f ON true
     WHERE (f.as_of_partition, f.as_of_offset) IS DISTINCT FROM (r.at_partition, r.at_offset)) THEN
    RAISE EXCEPTION 'windows of %/% are stale', p_topic, p_partition USING ERRCODE = 'LG006';
  END IF;

  INSERT INTO fraud_windows AS f (entity_kind, entity, buckets, last_at, as_of_partition, as_of_offset)
    SELECT r.kind, r.entity, r.buckets, r.last_at, p_partition, p_last_offset
      FROM unnest(w_kind, w_entity, w_buckets, w_last_at) AS r (kind, entity, buckets, last_at) ORDER BY r.kind, r.entity
  ON CONFLICT (entity_kind, entity) DO UPDATE
    SET buckets = excluded.buckets, last_at = excluded.last_at, as_of_partition = excluded.as_of_partition, as_of_offset = excluded.as_of_offset;
  UPDATE fraud_checks k SET counts[1:6] = coalesce(e.of_user, k.counts[1:6]), counts[7:12] = coalesce(e.of_device, k.counts[7:12]),
                            counts[13:18] = coalesce(e.of_ip, k.counts[13:18]), counts[19:24] = coalesce(e.of_instrument, k.counts[19:24]),
                            awaited = k.awaited - e.n
    FROM (SELECT z.place, u.*
            FROM (SELECT x.payment, count(*) AS n, any_value(x.counts) FILTER (WHERE x.kind = 'user') AS of_user,
                         any_value(x.counts) FILTER (WHERE x.kind = 'device') AS of_device, any_value(x.counts) FILTER (WHERE x.kind = 'ip') AS of_ip,
                         any_value(x.counts) FILTER (WHERE x.kind = 'instrument') AS of_instrument
                    FROM (SELECT y.payment, y.kind, s_counts[6 * y.ord - 5 : 6 * y.ord] AS counts
                            FROM unnest(s_payment, s_kind, r_outcome) WITH ORDINALITY AS y (payment, kind, outcome, ord) WHERE y.outcome = 'posted') x
                   GROUP BY x.payment) u
           CROSS JOIN LATERAL (SELECT x.ctid AS place FROM fraud_checks x WHERE x.payment_id = u.payment LIMIT 1) z) e
   WHERE k.ctid = e.place;

  SELECT array_agg(k.payment_id) INTO v_complete
    FROM (SELECT DISTINCT u.id FROM unnest(s_payment) AS u (id)) p
   CROSS JOIN LATERAL (SELECT x.payment_id FROM fraud_checks x WHERE x.payment_id = p.id AND x.awaited = 0 AND NOT x.missed LIMIT 1) k;
  SELECT array_agg(y.id) INTO v_complete
    FROM (SELECT x.id, x.status, x.fraud_decided_at FROM payments x WHERE x.id = ANY (v_complete) ORDER BY x.id FOR NO KEY UPDATE) y
   WHERE y.status = 'verified' AND y.fraud_decided_at IS NULL;

  IF 'quarantined' = ANY (r_outcome) THEN
    INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
      SELECT p_topic, p_partition, r_incarnation, s_offset[g], 'unknown_check',
             convert_to(jsonb_build_object('payment_id', s_payment[g], 'entity_kind', s_kind[g], 'entity', s_entity[g], 'amount_paise', s_amount[g],
                                           'occurred_at', s_occurred[g])::text, 'UTF8'), p_batch_id
        FROM generate_series(1, v_n) g WHERE r_outcome[g] = 'quarantined';
  END IF;
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '', r_outcome, v_bad, v_dropped);
  IF v_complete IS NULL THEN RETURN; END IF;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg(d.t) AS t, array_agg(d.p) AS p, array_agg(d.event) AS e FROM decide_payments(v_complete, p_held_partition, p_partitions) d) x,
         emit(p_topic, p_partition, p_group, r_incarnation, r_batch_no, x.t, x.p, x.e) m;
END $$;

-- The timer: decide what has waited p_age_s for an entity, without it. Who would be held only for what is missing waits for it,
-- p_hold_s long: a standstill of ours is no suspicion of theirs. Payments that somebody is just working on are left to them.
-- r_found: of how many something was overdue.
CREATE FUNCTION decide_overdue(p_batch_id uuid, p_shard integer, p_limit integer, p_age_s double precision, p_hold_s double precision,
  p_held_partition integer, p_partitions integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_found integer, OUT r_decided integer,
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
DECLARE
  v_ids uuid[];
  v_waiting uuid[];
  v_chain record;
BEGIN
  SELECT count(*), array_agg(k.payment_id) INTO r_found, v_ids
    FROM (SELECT x.payment_id FROM fraud_checks x WHERE x.open AND x.overdue_at < now() - make_interval(secs => p_age_s)
           ORDER BY x.overdue_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED) k;
  SELECT array_agg(x.id) INTO v_ids
    FROM (SELECT y.id FROM payments y WHERE y.id = ANY (v_ids) ORDER BY y.id FOR NO KEY UPDATE SKIP LOCKED) x;
  -- A new snapshot: what was decided before we had the lock stays as it is.
  SELECT array_agg(y.id ORDER BY y.id) FILTER (WHERE NOT x.waits), array_agg(y.id) FILTER (WHERE x.waits) INTO v_ids, v_waiting
    FROM payments y JOIN fraud_checks k ON k.payment_id = y.id AND k.open
   CROSS JOIN LATERAL (SELECT s.points >= 60 AND s.known < 60 AND k.requested_at > now() - make_interval(secs => p_hold_s) AS waits FROM fraud_score(y.id) s) x
   WHERE y.id = ANY (v_ids) AND y.status = 'verified' AND y.fraud_decided_at IS NULL;
  UPDATE fraud_checks k SET overdue_at = k.requested_at + make_interval(secs => p_hold_s - p_age_s) WHERE k.payment_id = ANY (v_waiting);
  r_decided := coalesce(cardinality(v_ids), 0);
  IF r_decided = 0 THEN RETURN; END IF;
  SELECT * INTO v_chain FROM begin_chain('fraud', p_shard, 'core');
  r_batch_no := v_chain.batch_no; r_incarnation := v_chain.incarnation;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg(d.t) AS t, array_agg(d.p) AS p, array_agg(d.event) AS e FROM decide_payments(v_ids, p_held_partition, p_partitions) d) x,
         emit('fraud', p_shard, 'core', r_incarnation, r_batch_no, x.t, x.p, x.e) m;
  UPDATE fraud_checks k SET missed = true WHERE k.payment_id = ANY (v_ids);
  PERFORM finish_batch(p_batch_id, 'fraud', p_shard, 'core', r_batch_no, 0, r_incarnation, 0, 0, v_chain.link, '',
    r_decided, r_decided, 0, 0, 0, 0, 0, 0);
END $$;

-- A person's word about a held payment, on the chain api/<shard>: released, its credits follow; rejected, none ever will.
-- Outcomes: released | rejected; exists (the same verdict before); conflict (another verdict before); not_held; unknown.
CREATE FUNCTION review_payment(p_batch_id uuid, p_shard integer, p_payment uuid, p_verdict text, p_actor text, p_rejected_partition integer,
  p_why text, OUT r_outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
  v_before text;
  v_chain record;
BEGIN
  PERFORM FROM wallets w WHERE w.id = (SELECT z.wallet_id FROM payments z WHERE z.id = p_payment) FOR NO KEY UPDATE;
  SELECT * INTO y FROM payments WHERE id = p_payment FOR NO KEY UPDATE;
  IF NOT FOUND THEN r_outcome := 'unknown'; RETURN; END IF;
  SELECT verdict INTO v_before FROM fraud_reviews WHERE payment_id = p_payment;
  IF FOUND THEN r_outcome := CASE WHEN v_before = p_verdict THEN 'exists' ELSE 'conflict' END; RETURN; END IF;
  IF y.status <> 'held' THEN r_outcome := 'not_held'; RETURN; END IF;

  INSERT INTO fraud_reviews (payment_id, verdict, actor) VALUES (p_payment, p_verdict, p_actor);
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'fraud.' || p_verdict, 'payment', p_payment::text, jsonb_build_object('why', p_why));
  UPDATE payments SET status = CASE p_verdict WHEN 'release' THEN 'verified' ELSE 'rejected' END, updated_at = now() WHERE id = p_payment;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  IF p_verdict = 'release' THEN
    r_outcome := 'released';
    PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['wallet.credit'], ARRAY[y.credit_partition],
                      ARRAY[credit_command(y.id, y.wallet_id, y.credits_granted, y.verified_at)]);
  ELSE
    r_outcome := 'rejected';
    PERFORM inquire(ARRAY[y.order_id], 'rejected');
    UPDATE wallets SET pending_credits = pending_credits - least(pending_credits, y.credits_granted), updated_at = now() WHERE id = y.wallet_id;
    PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['analytics.billing'], ARRAY[p_rejected_partition],
                      ARRAY[payment_delta('rejected', now(), 1, y.credits_granted, y.amount)]);
  END IF;
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '',
                       1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- Windows that no signal can reach any more. Returns how many went; an owner who still remembers one reads again (LG006).
CREATE FUNCTION purge_fraud_windows(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH old AS (
    SELECT f.entity_kind, f.entity FROM fraud_windows f WHERE f.last_at < now() - interval '3 days' LIMIT p_limit FOR UPDATE SKIP LOCKED
  ), gone AS (
    DELETE FROM fraud_windows f USING old o WHERE f.entity_kind = o.entity_kind AND f.entity = o.entity RETURNING 1)
  SELECT count(*)::integer FROM gone
$$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
