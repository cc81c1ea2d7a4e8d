-- What a bench finds when it begins: customers, wallets with three lots each, payments that await their webhook. As superuser.
-- Everything is as the functions would have left it, so every invariant holds; only the way there is shorter.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: begin()
-- Rows are consistent as they are: no trigger or foreign key need look at them one by one.
SET session_replication_role = replica;
SET synchronous_commit = off;
SET work_mem = '256MB';
CREATE SCHEMA bench;
CREATE TABLE bench.people (n integer, user_id uuid, wallet_id uuid);
CREATE TABLE bench.batches (n integer, id uuid);
CREATE TABLE bench.lots (n integer, seq integer, user_id uuid, wallet_id uuid, id uuid, payment_id uuid, credits bigint, amount bigint, before bigint,
                         taxable bigint, igst bigint, at timestamptz);

-- name: make_people(count)
-- Numbered from 1, the number is the rank by which the benches draw them.
INSERT INTO bench.people SELECT n, uuidv7(), uuidv7() FROM generate_series(1, $1::integer) n;

-- name: make_users()
-- They read what they are told in the app: there is no mail server in a bench, and mails that are only suppressed would be counted.
INSERT INTO users (id, external_id, name, email, phone, state_code, notification_preferences, request_hash)
  SELECT user_id, 'bench-' || n, 'Customer ' || n, 'customer' || n || '@example.com', '9999999999', '27', '{"email": false}', '\x01'
    FROM bench.people;

-- name: make_lots(at)
-- A promotion of 20 credits, a pack of 3,200, and one that lasts: spends cross from lot to lot and earn revenue.
INSERT INTO bench.lots
  SELECT p.n, k.seq, p.user_id, p.wallet_id, uuidv7() AS id, uuidv7() AS payment_id, k.credits, k.amount, k.before,
         k.amount - (k.amount * 18 + 59) / 118 AS taxable, (k.amount * 18 + 59) / 118 AS igst, $1::timestamptz AS at
    FROM bench.people p CROSS JOIN (VALUES (1, 20::bigint, 0::bigint, 0::bigint), (2, 3200, 30000, 20), (3, 10000000, 100000000, 3220))
         AS k (seq, credits, amount, before);

-- name: make_wallets()
INSERT INTO wallets (id, owner_id, available_credits, lifetime_purchased_credits, seq, request_hash)
  SELECT wallet_id, user_id, 10003220, 10003200, 3, '\x01' FROM bench.people;

-- name: put_lots()
INSERT INTO lots (id, wallet_id, transaction_id, payment_id, promotional, effective_at, granted_credits, base_credits, bonus_credits,
                  free_credits, taxable_paise, igst_paise)
  SELECT id, wallet_id, id, CASE WHEN amount > 0 THEN payment_id END, amount = 0, at, credits,
         CASE WHEN amount = 0 THEN 0 ELSE credits END, CASE WHEN amount = 0 THEN credits ELSE 0 END, credits, taxable, igst FROM bench.lots;

-- name: put_bought_payments()
INSERT INTO payments (id, user_id, wallet_id, order_id, amount, base_credits, bonus_credits, credits_granted, taxable_amount, cgst_amount,
                      sgst_amount, igst_amount, gst_amount, place_of_supply, status, webhook_verified, verified_at, credited_at, fraud_decided_at,
                      idempotency_key, request_hash, created_at)
  SELECT payment_id, user_id, wallet_id, 'before_' || n || '_' || seq, amount, credits, 0, credits, taxable, 0, 0, igst, igst, '27', 'credited',
         true, at, at, at, 'bench:before/' || n || '/' || seq, '\x01', at
    FROM bench.lots WHERE amount > 0;

-- name: put_transactions()
-- In batches of 3,000 rows, whose links follow.
INSERT INTO wallet_transactions (id, wallet_id, seq, transaction_type, credits, amount_credits, balance_before, balance_after, locked_after,
                                 source, source_id, idempotency_key, request_hash, batch_id, ord, occurred_at)
  SELECT l.id, l.wallet_id, l.seq, CASE WHEN l.amount > 0 THEN 'purchase' ELSE 'grant' END::transaction_kind, l.credits, l.credits, l.before,
         l.before + l.credits, 0, CASE WHEN l.amount > 0 THEN 'payment' ELSE 'welcome' END,
         CASE WHEN l.amount > 0 THEN l.payment_id ELSE l.id END::text, 'core:bench/' || l.id, '\x01', b.id, (l.n - 1) % 1000 * 3 + l.seq, l.at
    FROM bench.lots l JOIN bench.batches b ON b.n = (l.n - 1) / 1000;

-- name: make_batches(count)
INSERT INTO bench.batches SELECT n, uuidv7() FROM generate_series(0, ($1::integer - 1) / 1000) n;

-- name: put_entries()
INSERT INTO ledger_entries (transaction_id, leg, account, wallet_id, amount)
  SELECT l.id, row_number() OVER (PARTITION BY l.id ORDER BY e.leg), e.account::ledger_account, CASE WHEN e.account = 'wallet' THEN l.wallet_id END, e.amount
    FROM bench.lots l CROSS JOIN LATERAL (VALUES (1, 'gateway_clearing', l.amount), (2, 'igst_payable', -l.igst), (3, 'deferred_revenue', -l.taxable),
                                                 (4, 'credits_issued', l.credits), (5, 'wallet', -l.credits)) AS e (leg, account, amount)
   WHERE e.amount <> 0;

-- name: put_batches()
WITH legs AS (
  SELECT transaction_id, string_agg(account || ':' || amount, ',' ORDER BY leg) AS legs FROM ledger_entries GROUP BY transaction_id
), content AS (
  SELECT t.batch_id, count(*)::integer AS n, sha256(convert_to(string_agg(canonical_transaction(t.id, t.wallet_id, t.seq, t.transaction_type::text,
           t.credits, t.amount_credits, t.balance_after, t.locked_after, t.idempotency_key, t.request_hash, g.legs), '' ORDER BY t.ord), 'UTF8')) AS content
    FROM wallet_transactions t JOIN legs g ON g.transaction_id = t.id GROUP BY t.batch_id
)
INSERT INTO batches (id, topic, partition, consumer_group, batch_no, epoch, incarnation, from_offset, to_offset, n_records, posted, refused, existing,
                     conflict, parked, quarantined, content, link)
  SELECT b.id, 'load', 0, 'bench', b.n + 1, 0, 1, 0, 0, c.n, c.n, 0, 0, 0, 0, 0, c.content, '\x'
    FROM bench.batches b JOIN content c ON c.batch_id = b.id ORDER BY b.n;

-- name: link_batches()
DO $$
DECLARE
  b batches;
  v_link bytea := '\x';
BEGIN
  FOR b IN SELECT * FROM batches WHERE topic = 'load' ORDER BY batch_no LOOP
    v_link := batch_link(v_link, batch_line(b.id, b.topic, b.partition, b.consumer_group, b.batch_no, 0, 0, b.n_records, b.posted, 0, 0, 0, 0, 0, 0), b.content);
    UPDATE batches SET link = v_link WHERE id = b.id;
  END LOOP;
  INSERT INTO consumer_offsets (topic, partition, consumer_group, batch_no, link)
    SELECT 'load', 0, 'bench', max(batch_no), v_link FROM batches WHERE topic = 'load';
END $$;

-- name: put_open_payments(ranks, at, after)
-- Orders that the gateway knows and nobody has heard of yet: bench_<number>, a pack of 300 rupees for the wallet of that rank.
INSERT INTO payments (id, user_id, wallet_id, order_id, cashfree_order_id, payment_session_id, amount, base_credits, bonus_credits, credits_granted,
                      taxable_amount, cgst_amount, sgst_amount, igst_amount, gst_amount, place_of_supply, status, device_id, ip, idempotency_key,
                      request_hash, created_at)
  SELECT uuidv7(), p.user_id, p.wallet_id, 'bench_' || lpad(o.i::text, 8, '0'), (1000000000 + o.i)::text, 'session_' || o.i, 30000, 3000, 200, 3200,
         25423, 0, 0, 4577, 4577, '27', 'active', 'device-' || p.n, ('13.' || p.n / 65536 || '.' || p.n / 256 % 256 || '.' || p.n % 256)::inet,
         'bench:' || o.i, '\x01', $2::timestamptz
    FROM (SELECT r.rank, r.ord + $3::integer AS i FROM unnest($1::integer[]) WITH ORDINALITY AS r (rank, ord)) o JOIN bench.people p ON p.n = o.rank ORDER BY o.i;

-- name: put_windows()
INSERT INTO billing_windows (metric, resolution, dimension, window_start, count, credits, amount_paise, as_of_partition, as_of_offset)
  SELECT x.metric, r.resolution, x.dimension, r.starts, sum(x.n), sum(x.credits), sum(x.amount), 0, 0
    FROM (SELECT 'payments' AS metric, 'status=' || s.status AS dimension, y.created_at AS at, count(*) AS n, sum(credits_granted) AS credits, sum(amount) AS amount
            FROM payments y JOIN (VALUES ('created'), ('verified'), ('credited')) AS s (status) ON s.status = 'created' OR y.status = 'credited' GROUP BY 2, 3
          UNION ALL
          SELECT 'credits_granted', 'source=' || CASE WHEN amount > 0 THEN 'purchase' ELSE 'grant' END, at, count(*), sum(credits), sum(amount)
            FROM bench.lots GROUP BY 2, 3) x
   CROSS JOIN LATERAL (VALUES ('1m', date_trunc('minute', x.at)), ('1h', date_trunc('hour', x.at, 'UTC')), ('1d', date_trunc('day', x.at, 'Asia/Kolkata')))
           AS r (resolution, starts)
   GROUP BY 1, 2, 3, 4;

-- name: let_everybody_pass()
-- A bench's customers pay far more often than people do: the rules are evaluated, but hold nobody.
UPDATE fraud_rules SET threshold = 1000000000000;

-- name: settle()
VACUUM (ANALYZE);

-- name: wallet_ids(count)
SELECT wallet_id FROM bench.people WHERE n <= $1 ORDER BY n;
