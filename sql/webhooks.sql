-- The inbox of webhooks: what the gateway told us, before anybody acts on it.

-- name: insert_webhooks(ids, business_keys, kinds, event_types, order_ids, payment_ids, refund_ids, statuses, payment_groups, methods, instruments, amounts, offers, discounts, currencies, occurred, versions, stale, source_ips, bodies, traceparents)
-- Store verified webhooks as one set; says per item whether it is new or a replay.
SELECT insert_webhooks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21);

-- name: take_webhooks(limit_rows, stale_s)
-- What waits to be published, or was published stale_s ago and has no outcome yet.
SELECT id, event_type, order_id, cashfree_payment_id, refund_id, status, version, received_at, traceparent FROM take_webhooks($1, $2);

-- name: get_traceparents(order_ids)
-- Which of these orders are traced, and as what: of each the first success that was heard.
SELECT DISTINCT ON (order_id) order_id, traceparent FROM payment_webhooks
 WHERE order_id = ANY ($1::text[]) AND traceparent IS NOT NULL ORDER BY order_id, status <> 'SUCCESS', id;

-- name: get_payment_traceparents(payment_ids)
-- The same by payment.
SELECT DISTINCT ON (y.id) y.id, w.traceparent FROM payments y
  JOIN payment_webhooks w ON w.order_id = y.order_id AND w.traceparent IS NOT NULL
 WHERE y.id = ANY ($1::uuid[]) ORDER BY y.id, w.status <> 'SUCCESS', w.id;

-- name: get_shown(from_at, consumer_group)
-- Traced payments heard of since, credited, whose credit the billing windows contain: what a dashboard shows now.
SELECT y.id, y.credited_at, w.traceparent
  FROM payment_webhooks w
  JOIN payments y ON y.order_id = w.order_id AND y.credited_at IS NOT NULL
 WHERE w.traceparent IS NOT NULL AND w.created_at >= $1 AND w.status = 'SUCCESS'
   AND EXISTS (SELECT FROM wallet_transactions t JOIN batches b ON b.id = t.batch_id
                WHERE t.source = 'payment' AND t.source_id = y.id::text
                  AND NOT EXISTS (SELECT FROM outbox o
                                   LEFT JOIN producer_watermarks m ON m.topic = o.dest_topic AND m.partition = o.dest_partition
                                    AND m.consumer_group = $2 AND m.producer_topic = o.producer_topic
                                    AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group
                                  WHERE o.dest_topic = 'analytics.billing' AND o.producer_topic = b.topic AND o.producer_partition = b.partition
                                    AND o.producer_group = b.consumer_group AND o.batch_no = b.batch_no
                                    AND o.batch_no > coalesce(m.last_batch_no, 0)));

-- name: get_refunds(refund_ids)
-- The payments of those refunds that are ours.
SELECT refund_id, payment_id FROM refunds WHERE refund_id = ANY ($1::text[]);

-- name: commit_webhooks(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, inbox_ids, order_ids, signals, payment_partitions, refund_partitions, offsets, partitions)
-- Close inbox rows with what follows from them.
SELECT * FROM commit_webhooks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);
