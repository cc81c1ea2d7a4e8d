-- migrate:up
-- Tax invoices and credit notes: gapless numbers, one document per fact, frozen when issued.
-- Locks are taken in the house's order: offset row, payments by id, chain; then the series' counters, which are held to the end of the
-- transaction, so that a number exists only if its document does. No clock is read: the event's time decides the financial year.
SET LOCAL ROLE core_owner;

-- The calendar year in which the Indian financial year of an instant starts, by IST (domain.gst.financial_year).
CREATE FUNCTION financial_year(p_at timestamptz) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT extract(year FROM (p_at AT TIME ZONE 'Asia/Kolkata') - interval '3 months')::smallint
$$;

CREATE FUNCTION invoice_number(p_series text, p_year smallint, p_serial bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT p_series || '/' || lpad((p_year % 100)::text, 2, '0') || '/' || lpad(p_serial::text, 9, '0')
$$;

-- A whole number in words, Indian system, and an amount as an invoice states it (domain.money.amount_in_words).
CREATE FUNCTION number_in_words(p_number bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  v_ones CONSTANT text[] := '{One,Two,Three,Four,Five,Six,Seven,Eight,Nine,Ten,Eleven,Twelve,Thirteen,Fourteen,Fifteen,Sixteen,Seventeen,Eighteen,Nineteen}';
  v_tens CONSTANT text[] := '{Ten,Twenty,Thirty,Forty,Fifty,Sixty,Seventy,Eighty,Ninety}';
  v_sizes CONSTANT bigint[] := '{10000000,100000,1000,100}';
  v_names CONSTANT text[] := '{Crore,Lakh,Thousand,Hundred}';
BEGIN
  IF p_number = 0 THEN RETURN 'Zero'; END IF;
  IF p_number < 20 THEN RETURN v_ones[p_number]; END IF;
  IF p_number < 100 THEN RETURN concat_ws(' ', v_tens[p_number / 10], v_ones[nullif(p_number % 10, 0)]); END IF;
  FOR i IN 1 .. 4 LOOP
    IF p_number >= v_sizes[i] THEN
      RETURN concat_ws(' ', number_in_words(p_number / v_sizes[i]), v_names[i],
                       CASE WHEN p_number % v_sizes[i] > 0 THEN number_in_words(p_number % v_sizes[i]) END);
    END IF;
  END LOOP;
END $$;
CREATE FUNCTION amount_in_words(p_paise bigint) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT 'Rupees ' || number_in_words(p_paise / 100)
      || CASE WHEN p_paise % 100 > 0 THEN ' and ' || number_in_words(p_paise % 100) || ' Paise' ELSE '' END || ' Only'
$$;

-- What every document says of itself and of its amounts.
CREATE FUNCTION document_head(p_kind text, p_number text, p_year smallint, p_issued timestamptz, p_words text, p_gross bigint, p_taxable bigint,
  p_cgst bigint, p_sgst bigint, p_igst bigint) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object('v', 1, 'kind', p_kind, 'number', p_number,
    'issued_at', to_char(p_issued AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'date', to_char(p_issued AT TIME ZONE 'Asia/Kolkata', 'YYYY-MM-DD'),
    'financial_year', lpad((p_year % 100)::text, 2, '0') || '-' || lpad(((p_year + 1) % 100)::text, 2, '0'),
    'currency', 'INR', 'amount_due_paise', 0, 'amount_in_words', p_words,
    'totals', jsonb_build_object('taxable_paise', p_taxable, 'cgst_paise', p_cgst, 'sgst_paise', p_sgst, 'igst_paise', p_igst,
                                 'tax_paise', p_cgst + p_sgst + p_igst, 'gross_paise', p_gross))
$$;

-- The tax invoice of a payment, whole. It is of the full price: an offer is paid by us, and takes nothing off the sale or its tax (MONEY §4);
-- the document says how the price was paid. p_terms: {"seller": {...}, "sac": code, "item": what is sold, "rate_bp": the whole rate}.
CREATE FUNCTION tax_invoice_document(y payments, u users, p_number text, p_year smallint, p_issued timestamptz, p_words text, p_terms jsonb)
RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT document_head('tax_invoice', p_number, p_year, p_issued, p_words, y.amount, y.taxable_amount, y.cgst_amount, y.sgst_amount, y.igst_amount)
      || jsonb_build_object('seller', p_terms -> 'seller', 'rate_bp', p_terms -> 'rate_bp', 'reverse_charge', false,
           'buyer', jsonb_build_object('name', u.name, 'email', coalesce(y.customer_email, u.email), 'phone', coalesce(y.customer_phone, u.phone),
                                       'gstin', u.gstin, 'state_code', y.place_of_supply),
           'place_of_supply', y.place_of_supply, 'inter_state', y.igst_amount > 0,
           'lines', jsonb_build_array(jsonb_build_object('description', p_terms -> 'item', 'sac', p_terms -> 'sac', 'credits', y.base_credits,
                      'taxable_paise', y.taxable_amount, 'cgst_paise', y.cgst_amount, 'sgst_paise', y.sgst_amount,
                      'igst_paise', y.igst_amount, 'gross_paise', y.amount))
                 || CASE WHEN y.bonus_credits > 0 THEN jsonb_build_array(jsonb_build_object('description', 'Bonus credits, included in the price',
                      'sac', p_terms -> 'sac', 'credits', y.bonus_credits, 'taxable_paise', 0, 'cgst_paise', 0, 'sgst_paise', 0,
                      'igst_paise', 0, 'gross_paise', 0)) ELSE '[]' END,
           'payment', jsonb_build_object('id', y.id, 'order_id', y.order_id, 'gateway_payment_id', y.cashfree_payment_id,
                                         'method', y.payment_group, 'paid_at', to_char(y.verified_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
             || CASE WHEN y.offer_amount > 0 THEN jsonb_build_object('paid_paise', y.amount - y.offer_amount, 'offer_paise', y.offer_amount,
                                                                     'offer_id', y.offer_id) ELSE '{}' END)
$$;

-- Refunds that landed before their payment's invoice was issued; the transaction that issues it issues their credit notes, in order.
CREATE TABLE credit_notes_due (
  refund_id uuid PRIMARY KEY,
  ord bigint GENERATED ALWAYS AS IDENTITY,
  payment_id uuid NOT NULL,
  occurred_at timestamptz NOT NULL
);
CREATE INDEX credit_notes_due_payment ON credit_notes_due (payment_id);

-- The credit note of money given back on an invoiced sale. Its amounts are the refund's slice of the sale (with the offer's part), as the
-- ledger booked it: cumulative tax, so
-- that a full refund in any slicing reverses exactly the invoice's tax. Its series is the invoice's, C read as N.
-- Call it in the transaction that completes the refund. Returns the note (of p_refund, if there is one); NULL if the invoice is not issued
-- yet (then it follows with the invoice), if it is void, or if the payment was never a sale.
-- Errors: LG020 the notes would exceed the invoice.
CREATE FUNCTION issue_credit_note(p_refund uuid, p_occurred timestamptz) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
  r refunds;
  y payments;
  v invoices;
  b record;
  v_id uuid;
  v_year smallint := financial_year(p_occurred);
  v_series text;
  v_serial bigint;
  v_number text;
  v_gross bigint;
BEGIN
  SELECT * INTO STRICT r FROM refunds WHERE id = p_refund;
  -- The payment's lock keeps two refunds, and the issue of the invoice, one after the other.
  SELECT * INTO y FROM payments WHERE id = r.payment_id FOR NO KEY UPDATE;
  SELECT id INTO v_id FROM invoices WHERE refund_id = p_refund AND kind = 'credit_note';
  IF FOUND THEN RETURN v_id; END IF;
  SELECT * INTO v FROM invoices WHERE payment_id = y.id AND kind = 'tax_invoice';
  IF NOT FOUND THEN
    IF y.credited_at IS NOT NULL THEN
      INSERT INTO credit_notes_due (refund_id, payment_id, occurred_at) VALUES (p_refund, y.id, p_occurred) ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
  END IF;
  IF v.voided_at IS NOT NULL THEN RETURN NULL; END IF;
  v_gross := r.amount + r.offer_amount;
  SELECT coalesce(sum(gross_amount), 0) + v_gross AS gross, coalesce(sum(cgst_amount), 0) + r.cgst_amount AS cgst,
         coalesce(sum(sgst_amount), 0) + r.sgst_amount AS sgst, coalesce(sum(igst_amount), 0) + r.igst_amount AS igst
    INTO b FROM invoices WHERE invoice_id = v.id AND kind = 'credit_note' AND voided_at IS NULL;
  IF b.gross > v.gross_amount OR b.cgst > v.cgst_amount OR b.sgst > v.sgst_amount OR b.igst > v.igst_amount THEN
    RAISE EXCEPTION 'credit notes of % would be %', v.number, to_jsonb(b) USING ERRCODE = 'LG020';
  END IF;
  v_series := chr(ascii(v.series) + 11) || substr(v.series, 2);
  INSERT INTO invoice_series AS s (series, financial_year, last_number) VALUES (v_series, v_year, 1)
  ON CONFLICT (series, financial_year) DO UPDATE SET last_number = s.last_number + 1 RETURNING s.last_number INTO v_serial;
  v_number := invoice_number(v_series, v_year, v_serial);
  v_id := uuidv7();
  INSERT INTO invoices (id, kind, number, series, financial_year, serial, payment_id, user_id, refund_id, invoice_id, place_of_supply,
                        gross_amount, taxable_amount, cgst_amount, sgst_amount, igst_amount, issued_at, document)
    VALUES (v_id, 'credit_note', v_number, v_series, v_year, v_serial, y.id, v.user_id, p_refund, v.id, v.place_of_supply,
            v_gross, r.taxable_amount, r.cgst_amount, r.sgst_amount, r.igst_amount, p_occurred,
            document_head('credit_note', v_number, v_year, p_occurred, amount_in_words(v_gross), v_gross, r.taxable_amount, r.cgst_amount,
                          r.sgst_amount, r.igst_amount)
              || jsonb_build_object('seller', v.document -> 'seller', 'buyer', v.document -> 'buyer', 'rate_bp', v.document -> 'rate_bp',
                   'reverse_charge', false, 'place_of_supply', v.place_of_supply, 'inter_state', v.document -> 'inter_state',
                   'against', jsonb_build_object('id', v.id, 'number', v.number, 'date', v.document -> 'date'),
                   'lines', jsonb_build_array(jsonb_build_object('description', v.document -> 'lines' -> 0 -> 'description',
                      'sac', v.document -> 'lines' -> 0 -> 'sac', 'credits', r.credits_reversed, 'taxable_paise', r.taxable_amount,
                      'cgst_paise', r.cgst_amount, 'sgst_paise', r.sgst_amount, 'igst_paise', r.igst_amount, 'gross_paise', v_gross)),
                   'payment', v.document -> 'payment', 'refund', jsonb_build_object('id', p_refund, 'reason', r.reason)
                     || CASE WHEN r.offer_amount > 0 THEN jsonb_build_object('paid_back_paise', r.amount, 'offer_paise', r.offer_amount) ELSE '{}' END));
  RETURN v_id;
END $$;

-- The money of a forced reversal came back (a dispute was won), so its sale stands: the credit note is void, keeps its number, and is
-- rendered again as void. One that still waited for its invoice is not issued.
CREATE FUNCTION void_credit_note(p_refund uuid, p_reason text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM credit_notes_due WHERE refund_id = p_refund;
  WITH void AS (
    UPDATE invoices SET voided_at = now(), void_reason = p_reason, rendered_at = NULL, render_after = '-infinity', render_attempt = render_attempt + 1
     WHERE refund_id = p_refund AND kind = 'credit_note' AND voided_at IS NULL RETURNING number)
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    SELECT 'core', 'void', 'invoice', void.number, jsonb_build_object('reason', p_reason) FROM void;
END $$;

-- The canonical text of one tax invoice: what the hash chain protects.
CREATE FUNCTION canonical_invoice(v invoices) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT concat_ws('|', v.number, v.id, v.payment_id, v.gross_amount, v.taxable_amount, v.cgst_amount, v.sgst_amount, v.igst_amount,
                   encode(sha256(convert_to(v.document::text, 'UTF8')), 'hex')) || E'\n'
$$;

-- invoice.generate: one tax invoice per credited payment, numbered in the order of the events. Amounts come from the payments row alone.
-- Head as commit_signals: p_retry NULL for a stream's batch; else p_topic is 'retry/<topic>' and the one event is the parked one.
-- i_notify: the partition of notifications.billing of the payment's user, NULL if nobody knows the payment; p_terms see tax_invoice_document.
-- Outcomes: posted; exists (with the invoice's id); parked (unknown or not credited yet, or behind one of the same payment).
CREATE FUNCTION commit_invoices(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, p_retry bigint, p_attempt integer,
  i_id uuid[], i_payment uuid[], i_occurred timestamptz[], i_offset bigint[], i_notify integer[], p_series text, p_terms jsonb,
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[], OUT r_id uuid[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_seqscan = off AS $$   -- rows are looked up one by one, as in 0007
DECLARE
  v_topic text := CASE WHEN p_retry IS NULL THEN p_topic ELSE substr(p_topic, 7) END;
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_bad integer;
  v_canonical text;
  c record;
BEGIN
  -- 1. Fence, offset; the payments, in id order; a new snapshot after the locks.
  IF p_retry IS NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
      FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  ELSE
    PERFORM take_retry(v_topic, p_partition, p_group, p_epoch, p_retry, p_attempt);
  END IF;
  PERFORM FROM payments z WHERE z.id = ANY (i_payment) ORDER BY z.id FOR NO KEY UPDATE;
  IF p_retry IS NOT NULL THEN
    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation FROM begin_chain(p_topic, p_partition, p_group) b;
  END IF;

  -- 2. Which events make an invoice.
  SELECT array_agg(CASE WHEN v.id IS NOT NULL THEN 'exists'
                        WHEN y.credited_at IS NULL OR e.notify IS NULL THEN 'parked'
                        WHEN p_retry IS NULL AND EXISTS (SELECT FROM retries r WHERE r.topic = v_topic AND r.key = e.payment::text AND r.state = 'due') THEN 'parked'
                        WHEN e.nth > 1 THEN 'exists'
                        ELSE 'posted' END ORDER BY e.ord),
         array_agg(v.id ORDER BY e.ord)
    INTO r_outcome, r_id
    FROM (SELECT x.*, row_number() OVER (PARTITION BY x.payment ORDER BY x.ord) AS nth
            FROM unnest(i_payment, i_notify) WITH ORDINALITY AS x (payment, notify, ord)) e
    LEFT JOIN LATERAL (SELECT * FROM payments x WHERE x.id = e.payment LIMIT 1) y ON true
    LEFT JOIN LATERAL (SELECT x.id FROM invoices x WHERE x.payment_id = e.payment AND x.kind = 'tax_invoice' LIMIT 1) v ON true;

  -- 3. The counters, once, and the documents.
  WITH due AS MATERIALIZED (
    SELECT e.id, e.occurred, financial_year(e.occurred) AS year, row_number() OVER (PARTITION BY financial_year(e.occurred) ORDER BY e.ord) AS place,
           y.amount, y.user_id, y.whole
      FROM unnest(i_id, i_payment, i_occurred, r_outcome) WITH ORDINALITY AS e (id, payment, occurred, outcome, ord)
     CROSS JOIN LATERAL (SELECT x.amount, x.user_id, x AS whole FROM payments x WHERE x.id = e.payment LIMIT 1) y
     WHERE e.outcome = 'posted'
  ), counter AS (
    INSERT INTO invoice_series AS s (series, financial_year, last_number) SELECT p_series, d.year, count(*) FROM due d GROUP BY d.year ORDER BY d.year
    ON CONFLICT (series, financial_year) DO UPDATE SET last_number = s.last_number + excluded.last_number
    RETURNING s.financial_year AS year, coalesce(old.last_number, 0) AS before
  ), price AS MATERIALIZED (   -- few packs, many invoices
    SELECT x.amount, amount_in_words(x.amount) AS words FROM (SELECT DISTINCT d.amount FROM due d) x
  ), issued AS (
    INSERT INTO invoices AS v (id, kind, number, series, financial_year, serial, payment_id, user_id, place_of_supply, gross_amount,
                               taxable_amount, cgst_amount, sgst_amount, igst_amount, issued_at, batch_id, document)
      SELECT d.id, 'tax_invoice', n.number, p_series, d.year, k.before + d.place, (d.whole).id, d.user_id, (d.whole).place_of_supply, d.amount,
             (d.whole).taxable_amount, (d.whole).cgst_amount, (d.whole).sgst_amount, (d.whole).igst_amount, d.occurred, p_batch_id,
             tax_invoice_document(d.whole, u.whole, n.number, d.year, d.occurred, w.words, p_terms)
        FROM due d JOIN counter k ON k.year = d.year JOIN price w ON w.amount = d.amount
       CROSS JOIN LATERAL (SELECT invoice_number(p_series, d.year, k.before + d.place) AS number) n
       CROSS JOIN LATERAL (SELECT x AS whole FROM users x WHERE x.id = d.user_id LIMIT 1) u
       ORDER BY d.year, d.place
    RETURNING v.*
  )
  SELECT string_agg(canonical_invoice(s), '' ORDER BY s.serial, s.financial_year) INTO v_canonical FROM issued s;
  SELECT array_agg(v.id ORDER BY e.ord) INTO r_id FROM unnest(i_payment) WITH ORDINALITY AS e (payment, ord)
    LEFT JOIN LATERAL (SELECT x.id FROM invoices x WHERE x.payment_id = e.payment AND x.kind = 'tax_invoice' LIMIT 1) v ON true;

  -- 4. Refunds that came first; what waits; what nobody can read.
  FOR c IN SELECT d.* FROM credit_notes_due d JOIN unnest(i_payment, r_outcome) AS e (payment, outcome) ON e.payment = d.payment_id
            WHERE e.outcome = 'posted' ORDER BY d.payment_id, d.ord LOOP
    PERFORM issue_credit_note(c.refund_id, c.occurred_at);
    DELETE FROM credit_notes_due WHERE refund_id = c.refund_id;
  END LOOP;
  IF p_retry IS NULL THEN
    INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, next_at, reason)
      SELECT v_topic, p_partition, r_incarnation, e.source_offset, e.payment::text,
             jsonb_build_object('payment_id', e.payment, 'occurred_at', e.occurred), now() + interval '250 milliseconds', 'uncredited_payment'
        FROM unnest(i_payment, i_occurred, i_offset, r_outcome) WITH ORDINALITY AS e (payment, occurred, source_offset, outcome, ord)
       WHERE e.outcome = 'parked' ORDER BY e.ord;
  ELSE
    PERFORM end_retry(p_retry, r_outcome[1], NULL);
  END IF;
  v_bad := coalesce(quarantine_records(v_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);

  -- 5. Counts and chain; a notice per invoice.
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, v_canonical, r_outcome,
    v_bad, v_dropped);
  SELECT array_agg(m.dest_topic), array_agg(m.dest_partition), array_agg(m.prev_batch_no), array_agg(m.events)
    INTO o_topic, o_partition, o_prev, o_events
    FROM (SELECT array_agg('notifications.billing'::text) AS t, array_agg(e.notify ORDER BY e.ord) AS p,
                 array_agg(notice_event(y.user_id, 'invoice_issued', e.occurred, y.id, y.wallet_id, NULL, y.amount) ORDER BY e.ord) AS e
            FROM unnest(i_payment, i_occurred, i_notify, r_outcome) WITH ORDINALITY AS e (payment, occurred, notify, outcome, ord)
           CROSS JOIN LATERAL (SELECT * FROM payments z WHERE z.id = e.payment LIMIT 1) y WHERE e.outcome = 'posted') x,
         emit(p_topic, p_partition, p_group, r_incarnation, r_batch_no, x.t, x.p, x.e) m;
END $$;

-- Documents to render: leased for p_lease_s, each to one worker at a time; a lease that nobody closes is taken again.
CREATE FUNCTION lease_renderings(p_limit integer, p_lease_s double precision)
RETURNS TABLE (id uuid, number text, attempt integer, document jsonb, voided_at timestamptz)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH due AS (
    SELECT v.id FROM invoices v WHERE v.rendered_at IS NULL AND v.render_after <= now()
     ORDER BY v.render_after, v.id LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE invoices v SET render_attempt = v.render_attempt + 1, render_after = now() + make_interval(secs => p_lease_s)
    FROM due d WHERE v.id = d.id
  RETURNING v.id, v.number, v.render_attempt, v.document, v.voided_at
$$;

-- What became of leased renderings: stored under a key, or failed with an error, then due again after a growing pause, for ever.
-- A lease that is over (another attempt, a voiding since) changes nothing. Returns how many counted.
CREATE FUNCTION record_renderings(r_id uuid[], r_attempt integer[], r_key text[], r_error text[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH recorded AS (
    UPDATE invoices v
       SET rendered_at = CASE WHEN r.error IS NULL THEN now() END, storage_key = CASE WHEN r.error IS NULL THEN r.key ELSE v.storage_key END,
           render_error = r.error,
           render_after = CASE WHEN r.error IS NULL THEN v.render_after
                               ELSE now() + least(interval '1 hour', interval '1 second' * power(2, least(v.render_attempt, 12))) * (0.75 + random() / 2) END
      FROM (SELECT * FROM unnest(r_id, r_attempt, r_key, r_error) AS x (id, attempt, key, error) ORDER BY x.id) r
     WHERE v.id = r.id AND v.render_attempt = r.attempt AND v.rendered_at IS NULL
    RETURNING 1)
  SELECT count(*)::integer FROM recorded
$$;

-- Void an invoice: it keeps its number, is rendered again as void, and no other takes its place. Outcomes: voided; exists (void already);
-- refused (a credit note, or an invoice that has one: what was given back stays explained); unknown.
CREATE FUNCTION void_invoice(p_id uuid, p_actor text, p_reason text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v invoices;
BEGIN
  SELECT * INTO v FROM invoices WHERE id = p_id;
  IF NOT FOUND THEN RETURN 'unknown'; END IF;
  PERFORM FROM payments WHERE id = v.payment_id FOR NO KEY UPDATE;   -- a credit note takes it first, too
  SELECT * INTO v FROM invoices WHERE id = p_id FOR NO KEY UPDATE;
  IF v.voided_at IS NOT NULL THEN RETURN 'exists'; END IF;
  IF v.kind <> 'tax_invoice' OR EXISTS (SELECT FROM invoices n WHERE n.invoice_id = p_id AND n.kind = 'credit_note') THEN RETURN 'refused'; END IF;
  UPDATE invoices SET voided_at = now(), void_reason = p_reason, rendered_at = NULL, render_after = '-infinity',
                      render_attempt = render_attempt + 1 WHERE id = p_id;
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'void', 'invoice', v.number, jsonb_build_object('reason', p_reason));
  RETURN 'voided';
END $$;

-- What was issued stays as it was issued, and no number is ever lost.
CREATE TRIGGER refuse_rewrite BEFORE UPDATE OF id, kind, number, series, financial_year, serial, payment_id, user_id, refund_id, invoice_id,
  place_of_supply, gross_amount, taxable_amount, cgst_amount, sgst_amount, igst_amount, document, issued_at, recorded_at, batch_id
  ON invoices FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE ON invoices FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON invoices FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_delete BEFORE DELETE ON invoice_series FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON invoice_series FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

GRANT SELECT ON credit_notes_due TO core_readonly;
GRANT EXECUTE ON FUNCTION canonical_invoice TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
