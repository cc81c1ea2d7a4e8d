-- What the judge compares the client's log with. Read-only.

-- name: posted_usage()
-- Every debit of usage in the books, in the order of its wallet.
SELECT source_id AS id, wallet_id, amount_credits, seq FROM wallet_transactions
 WHERE source = 'usage' AND transaction_type = 'spend' ORDER BY wallet_id, seq;

-- name: refused_usage()
SELECT DISTINCT split_part(idempotency_key, ':', 2) AS id FROM refusals;

-- name: undecidable_usage()
-- Conflicts and what was refused entry; parked items that will be decided.
SELECT split_part(idempotency_key, ':', 2) AS id, reason FROM quarantine WHERE idempotency_key IS NOT NULL;

-- name: parked_usage()
SELECT payload ->> 'source_id' AS id FROM retries WHERE state <> 'done' AND topic = 'wallet.debit';

-- name: wallets()
-- Balance of each wallet, and the worst moment of its life.
SELECT w.id, w.available_credits, w.locked_credits,
       least(w.available_credits, w.locked_credits, coalesce((SELECT min(t.balance_after) FROM wallet_transactions t WHERE t.wallet_id = w.id), 0)) AS lowest
  FROM wallets w;

-- name: payments()
-- Every payment with what was posted for it.
SELECT p.id, p.order_id, p.wallet_id, p.status, p.amount, count(t.id) AS purchases, coalesce(sum(t.amount_credits), 0)::bigint AS posted_credits,
       EXISTS (SELECT FROM verifications v WHERE v.payment_id = p.id AND v.state = 'due' AND v.next_at > now() + interval '1 minute') AS asked_later
  FROM payments p LEFT JOIN wallet_transactions t ON t.source = 'payment' AND t.source_id = p.id::text AND t.transaction_type = 'purchase'
 GROUP BY p.id;

-- name: refunds()
SELECT r.refund_id, p.order_id, p.wallet_id, r.amount, r.status
  FROM refunds r JOIN payments p ON p.id = r.payment_id ORDER BY r.created_at;

-- name: open_work()
-- What is on its way, by kind: all zero once the system is drained.
SELECT (SELECT count(*) FROM usage_metering WHERE closed_at IS NULL) AS usage,
       (SELECT count(*) FROM payment_webhooks WHERE closed_at IS NULL) AS webhooks,
       (SELECT count(*) FROM verifications WHERE state = 'due' AND next_at < now() + interval '30 seconds') AS verifications,
       (SELECT count(*) FROM payments y WHERE y.unpaid AND (y.status <> 'failed' OR y.cashfree_order_id IS NOT NULL)
           AND NOT EXISTS (SELECT FROM verifications v WHERE v.payment_id = y.id)) AS payments_unasked,
       (SELECT count(*) FROM fraud_checks WHERE open) AS fraud_checks,
       (SELECT count(*) FROM retries WHERE state = 'due') AS retries,
       (SELECT count(*) FROM payments WHERE status = 'verified') AS verified,
       (SELECT count(*) FROM refunds WHERE status IN ('requested', 'due', 'pending')) AS refunds;

-- name: open_slices(consumer_group)
-- What a consuming partition has not applied of what its producers emitted for it.
SELECT o.dest_topic || '-' || o.dest_partition || ' of ' || o.producer_topic || '-' || o.producer_partition AS way, count(*) AS slices,
       min(o.batch_no) AS first, max(m.last_batch_no) AS applied
  FROM outbox o LEFT JOIN producer_watermarks m
    ON (m.topic, m.partition, m.producer_topic, m.producer_partition, m.producer_group, m.consumer_group)
     = (o.dest_topic, o.dest_partition, o.producer_topic, o.producer_partition, o.producer_group, $1)
 WHERE o.batch_no > coalesce(m.last_batch_no, 0)
   AND EXISTS (SELECT FROM consumer_offsets c WHERE c.topic = o.dest_topic AND c.consumer_group = $1 AND c.epoch > 0)
 GROUP BY way ORDER BY way;

-- name: positions(consumer_group)
-- Where each partition that is consumed stands.
SELECT topic, partition, epoch, incarnation, next_offset, owner FROM consumer_offsets WHERE consumer_group = $1 AND epoch > 0 ORDER BY topic, partition;

-- name: incidents()
SELECT topic, partition, count(*) AS incidents FROM stream_incidents GROUP BY topic, partition;
