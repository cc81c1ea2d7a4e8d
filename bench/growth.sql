-- Tables that have grown. As superuser.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: begin()
SET session_replication_role = replica;
SET synchronous_commit = off;
SET work_mem = '256MB';
CREATE SCHEMA grown;

-- name: number_wallets()
CREATE TABLE grown.wallets AS SELECT row_number() OVER () - 1 AS n, id FROM wallets;

-- name: index_wallets()
ALTER TABLE grown.wallets ADD PRIMARY KEY (n);

-- name: add_transactions(first, last, wallets)
-- Old spends, their two credit legs and the lot each took from; wallet by wallet in turn, below the numbers that new ones get.
WITH put AS (
  INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after, source,
                                   source_id, feature, metadata, idempotency_key, request_hash, batch_id, ord, occurred_at)
    SELECT uuidv7(), w.id, -(g / $3::bigint) - 1, 'spend', -3, 3, 1000, 997, 0, 'usage', 'old-' || g, 'chat.message',
           '{"model": "small", "tokens": 812}', 'bench:old/' || g, '\x68', '00000000-0000-7000-8000-000000000000', g, now() - interval '30 days'
      FROM generate_series($1::bigint, $2::bigint) g JOIN grown.wallets w ON w.n = g % $3::bigint
    RETURNING id, wallet_id
), legs AS (
  INSERT INTO ledger_entries (transaction_id, leg, account, wallet_id, amount)
    SELECT p.id, l.leg, l.account::ledger_account, CASE WHEN l.leg = 1 THEN p.wallet_id END, l.amount
      FROM put p CROSS JOIN (VALUES (1, 'wallet', 3), (2, 'credits_spent', -3)) AS l (leg, account, amount)
)
INSERT INTO lot_consumptions (transaction_id, lot_id, credits, recognised_paise) SELECT id, wallet_id, 3, 0 FROM put;

-- name: settle()
VACUUM (ANALYZE);

-- name: checkpoint()
CHECKPOINT;

-- name: size()
SELECT pg_database_size(current_database()) AS bytes, (SELECT count(*) FROM wallet_transactions) AS transactions,
       (SELECT count(*) FROM wallets) AS wallets;
