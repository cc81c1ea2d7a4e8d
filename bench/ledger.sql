-- What bench/ledger.py asks of its scratch database, as superuser.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: make_wallets(count)
-- Wallets whose balance is that of the lots below.
INSERT INTO wallets (id, owner_id, request_hash, available_credits) SELECT uuidv7(), uuidv7(), '', 1000000 FROM generate_series(1, $1::integer);

-- name: make_lots()
-- Four lots a wallet, three of them bought; the first are small, so that debits cross from one into the next.
INSERT INTO lots (id, wallet_id, transaction_id, promotional, effective_at, granted_credits, base_credits, bonus_credits, free_credits,
                  taxable_paise, cgst_paise, sgst_paise, priority)
  SELECT uuidv7(), w.id, w.id, n = 1, now(), c.credits, CASE WHEN n = 1 THEN 0 ELSE c.credits END, CASE WHEN n = 1 THEN c.credits ELSE 0 END, c.credits,
         CASE WHEN n = 1 THEN 0 ELSE c.credits * 8 END, c.credits, c.credits, 0
    FROM wallets w CROSS JOIN generate_series(1, 4) n
   CROSS JOIN LATERAL (SELECT CASE n WHEN 1 THEN 20 WHEN 2 THEN 30 WHEN 3 THEN 50 ELSE 999900 END AS credits) c;

-- name: copy_wallets()
INSERT INTO bare.wallets SELECT * FROM wallets;

-- name: copy_lots()
INSERT INTO bare.lots SELECT * FROM lots;

-- name: copy_offsets()
INSERT INTO bare.consumer_offsets SELECT * FROM consumer_offsets;

-- name: wallet_ids(count)
SELECT id FROM wallets ORDER BY random() LIMIT $1;

-- name: rows_of_wallet_transactions(topic, partition, consumer_group, to_offset)
SELECT t.* FROM wallet_transactions t JOIN batches b ON b.id = t.batch_id
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4 ORDER BY t.ord;

-- name: rows_of_ledger_entries(topic, partition, consumer_group, to_offset)
SELECT e.* FROM batches b JOIN wallet_transactions t ON t.batch_id = b.id JOIN ledger_entries e ON e.transaction_id = t.id
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4
UNION ALL
SELECT e.* FROM batches b JOIN ledger_entries e ON e.transaction_id = b.id
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4;

-- name: rows_of_lot_consumptions(topic, partition, consumer_group, to_offset)
SELECT c.* FROM batches b JOIN wallet_transactions t ON t.batch_id = b.id JOIN lot_consumptions c ON c.transaction_id = t.id
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4;

-- name: rows_of_refusals(topic, partition, consumer_group, to_offset)
SELECT r.* FROM refusals r JOIN batches b ON b.id = r.batch_id
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4;

-- name: rows_of_outbox(topic, partition, consumer_group, to_offset)
SELECT o.* FROM outbox o JOIN batches b ON b.topic = o.producer_topic AND b.partition = o.producer_partition AND b.batch_no = o.batch_no
   AND b.consumer_group = o.producer_group
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4;

-- name: rows_of_batches(topic, partition, consumer_group, to_offset)
SELECT b.* FROM batches b WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4;

-- name: changed_wallets(topic, partition, consumer_group, to_offset)
SELECT array_agg(x.wallet_id) AS id, array_agg(x.credits) AS credits, array_agg(x.seq) AS seq
  FROM (SELECT t.wallet_id, sum(t.credits)::bigint AS credits, max(t.seq) AS seq FROM wallet_transactions t JOIN batches b ON b.id = t.batch_id
         WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4 GROUP BY t.wallet_id) x;

-- name: changed_lots(topic, partition, consumer_group, to_offset)
SELECT array_agg(x.lot_id) AS id, array_agg(x.credits) AS credits, array_agg(x.paise) AS paise
  FROM (SELECT c.lot_id, sum(c.credits)::bigint AS credits, sum(c.recognised_paise)::bigint AS paise
          FROM batches b JOIN wallet_transactions t ON t.batch_id = b.id JOIN lot_consumptions c ON c.transaction_id = t.id
         WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4 GROUP BY c.lot_id) x;

-- name: update_wallets(ids, credits, seqs)
UPDATE wallets w SET available_credits = w.available_credits + x.credits, seq = x.seq, updated_at = now()
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS x (id, credits, seq) WHERE w.id = x.id;

-- name: update_lots(ids, credits, paise)
UPDATE lots l SET free_credits = l.free_credits - x.credits, spent_credits = l.spent_credits + x.credits,
                  recognised_paise = l.recognised_paise + x.paise, open = l.free_credits + l.held_credits > x.credits
  FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS x (id, credits, paise) WHERE l.id = x.id;

-- name: update_offset(topic, partition, consumer_group, next_offset)
UPDATE consumer_offsets SET next_offset = $4, batch_no = batch_no + 1 WHERE topic = $1 AND partition = $2 AND consumer_group = $3;
