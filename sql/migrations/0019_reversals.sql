-- migrate:up
-- What happens to a payment's money without our asking: a second success, the gateway's own refund, a dispute. A webhook only makes an
-- inquiry due; what the gateway then shows of the order (its payments, refunds and disputes) is booked here, in one transaction, as often
-- as it is shown. Locks as in 0016.
SET LOCAL ROLE core_owner;

ALTER TYPE transaction_kind ADD VALUE 'reinstate';      -- credits and money of a dispute that was won: a lot that comes back

-- Orders to look at as a whole. asked rises with every reason to look, so that a look from before it does not end it.
CREATE TABLE order_inquiries (
  order_id text COLLATE "C" PRIMARY KEY,
  reason text NOT NULL,
  asked integer NOT NULL DEFAULT 1,
  attempt integer NOT NULL DEFAULT 0,
  next_at timestamptz NOT NULL DEFAULT now(),
  leased_until timestamptz NOT NULL DEFAULT '-infinity',
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
CREATE INDEX order_inquiries_due ON order_inquiries (next_at) WHERE next_at < 'infinity';

-- Something about these orders is not of our making: look at them now. Called where webhooks, signals and verdicts are committed.
CREATE FUNCTION inquire(p_orders text[], p_reason text) RETURNS void LANGUAGE sql AS $$
  INSERT INTO order_inquiries AS q (order_id, reason) SELECT DISTINCT o, p_reason FROM unnest(p_orders) o WHERE o IS NOT NULL ORDER BY o
  ON CONFLICT (order_id) DO UPDATE SET reason = excluded.reason, asked = q.asked + 1, attempt = 0, next_at = now(), updated_at = now()
$$;

-- What happened at the gateway, settled or not (amounts of paise): [{"type", "order_id", "payment_id", "refund_id", "amount"}, ...]. What we have
-- not heard of is asked about: payments verified, refunds of ours asked for, orders looked at as a whole. Returns how many were put up.
CREATE FUNCTION hear_events(p_lines jsonb) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_asked integer;
  v_refunds integer;
  v_orders text[];
BEGIN
  PERFORM FROM payments y WHERE y.verified_at IS NULL AND y.order_id IN (SELECT e ->> 'order_id' FROM jsonb_array_elements(p_lines) e)
    ORDER BY y.id FOR NO KEY UPDATE;
  WITH asked AS (
    INSERT INTO verifications AS v (payment_id, order_id, reason, next_at, amount)
      SELECT DISTINCT y.id, y.order_id, 'recon', now(), y.amount
        FROM jsonb_to_recordset(p_lines) AS x (type text, order_id text) JOIN payments y ON y.order_id = x.order_id
       WHERE x.type = 'PAYMENT' AND y.verified_at IS NULL AND y.status <> 'mismatch' ORDER BY y.id
    ON CONFLICT (payment_id) DO UPDATE SET state = 'due', attempt = 0, next_at = now(), finished_at = NULL WHERE v.state IN ('orphan', 'closed')
    RETURNING 1)
  SELECT count(*) INTO v_asked FROM asked;
  WITH asked AS (
    UPDATE refunds f SET next_at = now(), updated_at = now()
      FROM (SELECT g.id FROM jsonb_to_recordset(p_lines) AS x (type text, refund_id text) JOIN refunds g ON g.refund_id = x.refund_id
             WHERE x.type = 'REFUND' AND g.status IN ('pending', 'failed', 'cancelled') AND g.next_at > now() ORDER BY g.id FOR NO KEY UPDATE OF g) x
     WHERE f.id = x.id RETURNING 1)
  SELECT count(*) INTO v_refunds FROM asked;
  SELECT array_agg(DISTINCT y.order_id) INTO v_orders
    FROM jsonb_to_recordset(p_lines) AS x (type text, order_id text, payment_id text, refund_id text) JOIN payments y ON y.order_id = x.order_id
   WHERE CASE x.type
     WHEN 'PAYMENT' THEN y.cashfree_payment_id <> x.payment_id AND NOT EXISTS (SELECT FROM unapplied_receipts r WHERE r.cashfree_payment_id = x.payment_id)
     WHEN 'REFUND' THEN NOT EXISTS (SELECT FROM refunds f WHERE f.refund_id = x.refund_id)
     ELSE NOT EXISTS (SELECT FROM disputes d WHERE d.payment_id = y.id) END;
  PERFORM inquire(v_orders, 'recon') WHERE v_orders IS NOT NULL;
  RETURN v_asked + v_refunds + coalesce(cardinality(v_orders), 0);
END $$;

-- payment_id is NULL while we do not know the order: then it waits for its row.
CREATE FUNCTION lease_inquiries(p_limit integer, p_lease_s double precision)
RETURNS TABLE (order_id text, asked integer, payment_id uuid, user_id uuid)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH due AS (
    SELECT q.order_id FROM order_inquiries q WHERE q.next_at <= now() AND q.next_at < 'infinity' AND q.leased_until < now()
     ORDER BY q.next_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ), leased AS (
    UPDATE order_inquiries q SET leased_until = now() + make_interval(secs => p_lease_s) FROM due d WHERE q.order_id = d.order_id RETURNING q.*
  )
  SELECT l.order_id, l.asked, y.id, y.user_id FROM leased l LEFT JOIN payments y ON y.order_id = l.order_id
$$;

-- Take a payment's money back out of its lot, or as far as there is one: a forced reversal with its row of refunds. Returns as book_refund.
CREATE FUNCTION force_reversal(p_batch_id uuid, p_ord integer, p_payment payments, p_refund_id text, p_cf_refund_id text, p_cf_payment_id text,
  p_amount bigint, p_reason text, OUT o_refund refunds, OUT o_canonical text, OUT o_journal text, OUT o_expiries integer, OUT o_expired bigint, OUT o_breakage bigint)
LANGUAGE plpgsql AS $$
DECLARE
  v_id uuid := uuidv7();
  b record;
BEGIN
  INSERT INTO refunds (id, refund_id, payment_id, wallet_id, lot_id, amount, policy, status, gateway_status, cashfree_refund_id, cashfree_payment_id,
                       reason, requested_by, idempotency_key)
    VALUES (v_id, p_refund_id, p_payment.id, p_payment.wallet_id, refund_lot(p_payment.id), p_amount, 'FORCED', 'pending', 'SUCCESS', p_cf_refund_id,
            p_cf_payment_id, p_reason, 'gateway', 'core:forced/' || p_refund_id);
  SELECT * INTO b FROM book_refund(p_batch_id, p_ord, v_id, true);
  o_refund := b.o_refund; o_canonical := b.o_canonical; o_journal := b.o_journal; o_expiries := b.o_expiries; o_expired := b.o_expired; o_breakage := b.o_breakage;
  -- The bank took back what we had set aside as no sale: nothing of that is left to return.
  IF o_refund.outside THEN
    UPDATE unapplied_receipts SET state = 'refunded', refund_id = v_id, updated_at = now() WHERE cashfree_payment_id = p_cf_payment_id AND state = 'open';
  END IF;
END $$;

-- A forced reversal was won back: its money and credits return as a lot of their own, which pays the wallet's debt first, as a purchase would.
CREATE FUNCTION reinstate(p_batch_id uuid, p_ord integer, p_refund uuid, p_dispute text,
  OUT o_lot uuid, OUT o_canonical text, OUT o_journal text, OUT o_expiries integer, OUT o_expired bigint, OUT o_breakage bigint)
LANGUAGE plpgsql AS $$
DECLARE
  f refunds;
  l lots;
  w wallets;
  e record;
  v_id uuid := uuidv7();
  v_bonus bigint;
  v_debt bigint;
  v_debt_paise bigint := 0;
  v_rec bigint := 0;
BEGIN
  SELECT * INTO STRICT f FROM refunds WHERE id = p_refund;
  o_canonical := ''; o_journal := ''; o_expiries := 0; o_expired := 0; o_breakage := 0;
  UPDATE refunds SET status = 'reversed', reversed_at = now(), updated_at = now() WHERE id = p_refund;
  IF f.credits_reversed = 0 THEN
    -- No credit was taken for it (it went beyond the sale): the money alone comes back.
    o_journal := post_unapplied(p_batch_id, 'unapplied', 'dispute', p_dispute, jsonb_build_object('refund_id', f.refund_id), f.amount);
    PERFORM open_case('dispute_money', p_dispute, '{}', jsonb_build_object('payment_id', f.payment_id, 'amount_paise', f.amount));
    IF f.outside THEN RETURN; END IF;
  ELSE
    SELECT * INTO STRICT l FROM lots WHERE id = f.lot_id;
    SELECT * INTO STRICT w FROM wallets WHERE id = f.wallet_id;
    o_lot := v_id;
    v_bonus := f.credits_reversed * l.bonus_credits / l.granted_credits;
    PERFORM void_credit_note(p_refund, 'the dispute was won');
    INSERT INTO lots (id, wallet_id, transaction_id, payment_id, reinstates, priority, promotional, effective_at, expires_at, granted_credits, base_credits, bonus_credits,
                      free_credits, taxable_paise, cgst_paise, sgst_paise, igst_paise, offer_paise)
      VALUES (v_id, f.wallet_id, v_id, f.payment_id, p_refund, l.priority, false, l.effective_at, l.expires_at, f.credits_reversed, f.credits_reversed - v_bonus, v_bonus,
              f.credits_reversed, f.taxable_amount, f.cgst_amount, f.sgst_amount, f.igst_amount, f.offer_amount);
    v_debt := least(w.debt_credits, f.credits_reversed);
    IF v_debt > 0 THEN
      v_rec := move_lot(v_id, v_debt, 'free', 'debt_paid');
      v_debt_paise := CASE WHEN v_debt = w.debt_credits THEN w.debt_paise ELSE least(v_rec, w.debt_paise) END;
      UPDATE wallets SET debt_credits = debt_credits - v_debt, debt_paise = debt_paise - v_debt_paise WHERE id = w.id;
    END IF;
    o_canonical := post_transaction(p_batch_id, p_ord, v_id, f.wallet_id, 'reinstate', f.credits_reversed, f.credits_reversed - v_debt, 0,
      'core:dispute/' || p_dispute || '/won', '\x00', now(), 'dispute', p_dispute, NULL, NULL, NULL,
      ARRAY['gateway_clearing', 'cgst_payable', 'sgst_payable', 'igst_payable', 'deferred_revenue', 'credits_issued', 'wallet', 'wallet', 'wallet_debt',
            'deferred_revenue', 'credit_debt_receivable', 'rounding', 'offer_discount']::ledger_account[],
      ARRAY[f.amount, -f.cgst_amount, -f.sgst_amount, -f.igst_amount, -f.taxable_amount, f.credits_reversed, -f.credits_reversed, v_debt, -v_debt,
            v_rec, -v_debt_paise, v_debt_paise - v_rec, f.offer_amount]);
    INSERT INTO billing_events (kind, user_id, wallet_id, payment_id, credits, amount, source, source_id, occurred_at)
      VALUES ('credits_reinstated', w.owner_id, w.id, f.payment_id, f.credits_reversed, f.amount, 'dispute', p_dispute, now());
    PERFORM refresh_expiry(f.wallet_id);
    SELECT * INTO e FROM expire_due(p_batch_id, p_ord, f.wallet_id, now(), NULL);
    o_canonical := o_canonical || e.o_canonical; o_expiries := e.o_expiries; o_expired := e.o_expired; o_breakage := e.o_breakage;
  END IF;
  UPDATE payments SET refund_amount = refund_amount - f.amount, refunded = false, updated_at = now(),
         status = CASE status WHEN 'refunded' THEN 'credited' ELSE status END WHERE id = f.payment_id;
END $$;

-- What the gateway shows of an order, on the chain refund/<shard>. p_picture, or NULL if it could not be asked:
--   {"payments": [{"id", "status", "amount", "currency"}], "refunds": [{"id", "cf_id", "payment", "status", "amount"}],
--    "disputes": [{"id", "payment", "type", "status", "amount", "respond_by"}]}, amounts in paise.
-- p_parts: partitions as refund_follow_ups' ("refunds" is of 'policy=FORCED', "refunds_unapplied" of 'policy=UNAPPLIED'), "refund": of the payment.
-- r_outcome: waiting (the order is unknown, or its own verdict is not in: asked again), or done, with how many facts were new (r_news).
CREATE FUNCTION record_inquiry(p_batch_id uuid, p_shard integer, p_order text, p_asked integer, p_picture jsonb, p_parts jsonb,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text, OUT r_news integer,
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  c_taken CONSTANT text := '^(CHARGEBACK|PRE_ARBITRATION|ARBITRATION)_|(MERCHANT_LOST|MERCHANT_ACCEPTED|INSUFFICIENT_EVIDENCE)$';
  y payments;
  q record;
  k record;
  b record;
  d disputes;
  u unapplied_receipts;
  v_gone refunds;
  v_chain record;
  v_own text;
  v_id uuid;
  v_wait interval;
  v_canonical text := '';
  v_journal text := '';
  v_topics text[] := '{}';
  v_partitions integer[] := '{}';
  v_events text[] := '{}';
BEGIN
  r_news := 0;
  SELECT * INTO y FROM payments z WHERE z.order_id = p_order;
  PERFORM FROM wallets w WHERE w.id = y.wallet_id FOR NO KEY UPDATE;
  SELECT * INTO y FROM payments z WHERE z.id = y.id FOR NO KEY UPDATE;
  PERFORM FROM order_inquiries i WHERE i.order_id = p_order FOR NO KEY UPDATE;
  IF p_picture IS NULL OR y.id IS NULL OR y.status NOT IN ('credited', 'refunded', 'rejected', 'mismatch') THEN
    r_outcome := 'waiting';
    UPDATE order_inquiries SET leased_until = '-infinity', attempt = attempt + 1, updated_at = now(),
           next_at = CASE WHEN asked = p_asked THEN now() + least(interval '1 hour', interval '500 milliseconds' * power(2, least(attempt, 13))) * (0.9 + random() / 5)
                          ELSE next_at END WHERE order_id = p_order;
    RETURN;
  END IF;
  r_outcome := 'done';
  SELECT * INTO v_chain FROM begin_chain('refund', p_shard, 'core');
  r_batch_no := v_chain.batch_no; r_incarnation := v_chain.incarnation;

  -- 1. Successes that are no sale: money without one, booked as that.
  -- The sale's own is the attempt that we were told of, if the gateway has it as a success: else somebody lied, and it is the first that is one.
  IF y.credited_at IS NOT NULL THEN
    SELECT x ->> 'id' INTO v_own FROM jsonb_array_elements(p_picture -> 'payments') WITH ORDINALITY AS t (x, n)
     WHERE x ->> 'status' = 'SUCCESS' ORDER BY x ->> 'id' = y.cashfree_payment_id DESC NULLS LAST, n LIMIT 1;
    UPDATE payments SET cashfree_payment_id = v_own, updated_at = now() WHERE id = y.id AND cashfree_payment_id <> v_own;
  END IF;
  FOR q IN SELECT x ->> 'id' AS id, (x ->> 'amount')::bigint AS amount, x ->> 'currency' AS currency
             FROM jsonb_array_elements(p_picture -> 'payments') WITH ORDINALITY AS t (x, n)
            WHERE x ->> 'status' = 'SUCCESS' AND x ->> 'id' IS DISTINCT FROM v_own ORDER BY n LOOP
    IF q.currency IS DISTINCT FROM 'INR' OR coalesce(q.amount, 0) <= 0 THEN
      PERFORM open_case('unapplied_receipt', q.id, jsonb_build_object('order_id', p_order), jsonb_build_object('amount_paise', q.amount, 'currency', q.currency));
      CONTINUE;
    END IF;
    INSERT INTO unapplied_receipts (cashfree_payment_id, payment_id, reason, amount, batch_id)
      VALUES (q.id, y.id, CASE WHEN y.credited_at IS NOT NULL THEN 'paid_twice' ELSE y.status END, q.amount, p_batch_id) ON CONFLICT DO NOTHING;
    CONTINUE WHEN NOT FOUND;
    r_news := r_news + 1;
    v_journal := v_journal || post_unapplied(p_batch_id, 'unapplied', 'payment_attempt', q.id,
      jsonb_build_object('cashfree_payment_id', q.id, 'order_id', p_order), q.amount);
    IF y.status = 'mismatch' THEN
      PERFORM open_case('unapplied_receipt', q.id, jsonb_build_object('order_id', p_order, 'amount_paise', y.amount), jsonb_build_object('amount_paise', q.amount));
    END IF;
  END LOOP;

  -- 2. Refunds that are not ours: of such money, or of the sale itself.
  FOR q IN SELECT x ->> 'id' AS id, x ->> 'cf_id' AS cf_id, x ->> 'payment' AS payment, (x ->> 'amount')::bigint AS amount
             FROM jsonb_array_elements(p_picture -> 'refunds') WITH ORDINALITY AS t (x, n)
            WHERE x ->> 'status' = 'SUCCESS' AND NOT EXISTS (SELECT FROM refunds f WHERE f.refund_id = x ->> 'id') ORDER BY n LOOP
    r_news := r_news + 1;
    SELECT * INTO u FROM unapplied_receipts r WHERE r.payment_id = y.id AND r.state = 'open' AND r.amount = q.amount
       AND (q.payment IS NULL OR r.cashfree_payment_id = q.payment) ORDER BY r.created_at LIMIT 1;
    IF FOUND THEN
      v_id := uuidv7();
      INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, gateway_status, cashfree_refund_id, cashfree_payment_id, outside,
                           reason, requested_by, idempotency_key, finished_at)
        VALUES (v_id, q.id, y.id, y.wallet_id, q.amount, 'UNAPPLIED', 'done', 'SUCCESS', q.cf_id, u.cashfree_payment_id, true, u.reason, 'gateway',
                'core:forced/' || q.id, now());
      SELECT * INTO v_gone FROM refunds WHERE id = v_id;
      v_journal := v_journal || post_returned(p_batch_id, u.cashfree_payment_id, q.amount);
      UPDATE unapplied_receipts SET state = 'refunded', refund_id = v_id, updated_at = now() WHERE cashfree_payment_id = u.cashfree_payment_id;
      SELECT v_topics || array_agg(e.t), v_partitions || array_agg(e.p), v_events || array_agg(e.event) INTO v_topics, v_partitions, v_events
        FROM refund_follow_ups(v_gone, p_parts || jsonb_build_object('refunds', p_parts -> 'refunds_unapplied')) e WHERE e.t IS NOT NULL;
      CONTINUE;
    END IF;
    SELECT * INTO b FROM force_reversal(p_batch_id, r_news, y, q.id, q.cf_id, q.payment, q.amount, 'gateway refund');
    PERFORM open_case('forced_reversal', q.id, '{}', jsonb_build_object('payment_id', y.id, 'amount_paise', q.amount));
    v_canonical := v_canonical || b.o_canonical; v_journal := v_journal || b.o_journal;
    SELECT v_topics || array_agg(e.t), v_partitions || array_agg(e.p), v_events || array_agg(e.event) INTO v_topics, v_partitions, v_events
      FROM (SELECT * FROM refund_follow_ups(b.o_refund, p_parts)
            UNION ALL SELECT * FROM expiry_delta(b.o_expiries, b.o_expired, b.o_breakage, p_parts)) e;
  END LOOP;

  -- 3. Disputes: the bank takes the money when it opens a chargeback, or when we lose; what we win comes back.
  FOR q IN SELECT x ->> 'id' AS id, x ->> 'payment' AS payment, x ->> 'type' AS type, x ->> 'status' AS status, (x ->> 'amount')::bigint AS amount,
                  (x ->> 'respond_by')::timestamptz AS respond_by
             FROM jsonb_array_elements(p_picture -> 'disputes') WITH ORDINALITY AS t (x, n) ORDER BY n LOOP
    INSERT INTO disputes AS z (dispute_id, payment_id, cashfree_payment_id, type, status, amount, respond_by)
      VALUES (q.id, y.id, q.payment, q.type, q.status, q.amount, q.respond_by)
    ON CONFLICT (dispute_id) DO UPDATE SET type = excluded.type, status = excluded.status, respond_by = excluded.respond_by, updated_at = now()
    RETURNING z.*, old.status AS before INTO k;
    PERFORM open_case('dispute', q.id, jsonb_build_object('payment_id', y.id), jsonb_build_object('status', q.status, 'amount_paise', q.amount)) WHERE k.before IS NULL;
    UPDATE reconciliation_cases SET history = history || jsonb_build_object('event', 'status', 'at', now(), 'actor', 'gateway', 'status', q.status)
     WHERE kind = 'dispute' AND subject = q.id AND state = 'open' AND k.before IS NOT NULL AND k.before <> q.status;
    SELECT * INTO STRICT d FROM disputes WHERE dispute_id = q.id;
    IF d.refund_id IS NULL AND d.status ~ c_taken AND d.status !~ 'MERCHANT_WON$' THEN
      r_news := r_news + 1;
      SELECT * INTO b FROM force_reversal(p_batch_id, r_news, y, 'dispute_' || d.dispute_id, NULL, d.cashfree_payment_id, d.amount, 'dispute');
      v_canonical := v_canonical || b.o_canonical; v_journal := v_journal || b.o_journal;
      UPDATE disputes SET refund_id = (b.o_refund).id WHERE dispute_id = d.dispute_id;
      SELECT v_topics || array_agg(e.t), v_partitions || array_agg(e.p), v_events || array_agg(e.event) INTO v_topics, v_partitions, v_events
        FROM (SELECT * FROM refund_follow_ups(b.o_refund, p_parts)
              UNION ALL SELECT * FROM expiry_delta(b.o_expiries, b.o_expired, b.o_breakage, p_parts)) e;
    ELSIF d.status ~ 'MERCHANT_WON$' AND EXISTS (SELECT FROM refunds f WHERE f.id = d.refund_id AND f.status = 'done') THEN
      r_news := r_news + 1;
      SELECT * INTO b FROM reinstate(p_batch_id, r_news, d.refund_id, d.dispute_id);
      v_canonical := v_canonical || b.o_canonical; v_journal := v_journal || b.o_journal;
      UPDATE disputes SET reinstated_lot_id = b.o_lot WHERE dispute_id = d.dispute_id;
      SELECT v_topics || array_agg(e.t), v_partitions || array_agg(e.p), v_events || array_agg(e.event) INTO v_topics, v_partitions, v_events
        FROM (SELECT 'analytics.billing' AS t, (p_parts ->> 'refunds')::integer AS p,
                     delta_event('refunds', '{policy,FORCED}', now(), -1, -f.credits_reversed, -f.amount) AS event FROM refunds f WHERE f.id = d.refund_id
              UNION ALL
              SELECT 'notifications.billing', (p_parts ->> 'notify')::integer, refund_notice('dispute_won', y.user_id, f) FROM refunds f WHERE f.id = d.refund_id
              UNION ALL SELECT * FROM expiry_delta(b.o_expiries, b.o_expired, b.o_breakage, p_parts)) e;
      UPDATE reconciliation_cases SET state = 'resolved', resolved_at = now(), history = history || jsonb_build_object('event', 'won', 'at', now(), 'actor', 'gateway')
       WHERE kind = 'dispute' AND subject = q.id AND state = 'open';
    END IF;
  END LOOP;

  -- 4. What nobody returns by itself, and no person has to decide about, we do: exactly that payment, once.
  FOR u IN SELECT * FROM unapplied_receipts r WHERE r.payment_id = y.id AND r.state = 'open' AND r.reason IN ('paid_twice', 'rejected')
              AND NOT EXISTS (SELECT FROM refunds f WHERE f.cashfree_payment_id = r.cashfree_payment_id AND f.policy = 'UNAPPLIED')
              AND NOT EXISTS (SELECT FROM jsonb_array_elements(p_picture -> 'refunds') x WHERE x ->> 'payment' = r.cashfree_payment_id
                                 AND x ->> 'status' NOT IN ('FAILED', 'CANCELLED') AND NOT EXISTS (SELECT FROM refunds f WHERE f.refund_id = x ->> 'id'))
            ORDER BY r.cashfree_payment_id LOOP
    r_news := r_news + 1;
    v_events := v_events || return_receipt(u, y.wallet_id, 'core');
    v_topics := v_topics || 'refund.processing'::text; v_partitions := v_partitions || (p_parts ->> 'refund')::integer;
  END LOOP;

  -- 5. Look again while something is open: a refund under way soon, a dispute once a day.
  v_wait := CASE
    WHEN EXISTS (SELECT FROM jsonb_array_elements(p_picture -> 'refunds') x WHERE x ->> 'status' NOT IN ('SUCCESS', 'FAILED', 'CANCELLED')
                    AND NOT EXISTS (SELECT FROM refunds f WHERE f.refund_id = x ->> 'id')) THEN interval '2 seconds'
    WHEN EXISTS (SELECT FROM disputes z WHERE z.payment_id = y.id AND z.status !~ '(MERCHANT_WON|MERCHANT_LOST|MERCHANT_ACCEPTED|INSUFFICIENT_EVIDENCE)$') THEN interval '1 day' END;
  UPDATE order_inquiries SET leased_until = '-infinity', attempt = attempt + 1, updated_at = now(),
         next_at = CASE WHEN asked <> p_asked THEN now() WHEN v_wait IS NULL THEN 'infinity'
                        ELSE now() + greatest(v_wait, least(interval '1 hour', v_wait * power(2, least(attempt, 11)))) END WHERE order_id = p_order;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM emit('refund', p_shard, 'core', r_incarnation, r_batch_no, v_topics, v_partitions, v_events) m;
  PERFORM finish_batch(p_batch_id, 'refund', p_shard, 'core', r_batch_no, 0, r_incarnation, 0, 0, v_chain.link, v_canonical || v_journal,
    greatest(1, r_news), greatest(1, r_news), 0, 0, 0, 0, 0, 0);
END $$;

CREATE FUNCTION expiry_delta(p_expiries integer, p_expired bigint, p_breakage bigint, p_parts jsonb) RETURNS TABLE (t text, p integer, event text)
LANGUAGE sql STABLE AS $$
  SELECT 'analytics.billing', (p_parts ->> 'expired')::integer, delta_event('credits_expired', '{}', now(), p_expiries, p_expired, p_breakage) WHERE p_expiries > 0
$$;

-- A refund of exactly one unapplied receipt. Returns the event for refund.processing.
CREATE FUNCTION return_receipt(p_receipt unapplied_receipts, p_wallet uuid, p_actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  v_id uuid := uuidv7();
BEGIN
  INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, cashfree_payment_id, outside, reason, requested_by, idempotency_key)
    VALUES (v_id, 'rf_' || replace(v_id::text, '-', ''), p_receipt.payment_id, p_wallet, p_receipt.amount, 'UNAPPLIED', p_receipt.cashfree_payment_id, true,
            p_receipt.reason, p_actor, 'core:receipt/' || p_receipt.cashfree_payment_id || '/' || v_id);
  UPDATE unapplied_receipts SET state = 'refunding', refund_id = v_id, updated_at = now() WHERE cashfree_payment_id = p_receipt.cashfree_payment_id;
  RETURN refund_event(v_id, p_receipt.payment_id, now());
END $$;

-- A person returns an open receipt (a mismatch, or one whose refund failed), on the chain api/<shard>. Outcomes: created; exists (on its way
-- or returned already); unknown.
CREATE FUNCTION refund_receipt(p_batch_id uuid, p_shard integer, p_cf_payment_id text, p_actor text, p_refund_partition integer,
  OUT r_outcome text, OUT r_refund uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  u unapplied_receipts;
  v_wallet uuid;
  v_chain record;
  v_event text;
BEGIN
  SELECT z.wallet_id INTO v_wallet FROM unapplied_receipts r JOIN payments z ON z.id = r.payment_id WHERE r.cashfree_payment_id = p_cf_payment_id
     FOR NO KEY UPDATE OF z;
  SELECT * INTO u FROM unapplied_receipts r WHERE r.cashfree_payment_id = p_cf_payment_id FOR NO KEY UPDATE;
  IF u.payment_id IS NULL THEN r_outcome := 'unknown'; RETURN; END IF;
  IF u.state <> 'open' THEN r_outcome := 'exists'; r_refund := u.refund_id; RETURN; END IF;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  v_event := return_receipt(u, v_wallet, p_actor);
  r_outcome := 'created';
  SELECT refund_id INTO r_refund FROM unapplied_receipts WHERE cashfree_payment_id = p_cf_payment_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id) VALUES (p_actor, 'receipt.refund', 'refund', r_refund::text);
  PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['refund.processing'], ARRAY[p_refund_partition], ARRAY[v_event]);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '', 1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- A person's word about a refund that is too old for the gateway, on the chain api/<shard>: approve, decline (also after an approval; its credits
-- come back), paid (by our bank, p_detail its reference: booked as any refund, then out of the bank instead of the gateway). Returns the status
-- that the refund has then, or 'unknown'; a verdict that does not fit changes nothing. p_parts as record_refund.
CREATE FUNCTION decide_refund_payout(p_batch_id uuid, p_shard integer, p_refund uuid, p_verdict text, p_actor text, p_detail text, p_parts jsonb)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  f refunds;
  h holds;
  b record;
  v_chain record;
  v_journal text := '';
BEGIN
  SELECT * INTO f FROM refunds WHERE id = p_refund;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  PERFORM FROM wallets w WHERE w.id = f.wallet_id FOR NO KEY UPDATE;
  PERFORM FROM payments y WHERE y.id = f.payment_id FOR NO KEY UPDATE;
  SELECT * INTO f FROM refunds WHERE id = p_refund FOR NO KEY UPDATE;
  IF NOT (p_verdict IN ('approve', 'decline') AND f.status = 'payout_requested' OR p_verdict IN ('decline', 'paid') AND f.status = 'payout_approved') THEN
    RETURN f.status;
  END IF;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'refund.' || p_verdict, 'refund', p_refund::text, jsonb_build_object('detail', p_detail));
  IF p_verdict = 'approve' THEN
    UPDATE refunds SET status = 'payout_approved', updated_at = now() WHERE id = p_refund;
    RETURN 'payout_approved';
  END IF;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  IF p_verdict = 'decline' THEN
    SELECT * INTO STRICT h FROM holds WHERE id = f.hold_id;
    SELECT * INTO b FROM apply_command('api', p_batch_id, 1, true, false, uuidv7(), f.wallet_id, 'release', h.credits, 'core:refund/' || f.id || '/release',
      '\x00', now(), 'refund', f.id::text, NULL, NULL, NULL, jsonb_build_object('hold_id', h.id));
    UPDATE refunds SET status = 'rejected', failure = 'not_approved', finished_at = now(), updated_at = now() WHERE id = p_refund RETURNING * INTO f;
  ELSE
    SELECT * INTO b FROM book_refund(p_batch_id, 1, p_refund, false);
    f := b.o_refund;
    v_journal := b.o_journal || coalesce(post_journal(p_batch_id, uuidv7(), 'refund_payout', 'refund', p_refund::text, now(),
      jsonb_build_object('reference', p_detail), ARRAY['gateway_clearing', 'bank']::ledger_account[], ARRAY[f.amount, -f.amount]), '');
  END IF;
  UPDATE reconciliation_cases SET state = 'resolved', resolved_at = now(),
         history = history || jsonb_build_object('event', p_verdict, 'at', now(), 'actor', p_actor, 'detail', p_detail)
   WHERE kind = 'refund_payout' AND subject = p_refund::text AND state = 'open';
  PERFORM FROM (SELECT array_agg(e.t) AS t, array_agg(e.p) AS p, array_agg(e.event) AS e
                  FROM (SELECT u.* FROM refund_follow_ups(f, p_parts) u WHERE f.status = 'done'
                        UNION ALL
                        SELECT 'notifications.billing', (p_parts ->> 'notify')::integer,
                               refund_notice('refund_declined', (SELECT y.user_id FROM payments y WHERE y.id = f.payment_id), f) WHERE f.status = 'rejected'
                        UNION ALL SELECT * FROM expiry_delta(b.o_expiries, b.o_expired, b.o_breakage, p_parts)) e) x,
               emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, x.t, x.p, x.e);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, b.o_canonical || v_journal,
    1, 1, 0, 0, 0, 0, 0, 0);
  RETURN f.status;
END $$;

-- Somebody wants to know how a payment stands at the gateway: it is verified now, if it is not yet; with p_whole its refunds are asked for and its
-- order is looked at as a whole, too. Workers do the asking, within the gateway's limits. Outcomes: asked; unknown.
CREATE FUNCTION ask_gateway(p_payment uuid, p_whole boolean) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
BEGIN
  SELECT * INTO y FROM payments WHERE id = p_payment FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  INSERT INTO verifications AS v (payment_id, order_id, reason, next_at, amount)
    SELECT y.id, y.order_id, 'asked', now(), y.amount WHERE y.verified_at IS NULL AND y.status <> 'mismatch'
  ON CONFLICT (payment_id) DO UPDATE SET state = 'due', attempt = 0, deferrals = 0, next_at = now(), finished_at = NULL WHERE v.state <> 'done';
  IF p_whole AND y.status IN ('credited', 'refunded', 'rejected', 'mismatch') THEN
    UPDATE refunds f SET next_at = now(), updated_at = now()
     WHERE f.payment_id = y.id AND f.status IN ('pending', 'failed', 'cancelled') AND f.next_at > now();
    PERFORM inquire(ARRAY[y.order_id], 'asked');
  END IF;
  RETURN 'asked';
END $$;

-- The buyer tries again with another order, of which this one is told.
CREATE FUNCTION count_retry(p_payment uuid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE payments SET retry_count = retry_count + 1, updated_at = now() WHERE id = p_payment
$$;

-- A credited payment whose invoice is late: it is issued now, by the agent that issues all others, on the chain api/<shard>.
-- Outcomes: asked; exists; not_credited; unknown.
CREATE FUNCTION request_invoice(p_batch_id uuid, p_shard integer, p_payment uuid, p_invoice_partition integer) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
  v_chain record;
BEGIN
  SELECT * INTO y FROM payments WHERE id = p_payment FOR NO KEY UPDATE;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  IF EXISTS (SELECT FROM invoices v WHERE v.payment_id = y.id AND v.kind = 'tax_invoice') THEN RETURN 'exists'; END IF;
  IF y.credited_at IS NULL THEN RETURN 'not_credited'; END IF;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['invoice.generate'], ARRAY[p_invoice_partition],
                    ARRAY[invoice_event(y.id, y.credited_at)]);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '', 1, 1, 0, 0, 0, 0, 0, 0);
  RETURN 'asked';
END $$;

GRANT SELECT ON order_inquiries TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
