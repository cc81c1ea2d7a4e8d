-- Settlements, what differs, and the cases that a person decides; and orders that nobody told us about.
-- Each find_… query returns (subject, expected, actual): its name without 'find_' is the kind of case. It looks at what came since $1, and
-- leaves what is younger than $2 seconds alone: that may still be on its way.

-- name: poll_payments(limit_rows, most_due, age_s)
SELECT poll_payments($1, $2, $3);

-- name: unknown_orders(limit_rows)
-- Orders whose creation nobody answered, with the gateway's word since.
SELECT payment_id, order_id, result FROM unknown_orders($1);

-- name: close_payments(limit_rows)
SELECT close_payments($1);

-- name: get_waiting()
-- What is due now, since when, what nobody could settle, and the open cases.
SELECT (SELECT count(*) FROM verifications WHERE state = 'due' AND next_at <= now()) AS due,
       coalesce((SELECT extract(epoch FROM now() - min(next_at)) FROM verifications WHERE state = 'due' AND next_at <= now()), 0)::double precision AS oldest_s,
       (SELECT count(*) FROM verifications WHERE state = 'orphan') AS orphans,
       (SELECT count(*) FROM reconciliation_cases WHERE state = 'open') AS cases;

-- name: take_job(job, holder, lease_s, force)
SELECT take_job($1, $2, $3, $4);

-- name: finish_job(job, holder, after_s, result)
SELECT finish_job($1, $2, $3, $4);

-- name: request_reconciliation(actor)
SELECT request_reconciliation($1);

-- name: get_job(job)
SELECT holder, leased_until, next_at, done_through, finished_at, result FROM recon_jobs WHERE job = $1;

-- name: begin_window(holder, until, overlap_s)
SELECT window_start, window_end, page_cursor FROM begin_window($1, $2, $3);

-- name: tell_settlements(said)
SELECT tell_settlements($1);

-- name: commit_settlements(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, ids, inbox_ids, offsets)
-- Settlements that a webhook told of, with the offset.
SELECT * FROM commit_settlements($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14);

-- name: commit_settled_lines(batch_id, holder, lease_s, page_cursor, next_cursor, lines)
SELECT r_outcome, r_new, r_known FROM commit_settled_lines($1, $2, $3, $4, $5, $6);

-- name: hear_events(lines)
SELECT hear_events($1);

-- name: compare_events(lines)
-- What the gateway tells of orders that we do not have, and of amounts that are not ours.
SELECT 'unknown_order' AS kind, x.payment_id AS subject, jsonb_build_object('amount_paise', 0) AS expected,
       jsonb_build_object('amount_paise', x.amount, 'order_id', x.order_id) AS actual
  FROM jsonb_to_recordset($1::jsonb) AS x (type text, order_id text, payment_id text, amount bigint)
 WHERE x.type = 'PAYMENT' AND NOT EXISTS (SELECT FROM payments y WHERE y.order_id = x.order_id)
UNION ALL
SELECT 'gateway_amount', x.payment_id, jsonb_build_object('amount_paise', y.amount - y.offer_amount, 'order_id', y.order_id), jsonb_build_object('amount_paise', x.amount)
  FROM jsonb_to_recordset($1::jsonb) AS x (type text, order_id text, payment_id text, amount bigint)
  JOIN payments y ON y.order_id = x.order_id AND y.cashfree_payment_id = x.payment_id
 WHERE x.type = 'PAYMENT' AND y.credited_at IS NOT NULL AND y.amount - y.offer_amount <> x.amount
UNION ALL
SELECT 'gateway_amount', x.refund_id, jsonb_build_object('amount_paise', f.amount), jsonb_build_object('amount_paise', x.amount)
  FROM jsonb_to_recordset($1::jsonb) AS x (type text, refund_id text, amount bigint)
  JOIN refunds f ON f.refund_id = x.refund_id
 WHERE x.type = 'REFUND' AND f.amount <> x.amount;

-- name: book_unapplied(batch_id, since)
SELECT book_unapplied($1, $2);

-- name: open_cases(kinds, subjects, expected, actual, actor)
SELECT open_cases($1, $2, $3, $4, $5);

-- name: assign_case(case_id, owner, actor)
SELECT assign_case($1, $2, $3);

-- name: resolve_case(case_id, note, accept, actor)
SELECT resolve_case($1, $2, $3, $4);

-- name: get_case(case_id)
SELECT id, kind, subject, expected, actual, state, accepted, owner, history, created_at, resolved_at FROM reconciliation_cases WHERE id = $1;

-- name: get_cases(before, state, kind, owner, limit_rows)
-- The newest first, older than a case's id; of any state, kind and owner where that is null.
SELECT id, kind, subject, expected, actual, state, accepted, owner, history, created_at, resolved_at FROM reconciliation_cases
 WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR owner = $4)
 ORDER BY id DESC LIMIT $5;

-- name: get_clearing()
-- What the gateway owes us, by the ledger: all of gateway_clearing, and where it came from and went (paise).
SELECT coalesce(sum(e.amount), 0)::bigint AS balance,
       coalesce(sum(e.amount) FILTER (WHERE t.transaction_type = 'purchase'), 0)::bigint AS captured,
       coalesce(-sum(e.amount) FILTER (WHERE t.transaction_type IN ('refund', 'chargeback', 'reinstate')), 0)::bigint AS refunded,
       coalesce(-sum(e.amount) FILTER (WHERE j.kind = 'settlement'), 0)::bigint AS settled,
       coalesce(sum(e.amount) FILTER (WHERE j.kind <> 'settlement'), 0)::bigint AS unapplied
  FROM ledger_entries e
  LEFT JOIN wallet_transactions t ON t.id = e.transaction_id
  LEFT JOIN journal_entries j ON j.id = e.transaction_id
 WHERE e.account = 'gateway_clearing';

-- name: i16_settlements_return_clearing_to_zero(since)
-- What the lines of a settlement take from gateway_clearing is what their payments and refunds brought there. No row: it is so for each.
SELECT s.settlement, sum(m.credit_paise - m.debit_paise + m.back_paise) AS settled,
       sum(m.captured_paise + m.unapplied_paise + m.reinstated_paise - m.refunded_paise - m.returned_paise) AS in_clearing
  FROM settlement_matches($1) m CROSS JOIN LATERAL (SELECT min(x) AS settlement FROM unnest(m.settlements) x) s
 WHERE m.credit_paise > 0 AND m.credit_paise <> m.captured_paise + m.unapplied_paise OR m.debit_paise > m.refunded_paise + m.returned_paise
    OR m.back_paise > m.reinstated_paise
 GROUP BY s.settlement ORDER BY s.settlement LIMIT 20;

-- name: i16_captured_is_settled_refunded_or_unsettled(since)
-- Per settled payment: captured = settled + refunded (disputes are forced refunds) + still unsettled, and nothing of it is below zero.
SELECT m.payment_id, m.captured_paise AS captured, m.credit_paise - m.debit_paise + m.back_paise AS settled, m.refunded_paise - m.reinstated_paise AS refunded,
       m.captured_paise - m.credit_paise AS payment_unsettled, m.refunded_paise - m.debit_paise AS refund_unsettled
  FROM settlement_matches($1) m
 WHERE m.own AND m.captured_paise > 0 AND (m.captured_paise < m.credit_paise OR m.refunded_paise < m.debit_paise
        OR m.refunded_paise - m.reinstated_paise > m.captured_paise)
 ORDER BY m.payment_id LIMIT 20;

-- name: find_settled_amount(since, age_s)
-- A payment was settled with another amount than the ledger has for it.
SELECT m.attempt AS subject, jsonb_build_object('settled_paise', m.captured_paise + m.unapplied_paise, 'order_id', m.order_id) AS expected,
       jsonb_build_object('settled_paise', m.credit_paise, 'settlements', m.settlements) AS actual
  FROM settlement_matches($1) m
 WHERE m.credit_paise <> 0 AND m.captured_paise + m.unapplied_paise <> 0 AND m.credit_paise <> m.captured_paise + m.unapplied_paise
   AND m.recorded_at <= now() - make_interval(secs => $2);

-- name: find_settled_refund(since, age_s)
-- The gateway took more back than the ledger has refunded, or returned more of it than disputes were won.
SELECT m.attempt AS subject,
       jsonb_build_object('taken_back_paise', m.refunded_paise + m.returned_paise, 'given_back_paise', m.reinstated_paise, 'order_id', m.order_id) AS expected,
       jsonb_build_object('taken_back_paise', m.debit_paise, 'given_back_paise', m.back_paise, 'settlements', m.settlements) AS actual
  FROM settlement_matches($1) m
 WHERE (m.debit_paise > m.refunded_paise + m.returned_paise OR m.back_paise > m.reinstated_paise) AND m.recorded_at <= now() - make_interval(secs => $2);

-- name: find_unapplied_receipt(since, age_s)
-- Money settled without a sale, and is still ours to return or apply. A payment of ours that is being decided is not that yet.
SELECT m.attempt AS subject, jsonb_build_object('order_id', m.order_id, 'unapplied_paise', 0) AS expected,
       jsonb_build_object('unapplied_paise', m.unapplied_paise - m.returned_paise, 'settlements', m.settlements) AS actual
  FROM settlement_matches($1) m
 WHERE m.unapplied_paise > m.returned_paise AND m.captured_paise = 0
   AND (m.payment_id IS NULL OR NOT m.own OR m.status NOT IN ('verified', 'held', 'rejected', 'mismatch')
        AND m.recorded_at <= now() - make_interval(secs => greatest($2::double precision, 3600)))
   AND NOT EXISTS (SELECT FROM unapplied_receipts u WHERE u.cashfree_payment_id = m.attempt AND u.state <> 'open');

-- name: find_settlement_total(since, age_s)
-- The gateway's totals of a settlement against the lines it gave us.
SELECT s.id AS subject, jsonb_build_object('net_paise', s.net_paise, 'fee_paise', s.fee_paise, 'fee_gst_paise', s.fee_gst_paise) AS expected,
       jsonb_build_object('net_paise', l.net, 'fee_paise', l.fee, 'fee_gst_paise', l.gst, 'lines', l.n) AS actual
  FROM gateway_settlements s
  JOIN recon_jobs j ON j.job = 'reconcile' AND s.settled_at <= j.done_through
 CROSS JOIN LATERAL (SELECT coalesce(sum(x.bank_paise), 0) AS net, coalesce(sum(x.fee_paise), 0) AS fee, coalesce(sum(x.fee_gst_paise), 0) AS gst, count(*) AS n
                       FROM settlement_lines x WHERE x.settlement_id = s.id) l
 WHERE s.created_at >= $1 AND s.created_at <= now() - make_interval(secs => $2)
   AND (s.net_paise <> l.net OR s.fee_paise <> l.fee OR s.fee_gst_paise <> l.gst);

-- name: find_unsettled_payment(since, age_s)
-- Credited ten days ago, settlements since are all recorded, and none has it.
SELECT p.id::text AS subject, jsonb_build_object('settled_paise', p.amount - p.offer_amount, 'order_id', p.order_id) AS expected, jsonb_build_object('settled_paise', 0) AS actual
  FROM payments p JOIN recon_jobs j ON j.job = 'reconcile'
 WHERE p.created_at >= $1::timestamptz - interval '31 days' AND p.credited_at IS NOT NULL AND p.credited_at < j.done_through - interval '10 days'
   AND p.credited_at < now() - make_interval(secs => $2)
   AND NOT EXISTS (SELECT FROM settlement_lines l WHERE l.order_id = p.order_id AND l.event_type = 'PAYMENT');

-- name: find_orphan_order(since, age_s)
-- The gateway was asked for more than a day and never said that the order was paid or over.
SELECT v.payment_id::text AS subject, jsonb_build_object('order_id', v.order_id, 'amount_paise', v.amount) AS expected,
       jsonb_build_object('said', v.result, 'asked_for', v.reason) AS actual
  FROM verifications v WHERE v.state = 'orphan' AND v.finished_at >= $1 AND v.finished_at <= now() - make_interval(secs => $2);

-- name: find_payment_not_credited(since, age_s)
-- A verified payment has exactly one credit of what it bought, is held or rejected, or waits where somebody sees it (I10).
SELECT p.id::text AS subject, jsonb_build_object('credits', p.credits_granted, 'order_id', p.order_id) AS expected,
       jsonb_build_object('credits', coalesce(t.amount_credits, 0), 'status', p.status) AS actual
  FROM payments p
  LEFT JOIN wallet_transactions t ON t.transaction_type = 'purchase' AND t.source = 'payment' AND t.source_id = p.id::text
 WHERE p.created_at >= $1 AND p.verified_at < now() - make_interval(secs => $2) AND t.amount_credits IS DISTINCT FROM p.credits_granted
   AND (t.id IS NOT NULL OR p.status NOT IN ('held', 'rejected'))
   AND NOT EXISTS (SELECT FROM retries r WHERE r.topic = 'wallet.credit' AND r.key = p.wallet_id::text AND r.state = 'due');

-- name: find_credit_without_payment(since, age_s)
-- A purchase in the ledger whose payment was never verified, is not there, or went to another wallet.
SELECT t.source_id AS subject, jsonb_build_object('verified_at', p.verified_at, 'wallet_id', p.wallet_id) AS expected,
       jsonb_build_object('transaction_id', t.id, 'wallet_id', t.wallet_id, 'credits', t.amount_credits) AS actual
  FROM wallet_transactions t LEFT JOIN payments p ON p.id::text = t.source_id
 WHERE t.transaction_type = 'purchase' AND t.created_at >= $1 AND t.created_at <= now() - make_interval(secs => $2)
   AND (p.verified_at IS NULL OR p.wallet_id <> t.wallet_id);

-- name: find_invoice_missing(since, age_s)
-- A credited payment without its tax invoice.
SELECT p.id::text AS subject, jsonb_build_object('gross_paise', p.amount) AS expected, jsonb_build_object('invoice', NULL) AS actual
  FROM payments p
 WHERE p.created_at >= $1 AND p.credited_at < now() - make_interval(secs => $2)
   AND NOT EXISTS (SELECT FROM invoices i WHERE i.payment_id = p.id AND i.kind = 'tax_invoice');

-- name: find_invoice_amount(since, age_s)
-- A tax invoice that states other amounts than its payment, or one for a payment that was never credited.
SELECT i.id::text AS subject,
       jsonb_build_object('gross_paise', p.amount, 'cgst_paise', p.cgst_amount, 'sgst_paise', p.sgst_amount, 'igst_paise', p.igst_amount,
                          'credited', p.credited_at IS NOT NULL) AS expected,
       jsonb_build_object('number', i.number, 'gross_paise', i.gross_amount, 'cgst_paise', i.cgst_amount, 'sgst_paise', i.sgst_amount,
                          'igst_paise', i.igst_amount) AS actual
  FROM invoices i JOIN payments p ON p.id = i.payment_id
 WHERE i.kind = 'tax_invoice' AND i.voided_at IS NULL AND i.issued_at >= $1 AND i.issued_at <= now() - make_interval(secs => $2)
   AND (p.credited_at IS NULL
        OR (i.gross_amount, i.cgst_amount, i.sgst_amount, i.igst_amount) <> (p.amount, p.cgst_amount, p.sgst_amount, p.igst_amount));

-- name: find_credit_note_missing(since, age_s)
-- Money of an invoiced sale went back, and no credit note says so.
SELECT f.id::text AS subject, jsonb_build_object('gross_paise', f.amount + f.offer_amount, 'invoice', i.number) AS expected, jsonb_build_object('credit_note', NULL) AS actual
  FROM refunds f JOIN invoices i ON i.payment_id = f.payment_id AND i.kind = 'tax_invoice' AND i.voided_at IS NULL
 WHERE f.status = 'done' AND f.policy <> 'UNAPPLIED' AND NOT f.outside
   AND f.finished_at >= $1 AND f.finished_at < now() - make_interval(secs => $2)
   AND NOT EXISTS (SELECT FROM invoices n WHERE n.refund_id = f.id AND n.kind = 'credit_note');

-- name: find_credit_note_amount(since, age_s)
-- A credit note that states other amounts than its refund, that stands though nothing went back, or is void though something did.
SELECT n.id::text AS subject,
       jsonb_build_object('gross_paise', f.amount + f.offer_amount, 'cgst_paise', f.cgst_amount, 'sgst_paise', f.sgst_amount, 'igst_paise', f.igst_amount,
                          'stands', f.status = 'done') AS expected,
       jsonb_build_object('number', n.number, 'gross_paise', n.gross_amount, 'cgst_paise', n.cgst_amount, 'sgst_paise', n.sgst_amount,
                          'igst_paise', n.igst_amount, 'stands', n.voided_at IS NULL) AS actual
  FROM invoices n LEFT JOIN refunds f ON f.id = n.refund_id
 WHERE n.kind = 'credit_note' AND n.issued_at >= $1 AND n.issued_at <= now() - make_interval(secs => $2)
   AND (f.id IS NULL OR (n.voided_at IS NULL) <> (f.status = 'done')
        OR (n.gross_amount, n.cgst_amount, n.sgst_amount, n.igst_amount) <> (f.amount + f.offer_amount, f.cgst_amount, f.sgst_amount, f.igst_amount));

-- name: compare_wallets(after, limit_rows)
-- Wallets in id order, and what their entries add up to; one snapshot for all of them.
SELECT w.id::text AS subject,
       jsonb_build_object('available_credits', e.available, 'locked_credits', e.locked, 'debt_credits', e.debt, 'debt_paise', e.receivable) AS expected,
       jsonb_build_object('available_credits', w.available_credits, 'locked_credits', w.locked_credits, 'debt_credits', w.debt_credits,
                          'debt_paise', w.debt_paise) AS actual
  FROM (SELECT * FROM wallets WHERE id > $1 ORDER BY id LIMIT $2) w
 CROSS JOIN LATERAL (
   SELECT coalesce(-sum(x.amount) FILTER (WHERE x.account = 'wallet'), 0)::bigint AS available,
          coalesce(-sum(x.amount) FILTER (WHERE x.account = 'wallet_held'), 0)::bigint AS locked,
          coalesce(sum(x.amount) FILTER (WHERE x.account = 'wallet_debt'), 0)::bigint AS debt,
          coalesce(sum(x.amount) FILTER (WHERE x.account = 'credit_debt_receivable'), 0)::bigint AS receivable
     FROM wallet_transactions t JOIN ledger_entries x ON x.transaction_id = t.id AND x.wallet_id = w.id WHERE t.wallet_id = w.id) e
 ORDER BY w.id;
