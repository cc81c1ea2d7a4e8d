-- The invariants of MONEY §7, each as a query that returns no rows. Checked together, in one snapshot.
-- A query stops at 20 rows: one is enough to be wrong.
-- Subqueries side by side read better here than a row of CTEs, and which 20 rows come is no matter:
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: i1_every_transaction_balances()
-- Postings sum to zero per transaction and asset.
SELECT e.transaction_id, a.asset, sum(e.amount) AS total
  FROM ledger_entries e JOIN ledger_accounts a ON a.account = e.account
 GROUP BY e.transaction_id, a.asset HAVING sum(e.amount) <> 0 LIMIT 20;

-- name: i2_balances_are_the_sum_of_entries()
-- A wallet's available, locked, owed credits and owed money are what its entries add up to.
SELECT coalesce(w.id, e.wallet_id) AS wallet_id, w.available_credits, e.available AS available_entries, w.locked_credits, e.locked AS locked_entries,
       w.debt_credits, e.debt AS debt_entries, w.debt_paise, e.receivable AS receivable_entries
  FROM wallets w
  FULL JOIN (SELECT wallet_id, coalesce(-sum(amount) FILTER (WHERE account = 'wallet'), 0) AS available,
                    coalesce(-sum(amount) FILTER (WHERE account = 'wallet_held'), 0) AS locked,
                    coalesce(sum(amount) FILTER (WHERE account = 'wallet_debt'), 0) AS debt,
                    coalesce(sum(amount) FILTER (WHERE account = 'credit_debt_receivable'), 0) AS receivable
               FROM ledger_entries WHERE wallet_id IS NOT NULL GROUP BY wallet_id) e ON e.wallet_id = w.id
 WHERE (coalesce(w.available_credits, 0), coalesce(w.locked_credits, 0), coalesce(w.debt_credits, 0), coalesce(w.debt_paise, 0))
       <> (coalesce(e.available, 0), coalesce(e.locked, 0), coalesce(e.debt, 0), coalesce(e.receivable, 0)) LIMIT 20;

-- name: i3_balances_are_not_negative()
-- Available, held, pending and owed credits are never below zero.
SELECT id AS wallet_id, available_credits, locked_credits, pending_credits, debt_credits, debt_paise FROM wallets
 WHERE least(available_credits, locked_credits, pending_credits, debt_credits, debt_paise) < 0 LIMIT 20;

-- name: i4_sequences_are_gapless()
-- A wallet's transactions are numbered 1 to its own seq, each number once.
SELECT coalesce(w.id, t.wallet_id) AS wallet_id, w.seq, t.n, t.lowest, t.highest
  FROM wallets w
  FULL JOIN (SELECT wallet_id, count(DISTINCT seq) AS n, min(seq) AS lowest, max(seq) AS highest FROM wallet_transactions GROUP BY wallet_id) t
         ON t.wallet_id = w.id
 WHERE coalesce(w.seq, -1) <> coalesce(t.highest, 0) OR t.n <> t.highest OR t.lowest <> 1 LIMIT 20;

-- name: i5_balances_join_up()
-- Each transaction begins with the balance that the one before it left, from zero to the wallet's own.
SELECT x.wallet_id, x.seq, x.balance_before, x.previous, x.balance_after, x.available_credits, x.locked_after, x.locked_credits
  FROM (SELECT t.wallet_id, t.seq, t.credits, t.balance_before, t.balance_after, t.locked_after, w.available_credits, w.locked_credits,
               coalesce(lag(t.balance_after) OVER run, 0) AS previous, t.seq = w.seq AS last
          FROM wallet_transactions t JOIN wallets w ON w.id = t.wallet_id
        WINDOW run AS (PARTITION BY t.wallet_id ORDER BY t.seq)) x
 WHERE x.balance_before <> x.previous OR x.balance_after <> x.balance_before + x.credits
    OR (x.last AND (x.balance_after, x.locked_after) <> (x.available_credits, x.locked_credits)) LIMIT 20;

-- name: i6_a_key_means_one_thing()
-- No idempotency key has two outcomes, and no payment two purchases.
SELECT k.idempotency_key AS key, count(*) AS n
  FROM (SELECT idempotency_key FROM wallet_transactions UNION ALL SELECT idempotency_key FROM refusals) k
 GROUP BY k.idempotency_key HAVING count(*) > 1
UNION ALL
SELECT source || ':' || source_id, count(*) FROM wallet_transactions WHERE transaction_type = 'purchase' GROUP BY source, source_id HAVING count(*) > 1
 LIMIT 20;

-- name: i7_every_record_has_one_outcome()
-- A batch's counts add up to its records and are the rows that it left.
SELECT b.topic, b.partition, b.batch_no, b.n_records, b.posted, coalesce(t.n, 0) AS transactions, b.refused, coalesce(r.n, 0) AS refusals,
       b.conflict + b.quarantined AS set_aside, coalesce(q.n, 0) AS quarantine
  FROM batches b
  LEFT JOIN (SELECT batch_id, count(DISTINCT ord) AS n FROM wallet_transactions WHERE request_hash <> '\x' GROUP BY batch_id) t ON t.batch_id = b.id
  LEFT JOIN (SELECT batch_id, count(*) AS n FROM refusals GROUP BY batch_id) r ON r.batch_id = b.id
  LEFT JOIN (SELECT batch_id, count(*) AS n FROM quarantine GROUP BY batch_id) q ON q.batch_id = b.id
 WHERE b.n_records <> b.posted + b.refused + b.existing + b.conflict + b.parked + b.quarantined
    OR b.refused <> coalesce(r.n, 0) OR b.conflict + b.quarantined <> coalesce(q.n, 0)
    OR CASE WHEN b.topic LIKE '%wallet.%' THEN b.posted <> coalesce(t.n, 0) ELSE b.posted < coalesce(t.n, 0) END
UNION ALL
SELECT 'no batch', 0, NULL, NULL, NULL, count(*), NULL, NULL, NULL, NULL FROM wallet_transactions t
 WHERE NOT EXISTS (SELECT FROM batches b WHERE b.id = t.batch_id) HAVING count(*) > 0
 LIMIT 20;

-- name: i8_entries_are_of_the_amount()
-- Posted means entries and lots of the expected amount; no entry stands without its transaction.
SELECT coalesce(t.id, e.transaction_id) AS transaction_id, t.transaction_type::text, t.credits, t.amount_credits, e.wallet, e.moved, c.taken
  FROM wallet_transactions t
  FULL JOIN (SELECT transaction_id, coalesce(-sum(amount) FILTER (WHERE account = 'wallet'), 0) AS wallet,
                    -sum(amount) FILTER (WHERE account IN ('credits_spent', 'credits_expired', 'credits_reversed')) AS moved,
                    sum(amount) FILTER (WHERE account = 'credits_issued') AS issued
               FROM ledger_entries GROUP BY transaction_id) e ON e.transaction_id = t.id
  LEFT JOIN (SELECT transaction_id, sum(credits) AS taken FROM lot_consumptions GROUP BY transaction_id) c ON c.transaction_id = t.id
 WHERE CASE
   WHEN t.id IS NULL THEN NOT EXISTS (SELECT FROM batches b WHERE b.id = e.transaction_id) AND NOT EXISTS (SELECT FROM journal_entries j WHERE j.id = e.transaction_id)
   WHEN e.transaction_id IS NULL THEN (t.transaction_type, t.credits) <> ('chargeback', 0)
   WHEN e.wallet <> t.credits THEN true
   WHEN t.transaction_type IN ('spend', 'capture', 'refund', 'expire') THEN
     e.moved IS DISTINCT FROM t.amount_credits OR c.taken IS DISTINCT FROM t.amount_credits
   WHEN t.transaction_type IN ('purchase', 'grant') THEN e.issued IS DISTINCT FROM t.amount_credits
   WHEN t.transaction_type = 'hold' THEN e.wallet <> -t.amount_credits
   WHEN t.transaction_type = 'chargeback' THEN coalesce(c.taken, 0) <> -t.credits
   ELSE false END LIMIT 20;

-- name: i9_refunds_stay_within_what_was_paid()
-- Refunded money and credits never exceed what was captured and granted.
SELECT 'lot' AS what, id, taxable_paise + cgst_paise + sgst_paise + igst_paise AS paid, refunded_paise AS refunded, granted_credits AS granted,
       reversed_credits AS reversed
  FROM lots WHERE refunded_paise > taxable_paise + cgst_paise + sgst_paise + igst_paise OR reversed_credits > granted_credits OR refunded_paise < 0
UNION ALL
SELECT 'payment', p.id, p.amount, r.amount, p.credits_granted, r.credits
  FROM payments p JOIN (SELECT payment_id, sum(amount)::bigint AS amount, sum(credits_reversed)::bigint AS credits FROM refunds
                         WHERE status NOT IN ('failed', 'cancelled', 'rejected', 'reversed') AND NOT outside GROUP BY payment_id) r ON r.payment_id = p.id
 WHERE r.amount > p.amount OR r.credits > p.credits_granted
 LIMIT 20;

-- name: i10_a_verified_payment_is_credited_once_or_waits_visibly()
-- A verified payment has exactly one purchase, or is held or being decided, on its way, parked or an open case; nothing else has one.
-- A case that a person accepted does as well; and of a payment that is not of its order's amount, one in any state: it is unapplied, returned or applied.
WITH on_its_way AS (
  SELECT (e ->> 'payment_id')::uuid AS payment_id FROM outbox o, jsonb_array_elements(o.events::jsonb) e
   WHERE o.dest_topic = 'wallet.credit' AND e ->> 'kind' = 'purchase'
     AND o.batch_no > coalesce((SELECT max(m.last_batch_no) FROM producer_watermarks m WHERE m.topic = o.dest_topic AND m.partition = o.dest_partition
       AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group), 0)
  UNION ALL
  SELECT coalesce(r.payload -> 'extra' ->> 'payment_id', r.payload -> 'event' ->> 'payment_id')::uuid FROM retries r
   WHERE r.topic = 'wallet.credit' AND r.state IN ('due', 'dead')
), bought AS (
  SELECT source_id, count(*) AS n, min(amount_credits) AS credits FROM wallet_transactions WHERE transaction_type = 'purchase' GROUP BY source_id
)
SELECT p.id AS payment_id, p.status, p.credits_granted, b.source_id, b.n AS purchases, b.credits
  FROM payments p FULL JOIN bought b ON b.source_id = p.id::text
 WHERE CASE
   WHEN p.status = 'mismatch' THEN b.n > 0 OR NOT EXISTS (SELECT FROM reconciliation_cases c WHERE c.kind = 'payment_mismatch' AND c.subject = p.id::text)
   WHEN p.id IS NULL OR p.verified_at IS NULL THEN b.n > 0
   WHEN b.n > 0 THEN b.n > 1 OR b.credits <> p.credits_granted OR p.status NOT IN ('credited', 'refunded')
   WHEN p.status = 'verified' THEN p.fraud_decided_at IS NOT NULL AND NOT EXISTS (SELECT FROM on_its_way x WHERE x.payment_id = p.id)
   WHEN p.status IN ('held', 'rejected') THEN false
   ELSE NOT EXISTS (SELECT FROM reconciliation_cases c WHERE c.subject = p.id::text AND (c.state = 'open' OR c.accepted)) END LIMIT 20;

-- name: i10_pending_credits_are_verified_payments()
-- Pending credits are those of payments verified or held and not yet credited.
SELECT w.id AS wallet_id, w.pending_credits, coalesce(p.credits, 0) AS verified_credits
  FROM wallets w
  LEFT JOIN (SELECT wallet_id, sum(credits_granted) AS credits FROM payments
              WHERE status IN ('verified', 'held') AND verified_at IS NOT NULL GROUP BY wallet_id) p ON p.wallet_id = w.id
 WHERE w.pending_credits <> coalesce(p.credits, 0) LIMIT 20;

-- name: i11_offsets_only_rise()
-- Batches of a partition follow each other: numbers without a gap, offsets joined within an incarnation, the last one at the stored offset.
SELECT x.topic, x.partition, x.consumer_group, x.batch_no, x.previous_no, x.incarnation, x.from_offset, x.previous_to, x.to_offset
  FROM (SELECT b.topic, b.partition, b.consumer_group, b.batch_no, b.incarnation, b.from_offset, b.to_offset, b.epoch, b.n_records,
               coalesce(lag(b.batch_no) OVER run, 0) AS previous_no, lag(b.to_offset) OVER run AS previous_to,
               lag(b.incarnation) OVER run AS previous_incarnation, lag(b.epoch) OVER run AS previous_epoch,
               lead(b.batch_no) OVER run IS NULL AS last, o.batch_no AS head_no, o.next_offset, o.incarnation AS head_incarnation
          FROM batches b LEFT JOIN consumer_offsets o USING (topic, partition, consumer_group)
        WINDOW run AS (PARTITION BY b.topic, b.partition, b.consumer_group ORDER BY b.batch_no)) x
 WHERE x.batch_no <> x.previous_no + 1 OR x.to_offset < x.from_offset OR x.incarnation < x.previous_incarnation OR x.epoch < x.previous_epoch
    OR (x.incarnation = x.previous_incarnation AND x.from_offset <> x.previous_to)
    OR (x.last AND (x.head_no IS DISTINCT FROM x.batch_no OR (x.head_incarnation = x.incarnation AND x.next_offset <> x.to_offset)))
UNION ALL
SELECT o.topic, o.partition, o.consumer_group, o.batch_no, NULL, o.incarnation, NULL, NULL, o.next_offset FROM consumer_offsets o
 WHERE o.batch_no > 0 AND NOT EXISTS (SELECT FROM batches b WHERE b.topic = o.topic AND b.partition = o.partition AND b.consumer_group = o.consumer_group)
 LIMIT 20;

-- name: i12_nothing_is_lost_between_producers_and_consumers()
-- What a consumer has not applied is in the outbox, linked without a gap from its watermark to the producer's head.
WITH consumed AS (
  SELECT h.*, g.consumer_group, coalesce(m.last_batch_no, 0) AS applied
    FROM outbox_heads h
    LEFT JOIN (SELECT DISTINCT topic, consumer_group FROM consumer_offsets WHERE epoch > 0) g ON g.topic = h.dest_topic
    LEFT JOIN producer_watermarks m ON m.topic = h.dest_topic AND m.partition = h.dest_partition AND m.consumer_group = g.consumer_group
     AND m.producer_topic = h.producer_topic AND m.producer_partition = h.producer_partition AND m.producer_group = h.producer_group
), linked AS (
  SELECT c.dest_topic, c.dest_partition, c.producer_topic, c.producer_partition, c.producer_group, c.consumer_group, o.batch_no, o.prev_batch_no,
         lag(o.batch_no, 1, c.applied) OVER (PARTITION BY c.dest_topic, c.dest_partition, c.producer_topic, c.producer_partition, c.producer_group,
                                                          c.consumer_group ORDER BY o.batch_no) AS expected
    FROM consumed c
    JOIN outbox o ON o.dest_topic = c.dest_topic AND o.dest_partition = c.dest_partition AND o.producer_topic = c.producer_topic
     AND o.producer_partition = c.producer_partition AND o.producer_group = c.producer_group AND o.batch_no > c.applied
)
SELECT 'gap' AS what, l.dest_topic, l.dest_partition, l.producer_topic, l.producer_partition, l.producer_group, l.batch_no, l.prev_batch_no, l.expected
  FROM linked l WHERE l.prev_batch_no <> l.expected
UNION ALL
SELECT 'end', c.dest_topic, c.dest_partition, c.producer_topic, c.producer_partition, c.producer_group, max(l.batch_no), c.applied, c.last_batch_no
  FROM consumed c LEFT JOIN linked l USING (dest_topic, dest_partition, producer_topic, producer_partition, producer_group)
 WHERE l.consumer_group IS NOT DISTINCT FROM c.consumer_group
 GROUP BY c.dest_topic, c.dest_partition, c.producer_topic, c.producer_partition, c.producer_group, c.consumer_group, c.applied, c.last_batch_no
HAVING coalesce(max(l.batch_no), c.applied) <> c.last_batch_no
UNION ALL
SELECT 'unknown producer', m.topic, m.partition, m.producer_topic, m.producer_partition, m.producer_group, m.last_batch_no, NULL, NULL
  FROM producer_watermarks m
 WHERE NOT EXISTS (SELECT FROM outbox_heads h WHERE h.dest_topic = m.topic AND h.dest_partition = m.partition AND h.producer_topic = m.producer_topic
                      AND h.producer_partition = m.producer_partition AND h.producer_group = m.producer_group AND h.last_batch_no >= m.last_batch_no)
 LIMIT 20;

-- name: i13_windows_are_what_the_ledger_says()
-- Minute windows, with the deltas still on their way, equal a recomputation from transactions, lots and payments.
WITH told AS (
  SELECT metric, dimension, window_start AS minute, count, credits, amount_paise FROM billing_windows WHERE resolution = '1m'
  UNION ALL
  SELECT e ->> 'metric', coalesce(d.key, ''), (e ->> 'minute')::timestamptz, (e ->> 'count')::bigint, (e ->> 'credits')::bigint, (e ->> 'amount_paise')::bigint
    FROM outbox o CROSS JOIN LATERAL jsonb_array_elements(o.events::jsonb) e
    LEFT JOIN LATERAL (SELECT string_agg(k || '=' || v, ',' ORDER BY k COLLATE "C") AS key FROM jsonb_each_text(e -> 'dimension') x (k, v)) d ON true
   WHERE o.dest_topic = 'analytics.billing'
     AND o.batch_no > coalesce((SELECT max(m.last_batch_no) FROM producer_watermarks m WHERE m.topic = o.dest_topic AND m.partition = o.dest_partition
       AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group), 0)
  UNION ALL  -- set aside, and visible as such
  SELECT e ->> 'metric', coalesce(d.key, ''), (e ->> 'minute')::timestamptz, (e ->> 'count')::bigint, (e ->> 'credits')::bigint, (e ->> 'amount_paise')::bigint
    FROM retries r CROSS JOIN LATERAL (SELECT r.payload -> 'event') x (e)
    LEFT JOIN LATERAL (SELECT string_agg(k || '=' || v, ',' ORDER BY k COLLATE "C") AS key FROM jsonb_each_text(e -> 'dimension') x (k, v)) d ON true
   WHERE r.topic = 'analytics.billing' AND r.state IN ('due', 'dead', 'purged') AND r.payload ? 'event'
), earned AS (
  SELECT transaction_id, sum(recognised_paise) AS paise FROM lot_consumptions GROUP BY transaction_id
), happened AS (
  SELECT 'credits_spent' AS metric, 'community=' || coalesce(t.community_id::text, '-') || ',feature=' || coalesce(t.feature, '-') AS dimension,
         date_trunc('minute', t.occurred_at) AS minute, count(*) AS count, sum(t.amount_credits) AS credits, sum(e.paise) AS amount_paise
    FROM wallet_transactions t JOIN earned e ON e.transaction_id = t.id WHERE t.transaction_type IN ('spend', 'capture') GROUP BY 2, 3
  UNION ALL
  SELECT 'credits_granted', 'source=' || t.transaction_type, date_trunc('minute', t.occurred_at), count(*), sum(t.amount_credits), coalesce(sum(p.amount), 0)
    FROM wallet_transactions t LEFT JOIN payments p ON t.transaction_type = 'purchase' AND p.id::text = t.source_id
   WHERE t.transaction_type IN ('purchase', 'grant') GROUP BY 2, 3
  UNION ALL
  SELECT 'credits_expired', '', date_trunc('minute', t.occurred_at), count(*), sum(t.amount_credits), sum(e.paise)
    FROM wallet_transactions t JOIN earned e ON e.transaction_id = t.id WHERE t.transaction_type = 'expire' GROUP BY 3
  UNION ALL
  SELECT 'payments', 'status=' || s.status, date_trunc('minute', s.at), count(*), sum(s.credits), sum(s.amount)
    FROM (SELECT 'created' AS status, created_at AS at, credits_granted AS credits, amount FROM payments
          UNION ALL SELECT 'failed', failed_at, credits_granted, amount FROM payments
          UNION ALL SELECT 'verified', verified_at, credits_granted, amount FROM payments
          UNION ALL SELECT 'held', p.fraud_decided_at, p.credits_granted, p.amount FROM payments p
                      JOIN fraud_events f ON f.payment_id = p.id AND f.verdict = 'hold'
          UNION ALL SELECT 'rejected', r.created_at, p.credits_granted, p.amount FROM payments p
                      JOIN fraud_reviews r ON r.payment_id = p.id AND r.verdict = 'reject'
          UNION ALL SELECT 'mismatch', c.created_at, p.credits_granted, p.amount FROM payments p
                      JOIN reconciliation_cases c ON c.kind = 'payment_mismatch' AND c.subject = p.id::text
          UNION ALL SELECT 'credited', t.occurred_at, p.credits_granted, p.amount FROM payments p
                      JOIN wallet_transactions t ON t.transaction_type = 'purchase' AND t.source_id = p.id::text
          UNION ALL SELECT 'refunded', r.finished_at, p.credits_granted, p.amount FROM payments p
                      JOIN refunds r ON r.payment_id = p.id AND r.closes_payment) s
   WHERE s.at IS NOT NULL GROUP BY 2, 3
  UNION ALL
  SELECT 'refunds', 'policy=' || r.policy, date_trunc('minute', r.at), sum(r.n), sum(r.n * r.credits_reversed), sum(r.n * r.amount)
    FROM (SELECT policy, finished_at AS at, 1 AS n, credits_reversed, amount FROM refunds WHERE status IN ('done', 'reversed')
          UNION ALL SELECT policy, reversed_at, -1, credits_reversed, amount FROM refunds WHERE status = 'reversed') r
   GROUP BY 2, 3
)
SELECT x.metric, x.dimension, x.minute, sum(x.count) AS count, sum(x.credits) AS credits, sum(x.amount_paise) AS amount_paise
  FROM (SELECT metric, dimension, minute, count, credits, amount_paise FROM told
        UNION ALL SELECT metric, dimension, minute, -count, -credits, -amount_paise FROM happened) x
 GROUP BY x.metric, x.dimension, x.minute
HAVING (sum(x.count), sum(x.credits), sum(x.amount_paise)) <> (0, 0, 0) LIMIT 20;

-- name: i13_wider_windows_are_sums_of_minutes()
-- Hours, and days of India, are the sums of their minutes.
SELECT x.metric, x.resolution, x.dimension, x.window_start, sum(x.count) AS count, sum(x.credits) AS credits, sum(x.amount_paise) AS amount_paise
  FROM (SELECT metric, resolution, dimension, window_start, count, credits, amount_paise FROM billing_windows WHERE resolution <> '1m'
        UNION ALL
        SELECT b.metric, r.resolution, b.dimension, r.starts, -b.count, -b.credits, -b.amount_paise
          FROM billing_windows b CROSS JOIN LATERAL (VALUES ('1h', date_trunc('hour', b.window_start, 'UTC')),
                                                            ('1d', date_trunc('day', b.window_start, 'Asia/Kolkata'))) AS r (resolution, starts)
         WHERE b.resolution = '1m') x
 GROUP BY x.metric, x.resolution, x.dimension, x.window_start
HAVING (sum(x.count), sum(x.credits), sum(x.amount_paise)) <> (0, 0, 0) LIMIT 20;

-- name: i14_the_ledger_refuses_rewriting()
-- Every table of the ledger has its triggers, enabled, and no login may change it except through the functions.
SELECT t.name AS table_name, coalesce(g.tgname, 'missing trigger') AS what, coalesce(g.tgenabled::text, '-') AS enabled
  FROM (VALUES ('wallet_transactions'), ('ledger_entries'), ('lot_consumptions'), ('refusals'), ('batches'), ('quarantine'), ('fraud_events'),
               ('billing_events'), ('audit_logs'), ('audit_anchors'), ('journal_entries'), ('settlement_lines'), ('webhook_bodies')
        UNION ALL SELECT i.inhrelid::regclass::text FROM pg_inherits i WHERE i.inhparent IN ('ledger_entries'::regclass, 'lot_consumptions'::regclass)) AS t (name)
 CROSS JOIN (VALUES ('refuse_rewrite'), ('refuse_truncate')) AS n (name)
  LEFT JOIN pg_trigger g ON g.tgrelid = to_regclass('public.' || t.name) AND g.tgname = n.name
 WHERE g.tgname IS NULL OR g.tgenabled NOT IN ('O', 'A')
UNION ALL
SELECT t.tablename, r.rolname || ' may ' || v.verb, '-'
  FROM pg_tables t CROSS JOIN pg_roles r
 CROSS JOIN (VALUES ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE')) AS v (verb)
 WHERE t.schemaname = 'public' AND r.rolname LIKE 'core\_%' AND r.rolname <> ALL ('{core_owner,core_migrator}')
   AND has_table_privilege(r.oid, format('%I.%I', t.schemaname, t.tablename), v.verb)
 LIMIT 20;

-- name: i14_the_chain_verifies()
-- Each batch's link hashes the link before it, the batch's own line and its content; the last is the head in consumer_offsets.
SELECT x.topic, x.partition, x.consumer_group, x.batch_no
  FROM (SELECT b.*, coalesce(lag(b.link) OVER run, '\x') AS previous, o.link AS head, lead(b.id) OVER run IS NULL AS last
          FROM batches b LEFT JOIN consumer_offsets o USING (topic, partition, consumer_group)
        WINDOW run AS (PARTITION BY b.topic, b.partition, b.consumer_group ORDER BY b.batch_no)) x
 WHERE x.link <> batch_link(x.previous, batch_line(x.id, x.topic, x.partition, x.consumer_group, x.batch_no, x.from_offset, x.to_offset, x.n_records, x.posted,
                                                   x.refused, x.existing, x.conflict, x.parked, x.quarantined, x.recognised_paise), x.content)
    OR (x.last AND x.head IS DISTINCT FROM x.link) LIMIT 20;

-- name: i14_the_content_is_what_was_hashed()
-- The canonical text of a batch's transactions, their legs, refusals, invoices and journal, made anew from the rows, has the digest that went into its link.
-- (A batch of windows or notices hashed what it folded, which is kept in another shape.)
WITH legs AS (
  SELECT transaction_id, string_agg(account || ':' || amount, ',' ORDER BY leg) AS legs FROM ledger_entries GROUP BY transaction_id
), line AS (
  SELECT t.batch_id, t.ord, t.seq, t.id AS place, canonical_transaction(t.id, t.wallet_id, t.seq, t.transaction_type::text, t.credits, t.amount_credits, t.balance_after,
                                                         t.locked_after, t.idempotency_key, t.request_hash, g.legs) AS line
    FROM wallet_transactions t LEFT JOIN legs g ON g.transaction_id = t.id
  UNION ALL
  SELECT r.batch_id, r.ord, 9223372036854775807, NULL, canonical_refusal(r.idempotency_key, r.request_hash, r.reason) FROM refusals r
  UNION ALL
  SELECT i.batch_id, i.serial, i.financial_year, NULL, canonical_invoice(i) FROM invoices i WHERE i.batch_id IS NOT NULL
  UNION ALL
  SELECT j.batch_id, 9223372036854775807, 9223372036854775807, j.id,
         canonical_journal(j.id, j.kind, j.source, j.source_id, j.occurred_at, j.metadata, g.legs) FROM journal_entries j LEFT JOIN legs g ON g.transaction_id = j.id
), content AS (
  SELECT batch_id, sha256(convert_to(string_agg(line, '' ORDER BY ord, seq, place), 'UTF8')) AS digest FROM line GROUP BY batch_id
)
SELECT b.topic, b.partition, b.consumer_group, b.batch_no
  FROM batches b LEFT JOIN content c ON c.batch_id = b.id
 WHERE b.topic NOT IN ('analytics.billing', 'notifications.billing') AND b.content <> coalesce(c.digest, sha256('\x')) LIMIT 20;

-- name: i15_no_hold_outlives_its_limit_unflagged()
-- A hold past its time limit is closed within five minutes, or somebody has been told.
SELECT h.id AS hold_id, h.wallet_id, h.credits, h.expires_at FROM holds h
 WHERE h.state = 'held' AND h.expires_at < now() - interval '5 minutes'
   AND NOT EXISTS (SELECT FROM reconciliation_cases c WHERE c.kind = 'hold_overdue' AND c.subject = h.id::text) LIMIT 20;

-- name: i16_clearing_is_what_the_gateway_owes()
-- gateway_clearing is what credited payments brought, less what went back; a settlement returns its part to zero.
SELECT e.clearing, l.paid, l.refunded, e.settled
  FROM (SELECT coalesce(sum(amount) FILTER (WHERE account = 'gateway_clearing'), 0) AS clearing,
               coalesce(sum(amount) FILTER (WHERE account IN ('bank', 'gateway_fee', 'gst_input', 'offer_discount')), 0) AS settled,
               coalesce(sum(amount) FILTER (WHERE account = 'unapplied_receipts'), 0) AS unapplied FROM ledger_entries) e,
       (SELECT coalesce(sum(taxable_paise + cgst_paise + sgst_paise + igst_paise), 0) AS paid, coalesce(sum(refunded_paise), 0) AS refunded FROM lots) l
 WHERE e.clearing <> l.paid - l.refunded - e.settled - e.unapplied;

-- name: i17_lots_explain_the_wallet()
-- A wallet's lots have free what is available and held what is locked, and its open holds say the same.
SELECT w.id AS wallet_id, w.available_credits, l.free, w.locked_credits, l.held, h.credits AS in_holds
  FROM wallets w
  LEFT JOIN (SELECT wallet_id, sum(free_credits) AS free, sum(held_credits) AS held FROM lots GROUP BY wallet_id) l ON l.wallet_id = w.id
  LEFT JOIN (SELECT wallet_id, sum(credits) AS credits FROM holds WHERE state = 'held' GROUP BY wallet_id) h ON h.wallet_id = w.id
 WHERE (w.available_credits, w.locked_credits, w.locked_credits) <> (coalesce(l.free, 0), coalesce(l.held, 0), coalesce(h.credits, 0)) LIMIT 20;

-- name: i17_every_credit_of_a_lot_is_somewhere()
-- granted = spent + debt paid + reversed + expired + held + free, and what left a lot is on record.
SELECT l.id AS lot_id, l.granted_credits, l.free_credits, l.held_credits, l.spent_credits, c.spent, l.expired_credits, c.expired, l.reversed_credits, c.reversed
  FROM lots l
  LEFT JOIN (SELECT x.lot_id, sum(x.credits) FILTER (WHERE t.transaction_type IN ('spend', 'capture')) AS spent,
                    sum(x.credits) FILTER (WHERE t.transaction_type = 'expire') AS expired,
                    sum(x.credits) FILTER (WHERE t.transaction_type IN ('refund', 'chargeback')) AS reversed
               FROM lot_consumptions x JOIN wallet_transactions t ON t.id = x.transaction_id GROUP BY x.lot_id) c ON c.lot_id = l.id
  LEFT JOIN (SELECT y.lot_id, sum(y.credits) AS credits FROM hold_lots y JOIN holds h ON h.id = y.hold_id AND h.state = 'held' GROUP BY y.lot_id) o
         ON o.lot_id = l.id
 WHERE l.granted_credits <> l.free_credits + l.held_credits + l.spent_credits + l.expired_credits + l.reversed_credits + l.debt_paid_credits
    OR (l.spent_credits, l.expired_credits, l.reversed_credits) <> (coalesce(c.spent, 0), coalesce(c.expired, 0), coalesce(c.reversed, 0))
    OR l.held_credits <> coalesce(o.credits, 0) LIMIT 20;

-- name: i18_invoice_numbers_are_gapless()
-- Serials run from 1 to the series' last number; credit notes never reverse more tax than the invoice had.
SELECT coalesce(s.series, i.series) AS series, coalesce(s.financial_year, i.financial_year) AS financial_year, s.last_number, i.n, i.highest
  FROM invoice_series s
  FULL JOIN (SELECT series, financial_year, count(*) AS n, max(serial) AS highest FROM invoices GROUP BY series, financial_year) i
         ON i.series = s.series AND i.financial_year = s.financial_year
 WHERE coalesce(s.last_number, 0) <> coalesce(i.highest, 0) OR coalesce(i.n, 0) <> coalesce(i.highest, 0)
UNION ALL
SELECT 'tax of ' || i.number, i.financial_year, i.cgst_amount + i.sgst_amount + i.igst_amount, count(*), sum(n.cgst_amount + n.sgst_amount + n.igst_amount)::bigint
  FROM invoices i JOIN invoices n ON n.invoice_id = i.id AND n.kind = 'credit_note' AND n.voided_at IS NULL
 GROUP BY i.id HAVING sum(n.cgst_amount) > i.cgst_amount OR sum(n.sgst_amount) > i.sgst_amount OR sum(n.igst_amount) > i.igst_amount
 LIMIT 20;

-- name: i19_revenue_is_what_was_sold()
-- recognised + deferred + rounding - receivable = net sold - refunded, and the deferral is what the lots still owe.
SELECT e.*, l.*
  FROM (SELECT coalesce(-sum(amount) FILTER (WHERE account IN ('revenue', 'breakage', 'rounding')), 0) AS earned,
               coalesce(-sum(amount) FILTER (WHERE account = 'deferred_revenue'), 0) AS deferred,
               coalesce(sum(amount) FILTER (WHERE account = 'credit_debt_receivable'), 0) AS receivable,
               coalesce(-sum(amount) FILTER (WHERE account IN ('cgst_payable', 'sgst_payable', 'igst_payable')), 0) AS tax FROM ledger_entries) e,
       (SELECT coalesce(sum(taxable_paise + cgst_paise + sgst_paise + igst_paise - refunded_paise), 0) AS net,
               coalesce(sum(taxable_paise - returned_paise - recognised_paise), 0) AS owed FROM lots) l
 WHERE e.earned + e.deferred - e.receivable <> l.net - e.tax OR e.deferred <> l.owed;

-- name: i19_a_lot_earns_what_its_debits_earned()
-- A lot's recognised revenue is the sum over its debits (and the debt it paid); once nothing is left it defers nothing.
SELECT l.id AS lot_id, l.taxable_paise, l.returned_paise, l.recognised_paise, coalesce(c.paise, 0) AS by_debits, coalesce(d.paise, 0) AS by_debt
  FROM lots l
  LEFT JOIN (SELECT lot_id, sum(recognised_paise) AS paise FROM lot_consumptions GROUP BY lot_id) c ON c.lot_id = l.id
  LEFT JOIN (SELECT e.transaction_id, sum(e.amount) AS paise FROM ledger_entries e JOIN lots b ON b.id = e.transaction_id AND b.debt_paid_credits > 0
              WHERE e.account = 'deferred_revenue' AND e.amount > 0 GROUP BY e.transaction_id) d ON d.transaction_id = l.transaction_id
 WHERE l.recognised_paise <> coalesce(c.paise, 0) + coalesce(d.paise, 0)
    OR (l.free_credits + l.held_credits = 0 AND l.taxable_paise <> l.returned_paise + l.recognised_paise) LIMIT 20;

-- name: i19_a_batch_books_what_its_debits_earned()
-- Revenue recognised once for a batch is what its own entries say, and what the debits booked as one set earned.
SELECT b.id AS batch_id, b.recognised_paise, coalesce(e.paise, 0) AS entries
  FROM batches b
  FULL JOIN (SELECT transaction_id, sum(amount) AS paise FROM ledger_entries x WHERE x.account = 'deferred_revenue'
                AND NOT EXISTS (SELECT FROM wallet_transactions t WHERE t.id = x.transaction_id) GROUP BY transaction_id) e ON e.transaction_id = b.id
 WHERE coalesce(b.recognised_paise, 0) <> coalesce(e.paise, 0) LIMIT 20;

-- name: i20_the_audit_log_is_whole()
-- No row of the audit log was changed, removed, put in or moved, and its chains have what they had when they were anchored.
SELECT chain, seq, id, what FROM broken_audit() ORDER BY chain, seq LIMIT 20;
