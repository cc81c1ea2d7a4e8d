-- The invariants of MONEY §7, of what was added since they were last asked: $1 are the fresh batches, $2 and $3 the lowest and highest of them.
-- Each is named as in invariants.sql, which asks the same of everything; what only sums over the whole ledger can tell is asked there alone.
-- No row is good news; a query stops at 20. First, what is fresh, and where the outcome goes.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: get_fresh(limit_rows)
-- Batches that were not checked yet, the oldest first, and of each chain none before its predecessor: so all lie close together.
SELECT b.id, o.topic, o.partition, o.consumer_group, b.batch_no
  FROM consumer_offsets o
  LEFT JOIN checked_heads h ON h.topic = o.topic AND h.partition = o.partition AND h.consumer_group = o.consumer_group
 CROSS JOIN LATERAL (SELECT x.id, x.batch_no, max(x.id::text COLLATE "C") OVER (ORDER BY x.batch_no) AS latest FROM batches x
                      WHERE x.topic = o.topic AND x.partition = o.partition AND x.consumer_group = o.consumer_group
                        AND x.batch_no > coalesce(h.batch_no, 0) AND x.batch_no <= o.batch_no ORDER BY x.batch_no LIMIT $1) b
 WHERE o.batch_no > coalesce(h.batch_no, 0) ORDER BY b.latest, o.topic, o.partition, o.consumer_group, b.batch_no LIMIT $1;

-- name: count_fresh()
-- How many batches were not checked yet.
SELECT coalesce(sum(o.batch_no - coalesce(h.batch_no, 0)), 0)::bigint
  FROM consumer_offsets o
  LEFT JOIN checked_heads h ON h.topic = o.topic AND h.partition = o.partition AND h.consumer_group = o.consumer_group
 WHERE o.batch_no > coalesce(h.batch_no, 0);

-- name: record_check(scope, holder, batches, behind, violated, detail, took_s, topics, partitions, consumer_groups, batch_nos)
SELECT record_check($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11);

-- name: get_full_check_age_s()
-- How long ago everything was checked; NULL: never.
SELECT extract(epoch FROM now() - max(created_at))::double precision FROM invariant_runs WHERE scope = 'all';

-- name: i1_every_transaction_balances(ids, lowest, highest)
SELECT e.transaction_id, a.asset, sum(e.amount) AS total
  FROM (SELECT id FROM wallet_transactions WHERE batch_id BETWEEN $2 AND $3 AND batch_id = ANY ($1::uuid[])
        UNION ALL SELECT id FROM journal_entries WHERE batch_id BETWEEN $2 AND $3 AND batch_id = ANY ($1::uuid[])
        UNION ALL SELECT unnest($1::uuid[])) x
  JOIN ledger_entries e ON e.transaction_id = x.id JOIN ledger_accounts a ON a.account = e.account
 GROUP BY e.transaction_id, a.asset HAVING sum(e.amount) <> 0 LIMIT 20;

-- name: i3_balances_are_not_negative(ids, lowest, highest)
SELECT w.id AS wallet_id, w.available_credits, w.locked_credits, w.pending_credits, w.debt_credits, w.debt_paise
  FROM (SELECT DISTINCT wallet_id FROM wallet_transactions WHERE batch_id BETWEEN $2 AND $3 AND batch_id = ANY ($1::uuid[])) t
  JOIN wallets w ON w.id = t.wallet_id
 WHERE least(w.available_credits, w.locked_credits, w.pending_credits, w.debt_credits, w.debt_paise) < 0 LIMIT 20;

-- name: i4_sequences_are_gapless(ids, lowest, highest)
-- The one before each fresh transaction is there, and the wallet's own number is that of its last.
SELECT t.wallet_id, t.seq, w.seq AS wallet_seq
  FROM wallet_transactions t JOIN wallets w ON w.id = t.wallet_id
 WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[])
   AND (t.seq < 1 OR t.seq > w.seq
        OR (t.seq > 1 AND NOT EXISTS (SELECT FROM wallet_transactions p WHERE p.wallet_id = t.wallet_id AND p.seq = t.seq - 1))
        OR (t.seq < w.seq AND NOT EXISTS (SELECT FROM wallet_transactions n WHERE n.wallet_id = t.wallet_id AND n.seq = t.seq + 1))) LIMIT 20;

-- name: i5_balances_join_up(ids, lowest, highest)
SELECT t.wallet_id, t.seq, t.balance_before, p.balance_after AS previous, t.balance_after, w.available_credits, t.locked_after, w.locked_credits
  FROM wallet_transactions t JOIN wallets w ON w.id = t.wallet_id
  LEFT JOIN wallet_transactions p ON p.wallet_id = t.wallet_id AND p.seq = t.seq - 1
 WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[])
   AND ((t.seq = 1 OR p.id IS NOT NULL) AND t.balance_before <> coalesce(p.balance_after, 0) OR t.balance_after <> t.balance_before + t.credits
        OR (t.seq = w.seq AND (t.balance_after, t.locked_after) <> (w.available_credits, w.locked_credits))) LIMIT 20;

-- name: i6_a_key_means_one_thing(ids, lowest, highest)
SELECT t.idempotency_key AS key
  FROM wallet_transactions t JOIN refusals r ON r.idempotency_key = t.idempotency_key
 WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[]) LIMIT 20;

-- name: i7_every_record_has_one_outcome(ids, lowest, highest)
SELECT b.topic, b.partition, b.batch_no, b.n_records, b.posted, coalesce(t.n, 0) AS transactions, b.refused, coalesce(r.n, 0) AS refusals,
       b.conflict + b.quarantined AS set_aside, coalesce(q.n, 0) AS quarantine
  FROM batches b
  LEFT JOIN (SELECT batch_id, count(DISTINCT ord) AS n FROM wallet_transactions
              WHERE batch_id BETWEEN $2 AND $3 AND batch_id = ANY ($1::uuid[]) AND request_hash <> '\x' GROUP BY batch_id) t ON t.batch_id = b.id
  LEFT JOIN (SELECT batch_id, count(*) AS n FROM refusals WHERE batch_id BETWEEN $2 AND $3 GROUP BY batch_id) r ON r.batch_id = b.id
  LEFT JOIN (SELECT batch_id, count(*) AS n FROM quarantine WHERE batch_id BETWEEN $2 AND $3 GROUP BY batch_id) q ON q.batch_id = b.id
 WHERE b.id = ANY ($1::uuid[])
   AND (b.n_records <> b.posted + b.refused + b.existing + b.conflict + b.parked + b.quarantined
    OR b.refused <> coalesce(r.n, 0) OR b.conflict + b.quarantined <> coalesce(q.n, 0)
    OR CASE WHEN b.topic LIKE '%wallet.%' THEN b.posted <> coalesce(t.n, 0) ELSE b.posted < coalesce(t.n, 0) END) LIMIT 20;

-- name: i8_entries_are_of_the_amount(ids, lowest, highest)
SELECT t.id AS transaction_id, t.transaction_type::text, t.credits, t.amount_credits, e.wallet, e.moved, c.taken
  FROM wallet_transactions t
 CROSS JOIN LATERAL (SELECT count(*) AS n, coalesce(-sum(amount) FILTER (WHERE account = 'wallet'), 0) AS wallet,
                            -sum(amount) FILTER (WHERE account IN ('credits_spent', 'credits_expired', 'credits_reversed')) AS moved,
                            sum(amount) FILTER (WHERE account = 'credits_issued') AS issued
                       FROM ledger_entries x WHERE x.transaction_id = t.id) e
 CROSS JOIN LATERAL (SELECT sum(credits) AS taken FROM lot_consumptions x WHERE x.transaction_id = t.id) c
 WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[]) AND CASE
   WHEN e.n = 0 THEN (t.transaction_type, t.credits) <> ('chargeback', 0)
   WHEN e.wallet <> t.credits THEN true
   WHEN t.transaction_type IN ('spend', 'capture', 'refund', 'expire') THEN
     e.moved IS DISTINCT FROM t.amount_credits OR c.taken IS DISTINCT FROM t.amount_credits
   WHEN t.transaction_type IN ('purchase', 'grant') THEN e.issued IS DISTINCT FROM t.amount_credits
   WHEN t.transaction_type = 'hold' THEN e.wallet <> -t.amount_credits
   WHEN t.transaction_type = 'chargeback' THEN coalesce(c.taken, 0) <> -t.credits
   ELSE false END LIMIT 20;

-- name: i10_a_verified_payment_is_credited_once_or_waits_visibly(ids, lowest, highest)
-- Every fresh purchase is of a verified payment, of its credits.
SELECT t.id AS transaction_id, t.source_id AS payment_id, p.status, p.credits_granted, t.amount_credits AS credits
  FROM wallet_transactions t LEFT JOIN payments p ON p.id = t.source_id::uuid
 WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[]) AND t.transaction_type = 'purchase' AND t.source = 'payment'
   AND (p.verified_at IS NULL OR p.credits_granted <> t.amount_credits) LIMIT 20;

-- name: i11_offsets_only_rise(ids, lowest, highest)
SELECT b.topic, b.partition, b.consumer_group, b.batch_no, b.incarnation, b.from_offset, p.to_offset AS previous_to, b.to_offset
  FROM batches b
  LEFT JOIN batches p ON p.topic = b.topic AND p.partition = b.partition AND p.consumer_group = b.consumer_group AND p.batch_no = b.batch_no - 1
 WHERE b.id = ANY ($1::uuid[]) AND b.id BETWEEN $2 AND $3
   AND ((b.batch_no > 1 AND p.id IS NULL) OR b.to_offset < b.from_offset OR b.incarnation < p.incarnation OR b.epoch < p.epoch
        OR (b.incarnation = p.incarnation AND b.from_offset <> p.to_offset)) LIMIT 20;

-- name: i14_the_chain_verifies(ids, lowest, highest)
SELECT b.topic, b.partition, b.consumer_group, b.batch_no
  FROM batches b
  LEFT JOIN batches p ON p.topic = b.topic AND p.partition = b.partition AND p.consumer_group = b.consumer_group AND p.batch_no = b.batch_no - 1
  LEFT JOIN consumer_offsets o ON o.topic = b.topic AND o.partition = b.partition AND o.consumer_group = b.consumer_group AND o.batch_no = b.batch_no
 WHERE b.id = ANY ($1::uuid[]) AND b.id BETWEEN $2 AND $3
   AND (b.link <> batch_link(coalesce(p.link, '\x'), batch_line(b.id, b.topic, b.partition, b.consumer_group, b.batch_no, b.from_offset, b.to_offset,
                               b.n_records, b.posted, b.refused, b.existing, b.conflict, b.parked, b.quarantined, b.recognised_paise), b.content)
        OR o.link <> b.link) LIMIT 20;

-- name: i14_the_content_is_what_was_hashed(ids, lowest, highest)
WITH line AS (
  SELECT t.batch_id, t.ord, t.seq, t.id AS place,
         canonical_transaction(t.id, t.wallet_id, t.seq, t.transaction_type::text, t.credits, t.amount_credits, t.balance_after, t.locked_after,
                               t.idempotency_key, t.request_hash, g.legs) AS line
    FROM wallet_transactions t
   CROSS JOIN LATERAL (SELECT string_agg(account || ':' || amount, ',' ORDER BY leg) AS legs FROM ledger_entries e WHERE e.transaction_id = t.id) g
   WHERE t.batch_id BETWEEN $2 AND $3 AND t.batch_id = ANY ($1::uuid[])
  UNION ALL
  SELECT r.batch_id, r.ord, 9223372036854775807, NULL, canonical_refusal(r.idempotency_key, r.request_hash, r.reason)
    FROM refusals r WHERE r.batch_id BETWEEN $2 AND $3
  UNION ALL
  SELECT i.batch_id, i.serial, i.financial_year, NULL, canonical_invoice(i) FROM invoices i WHERE i.batch_id BETWEEN $2 AND $3
  UNION ALL
  SELECT j.batch_id, 9223372036854775807, 9223372036854775807, j.id,
         canonical_journal(j.id, j.kind, j.source, j.source_id, j.occurred_at, j.metadata, g.legs)
    FROM journal_entries j
   CROSS JOIN LATERAL (SELECT string_agg(account || ':' || amount, ',' ORDER BY leg) AS legs FROM ledger_entries e WHERE e.transaction_id = j.id) g
   WHERE j.batch_id BETWEEN $2 AND $3
), content AS (
  SELECT batch_id, sha256(convert_to(string_agg(line, '' ORDER BY ord, seq, place), 'UTF8')) AS digest FROM line GROUP BY batch_id
)
SELECT b.topic, b.partition, b.consumer_group, b.batch_no
  FROM batches b LEFT JOIN content c ON c.batch_id = b.id
 WHERE b.id = ANY ($1::uuid[]) AND b.topic NOT IN ('analytics.billing', 'notifications.billing') AND b.content <> coalesce(c.digest, sha256('\x')) LIMIT 20;

-- name: i17_lots_explain_the_wallet(ids, lowest, highest)
-- Of the wallets that moved: what their lots hold is what they have.
SELECT w.id AS wallet_id, w.available_credits + w.locked_credits AS balance, l.credits AS in_lots
  FROM (SELECT DISTINCT wallet_id FROM wallet_transactions WHERE batch_id BETWEEN $2 AND $3 AND batch_id = ANY ($1::uuid[])) t
  JOIN wallets w ON w.id = t.wallet_id
 CROSS JOIN LATERAL (SELECT coalesce(sum(free_credits + held_credits), 0) AS credits FROM lots x WHERE x.wallet_id = w.id AND x.open) l
 WHERE w.available_credits + w.locked_credits <> l.credits LIMIT 20;

-- name: i19_a_batch_books_what_its_debits_earned(ids, lowest, highest)
SELECT b.id AS batch_id, b.recognised_paise, e.paise AS entries
  FROM batches b
 CROSS JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS paise FROM ledger_entries x WHERE x.transaction_id = b.id AND x.account = 'deferred_revenue') e
 WHERE b.id = ANY ($1::uuid[]) AND b.id BETWEEN $2 AND $3 AND b.recognised_paise <> e.paise LIMIT 20;
