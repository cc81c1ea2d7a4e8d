-- migrate:up
-- Refunds that we start: requested under the payment's lock with their credits held, carried to the gateway under one id, booked when it
-- says SUCCESS. domain/refund_states.py is the state machine, domain/refunds.py the arithmetic. Locks: offset row, wallet, payment, refund,
-- lots, named chain.
SET LOCAL ROLE core_owner;

-- Money that came in without a sale: paid twice, of another amount than the order's, for a payment that was turned down (MONEY §4).
CREATE TABLE unapplied_receipts (
  cashfree_payment_id text COLLATE "C" PRIMARY KEY,
  payment_id uuid NOT NULL REFERENCES payments,
  reason text NOT NULL CHECK (reason IN ('paid_twice', 'rejected', 'mismatch')),
  amount bigint NOT NULL CHECK (amount > 0),            -- paise
  state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'refunding', 'refunded')),
  refund_id uuid REFERENCES refunds,
  batch_id uuid NOT NULL,                               -- its posting is the batch's
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX unapplied_payment ON unapplied_receipts (payment_id);

-- A bank's dispute about a payment, as the gateway last told it.
CREATE TABLE disputes (
  dispute_id text COLLATE "C" PRIMARY KEY,
  payment_id uuid NOT NULL REFERENCES payments,
  cashfree_payment_id text COLLATE "C",
  type text NOT NULL,
  status text NOT NULL,
  amount bigint NOT NULL CHECK (amount > 0),            -- paise
  respond_by timestamptz,
  refund_id uuid REFERENCES refunds,                    -- the forced reversal that it became
  reinstated_lot_id uuid,                               -- what it brought back when it was won
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX disputes_payment ON disputes (payment_id);

-- Money without a sale comes in (positive) or leaves again, once per (kind, source, source_id): 'unapplied' and 'unapplied_refunded' of an attempt to
-- pay are the words that reconciliation knows too. Returns the text for the batch's link; '' if it was posted before.
CREATE FUNCTION post_unapplied(p_batch_id uuid, p_kind text, p_source text, p_source_id text, p_metadata jsonb, p_paise bigint) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce(post_journal(p_batch_id, uuidv7(), p_kind, p_source, p_source_id, now(), p_metadata,
    ARRAY['gateway_clearing', 'unapplied_receipts']::ledger_account[], ARRAY[p_paise, -p_paise]), '');
END $$;

-- What we set aside for an attempt to pay leaves again.
CREATE FUNCTION post_returned(p_batch_id uuid, p_cf_payment_id text, p_paise bigint) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN post_unapplied(p_batch_id, 'unapplied_refunded', 'payment_attempt', p_cf_payment_id || '/' || p_paise,
                        jsonb_build_object('cashfree_payment_id', p_cf_payment_id), -p_paise);
END $$;

-- One difference, found by the core itself, as open_cases (migration 0017) takes them.
CREATE FUNCTION open_case(p_kind text, p_subject text, p_expected jsonb, p_actual jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM open_cases(ARRAY[p_kind], ARRAY[p_subject], ARRAY[p_expected], ARRAY[p_actual], 'core');
END $$;

-- Its time tells it from another of its kind that the same transaction tells of the same payment.
CREATE FUNCTION refund_notice(p_kind text, p_user uuid, p_refund refunds) RETURNS text LANGUAGE sql AS $$
  SELECT notice_event(p_user, p_kind, clock_timestamp(), p_refund.payment_id, p_refund.wallet_id, p_refund.credits_reversed, p_refund.amount)
$$;

-- Statuses whose money counts against what may still be refunded (refund_states.ACTIVE).
CREATE FUNCTION is_active_refund(p_status text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_status IN ('requested', 'due', 'pending', 'review', 'payout_requested', 'payout_approved')
$$;

-- The lot that a payment's refunds come from: the one it brought, or one that a dispute we won brought back.
CREATE FUNCTION refund_lot(p_payment uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
  SELECT l.id FROM lots l WHERE l.payment_id = p_payment ORDER BY l.free_credits DESC, l.reinstates NULLS FIRST LIMIT 1
$$;

-- What an amount would have bought: the largest packs that fit, the rest at list price, 10 paise a credit (domain.packs.credits_bought_by).
CREATE FUNCTION credits_bought_by(p_amount bigint, p_prices bigint[], p_credits bigint[]) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
  v_bought bigint := 0;
  k record;
BEGIN
  FOR k IN SELECT * FROM unnest(p_prices, p_credits) AS t (price, credits) ORDER BY t.price DESC LOOP
    v_bought := v_bought + p_amount / k.price * k.credits;
    p_amount := p_amount % k.price;
  END LOOP;
  RETURN v_bought + p_amount / 10;
END $$;

-- What may be refunded of a payment now, pro rata, and of which lot; NULLs if it was never credited. All of it is the buyer's own money: of
-- what an offer paid nothing goes back to them. Reads only.
CREATE FUNCTION refundable(p_payment uuid, OUT o_lot uuid, OUT o_total bigint, OUT o_refundable bigint, OUT o_gone bigint, OUT o_pending bigint,
  OUT o_pending_credits bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  l lots;
BEGIN
  SELECT * INTO l FROM lots WHERE id = refund_lot(p_payment);
  SELECT coalesce(sum(f.amount) FILTER (WHERE NOT f.outside AND (f.status = 'done' OR is_active_refund(f.status))), 0),
         coalesce(sum(f.amount) FILTER (WHERE f.lot_id = l.id AND is_active_refund(f.status)), 0),
         coalesce(sum(h.credits) FILTER (WHERE f.lot_id = l.id AND is_active_refund(f.status)), 0)
    INTO o_gone, o_pending, o_pending_credits
    FROM refunds f LEFT JOIN holds h ON h.id = f.hold_id AND h.state = 'held' WHERE f.payment_id = p_payment;
  IF l.id IS NULL THEN RETURN; END IF;
  o_lot := l.id;
  o_total := paid_for(l);
  o_refundable := greatest(0, div(o_total::numeric * (l.granted_credits - l.spent_credits - l.expired_credits - l.debt_paid_credits
                                                      - (l.held_credits - o_pending_credits)), l.granted_credits)::bigint
                              - (l.refunded_paise - l.offer_returned_paise) - o_pending);
END $$;

-- A refund is asked for, once per key ('<principal>:<key>'): decided under the payment's lock, its credits held, on the chain api/<shard>.
-- p_policy PRO_RATA, or RETIER (staff: the customer keeps what the net amount would have bought; packs by p_prices, p_credits).
-- p_parts: partitions {"refund": of the payment, "notify": of its user, "expired": of analytics.billing for ''}.
-- Outcomes: created; exists (r_refund has the answer, also if that was no); conflict (the key stands for another request); unknown_payment;
--   refused, stored as rejected, with r_reason: not_refundable | insufficient_refundable | refund_too_small (it would take no credit back).
-- A payment older than six months becomes a payout that waits for approval.
CREATE FUNCTION request_refund(p_batch_id uuid, p_shard integer, p_id uuid, p_payment uuid, p_amount bigint, p_policy text, p_requested_by text,
  p_key text, p_hash bytea, p_reason text, p_prices bigint[], p_credits bigint[], p_parts jsonb,
  OUT r_outcome text, OUT r_reason text, OUT r_refund uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
  f refunds;
  l lots;
  x record;
  c record;
  a record;
  v_wallet uuid;
  v_chain record;
  v_canonical text := '';
  v_credits bigint;
  v_gone bigint;
  v_hold uuid := uuidv7();
  v_late boolean;
BEGIN
  SELECT z.wallet_id INTO v_wallet FROM payments z WHERE z.id = p_payment;
  IF NOT FOUND THEN r_outcome := 'unknown_payment'; RETURN; END IF;
  PERFORM FROM wallets w WHERE w.id = v_wallet FOR NO KEY UPDATE;
  SELECT * INTO STRICT y FROM payments z WHERE z.id = p_payment FOR NO KEY UPDATE;
  SELECT * INTO f FROM refunds z WHERE z.idempotency_key = p_key;
  IF FOUND THEN
    r_outcome := CASE WHEN f.request_hash = p_hash THEN 'exists' ELSE 'conflict' END;
    r_refund := CASE WHEN f.request_hash = p_hash THEN f.id END;
    RETURN;
  END IF;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');

  -- Lots that have lapsed expire first; what is left decides.
  SELECT * INTO x FROM expire_due(p_batch_id, 1, v_wallet, now(), NULL);
  SELECT * INTO c FROM refundable(p_payment);
  SELECT * INTO l FROM lots WHERE id = c.o_lot FOR UPDATE;
  v_gone := l.refunded_paise - l.offer_returned_paise;
  v_credits := CASE p_policy
    WHEN 'RETIER' THEN l.granted_credits - l.reversed_credits - l.owed_credits - c.o_pending_credits
                       - credits_bought_by(greatest(0, c.o_total - v_gone - c.o_pending - p_amount), p_prices, p_credits)
    ELSE div_ceil((v_gone + c.o_pending + p_amount)::numeric * l.granted_credits, c.o_total) - l.reversed_credits - l.owed_credits - c.o_pending_credits END;
  r_reason := CASE
    WHEN y.status NOT IN ('credited', 'refunded') OR l.id IS NULL THEN 'not_refundable'
    WHEN c.o_gone + p_amount > y.amount - y.offer_amount OR (p_policy = 'PRO_RATA' AND p_amount > c.o_refundable)
      OR v_gone + c.o_pending + p_amount > c.o_total OR v_credits > l.free_credits THEN 'insufficient_refundable'
    WHEN v_credits <= 0 THEN 'refund_too_small' END;
  r_outcome := CASE WHEN r_reason IS NULL THEN 'created' ELSE 'refused' END;
  r_refund := p_id;
  v_late := coalesce(y.credited_at, y.verified_at) < now() - interval '6 months';

  INSERT INTO refunds (id, refund_id, payment_id, wallet_id, lot_id, hold_id, amount, policy, status, reason, failure, requested_by, idempotency_key,
                       request_hash, finished_at)
    VALUES (p_id, 'rf_' || replace(p_id::text, '-', ''), p_payment, v_wallet, l.id, CASE WHEN r_reason IS NULL THEN v_hold END, p_amount, p_policy,
            CASE WHEN r_reason IS NOT NULL THEN 'rejected' WHEN v_late THEN 'payout_requested' ELSE 'requested' END,
            p_reason, r_reason, p_requested_by, p_key, p_hash, CASE WHEN r_reason IS NOT NULL THEN now() END)
    RETURNING * INTO f;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_requested_by, 'refund.request', 'refund', p_id::text,
            jsonb_build_object('payment_id', p_payment, 'amount_paise', p_amount, 'policy', p_policy, 'refused', r_reason));
  IF r_reason IS NULL THEN
    SELECT * INTO a FROM apply_command('api', p_batch_id, 1, true, false, v_hold, v_wallet, 'hold', v_credits, 'core:refund/' || p_id || '/hold',
      p_hash, now(), 'refund', p_id::text, NULL, NULL, NULL, jsonb_build_object('lot_id', l.id, 'reason', 'refund'));
    IF a.o_outcome <> 'posted' THEN RAISE EXCEPTION 'hold of refund %: % %', p_id, a.o_outcome, a.o_reason; END IF;
    v_canonical := a.o_canonical;
    f.credits_reversed := v_credits;
    IF v_late THEN PERFORM open_case('refund_payout', p_id::text, jsonb_build_object('amount_paise', p_amount), jsonb_build_object('credited_at', y.credited_at)); END IF;
  END IF;

  PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no,
    ARRAY[CASE WHEN x.o_expiries > 0 THEN 'analytics.billing' END, CASE WHEN f.status = 'requested' THEN 'refund.processing' END,
          CASE WHEN r_reason IS NULL THEN 'notifications.billing' END],
    ARRAY[(p_parts ->> 'expired')::integer, (p_parts ->> 'refund')::integer, (p_parts ->> 'notify')::integer],
    ARRAY[delta_event('credits_expired', '{}', now(), x.o_expiries, x.o_expired, x.o_breakage),
          refund_event(p_id, p_payment, now()), refund_notice('refund_initiated', y.user_id, f)]);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link,
    x.o_canonical || v_canonical, 1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- refund.processing: refunds marked due, and with the offset. One that is further is asked about now; a finished one stays as it is,
-- but for one whose credits were given back, which a SUCCESS may still follow. Outcomes: posted | exists | quarantined (unknown refund).
CREATE FUNCTION commit_refunds(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, f_id uuid[], f_payment uuid[], f_offset bigint[],
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_n integer := coalesce(cardinality(f_id), 0);
  v_bad integer;
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  PERFORM FROM refunds f WHERE f.id = ANY (f_id) ORDER BY f.id FOR NO KEY UPDATE;
  SELECT array_agg(CASE WHEN f.id IS NULL THEN 'quarantined'
                        WHEN f.status IN ('requested', 'due', 'pending', 'failed', 'cancelled') THEN 'posted' ELSE 'exists' END ORDER BY e.ord)
    INTO r_outcome
    FROM unnest(f_id, f_payment) WITH ORDINALITY AS e (id, payment, ord) LEFT JOIN refunds f ON f.id = e.id AND f.payment_id = e.payment;
  UPDATE refunds f SET status = CASE f.status WHEN 'requested' THEN 'due' ELSE f.status END, next_at = now(), attempt = f.attempt + 1, updated_at = now()
   WHERE f.id IN (SELECT e.id FROM unnest(f_id, r_outcome) AS e (id, outcome) WHERE e.outcome = 'posted');

  INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
    SELECT p_topic, p_partition, r_incarnation, f_offset[g], 'unknown_refund',
           convert_to(jsonb_build_object('refund_id', f_id[g], 'payment_id', f_payment[g])::text, 'UTF8'), p_batch_id
      FROM generate_series(1, v_n) g WHERE r_outcome[g] = 'quarantined';
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '', r_outcome, v_bad, v_dropped);
END $$;

-- Take refunds that the gateway must be asked about; nobody else takes them for p_lease_s. again: a request may have reached it before;
-- known: it has acknowledged the refund, or the credits were given back: then it is asked and nothing is sent.
CREATE FUNCTION lease_refunds(p_limit integer, p_lease_s double precision)
RETURNS TABLE (id uuid, refund_id text, order_id text, payment_id uuid, user_id uuid, amount bigint, currency text, policy text, reason text,
               attempt integer, again boolean, known boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH due AS (
    SELECT f.id FROM refunds f WHERE f.next_at <= now() AND f.next_at < 'infinity' AND f.leased_until < now()
     ORDER BY f.next_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ), leased AS (
    UPDATE refunds f SET leased_until = now() + make_interval(secs => p_lease_s), maybe_sent = true
      FROM due d WHERE f.id = d.id RETURNING f.*, old.maybe_sent AS again
  )
  SELECT l.id, l.refund_id, y.order_id, l.payment_id, y.user_id, l.amount, y.currency, l.policy, l.reason, l.attempt, l.again,
         l.gateway_status IS NOT NULL OR l.status IN ('failed', 'cancelled')
    FROM leased l JOIN payments y ON y.id = l.payment_id ORDER BY l.next_at
$$;

-- Book the money of a refund as gone, inside its caller's batch, under the locks of wallet and payment: from the hold, or (p_forced, or
-- without one) from what the lot still has, the rest being debt. Its row is done, with the slice's tax, its credit note issued; more than
-- was captured is outside the sale and a case. Returns the refund as it is then, the texts for the batch's link (journal lines come last),
-- and what expired beside it.
CREATE FUNCTION book_refund(p_batch_id uuid, p_ord integer, p_refund uuid, p_forced boolean,
  OUT o_refund refunds, OUT o_canonical text, OUT o_journal text, OUT o_expiries integer, OUT o_expired bigint, OUT o_breakage bigint)
LANGUAGE plpgsql AS $$
DECLARE
  f refunds;
  y payments;
  l lots;
  h holds;
  a record;
  v_total bigint;
  v_gone bigint;
  v_credits bigint;
  v_key text := 'core:refund/' || p_refund;
BEGIN
  SELECT * INTO STRICT f FROM refunds WHERE id = p_refund;
  SELECT * INTO STRICT y FROM payments WHERE id = f.payment_id;
  SELECT * INTO l FROM lots WHERE id = f.lot_id FOR UPDATE;
  SELECT * INTO h FROM holds WHERE id = f.hold_id AND state = 'held';
  v_total := l.taxable_paise + l.cgst_paise + l.sgst_paise + l.igst_paise;
  v_gone := l.refunded_paise - l.offer_returned_paise;
  o_canonical := ''; o_journal := ''; o_expiries := 0; o_expired := 0; o_breakage := 0;
  IF h.id IS NOT NULL AND (p_forced OR v_gone + f.amount > paid_for(l)) THEN
    SELECT * INTO a FROM apply_command('refund', p_batch_id, p_ord, true, false, uuidv7(), f.wallet_id, 'release', h.credits, v_key || '/release', '\x00',
      now(), 'refund', p_refund::text, NULL, NULL, NULL, jsonb_build_object('hold_id', h.id));
    o_canonical := a.o_canonical; o_expiries := a.o_expiries; o_expired := a.o_expired; o_breakage := a.o_breakage;
    h := NULL;
    SELECT * INTO l FROM lots WHERE id = f.lot_id;
  END IF;
  IF l.id IS NULL OR v_gone + f.amount > paid_for(l) THEN
    o_journal := post_unapplied(p_batch_id, 'unapplied_refunded', 'refund', p_refund::text, jsonb_build_object('refund_id', f.refund_id), -f.amount);
    PERFORM open_case('refunded_beyond_capture', p_refund::text, jsonb_build_object('captured_paise', y.amount - y.offer_amount, 'refunded_paise', v_gone),
                      jsonb_build_object('refund_id', f.refund_id, 'amount_paise', f.amount));
    UPDATE refunds SET status = 'done', outside = true, credits_reversed = 0, next_at = 'infinity', leased_until = '-infinity', finished_at = now(),
           updated_at = now() WHERE id = p_refund RETURNING * INTO o_refund;
    RETURN;
  END IF;

  v_credits := coalesce(h.credits, greatest(0, div_ceil((v_gone + f.amount)::numeric * l.granted_credits, paid_for(l)) - l.reversed_credits - l.owed_credits));
  f.offer_amount := offer_given_up(l, f.amount);
  f.cgst_amount := tax_reversed(l.cgst_paise, v_total, l.refunded_paise, f.amount + f.offer_amount);
  f.sgst_amount := tax_reversed(l.sgst_paise, v_total, l.refunded_paise, f.amount + f.offer_amount);
  f.igst_amount := tax_reversed(l.igst_paise, v_total, l.refunded_paise, f.amount + f.offer_amount);
  f.transaction_id := uuidv7();
  SELECT * INTO a FROM apply_command('refund', p_batch_id, p_ord, true, false, f.transaction_id, f.wallet_id,
    (CASE WHEN h.id IS NULL THEN 'chargeback' ELSE 'refund' END)::transaction_kind, greatest(1, v_credits), v_key, '\x00', now(),
    'refund', p_refund::text, NULL, NULL, NULL, jsonb_build_object('lot_id', l.id, 'refund_paise', f.amount)
      || CASE WHEN h.id IS NULL THEN '{}' ELSE jsonb_build_object('hold_id', h.id) END);
  IF a.o_outcome <> 'posted' THEN RAISE EXCEPTION 'refund %: % %', p_refund, a.o_outcome, a.o_reason; END IF;
  o_canonical := o_canonical || a.o_canonical; o_expiries := o_expiries + a.o_expiries; o_expired := o_expired + a.o_expired;
  o_breakage := o_breakage + a.o_breakage;
  f.closes_payment := NOT y.refunded AND y.refund_amount + f.amount >= y.amount - y.offer_amount;
  UPDATE payments SET refund_amount = refund_amount + f.amount, refunded = refunded OR f.closes_payment, updated_at = now(),
         status = CASE WHEN f.closes_payment AND status = 'credited' THEN 'refunded' ELSE status END WHERE id = y.id;
  UPDATE refunds SET status = 'done', credits_reversed = v_credits, cgst_amount = f.cgst_amount, sgst_amount = f.sgst_amount, igst_amount = f.igst_amount,
         offer_amount = f.offer_amount, taxable_amount = amount + f.offer_amount - f.cgst_amount - f.sgst_amount - f.igst_amount, transaction_id = f.transaction_id, closes_payment = f.closes_payment,
         next_at = 'infinity', leased_until = '-infinity', finished_at = now(), updated_at = now() WHERE id = p_refund RETURNING * INTO o_refund;
  PERFORM issue_credit_note(p_refund, now());
END $$;

-- What follows from a refund that is done: windows and a notice. p_parts: partitions {"expired", "refunds": of 'policy=<policy>',
-- "refunded": of 'status=refunded', "notify"}.
CREATE FUNCTION refund_follow_ups(p_refund refunds, p_parts jsonb) RETURNS TABLE (t text, p integer, event text) LANGUAGE sql AS $$
  SELECT e.t, (p_parts ->> e.part)::integer, e.event
    FROM payments y CROSS JOIN LATERAL (VALUES
      ('analytics.billing', 'refunds', delta_event('refunds', ARRAY['policy', p_refund.policy], now(), 1, p_refund.credits_reversed, p_refund.amount)),
      (CASE WHEN p_refund.closes_payment THEN 'analytics.billing' END, 'refunded', payment_delta('refunded', now(), 1, y.credits_granted, y.amount)),
      ('notifications.billing', 'notify', refund_notice(
        CASE p_refund.policy WHEN 'FORCED' THEN 'payment_reversed' WHEN 'UNAPPLIED' THEN 'payment_returned' ELSE 'refund_done' END, y.user_id, p_refund))) AS e (t, part, event)
   WHERE y.id = p_refund.payment_id
$$;

-- What the gateway answered about a leased refund, on the chain refund/<shard>. p_answer: refund (with its status and own id) | refused (a
-- definite no to our first request) | mismatched (our id stands for something else) | no_answer | not_sent (nor ever before, if p_again is
-- false). Says it twice without effect. r_outcome: the status that the refund has then; r_moved: whether that was news.
CREATE FUNCTION record_refund(p_batch_id uuid, p_shard integer, p_refund uuid, p_attempt integer, p_answer text, p_again boolean, p_status text,
  p_cf_refund_id text, p_detail text, p_retry_s double precision, p_parts jsonb,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text, OUT r_moved boolean,
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  f refunds;
  h holds;
  b record;
  a record;
  v_chain record;
  v_user uuid;
  v_event text := CASE WHEN p_answer <> 'refund' THEN p_answer WHEN p_status = 'SUCCESS' THEN 'succeeded' WHEN p_status = 'FAILED' THEN 'failed'
                       WHEN p_status = 'CANCELLED' THEN 'cancelled' ELSE 'pending' END;
  v_open boolean;
  v_gave_back boolean;
  v_wait interval;
  v_journal text;
BEGIN
  SELECT * INTO STRICT f FROM refunds WHERE id = p_refund;
  PERFORM FROM wallets w WHERE w.id = f.wallet_id FOR NO KEY UPDATE;
  SELECT z.user_id INTO STRICT v_user FROM payments z WHERE z.id = f.payment_id FOR NO KEY UPDATE;
  SELECT * INTO STRICT f FROM refunds WHERE id = p_refund FOR NO KEY UPDATE;
  v_open := f.status IN ('requested', 'due', 'pending', 'review');
  v_gave_back := f.status IN ('failed', 'cancelled');
  r_outcome := f.status; r_moved := false;
  IF p_answer = 'refund' THEN
    UPDATE refunds SET gateway_status = p_status, cashfree_refund_id = coalesce(cashfree_refund_id, p_cf_refund_id) WHERE id = p_refund;
  END IF;

  IF v_event = 'succeeded' AND (v_open OR v_gave_back) OR v_open AND v_event IN ('failed', 'cancelled', 'refused') THEN
    r_moved := true;
  ELSIF v_open AND v_event = 'mismatched' THEN
    PERFORM open_case('refund_mismatch', p_refund::text, jsonb_build_object('refund_id', f.refund_id, 'amount_paise', f.amount), jsonb_build_object('said', p_detail));
    UPDATE refunds SET status = 'review', failure = p_detail, next_at = 'infinity', leased_until = '-infinity', updated_at = now()
     WHERE id = p_refund RETURNING status INTO r_outcome;
  ELSIF v_open AND f.status <> 'review' OR v_gave_back AND v_event IN ('no_answer', 'not_sent') AND f.deferrals < 20 THEN
    -- Ask again: after a pause that grows, or at once if a webhook spoke meanwhile.
    v_wait := CASE WHEN v_event = 'pending' THEN least(interval '1 hour', interval '2 seconds' * power(2.5, least(f.attempt, 12)))
                   ELSE greatest(make_interval(secs => coalesce(p_retry_s, 0)), least(interval '10 minutes', interval '500 milliseconds' * power(2, least(f.deferrals, 12)))) END;
    UPDATE refunds SET status = CASE v_event WHEN 'pending' THEN 'pending' ELSE status END, leased_until = '-infinity', updated_at = now(),
           next_at = CASE WHEN attempt = p_attempt THEN now() + v_wait * (0.9 + random() / 5) ELSE next_at END,
           attempt = attempt + (v_event = 'pending')::integer, deferrals = CASE v_event WHEN 'pending' THEN 0 ELSE deferrals + 1 END,
           maybe_sent = CASE v_event WHEN 'not_sent' THEN p_again ELSE true END, failure = CASE v_event WHEN 'pending' THEN NULL ELSE p_detail END
     WHERE id = p_refund RETURNING status INTO r_outcome;
    IF f.deferrals = 20 THEN
      PERFORM open_case('refund_unknown', p_refund::text, jsonb_build_object('refund_id', f.refund_id, 'amount_paise', f.amount), jsonb_build_object('said', p_detail));
    END IF;
  ELSE
    IF f.status = 'done' AND v_event IN ('failed', 'cancelled', 'refused', 'mismatched') THEN
      PERFORM open_case('refund_contradicted', p_refund::text, jsonb_build_object('status', f.status), jsonb_build_object('said', coalesce(p_status, p_detail)));
    END IF;
    UPDATE refunds SET next_at = 'infinity', leased_until = '-infinity' WHERE id = p_refund;
  END IF;
  IF NOT r_moved THEN RETURN; END IF;

  SELECT * INTO v_chain FROM begin_chain('refund', p_shard, 'core');
  r_batch_no := v_chain.batch_no; r_incarnation := v_chain.incarnation;
  IF v_event = 'succeeded' AND f.policy = 'UNAPPLIED' THEN
    v_journal := post_returned(p_batch_id, f.cashfree_payment_id, f.amount);
    UPDATE unapplied_receipts SET state = 'refunded', refund_id = f.id, updated_at = now() WHERE cashfree_payment_id = f.cashfree_payment_id;
    UPDATE payments y SET refund_amount = least(y.amount, y.refund_amount + f.amount), refunded = y.refund_amount + f.amount >= y.amount - y.offer_amount, updated_at = now()
     WHERE y.id = f.payment_id AND f.reason <> 'paid_twice';
    UPDATE refunds SET status = 'done', next_at = 'infinity', leased_until = '-infinity', finished_at = now(), updated_at = now()
     WHERE id = p_refund RETURNING * INTO f;
    SELECT f AS o_refund, v_journal AS o_canonical, '' AS o_journal, 0 AS o_expiries, 0::bigint AS o_expired, 0::bigint AS o_breakage INTO b;
  ELSIF v_event = 'succeeded' THEN
    SELECT * INTO b FROM book_refund(p_batch_id, 1, p_refund, v_gave_back);
    IF v_gave_back THEN
      PERFORM open_case('refund_contradicted', p_refund::text, jsonb_build_object('status', f.status), jsonb_build_object('said', p_status));
    END IF;
  ELSE
    SELECT '' AS o_canonical, 0 AS o_expiries, 0::bigint AS o_expired, 0::bigint AS o_breakage INTO a;
    SELECT * INTO h FROM holds WHERE id = f.hold_id AND state = 'held';
    IF FOUND THEN
      SELECT * INTO a FROM apply_command('refund', p_batch_id, 1, true, false, uuidv7(), f.wallet_id, 'release', h.credits, 'core:refund/' || f.id || '/release',
        '\x00', now(), 'refund', f.id::text, NULL, NULL, NULL, jsonb_build_object('hold_id', h.id));
    END IF;
    UPDATE refunds SET status = CASE v_event WHEN 'cancelled' THEN 'cancelled' ELSE 'failed' END, failure = coalesce(p_detail, p_status), next_at = 'infinity',
           leased_until = '-infinity', finished_at = now(), updated_at = now() WHERE id = p_refund RETURNING * INTO f;
    IF f.policy = 'UNAPPLIED' THEN
      UPDATE unapplied_receipts SET state = 'open', refund_id = NULL, updated_at = now() WHERE cashfree_payment_id = f.cashfree_payment_id;
      PERFORM open_case('unapplied_receipt', f.cashfree_payment_id, jsonb_build_object('amount_paise', f.amount),
                        jsonb_build_object('refund_id', f.refund_id, 'status', f.status, 'said', f.failure));
    END IF;
    SELECT f AS o_refund, a.o_canonical, '' AS o_journal, a.o_expiries, a.o_expired, a.o_breakage INTO b;
  END IF;
  f := b.o_refund;
  r_outcome := f.status;
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg(e.t) AS t, array_agg(e.p) AS p, array_agg(e.event) AS e
            FROM (SELECT u.* FROM refund_follow_ups(f, p_parts) u WHERE f.status = 'done'
                  UNION ALL
                  SELECT 'notifications.billing', (p_parts ->> 'notify')::integer, refund_notice('refund_failed', v_user, f) WHERE f.status <> 'done'
                  UNION ALL
                  SELECT 'analytics.billing', (p_parts ->> 'expired')::integer, delta_event('credits_expired', '{}', now(), b.o_expiries, b.o_expired, b.o_breakage)
                   WHERE b.o_expiries > 0) e) x,
         emit('refund', p_shard, 'core', r_incarnation, r_batch_no, x.t, x.p, x.e) m;
  PERFORM finish_batch(p_batch_id, 'refund', p_shard, 'core', r_batch_no, 0, r_incarnation, 0, 0, v_chain.link, b.o_canonical || b.o_journal,
    1, 1, 0, 0, 0, 0, 0, 0);
END $$;

GRANT SELECT ON unapplied_receipts, disputes TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
