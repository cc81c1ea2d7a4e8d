-- migrate:up
-- The ledger's rules, one command at a time and readable; domain/ledger.py is their specification and the tests
-- hold both together. commit_batch (next file) takes the same decisions for plain spends as one set.
SET LOCAL ROLE core_owner;

-- How much of a lot's price is earned: the floor of the used share, cumulative, and all that is left once nothing remains (MONEY §4).
CREATE FUNCTION earned_paise(p_taxable bigint, p_returned bigint, p_granted bigint, p_used bigint, p_remaining bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_remaining = 0 THEN p_taxable - p_returned ELSE least(p_taxable - p_returned, p_taxable * p_used / p_granted) END
$$;

-- Half-up and ceiling of a quotient of non-negative integers, exact at any size.
CREATE FUNCTION div_half_up(p_dividend numeric, p_divisor numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT div(2 * p_dividend + p_divisor, 2 * p_divisor)::bigint
$$;
CREATE FUNCTION div_ceil(p_dividend numeric, p_divisor numeric) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT div(p_dividend + p_divisor - 1, p_divisor)::bigint
$$;

-- One head of tax reversed by a refund slice: half-up on the running total, so any slicing of a full refund reverses exactly the tax.
CREATE FUNCTION tax_reversed(p_head bigint, p_total bigint, p_before bigint, p_slice bigint)
RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN p_total = 0 THEN 0
              ELSE div_half_up(p_head::numeric * (p_before + p_slice), p_total) - div_half_up(p_head::numeric * p_before, p_total) END
$$;

-- The canonical text of one transaction, with its legs: what the hash chain protects.
CREATE FUNCTION canonical_transaction(p_id uuid, p_wallet uuid, p_seq bigint, p_kind text, p_credits bigint, p_amount bigint,
  p_after bigint, p_locked bigint, p_key text, p_hash bytea, p_legs text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_id::text || '|' || p_wallet::text || '|' || p_seq::text || '|' || p_kind || '|' || p_credits::text || '|' || p_amount::text || '|'
      || p_after::text || '|' || p_locked::text || '|' || p_key || '|' || encode(p_hash, 'hex') || '|' || coalesce(p_legs, '') || E'\n'
$$;

-- Move credits of a lot from one place to another ('free', 'held', 'spent', 'expired', 'debt_paid'); returns what that earned.
CREATE FUNCTION move_lot(p_lot uuid, p_credits bigint, p_from text, p_to text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  l lots;
  v_earned bigint;
BEGIN
  SELECT * INTO STRICT l FROM lots WHERE id = p_lot FOR UPDATE;
  IF p_from = 'free' THEN l.free_credits := l.free_credits - p_credits; ELSE l.held_credits := l.held_credits - p_credits; END IF;
  CASE p_to
    WHEN 'free' THEN l.free_credits := l.free_credits + p_credits;
    WHEN 'held' THEN l.held_credits := l.held_credits + p_credits;
    WHEN 'spent' THEN l.spent_credits := l.spent_credits + p_credits;
    WHEN 'expired' THEN l.expired_credits := l.expired_credits + p_credits;
    WHEN 'debt_paid' THEN l.debt_paid_credits := l.debt_paid_credits + p_credits;
  END CASE;
  v_earned := earned_paise(l.taxable_paise, l.returned_paise, l.granted_credits, l.spent_credits + l.expired_credits + l.debt_paid_credits,
                           l.free_credits + l.held_credits);
  UPDATE lots SET free_credits = l.free_credits, held_credits = l.held_credits, spent_credits = l.spent_credits,
                  expired_credits = l.expired_credits, debt_paid_credits = l.debt_paid_credits, recognised_paise = v_earned,
                  open = l.free_credits + l.held_credits > 0 WHERE id = p_lot;
  RETURN v_earned - l.recognised_paise;
END $$;

-- What a lot's buyer paid for it: its price, less what an offer paid.
CREATE FUNCTION paid_for(l lots) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT l.taxable_paise + l.cgst_paise + l.sgst_paise + l.igst_paise - l.offer_paise
$$;

-- What of its offer a lot gives up when p_paise go back: the offer's share of all that went back, half-up on the running total, so that a
-- full refund in any slicing gives up exactly the offer. The slice of the sale is p_paise with it.
CREATE FUNCTION offer_given_up(l lots, p_paise bigint) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN l.offer_paise = 0 THEN 0 ELSE
    div_half_up((l.refunded_paise - l.offer_returned_paise + p_paise)::numeric * l.offer_paise, paid_for(l)) - l.offer_returned_paise END
$$;

-- Take credits of a lot back against money returned (which may be 0). The slice is that money and the offer's part of it (o_offer);
-- o_taxable is the slice without tax, o_returned what of it was still deferred (all that is left, if nothing remains of the lot).
CREATE FUNCTION reverse_lot(p_lot uuid, p_credits bigint, p_from text, p_paise bigint,
  OUT o_cgst bigint, OUT o_sgst bigint, OUT o_igst bigint, OUT o_taxable bigint, OUT o_returned bigint, OUT o_offer bigint)
LANGUAGE plpgsql AS $$
DECLARE
  l lots;
  v_total bigint;
  v_deferred bigint;
BEGIN
  SELECT * INTO STRICT l FROM lots WHERE id = p_lot FOR UPDATE;
  v_total := l.taxable_paise + l.cgst_paise + l.sgst_paise + l.igst_paise;
  v_deferred := l.taxable_paise - l.returned_paise - l.recognised_paise;
  o_offer := offer_given_up(l, p_paise);
  o_cgst := tax_reversed(l.cgst_paise, v_total, l.refunded_paise, p_paise + o_offer);
  o_sgst := tax_reversed(l.sgst_paise, v_total, l.refunded_paise, p_paise + o_offer);
  o_igst := tax_reversed(l.igst_paise, v_total, l.refunded_paise, p_paise + o_offer);
  o_taxable := p_paise + o_offer - o_cgst - o_sgst - o_igst;
  o_returned := CASE WHEN l.free_credits + l.held_credits = p_credits THEN v_deferred ELSE least(o_taxable, v_deferred) END;
  UPDATE lots SET free_credits = free_credits - CASE WHEN p_from = 'free' THEN p_credits ELSE 0 END,
                  held_credits = held_credits - CASE WHEN p_from = 'held' THEN p_credits ELSE 0 END,
                  reversed_credits = reversed_credits + p_credits, refunded_paise = refunded_paise + p_paise + o_offer,
                  offer_returned_paise = offer_returned_paise + o_offer,
                  returned_paise = returned_paise + o_returned, open = free_credits + held_credits > p_credits WHERE id = p_lot;
END $$;

-- Post one transaction: the wallet's row, the transaction, its legs. Zero legs are dropped. Returns the canonical text.
CREATE FUNCTION post_transaction(p_batch_id uuid, p_ord integer, p_id uuid, p_wallet uuid, p_kind transaction_kind, p_amount bigint,
  p_effect bigint, p_locked_effect bigint, p_key text, p_hash bytea, p_occurred timestamptz, p_source text, p_source_id text,
  p_feature text, p_community uuid, p_meta jsonb, p_accounts ledger_account[], p_amounts bigint[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  w wallets;
  v_legs text;
BEGIN
  UPDATE wallets SET available_credits = available_credits + p_effect, locked_credits = locked_credits + p_locked_effect,
                     seq = seq + 1, updated_at = now()
   WHERE id = p_wallet RETURNING * INTO w;
  INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after,
      locked_after, source, source_id, feature, community_id, metadata, idempotency_key, request_hash, batch_id, ord, occurred_at)
    VALUES (p_id, p_wallet, w.seq, p_kind, p_effect, p_amount, w.available_credits - p_effect, w.available_credits,
      w.locked_credits, p_source, p_source_id, p_feature, p_community, p_meta, p_key, p_hash, p_batch_id, p_ord, p_occurred);
  WITH leg AS (
    INSERT INTO ledger_entries (transaction_id, leg, account, wallet_id, amount)
      SELECT p_id, row_number() OVER (ORDER BY l.ord), l.account,
             CASE WHEN l.account IN ('wallet', 'wallet_held', 'wallet_debt', 'credit_debt_receivable') THEN p_wallet END, l.amount
        FROM unnest(p_accounts, p_amounts) WITH ORDINALITY AS l (account, amount, ord) WHERE l.amount <> 0
    RETURNING leg, account, amount)
  SELECT string_agg(account || ':' || amount, ',' ORDER BY leg) INTO v_legs FROM leg;
  RETURN canonical_transaction(p_id, p_wallet, w.seq, p_kind::text, p_effect, p_amount, w.available_credits, w.locked_credits, p_key, p_hash, v_legs);
END $$;

-- Expire credits that are free in one lot, as a transaction of its own.
CREATE FUNCTION expire_lot(p_batch_id uuid, p_ord integer, p_id uuid, p_wallet uuid, p_lot uuid, p_credits bigint, p_key text, p_hash bytea,
  p_occurred timestamptz, OUT o_breakage bigint, OUT o_canonical text)
LANGUAGE plpgsql AS $$
BEGIN
  o_breakage := move_lot(p_lot, p_credits, 'free', 'expired');
  INSERT INTO lot_consumptions VALUES (p_id, p_lot, p_credits, o_breakage);
  o_canonical := post_transaction(p_batch_id, p_ord, p_id, p_wallet, 'expire', p_credits, -p_credits, 0, p_key, p_hash, p_occurred,
    'lot', p_lot::text, NULL, NULL, NULL, ARRAY['wallet', 'credits_expired', 'deferred_revenue', 'breakage']::ledger_account[],
    ARRAY[p_credits, -p_credits, o_breakage, -o_breakage]);
END $$;

-- Lots with something free, in the order in which they burn (MONEY §1).
CREATE FUNCTION burn_order(p_wallet uuid) RETURNS SETOF lots LANGUAGE sql STABLE AS $$
  SELECT * FROM lots WHERE wallet_id = p_wallet AND open AND free_credits > 0
   ORDER BY priority, expires_at, promotional DESC, effective_at, id
$$;

-- Expire what is free in the lots that are due, but for one that the command itself names.
CREATE FUNCTION expire_due(p_batch_id uuid, p_ord integer, p_wallet uuid, p_occurred timestamptz, p_but uuid,
  OUT o_expiries integer, OUT o_expired bigint, OUT o_breakage bigint, OUT o_canonical text)
LANGUAGE plpgsql AS $$
DECLARE
  v_due lots[];
  l lots;
  e record;
BEGIN
  o_expiries := 0; o_expired := 0; o_breakage := 0; o_canonical := '';
  SELECT array_agg(b) INTO v_due FROM burn_order(p_wallet) b WHERE b.expires_at <= p_occurred AND b.id IS DISTINCT FROM p_but;
  FOREACH l IN ARRAY coalesce(v_due, '{}') LOOP
    SELECT * INTO e FROM expire_lot(p_batch_id, p_ord, uuidv7(), p_wallet, l.id, l.free_credits,
      'core:expire/' || l.id || CASE WHEN l.expired_credits > 0 THEN '/' || l.expired_credits ELSE '' END, '\x'::bytea, p_occurred);
    o_expiries := o_expiries + 1; o_expired := o_expired + l.free_credits;
    o_breakage := o_breakage + e.o_breakage; o_canonical := o_canonical || e.o_canonical;
  END LOOP;
  IF o_expiries > 0 THEN PERFORM refresh_expiry(p_wallet); END IF;
END $$;

-- Keep the wallet's note of its earliest expiry true; the set path may leave it too early, never too late.
CREATE FUNCTION refresh_expiry(p_wallet uuid) RETURNS void LANGUAGE sql AS $$
  UPDATE wallets w SET next_expiry_at = n.at
    FROM (SELECT coalesce(min(expires_at), 'infinity') AS at FROM lots WHERE wallet_id = p_wallet AND open AND free_credits > 0) n
   WHERE w.id = p_wallet AND w.next_expiry_at <> n.at
$$;

-- Decide and book one command under its wallet's lock.
--   p_decide: as things stand, without waiting for pending credits;  p_retry: the wallet's lowest unfinished retry, behind nothing
-- p_extra: purchase {payment_id}; grant {priority, expires_at}; hold {expires_at, reason, lot_id}; capture, release {hold_id};
--   refund {lot_id, hold_id, refund_paise}; expire {lot_id}; chargeback {lot_id, refund_paise}
-- o_outcome: posted | refused | exists | conflict | parked | quarantined, with o_reason.
CREATE FUNCTION apply_command(p_topic text, p_batch_id uuid, p_ord integer, p_decide boolean, p_retry boolean,
  p_id uuid, p_wallet uuid, p_kind transaction_kind, p_credits bigint, p_key text, p_hash bytea, p_occurred timestamptz,
  p_source text, p_source_id text, p_feature text, p_community uuid, p_meta jsonb, p_extra jsonb,
  OUT o_outcome text, OUT o_reason text, OUT o_id uuid, OUT o_balance bigint, OUT o_recognised bigint, OUT o_expiries integer,
  OUT o_expired bigint, OUT o_breakage bigint, OUT o_canonical text)
LANGUAGE plpgsql AS $$
DECLARE
  w wallets;
  l lots;
  h holds;
  pay payments;
  e record;
  v_lot uuid := (p_extra ->> 'lot_id')::uuid;
  v_paise bigint := coalesce((p_extra ->> 'refund_paise')::bigint, 0);
  v_left bigint := p_credits;
  v_take bigint;
  v_rec bigint := 0;
  v_debt bigint := 0;
  v_debt_paise bigint := 0;
  v_effect bigint;
  v_held bigint := 0;
  v_paid bigint;
  v_gone bigint;
  v_place smallint := 0;
  v_accounts ledger_account[];
  v_amounts bigint[];
BEGIN
  o_recognised := 0; o_expiries := 0; o_expired := 0; o_breakage := 0; o_canonical := '';

  -- 1. A known key, or a payment already credited: what it meant the first time is what it means.
  SELECT 'posted' AS outcome, t.id, t.request_hash, t.balance_after AS balance INTO e FROM wallet_transactions t WHERE t.idempotency_key = p_key;
  IF NOT FOUND THEN
    SELECT 'refused' AS outcome, NULL::uuid AS id, r.request_hash, r.balance_credits AS balance INTO e FROM refusals r WHERE r.idempotency_key = p_key;
  END IF;
  IF NOT FOUND AND p_kind = 'purchase' THEN
    SELECT 'posted' AS outcome, t.id, p_hash AS request_hash, t.balance_after AS balance INTO e FROM wallet_transactions t
     WHERE t.source = p_source AND t.source_id = p_source_id AND t.transaction_type = 'purchase';
  END IF;
  IF FOUND THEN
    IF e.request_hash = p_hash THEN o_outcome := 'exists'; o_reason := e.outcome; o_id := e.id; o_balance := e.balance;
    ELSE o_outcome := 'conflict'; o_reason := 'other_request'; END IF;
    RETURN;
  END IF;

  -- 2. The wallet, and what already waits for it.
  SELECT * INTO w FROM wallets WHERE id = p_wallet;
  IF NOT FOUND THEN
    o_outcome := CASE WHEN p_kind IN ('purchase', 'grant') THEN 'parked' ELSE 'quarantined' END;
    o_reason := 'unknown_wallet';
    RETURN;
  END IF;
  o_balance := w.available_credits;
  IF NOT p_retry AND EXISTS (SELECT FROM retries r WHERE r.topic = p_topic AND r.key = p_wallet::text AND r.state = 'due') THEN
    o_outcome := 'parked'; o_reason := 'behind_parked';
    RETURN;
  END IF;

  -- 3. Lots that lapsed by the time of the command expire first.
  SELECT * INTO e FROM expire_due(p_batch_id, p_ord, p_wallet, p_occurred, CASE WHEN p_kind = 'expire' THEN v_lot END);
  o_expiries := e.o_expiries; o_expired := e.o_expired; o_breakage := e.o_breakage; o_canonical := e.o_canonical;
  IF o_expiries > 0 THEN SELECT * INTO w FROM wallets WHERE id = p_wallet; END IF;
  o_balance := w.available_credits;

  -- 4. May it be? A credit waits, a debit is refused; one that pending credits would cover waits for them.
  IF p_kind = 'purchase' THEN
    SELECT * INTO pay FROM payments WHERE id = (p_extra ->> 'payment_id')::uuid FOR NO KEY UPDATE;
    IF NOT FOUND OR pay.verified_at IS NULL OR pay.status <> 'verified' OR pay.wallet_id <> p_wallet
       OR pay.credits_granted <> p_credits OR pay.id::text <> p_source_id THEN
      o_outcome := 'parked'; o_reason := 'unverified_payment';
      RETURN;
    END IF;
  ELSIF p_kind = 'spend' OR (p_kind = 'hold' AND v_lot IS NULL) THEN
    IF w.debt_credits > 0 OR p_credits > w.available_credits THEN
      -- Credits on their way pay the debt first; the debit waits if it fits what is left of them.
      IF NOT p_decide AND w.pending_credits >= w.debt_credits
         AND p_credits <= w.available_credits + w.pending_credits - w.debt_credits THEN
        o_outcome := 'parked'; o_reason := 'pending_credits';
        RETURN;
      END IF;
      o_reason := 'insufficient_credits';
    END IF;
  ELSIF p_kind IN ('capture', 'release', 'refund') AND p_extra ? 'hold_id' THEN
    SELECT * INTO h FROM holds WHERE id = (p_extra ->> 'hold_id')::uuid AND wallet_id = p_wallet FOR UPDATE;
    IF NOT FOUND OR h.state <> 'held' THEN o_reason := 'hold_not_open';
    ELSIF p_kind = 'refund' AND EXISTS (SELECT FROM hold_lots x WHERE x.hold_id = h.id AND x.lot_id IS DISTINCT FROM v_lot) THEN
      o_reason := 'lot_not_free';
    ELSIF p_kind <> 'release' AND p_credits > h.credits THEN o_reason := 'hold_too_small'; END IF;
  ELSIF p_kind IN ('capture', 'release') THEN
    o_reason := 'hold_not_open';
  END IF;
  IF o_reason IS NULL AND (p_kind IN ('refund', 'expire', 'chargeback') OR (p_kind = 'hold' AND v_lot IS NOT NULL)) THEN
    SELECT * INTO l FROM lots WHERE id = v_lot AND wallet_id = p_wallet FOR UPDATE;
    v_paid := paid_for(l);
    v_gone := l.refunded_paise - l.offer_returned_paise;
    IF l.id IS NULL OR (p_kind <> 'chargeback' AND h.id IS NULL AND l.free_credits < p_credits)
       OR (p_kind IN ('refund', 'chargeback') AND v_gone + v_paise > v_paid)
       OR (p_kind = 'chargeback' AND v_gone + v_paise <= 0) THEN
      o_reason := 'lot_not_free';
    END IF;
  END IF;
  IF o_reason IS NOT NULL THEN
    o_outcome := 'refused';
    INSERT INTO refusals (idempotency_key, request_hash, wallet_id, transaction_type, amount_credits, reason, balance_credits, batch_id, ord, occurred_at)
      VALUES (p_key, p_hash, p_wallet, p_kind, p_credits, o_reason, w.available_credits, p_batch_id, p_ord, p_occurred);
    o_canonical := o_canonical || canonical_refusal(p_key, p_hash, o_reason);
    RETURN;
  END IF;

  -- 5. Book it: the lots first, then the transaction with its legs.
  o_outcome := 'posted'; o_id := p_id;
  CASE p_kind
  WHEN 'purchase', 'grant' THEN
    INSERT INTO lots (id, wallet_id, transaction_id, payment_id, priority, promotional, effective_at, expires_at, granted_credits,
        base_credits, bonus_credits, free_credits, taxable_paise, cgst_paise, sgst_paise, igst_paise, offer_paise)
      VALUES (p_id, p_wallet, p_id, pay.id, coalesce((p_extra ->> 'priority')::smallint, 0), p_kind = 'grant', p_occurred,
        coalesce((p_extra ->> 'expires_at')::timestamptz, 'infinity'), p_credits,
        CASE WHEN p_kind = 'grant' THEN 0 ELSE pay.base_credits END, CASE WHEN p_kind = 'grant' THEN p_credits ELSE pay.bonus_credits END,
        p_credits, coalesce(pay.taxable_amount, 0), coalesce(pay.cgst_amount, 0), coalesce(pay.sgst_amount, 0), coalesce(pay.igst_amount, 0),
        coalesce(pay.offer_amount, 0));
    v_effect := p_credits;
    v_accounts := ARRAY['credits_issued', 'wallet']; v_amounts := ARRAY[p_credits, -p_credits];
    IF p_kind = 'purchase' THEN
      v_accounts := ARRAY['gateway_clearing', 'offer_discount', 'cgst_payable', 'sgst_payable', 'igst_payable', 'deferred_revenue']::ledger_account[] || v_accounts;
      v_amounts := ARRAY[pay.amount - pay.offer_amount, pay.offer_amount, -pay.cgst_amount, -pay.sgst_amount, -pay.igst_amount, -pay.taxable_amount] || v_amounts;
      -- A debt is paid first: the lot's deferred revenue settles the receivable, and no revenue is new.
      v_debt := least(w.debt_credits, p_credits);
      IF v_debt > 0 THEN
        v_rec := move_lot(p_id, v_debt, 'free', 'debt_paid');
        v_debt_paise := CASE WHEN v_debt = w.debt_credits THEN w.debt_paise ELSE least(v_rec, w.debt_paise) END;
        v_effect := p_credits - v_debt;
        v_accounts := v_accounts || ARRAY['wallet', 'wallet_debt', 'deferred_revenue', 'credit_debt_receivable', 'rounding']::ledger_account[];
        v_amounts := v_amounts || ARRAY[v_debt, -v_debt, v_rec, -v_debt_paise, v_debt_paise - v_rec];
      END IF;
      UPDATE wallets SET debt_credits = debt_credits - v_debt, debt_paise = debt_paise - v_debt_paise,
          pending_credits = pending_credits - least(pending_credits, p_credits),
          lifetime_purchased_credits = lifetime_purchased_credits + p_credits WHERE id = p_wallet;
      UPDATE payments SET status = 'credited', credited_at = now(), updated_at = now() WHERE id = pay.id;
    END IF;

  WHEN 'spend', 'hold' THEN
    IF p_kind = 'hold' THEN
      INSERT INTO holds (id, wallet_id, transaction_id, credits, reason, lot_id, expires_at)
        VALUES (p_id, p_wallet, p_id, p_credits, p_extra ->> 'reason', v_lot, coalesce((p_extra ->> 'expires_at')::timestamptz, 'infinity'));
    END IF;
    FOR l IN SELECT * FROM burn_order(p_wallet) b WHERE v_lot IS NULL OR b.id = v_lot LOOP
      EXIT WHEN v_left = 0;
      v_take := least(v_left, l.free_credits);
      v_left := v_left - v_take;
      IF p_kind = 'spend' THEN
        v_rec := move_lot(l.id, v_take, 'free', 'spent');
        INSERT INTO lot_consumptions VALUES (p_id, l.id, v_take, v_rec);
        o_recognised := o_recognised + v_rec;
      ELSE
        PERFORM move_lot(l.id, v_take, 'free', 'held');
        INSERT INTO hold_lots VALUES (p_id, v_place, l.id, v_take);
        v_place := v_place + 1;
      END IF;
    END LOOP;
    IF v_left <> 0 THEN RAISE EXCEPTION 'wallet % has % credits more than its lots', p_wallet, v_left; END IF;
    v_effect := -p_credits;
    IF p_kind = 'hold' THEN
      v_held := p_credits;
      v_accounts := ARRAY['wallet', 'wallet_held']; v_amounts := ARRAY[p_credits, -p_credits];
    ELSE
      v_accounts := ARRAY['wallet', 'credits_spent', 'deferred_revenue', 'revenue'];
      v_amounts := ARRAY[p_credits, -p_credits, o_recognised, -o_recognised];
    END IF;

  WHEN 'capture', 'release' THEN
    IF p_kind = 'release' THEN v_left := 0; END IF;
    v_effect := h.credits - v_left;
    FOR e IN SELECT x.lot_id, x.credits FROM hold_lots x WHERE x.hold_id = h.id ORDER BY x.place LOOP
      v_take := least(v_left, e.credits);
      v_left := v_left - v_take;
      IF v_take > 0 THEN
        v_rec := move_lot(e.lot_id, v_take, 'held', 'spent');
        INSERT INTO lot_consumptions VALUES (p_id, e.lot_id, v_take, v_rec);
        o_recognised := o_recognised + v_rec;
      END IF;
      IF e.credits > v_take THEN PERFORM move_lot(e.lot_id, e.credits - v_take, 'held', 'free'); END IF;
    END LOOP;
    v_held := -h.credits;
    v_accounts := ARRAY['wallet_held', 'credits_spent', 'deferred_revenue', 'revenue', 'wallet_held', 'wallet'];
    v_amounts := ARRAY[h.credits - v_effect, v_effect - h.credits, o_recognised, -o_recognised, v_effect, -v_effect];

  WHEN 'refund' THEN
    SELECT * INTO e FROM reverse_lot(v_lot, p_credits, CASE WHEN h.id IS NULL THEN 'free' ELSE 'held' END, v_paise);
    INSERT INTO lot_consumptions VALUES (p_id, v_lot, p_credits, 0);
    v_accounts := ARRAY[CASE WHEN h.id IS NULL THEN 'wallet' ELSE 'wallet_held' END, 'credits_reversed', 'cgst_payable', 'sgst_payable',
                        'igst_payable', 'deferred_revenue', 'rounding', 'gateway_clearing', 'offer_discount'];
    v_amounts := ARRAY[p_credits, -p_credits, e.o_cgst, e.o_sgst, e.o_igst, e.o_returned, e.o_taxable - e.o_returned, -v_paise, -e.o_offer];
    v_effect := -p_credits;
    IF h.id IS NOT NULL THEN
      v_effect := h.credits - p_credits;
      v_held := -h.credits;
      IF v_effect > 0 THEN
        PERFORM move_lot(v_lot, v_effect, 'held', 'free');
        v_accounts := v_accounts || ARRAY['wallet_held', 'wallet']::ledger_account[]; v_amounts := v_amounts || ARRAY[v_effect, -v_effect];
      END IF;
    END IF;

  WHEN 'expire' THEN
    SELECT * INTO e FROM expire_lot(p_batch_id, p_ord, p_id, p_wallet, v_lot, p_credits, p_key, p_hash, p_occurred);
    o_expiries := o_expiries + 1; o_expired := o_expired + p_credits; o_breakage := o_breakage + e.o_breakage;
    o_canonical := o_canonical || e.o_canonical;

  WHEN 'chargeback' THEN
    -- How many credits follows from the money, pro rata; what the lot cannot give any more is the wallet's debt (W8).
    v_take := greatest(0, div_ceil((v_gone + v_paise)::numeric * l.granted_credits, v_paid) - l.reversed_credits - l.owed_credits);
    v_debt := v_take - least(v_take, l.free_credits);
    v_take := v_take - v_debt;
    SELECT * INTO e FROM reverse_lot(v_lot, v_take, 'free', v_paise);
    IF v_take > 0 THEN INSERT INTO lot_consumptions VALUES (p_id, v_lot, v_take, 0); END IF;
    v_debt_paise := CASE WHEN v_debt > 0 THEN greatest(0, e.o_taxable - e.o_returned) ELSE 0 END;
    UPDATE lots SET owed_credits = owed_credits + v_debt WHERE id = v_lot AND v_debt > 0;
    UPDATE wallets SET debt_credits = debt_credits + v_debt, debt_paise = debt_paise + v_debt_paise WHERE id = p_wallet;
    v_effect := -v_take;
    v_accounts := ARRAY['wallet', 'wallet_debt', 'credits_reversed', 'cgst_payable', 'sgst_payable', 'igst_payable', 'deferred_revenue',
                        'credit_debt_receivable', 'rounding', 'gateway_clearing', 'offer_discount'];
    v_amounts := ARRAY[v_take, v_debt, -(v_take + v_debt), e.o_cgst, e.o_sgst, e.o_igst, e.o_returned, v_debt_paise,
                       e.o_taxable - e.o_returned - v_debt_paise, -v_paise, -e.o_offer];
  END CASE;

  IF h.id IS NOT NULL THEN
    UPDATE holds SET state = CASE WHEN p_kind = 'release' THEN 'released' ELSE 'captured' END, closed_at = now(),
                     captured_credits = CASE WHEN p_kind = 'release' THEN 0 ELSE p_credits END WHERE id = h.id;
  END IF;
  IF p_kind <> 'expire' THEN
    o_canonical := o_canonical || post_transaction(p_batch_id, p_ord, p_id, p_wallet, p_kind, p_credits, v_effect, v_held,
      p_key, p_hash, p_occurred, p_source, p_source_id, p_feature, p_community, p_meta, v_accounts, v_amounts);
  END IF;
  PERFORM refresh_expiry(p_wallet);
  IF p_kind IN ('purchase', 'grant') THEN   -- debits that waited for these credits need not wait longer
    UPDATE retries SET next_at = now() WHERE topic = 'wallet.debit' AND key = p_wallet::text AND state = 'due' AND next_at > now();
  END IF;

  -- 6. What came back into a lapsed lot expires at once, both visible (W16).
  IF p_kind IN ('capture', 'release', 'refund') THEN
    SELECT * INTO e FROM expire_due(p_batch_id, p_ord, p_wallet, p_occurred, NULL);
    o_expiries := o_expiries + e.o_expiries; o_expired := o_expired + e.o_expired;
    o_breakage := o_breakage + e.o_breakage; o_canonical := o_canonical || e.o_canonical;
  END IF;
  SELECT available_credits INTO o_balance FROM wallets WHERE id = p_wallet;
END $$;

CREATE FUNCTION canonical_refusal(p_key text, p_hash bytea, p_reason text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT 'refused|' || p_key || '|' || encode(p_hash, 'hex') || '|' || p_reason || E'\n'
$$;

-- Recompute a wallet from its entries and its lots, under its lock. A difference opens a case for a person; nothing is overwritten.
-- Outcomes: agrees | differs (o_case is the open case) | unknown_wallet. Both pictures: available, locked, debt credits, debt paise, free, held.
CREATE FUNCTION sync_balance(p_wallet uuid, OUT o_outcome text, OUT o_stated jsonb, OUT o_booked jsonb, OUT o_case uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET enable_seqscan = off AS $$
BEGIN
  PERFORM FROM wallets w WHERE w.id = p_wallet FOR NO KEY UPDATE;
  IF NOT FOUND THEN o_outcome := 'unknown_wallet'; RETURN; END IF;
  -- A new snapshot: what was posted before we had the lock is seen.
  SELECT jsonb_build_object('available_credits', w.available_credits, 'locked_credits', w.locked_credits, 'debt_credits', w.debt_credits,
                            'debt_paise', w.debt_paise, 'free_credits', w.available_credits, 'held_credits', w.locked_credits)
    INTO o_stated FROM wallets w WHERE w.id = p_wallet;
  SELECT jsonb_build_object('available_credits', coalesce(-sum(e.amount) FILTER (WHERE e.account = 'wallet'), 0),
                            'locked_credits', coalesce(-sum(e.amount) FILTER (WHERE e.account = 'wallet_held'), 0),
                            'debt_credits', coalesce(sum(e.amount) FILTER (WHERE e.account = 'wallet_debt'), 0),
                            'debt_paise', coalesce(sum(e.amount) FILTER (WHERE e.account = 'credit_debt_receivable'), 0))
    INTO o_booked FROM wallet_transactions t JOIN ledger_entries e ON e.transaction_id = t.id WHERE t.wallet_id = p_wallet;
  SELECT o_booked || jsonb_build_object('free_credits', coalesce(sum(l.free_credits), 0), 'held_credits', coalesce(sum(l.held_credits), 0))
    INTO o_booked FROM lots l WHERE l.wallet_id = p_wallet AND l.open;
  o_outcome := CASE WHEN o_booked = o_stated THEN 'agrees' ELSE 'differs' END;
  IF o_outcome = 'agrees' THEN RETURN; END IF;
  PERFORM open_case('wallet_balance', p_wallet::text, o_booked, o_stated);
  SELECT c.id INTO o_case FROM reconciliation_cases c WHERE c.kind = 'wallet_balance' AND c.subject = p_wallet::text;
END $$;

-- Holds past their limit that nobody closed: a case for each, once. Returns how many are new.
CREATE FUNCTION flag_overdue_holds(p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_outcome text[];
BEGIN
  SELECT open_cases(array_agg('hold_overdue'::text), array_agg(x.id::text), array_agg(x.expected), array_agg(x.actual), 'core') INTO v_outcome
    FROM (SELECT h.id, jsonb_build_object('closed_by', h.expires_at) AS expected,
                 jsonb_build_object('state', h.state, 'wallet_id', h.wallet_id, 'credits', h.credits, 'reason', h.reason) AS actual
            FROM holds h
           WHERE h.state = 'held' AND h.expires_at < now()
             AND NOT EXISTS (SELECT FROM reconciliation_cases c WHERE c.kind = 'hold_overdue' AND c.subject = h.id::text)
           ORDER BY h.expires_at LIMIT p_limit) x;
  RETURN (SELECT count(*) FROM unnest(v_outcome) o WHERE o = 'opened');
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
