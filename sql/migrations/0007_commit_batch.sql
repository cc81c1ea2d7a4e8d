-- migrate:up
-- commit_batch: one batch of ledger commands, one transaction, one round trip.
-- Plain spends that fit are decided and booked as one set, and so are plain purchases; every other command goes through
-- apply_command in order.
-- A wallet is wholly one or the other within a batch, so its order is kept.
--
-- Plans must not depend on statistics, which lag behind a ledger that grows from nothing: rows are looked up one by one through
-- LATERAL ... LIMIT 1 (no join order to choose), and rows just read under the wallet's lock are updated by their ctid.
SET LOCAL ROLE core_owner;

-- Head: (p_topic, p_partition, p_group) with p_epoch and offsets for a stream partition; p_epoch NULL for a named chain
-- ('api', 'retry/<topic>'), which begins after the wallets are locked; p_retry/p_attempt/p_decide name the retries
-- rows that this call decides, one per command and in order: all of some wallets' unfinished rows from their lowest on.
-- p_progress: see begin_batch, and "dropped": events of slices already applied. p_bad: see quarantine_records.
-- Commands are parallel arrays: c_key '<principal>:<key>', c_publisher NULL for the core itself, c_analytics the analytics.billing
-- partition of the command's dimension, c_extra see apply_command plus invoice_partition, notify_partition, status_partition of a purchase.
-- Returns per command its outcome, reason, transaction, balance; and the outbox rows to publish.
-- Errors: LG001 fenced, LG002 already committed, LG003 watermark moved, LG004 retry already taken, 23505 a key posted meanwhile (send again).
CREATE FUNCTION commit_batch(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, p_retry bigint[], p_attempt integer[], p_decide boolean[],
  c_id uuid[], c_wallet uuid[], c_kind text[], c_credits bigint[], c_key text[], c_hash bytea[], c_occurred timestamptz[],
  c_offset bigint[], c_source text[], c_source_id text[], c_feature text[], c_community uuid[], c_meta jsonb[], c_publisher text[],
  c_analytics integer[], c_extra jsonb[], p_expired_partition integer,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[], OUT r_reason text[], OUT r_id uuid[], OUT r_balance bigint[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
  SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off   -- a plan made while the tables were empty serves a session for long
AS $$
DECLARE
  v_n integer := coalesce(cardinality(c_id), 0);
  v_link bytea;
  v_fast boolean[];
  v_recognised bigint[];
  v_canonical text[];
  v_expiries integer[];
  v_expired bigint[];
  v_breakage bigint[];
  v_batch_recognised bigint := 0;
  v_bad integer := 0;
  v_covered boolean;
  v_waiting uuid[];
  v_stopped uuid[] := '{}';
  v_low integer[];
  v_bought record;
  v_rows integer;
  a record;
  i integer;
BEGIN
  -- 1. Fence, offset, watermarks.
  IF p_retry IS NOT NULL THEN
    PERFORM FROM consumer_offsets o WHERE o.topic = substr(p_topic, 7) AND o.partition = p_partition AND o.consumer_group = p_group
       AND o.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN RAISE EXCEPTION 'fenced: %/%', p_topic, p_partition USING ERRCODE = 'LG001'; END IF;
  ELSIF p_epoch IS NOT NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
      FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  END IF;

  -- 2. The wallets, in id order: two batches that share wallets cannot deadlock. A named chain's row comes after them.
  PERFORM FROM wallets w WHERE w.id = ANY (c_wallet) ORDER BY w.id FOR NO KEY UPDATE;
  IF p_retry IS NOT NULL THEN
    PERFORM FROM retries r JOIN unnest(p_retry, p_attempt) AS mine (id, attempt) ON r.id = mine.id AND r.attempt = mine.attempt
     WHERE r.state = 'due' ORDER BY r.id FOR UPDATE OF r;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    IF v_rows <> v_n THEN RAISE EXCEPTION 'retries % are taken', p_retry USING ERRCODE = 'LG004'; END IF;
  END IF;
  IF r_batch_no IS NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation FROM begin_chain(p_topic, p_partition, p_group) b;
  END IF;

  -- 3. A new snapshot sees what earlier lock holders committed. Decide what needs no balance, and which wallets go as a set.
  IF p_epoch IS NOT NULL AND EXISTS (SELECT FROM retries r WHERE r.topic = p_topic AND r.partition = p_partition AND r.state = 'due') THEN
    SELECT array_agg(DISTINCT r.key::uuid) INTO v_waiting FROM retries r
     WHERE r.topic = p_topic AND r.partition = p_partition AND r.state = 'due' AND r.key = ANY (c_wallet::text[]);
  END IF;
  SELECT array_agg(z.outcome ORDER BY z.ord), array_agg(z.reason ORDER BY z.ord), array_agg(z.tx ORDER BY z.ord),
         array_agg(z.balance ORDER BY z.ord), array_agg(z.fast ORDER BY z.ord), array_agg(0::bigint), array_agg(''::text),
         array_agg(0), array_agg(0::bigint), array_agg(0::bigint)
    INTO r_outcome, r_reason, r_id, r_balance, v_fast, v_recognised, v_canonical, v_expiries, v_expired, v_breakage
    FROM (
      SELECT y.*, y.outcome IS NULL AND NOT y.repeated AND bool_and(y.plain OR y.outcome IS NOT NULL) OVER per_wallet
                  AND sum(y.credits) FILTER (WHERE y.outcome IS NULL AND NOT y.repeated) OVER per_wallet <= y.available AS fast
        FROM (
          -- A key's second copy waits until the first is booked, and then finds it (6.); it does not keep its wallet from going as a set.
          SELECT u.*, row_number() OVER (PARTITION BY u.key, u.wallet, u.outcome IS NULL ORDER BY u.ord) > 1 AS repeated FROM (
            SELECT c.ord, c.wallet, c.credits, c.key, w.available_credits AS available,
                   CASE WHEN c.credits IS NULL OR c.credits NOT BETWEEN 1 AND 1000000000 OR (c.extra ->> 'refund_paise')::bigint < 0 OR c.kind NOT IN
                               ('purchase', 'grant', 'spend', 'hold', 'capture', 'release', 'refund', 'expire', 'chargeback') THEN 'quarantined'
                        WHEN c.publisher IS NOT NULL AND (s.name IS NULL OR NOT s.enabled OR c.feature <> ALL (s.features)
                               OR (s.communities IS NOT NULL AND (w.community_id IS NULL OR w.community_id <> ALL (s.communities)))) THEN 'quarantined'
                        WHEN t.id IS NOT NULL THEN CASE WHEN t.request_hash = c.hash THEN 'exists' ELSE 'conflict' END
                        WHEN f.idempotency_key IS NOT NULL THEN CASE WHEN f.request_hash = c.hash THEN 'exists' ELSE 'conflict' END
                   END AS outcome,
                   CASE WHEN c.kind NOT IN ('purchase', 'grant', 'spend', 'hold', 'capture', 'release', 'refund', 'expire', 'chargeback') THEN 'unknown_kind'
                        WHEN c.credits IS NULL OR c.credits NOT BETWEEN 1 AND 1000000000 OR (c.extra ->> 'refund_paise')::bigint < 0 THEN 'bad_amount'
                        WHEN c.publisher IS NOT NULL AND s.name IS NULL THEN 'unknown_publisher'
                        WHEN c.publisher IS NOT NULL AND (NOT s.enabled OR c.feature <> ALL (s.features)
                               OR (s.communities IS NOT NULL AND (w.community_id IS NULL OR w.community_id <> ALL (s.communities)))) THEN 'outside_scope'
                        WHEN t.id IS NOT NULL THEN CASE WHEN t.request_hash = c.hash THEN 'posted' ELSE 'other_request' END
                        WHEN f.idempotency_key IS NOT NULL THEN CASE WHEN f.request_hash = c.hash THEN 'refused' ELSE 'other_request' END
                   END AS reason,
                   t.id AS tx, coalesce(t.balance_after, f.balance_credits) AS balance,
                   c.kind = 'spend' AND w.id IS NOT NULL AND w.debt_credits = 0 AND w.next_expiry_at > c.occurred
                     AND (v_waiting IS NULL OR c.wallet <> ALL (v_waiting))
                     AND count(*) OVER (PARTITION BY c.key) = count(*) OVER (PARTITION BY c.key, c.wallet) AS plain
              FROM unnest(c_wallet, c_kind, c_credits, c_key, c_hash, c_occurred, c_feature, c_publisher, c_extra)
                     WITH ORDINALITY AS c (wallet, kind, credits, key, hash, occurred, feature, publisher, extra, ord)
              LEFT JOIN LATERAL (SELECT * FROM wallet_transactions x WHERE x.idempotency_key = c.key LIMIT 1) t ON true
              LEFT JOIN LATERAL (SELECT * FROM refusals x WHERE x.idempotency_key = c.key LIMIT 1) f ON true
              LEFT JOIN LATERAL (SELECT * FROM wallets x WHERE x.id = c.wallet LIMIT 1) w ON true
              LEFT JOIN LATERAL (SELECT * FROM publishers x WHERE x.name = c.publisher LIMIT 1) s ON true
          ) u
        ) y
      WINDOW per_wallet AS (PARTITION BY y.wallet)
    ) z;

  -- 4. The set: spends' running sums meet the lots' running sums; where the ranges overlap, that lot pays.
  IF true = ANY (v_fast) THEN
    WITH spend AS MATERIALIZED (
      SELECT c.ord, c.id, c.wallet, c.credits, c.key, c.hash, c.occurred, c.source, c.source_id, c.feature, c.community, c.meta,
             w.place, w.available_credits AS opening, w.locked_credits AS locked, w.auto_recharge_threshold AS threshold,
             (sum(c.credits) OVER run)::bigint AS high, w.seq + row_number() OVER run AS seq
        FROM unnest(c_id, c_wallet, c_credits, c_key, c_hash, c_occurred, c_source, c_source_id, c_feature, c_community, c_meta, v_fast)
               WITH ORDINALITY AS c (id, wallet, credits, key, hash, occurred, source, source_id, feature, community, meta, fast, ord)
       CROSS JOIN LATERAL (SELECT x.*, x.ctid AS place FROM wallets x WHERE x.id = c.wallet LIMIT 1) w
       WHERE c.fast
      WINDOW run AS (PARTITION BY c.wallet ORDER BY c.ord)
    ), paid AS MATERIALIZED (
      SELECT s.*, u.* FROM spend s CROSS JOIN LATERAL (
        SELECT array_agg(l.id) AS lots, array_agg(l.place) AS places, array_agg(r.top - r.bottom) AS parts, array_agg(e.earned) AS earned,
               sum(r.top - r.bottom)::bigint AS covered, sum(e.earned)::bigint AS recognised
          FROM (SELECT x.ctid AS place, x.id, x.free_credits AS free, x.held_credits AS held, x.taxable_paise AS taxable, x.returned_paise AS returned,
                       x.granted_credits AS granted, x.spent_credits + x.expired_credits + x.debt_paid_credits + x.free_credits AS gone,
                       (sum(x.free_credits) OVER burn)::bigint AS high
                  FROM lots x WHERE x.wallet_id = s.wallet AND x.open AND x.free_credits > 0
                WINDOW burn AS (ORDER BY x.priority, x.expires_at, x.promotional DESC, x.effective_at, x.id)) l
         CROSS JOIN LATERAL (SELECT greatest(s.high - s.credits, l.high - l.free) - l.high AS bottom, least(s.high, l.high) - l.high AS top) r
         -- what this spend earns: the lot's cumulative recognition up to its end, less that up to its start
         CROSS JOIN LATERAL (SELECT earned_paise(l.taxable, l.returned, l.granted, l.gone + r.top, l.held - r.top)
                                  - earned_paise(l.taxable, l.returned, l.granted, l.gone + r.bottom, l.held - r.bottom) AS earned) e
         WHERE l.high - l.free < s.high AND l.high > s.high - s.credits) u
    ), used AS MATERIALIZED (
      SELECT s.id, u.* FROM paid s CROSS JOIN unnest(s.lots, s.places, s.parts, s.earned) AS u (lot_id, place, credits, recognised)
    ), put_transactions AS (
      INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after,
          source, source_id, feature, community_id, metadata, idempotency_key, request_hash, batch_id, ord, occurred_at)
        SELECT s.id, s.wallet, s.seq, 'spend', -s.credits, s.credits, s.opening - s.high + s.credits, s.opening - s.high, s.locked,
               s.source, s.source_id, s.feature, s.community, s.meta, s.key, s.hash, p_batch_id, s.ord, s.occurred FROM spend s
    ), put_entries AS (
      INSERT INTO ledger_entries (transaction_id, leg, account, wallet_id, amount)
        SELECT s.id, 1, 'wallet'::ledger_account, s.wallet, s.credits FROM spend s
        UNION ALL SELECT s.id, 2, 'credits_spent'::ledger_account, NULL, -s.credits FROM spend s
    ), put_consumptions AS (
      INSERT INTO lot_consumptions SELECT u.id, u.lot_id, u.credits, u.recognised FROM used u
    ), put_lots AS (
      UPDATE lots l SET free_credits = l.free_credits - x.credits, spent_credits = l.spent_credits + x.credits,
                        recognised_paise = l.recognised_paise + x.recognised,
                        open = l.free_credits + l.held_credits > x.credits
        FROM (SELECT u.place, sum(u.credits)::bigint AS credits, sum(u.recognised)::bigint AS recognised FROM used u GROUP BY u.place) x
       WHERE l.ctid = x.place
    ), put_wallets AS (
      UPDATE wallets w SET available_credits = w.available_credits - x.credits, seq = x.seq, updated_at = now()
        FROM (SELECT s.place, max(s.high) AS credits, max(s.seq) AS seq FROM spend s GROUP BY s.place) x
       WHERE w.ctid = x.place
    )
    SELECT array_agg(x.outcome ORDER BY x.ord), array_agg(x.id ORDER BY x.ord), array_agg(x.balance ORDER BY x.ord),
           array_agg(x.recognised ORDER BY x.ord), array_agg(x.line ORDER BY x.ord), coalesce(sum(x.recognised), 0), bool_and(x.covered),
           array_agg(x.ord::integer) FILTER (WHERE x.low)
      INTO r_outcome, r_id, r_balance, v_recognised, v_canonical, v_batch_recognised, v_covered, v_low
      FROM (SELECT s.ord, 'posted' AS outcome, s.id, s.opening - s.high AS balance, s.recognised, s.covered IS NOT DISTINCT FROM s.credits AS covered,
                   s.opening - s.high < s.threshold AND s.opening - s.high + s.credits >= s.threshold AS low,
                   canonical_transaction(s.id, s.wallet, s.seq, 'spend', -s.credits, s.credits, s.opening - s.high, s.locked, s.key, s.hash,
                                         'wallet:' || s.credits::text || ',credits_spent:-' || s.credits::text) AS line
              FROM paid s
            UNION ALL
            SELECT g, r_outcome[g], r_id[g], r_balance[g], 0, true, false, '' FROM generate_series(1, v_n) g WHERE NOT v_fast[g]) x;
    IF NOT v_covered THEN RAISE EXCEPTION 'batch %: a wallet has more credits than its lots', p_batch_id; END IF;
    IF v_batch_recognised > 0 THEN
      INSERT INTO ledger_entries (transaction_id, leg, account, amount)
        VALUES (p_batch_id, 1, 'deferred_revenue', v_batch_recognised), (p_batch_id, 2, 'revenue', -v_batch_recognised);
    END IF;
  END IF;

  -- 5. Plain purchases as a set: verified, as sold and without an offer, of a wallet that owes nothing and where nothing waits or lapses.
  IF p_epoch IS NOT NULL AND p_retry IS NULL AND 'purchase' = ANY (c_kind) THEN
    PERFORM FROM payments z WHERE z.id = ANY (ARRAY(SELECT (x ->> 'payment_id')::uuid FROM unnest(c_extra) x)) ORDER BY z.id FOR NO KEY UPDATE;
    WITH command AS (
      SELECT c.*, w.place, w.available_credits, w.locked_credits, w.seq AS last_seq, y.place AS payment_place, y.id AS payment_id, y.amount,
             y.base_credits, y.bonus_credits, y.taxable_amount, y.cgst_amount, y.sgst_amount, y.igst_amount,
             c.kind = 'purchase' AND w.debt_credits = 0 AND w.next_expiry_at > c.occurred AND (v_waiting IS NULL OR c.wallet <> ALL (v_waiting))
               AND count(*) OVER (PARTITION BY c.key) = 1 AND count(*) OVER (PARTITION BY c.source_id) = 1
               AND y.verified_at IS NOT NULL AND y.status = 'verified' AND y.wallet_id = c.wallet AND y.credits_granted = c.credits AND y.offer_amount = 0
               AND y.id::text = c.source_id AND b.known IS NULL AND c.extra ->> 'expires_at' IS NULL AND c.extra ->> 'priority' IS NULL AS plain
        FROM unnest(c_id, c_wallet, c_kind, c_credits, c_key, c_hash, c_occurred, c_source, c_source_id, c_feature, c_community, c_meta, c_extra, r_outcome)
               WITH ORDINALITY AS c (id, wallet, kind, credits, key, hash, occurred, source, source_id, feature, community, meta, extra, outcome, ord)
        LEFT JOIN LATERAL (SELECT x.*, x.ctid AS place FROM wallets x WHERE x.id = c.wallet LIMIT 1) w ON true
        LEFT JOIN LATERAL (SELECT x.*, x.ctid AS place FROM payments x WHERE x.id = (c.extra ->> 'payment_id')::uuid LIMIT 1) y ON true
        LEFT JOIN LATERAL (SELECT true AS known FROM wallet_transactions x
                            WHERE x.source = c.source AND x.source_id = c.source_id AND x.transaction_type = 'purchase' LIMIT 1) b ON true
       WHERE c.outcome IS NULL
    ), buy AS MATERIALIZED (
      SELECT d.*, (sum(d.credits) OVER run)::bigint AS high, d.last_seq + row_number() OVER run AS seq
        FROM (SELECT c.*, bool_and(coalesce(c.plain, false)) OVER (PARTITION BY c.wallet) AS whole FROM command c) d
       WHERE d.whole WINDOW run AS (PARTITION BY d.wallet ORDER BY d.ord)
    ), leg AS MATERIALIZED (
      SELECT b.id, b.wallet, row_number() OVER (PARTITION BY b.ord ORDER BY l.n) AS leg, l.account, l.amount
        FROM buy b CROSS JOIN LATERAL (VALUES (1, 'gateway_clearing'::ledger_account, b.amount), (2, 'cgst_payable', -b.cgst_amount),
                 (3, 'sgst_payable', -b.sgst_amount), (4, 'igst_payable', -b.igst_amount), (5, 'deferred_revenue', -b.taxable_amount),
                 (6, 'credits_issued', b.credits), (7, 'wallet', -b.credits)) AS l (n, account, amount)
       WHERE l.amount <> 0
    ), put_lots AS (
      INSERT INTO lots (id, wallet_id, transaction_id, payment_id, promotional, effective_at, granted_credits, base_credits, bonus_credits,
                        free_credits, taxable_paise, cgst_paise, sgst_paise, igst_paise)
        SELECT b.id, b.wallet, b.id, b.payment_id, false, b.occurred, b.credits, b.base_credits, b.bonus_credits,
               b.credits, b.taxable_amount, b.cgst_amount, b.sgst_amount, b.igst_amount FROM buy b
    ), put_transactions AS (
      INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after,
          source, source_id, feature, community_id, metadata, idempotency_key, request_hash, batch_id, ord, occurred_at)
        SELECT b.id, b.wallet, b.seq, 'purchase', b.credits, b.credits, b.available_credits + b.high - b.credits, b.available_credits + b.high,
               b.locked_credits, b.source, b.source_id, b.feature, b.community, b.meta, b.key, b.hash, p_batch_id, b.ord, b.occurred FROM buy b
    ), put_entries AS (
      INSERT INTO ledger_entries (transaction_id, leg, account, wallet_id, amount)
        SELECT l.id, l.leg, l.account, CASE WHEN l.account = 'wallet' THEN l.wallet END, l.amount FROM leg l
    ), put_wallets AS (
      UPDATE wallets w SET available_credits = w.available_credits + x.credits, seq = x.seq, updated_at = now(),
                           pending_credits = w.pending_credits - least(w.pending_credits, x.credits),
                           lifetime_purchased_credits = w.lifetime_purchased_credits + x.credits
        FROM (SELECT b.place, max(b.high) AS credits, max(b.seq) AS seq FROM buy b GROUP BY b.place) x
       WHERE w.ctid = x.place
    ), put_payments AS (
      UPDATE payments y SET status = 'credited', credited_at = now(), updated_at = now() FROM buy b WHERE y.ctid = b.payment_place
    ), woken AS (   -- debits that waited for these credits need not wait longer
      UPDATE retries r SET next_at = now()
       WHERE r.topic = 'wallet.debit' AND r.state = 'due' AND r.next_at > now() AND r.key = ANY (ARRAY(SELECT b.wallet::text FROM buy b))
    )
    SELECT array_agg(b.ord::integer ORDER BY b.ord) AS ords, array_agg(b.available_credits + b.high ORDER BY b.ord) AS balances,
           array_agg(canonical_transaction(b.id, b.wallet, b.seq, 'purchase', b.credits, b.credits, b.available_credits + b.high, b.locked_credits,
                                           b.key, b.hash, x.legs) ORDER BY b.ord) AS lines
      INTO v_bought
      FROM buy b JOIN (SELECT l.id, string_agg(l.account || ':' || l.amount, ',' ORDER BY l.leg) AS legs FROM leg l GROUP BY l.id) x ON x.id = b.id;
    FOR j IN 1 .. coalesce(cardinality(v_bought.ords), 0) LOOP
      i := v_bought.ords[j];
      r_outcome[i] := 'posted'; r_id[i] := c_id[i]; r_balance[i] := v_bought.balances[j]; v_canonical[i] := v_bought.lines[j];
    END LOOP;
  END IF;

  -- 6. Everything else, one by one and in order.
  FOR i IN 1 .. v_n LOOP
    CONTINUE WHEN r_outcome[i] IS NOT NULL;
    IF c_wallet[i] = ANY (v_stopped) THEN   -- an earlier retry of this wallet still waits
      r_outcome[i] := 'parked'; r_reason[i] := 'behind_parked';
      CONTINUE;
    END IF;
    SELECT * INTO a FROM apply_command(p_topic, p_batch_id, i, coalesce(p_decide[i], false), p_retry IS NOT NULL, c_id[i], c_wallet[i], c_kind[i]::transaction_kind,
      c_credits[i], c_key[i], c_hash[i], c_occurred[i], c_source[i], c_source_id[i], c_feature[i], c_community[i], c_meta[i], c_extra[i]);
    r_outcome[i] := a.o_outcome; r_reason[i] := a.o_reason; r_id[i] := a.o_id; r_balance[i] := a.o_balance;
    v_recognised[i] := a.o_recognised; v_canonical[i] := a.o_canonical;
    v_expiries[i] := a.o_expiries; v_expired[i] := a.o_expired; v_breakage[i] := a.o_breakage;
    IF a.o_outcome = 'posted' AND c_kind[i] = 'spend' THEN
      PERFORM FROM wallets w WHERE w.id = c_wallet[i] AND a.o_balance < w.auto_recharge_threshold AND a.o_balance + c_credits[i] >= w.auto_recharge_threshold;
      IF FOUND THEN v_low := v_low || i; END IF;
    END IF;
    IF a.o_outcome = 'parked' AND p_epoch IS NULL THEN
      -- A call has someone waiting for the answer: it is told, nothing is kept.
      RAISE EXCEPTION '%', a.o_reason USING ERRCODE = 'LG005';
    ELSIF a.o_outcome = 'parked' AND p_retry IS NOT NULL THEN
      v_stopped := v_stopped || c_wallet[i];
    ELSIF a.o_outcome = 'parked' THEN
      INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, next_at, decide_by, reason)
        VALUES (p_topic, p_partition, r_incarnation, c_offset[i], c_wallet[i]::text,
                jsonb_build_object('id', c_id[i], 'wallet_id', c_wallet[i], 'kind', c_kind[i], 'credits', c_credits[i], 'key', c_key[i],
                  'request_hash', encode(c_hash[i], 'hex'), 'occurred_at', c_occurred[i], 'source', c_source[i], 'source_id', c_source_id[i],
                  'feature', c_feature[i], 'community_id', c_community[i], 'metadata', c_meta[i], 'analytics_partition', c_analytics[i], 'extra', c_extra[i]),
                now() + interval '250 milliseconds',
                CASE WHEN c_kind[i] IN ('spend', 'hold') THEN now() + interval '30 seconds' ELSE 'infinity' END, a.o_reason);
    END IF;
  END LOOP;

  -- 7. What can never be decided is kept whole.
  IF r_outcome && ARRAY['conflict', 'quarantined'] THEN
    INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, idempotency_key, payload, batch_id)
      SELECT p_topic, p_partition, r_incarnation, coalesce(c_offset[g], 0), r_outcome[g] || ':' || r_reason[g], c_key[g],
             convert_to(jsonb_build_object('wallet_id', c_wallet[g], 'kind', c_kind[g], 'credits', c_credits[g], 'key', c_key[g],
               'request_hash', encode(c_hash[g], 'hex'), 'occurred_at', c_occurred[g], 'publisher', c_publisher[g], 'feature', c_feature[g],
               'source', c_source[g], 'source_id', c_source_id[g], 'extra', c_extra[g])::text, 'UTF8'), p_batch_id
        FROM generate_series(1, v_n) g WHERE r_outcome[g] IN ('conflict', 'quarantined');
  END IF;
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);

  -- 8. A decided retry is done; one that must wait again backs off (what waits for pending credits looks every second), and is
  --    dead after its limit unless a time limit decides it. Those behind it are as they were.
  IF p_retry IS NOT NULL THEN
    UPDATE retries r
       SET attempt = r.attempt + 1, reason = coalesce(r_reason[g], r.reason),
           state = CASE WHEN r_outcome[g] <> 'parked' THEN 'done' WHEN r.attempt >= 20 AND r.decide_by = 'infinity' THEN 'dead' ELSE 'due' END,
           finished_at = CASE WHEN r_outcome[g] <> 'parked' OR (r.attempt >= 20 AND r.decide_by = 'infinity') THEN now() END,
           next_at = now() + least(CASE WHEN r_reason[g] = 'pending_credits' THEN interval '1 second' ELSE interval '1 hour' END,
                                   interval '250 milliseconds' * power(2, least(r.attempt, 20))) * (0.75 + random() / 2)
      FROM generate_series(1, v_n) g
     WHERE p_retry IS NOT NULL AND r.id = p_retry[g] AND NOT (r_outcome[g] = 'parked' AND r_reason[g] = 'behind_parked');
  END IF;

  -- 9. Counts, link, and what follows.
  SELECT count(*) FILTER (WHERE x = 'posted') AS posted, count(*) FILTER (WHERE x = 'refused') AS refused,
         count(*) FILTER (WHERE x = 'exists') + coalesce((p_progress ->> 'dropped')::integer, 0) AS existing,
         count(*) FILTER (WHERE x = 'conflict') AS conflict, count(*) FILTER (WHERE x = 'parked') AS parked,
         count(*) FILTER (WHERE x = 'quarantined') + v_bad AS quarantined,
         v_n + v_bad + coalesce((p_progress ->> 'dropped')::integer, 0) AS records
    INTO a FROM unnest(r_outcome) x;
  PERFORM finish_batch(p_batch_id, p_topic, p_partition, p_group, r_batch_no, coalesce(p_epoch, 0), r_incarnation, coalesce(p_from, 0),
    coalesce(p_to, 0), v_link, array_to_string(v_canonical, ''), a.records::integer, a.posted::integer, a.refused::integer, a.existing::integer,
    a.conflict::integer, a.parked::integer, a.quarantined::integer, v_batch_recognised);
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg(f.t) AS t, array_agg(f.p) AS p, array_agg(f.event) AS e
            FROM ledger_follow_ups(c_kind, c_credits, c_occurred, c_feature, c_community, c_analytics, c_extra, c_wallet, r_outcome,
                                   v_recognised, v_expiries, v_expired, v_breakage, p_expired_partition) f) y
           CROSS JOIN LATERAL (
             -- Spends that took a wallet below its threshold, told on the wallet's own partition (a call has none: any will do).
             SELECT y.t || array_agg('notifications.billing'::text) AS t,
                    y.p || array_agg(CASE WHEN p_topic = 'api' THEN p_expired_partition ELSE p_partition END) AS p,
                    y.e || array_agg(notice_event(w.owner_id, 'low_balance', c_occurred[g], NULL, w.id, r_balance[g], NULL)) AS e
               FROM unnest(v_low) g JOIN wallets w ON w.id = c_wallet[g]) x,
         emit(p_topic, p_partition, p_group, r_incarnation, r_batch_no, x.t, x.p, x.e) m;
END $$;

-- The events that follow posted commands: billing deltas summed per dimension and minute, and for a purchase its invoice and notice.
CREATE FUNCTION ledger_follow_ups(c_kind text[], c_credits bigint[], c_occurred timestamptz[], c_feature text[], c_community uuid[],
  c_analytics integer[], c_extra jsonb[], c_wallet uuid[], p_outcome text[], p_recognised bigint[], p_expiries integer[],
  p_expired bigint[], p_breakage bigint[], p_expired_partition integer)
RETURNS TABLE (t text, p integer, event text) LANGUAGE sql STABLE AS $$
  WITH posted AS (
    SELECT c.*, y.amount, y.user_id, y.id AS payment_id FROM unnest(c_kind, c_credits, c_occurred, c_feature, c_community, c_analytics, c_extra, c_wallet, p_outcome, p_recognised)
      WITH ORDINALITY AS c (kind, credits, occurred, feature, community, analytics, extra, wallet, outcome, recognised, ord)
      LEFT JOIN LATERAL (SELECT * FROM payments x WHERE c.kind = 'purchase' AND x.id = (c.extra ->> 'payment_id')::uuid LIMIT 1) y ON true
     WHERE c.outcome = 'posted'
  )
  SELECT 'analytics.billing', d.analytics,
         delta_event('credits_spent', ARRAY['feature', d.feature, 'community', d.community], d.minute, d.n, d.credits, d.recognised)
    FROM (SELECT analytics, coalesce(feature, '-') AS feature, coalesce(community::text, '-') AS community, date_trunc('minute', occurred) AS minute,
                 count(*) AS n, sum(credits)::bigint AS credits, sum(recognised)::bigint AS recognised
            FROM posted WHERE kind IN ('spend', 'capture') GROUP BY 1, 2, 3, 4) d
  UNION ALL
  SELECT 'analytics.billing', d.analytics, delta_event('credits_granted', ARRAY['source', d.kind], d.minute, d.n, d.credits, d.amount)
    FROM (SELECT analytics, kind, date_trunc('minute', occurred) AS minute, count(*) AS n, sum(credits)::bigint AS credits,
                 coalesce(sum(amount), 0)::bigint AS amount
            FROM posted WHERE kind IN ('purchase', 'grant') GROUP BY 1, 2, 3) d
  UNION ALL
  SELECT 'analytics.billing', p_expired_partition, delta_event('credits_expired', '{}', x.minute, x.n, x.credits, x.breakage)
    FROM (SELECT date_trunc('minute', occurred) AS minute, sum(n) AS n, sum(credits)::bigint AS credits, sum(breakage)::bigint AS breakage
            FROM unnest(c_occurred, p_expiries, p_expired, p_breakage) AS y (occurred, n, credits, breakage) WHERE n > 0 GROUP BY 1) x
  UNION ALL
  SELECT 'analytics.billing', d.partition, delta_event('payments', '{status,credited}', d.minute, d.n, d.credits, d.amount)
    FROM (SELECT (extra ->> 'status_partition')::integer AS partition, date_trunc('minute', occurred) AS minute, count(*) AS n,
                 sum(credits)::bigint AS credits, sum(amount)::bigint AS amount FROM posted WHERE kind = 'purchase' GROUP BY 1, 2) d
  UNION ALL
  SELECT e.t, e.p, e.event
    FROM posted q CROSS JOIN LATERAL (VALUES
      ('invoice.generate', (q.extra ->> 'invoice_partition')::integer, invoice_event(q.payment_id, q.occurred)),
      ('notifications.billing', (q.extra ->> 'notify_partition')::integer,
       notice_event(q.user_id, 'credits_added', now(), q.payment_id, q.wallet, q.credits, q.amount))
    ) AS e (t, p, event)
   WHERE q.kind = 'purchase'
$$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
