-- The inbox of webhooks: what the gateway told us, before anybody acts on it.

-- name: insert_webhooks(ids, business_keys, kinds, event_types, order_ids, payment_ids, refund_ids, statuses, payment_groups, methods, instruments, amounts, currencies, occurred, versions, stale, source_ips, bodies)
-- Store verified webhooks as one set; says per item whether it is new or a replay.
SELECT insert_webhooks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18);

-- name: take_webhooks(limit_rows, stale_s)
-- What waits to be published, or was published stale_s ago and has no outcome yet.
SELECT id, event_type, order_id, cashfree_payment_id, refund_id, status, version, received_at FROM take_webhooks($1, $2);

-- name: get_refunds(refund_ids)
-- The payments of those refunds that are ours.
SELECT refund_id, payment_id FROM refunds WHERE refund_id = ANY ($1::text[]);

-- name: commit_webhooks(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, inbox_ids, order_ids, signals, payment_partitions, refund_partitions, offsets)
-- Close inbox rows with what follows from them.
SELECT * FROM commit_webhooks($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17);
