-- Velocity: the windows of entities, the fan-in of their counts, the decision.

-- name: get_windows(kinds, entities)
-- The window rows of these entities, where there are any.
SELECT f.entity_kind, f.entity, f.buckets, f.last_at, f.as_of_partition, f.as_of_offset
  FROM unnest($1::text[], $2::text[]) AS e (kind, entity) JOIN fraud_windows f ON f.entity_kind = e.kind AND f.entity = e.entity;

-- name: get_partition_windows(partition, limit_rows)
-- The window rows that this partition wrote last, newest first.
SELECT entity_kind, entity, buckets, last_at, as_of_partition, as_of_offset
  FROM fraud_windows WHERE as_of_partition = $1 ORDER BY last_at DESC LIMIT $2;

-- name: get_open_checks(payment_ids)
-- Entities of these payments that have not answered.
SELECT c.payment_id, e.kind, e.entity, c.amount, c.occurred_at
  FROM fraud_checks c CROSS JOIN LATERAL unnest(entity_kinds(), c.entities) WITH ORDINALITY AS e (kind, entity, n)
 WHERE c.payment_id = ANY ($1::uuid[]) AND e.entity IS NOT NULL AND c.counts[6 * e.n] IS NULL;

-- name: commit_fraud(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, payment_ids, kinds, entities, amounts, occurred, offsets, folded, counts, window_kinds, window_entities, window_buckets, window_last_at, window_partitions, window_offsets, held_partition, partitions)
-- Counts, windows and whatever decision they complete, with the offset.
SELECT * FROM commit_fraud($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27);

-- name: decide_overdue(batch_id, shard, limit_rows, age_s, hold_s, held_partition, partitions)
-- Decide without the entities that did not answer in time.
SELECT * FROM decide_overdue($1, $2, $3, $4, $5, $6, $7);

-- name: review_payment(batch_id, shard, payment_id, verdict, actor, rejected_partition, why)
-- A person's word about a held payment.
SELECT r_outcome FROM review_payment($1, $2, $3, $4, $5, $6, $7);

-- name: purge_fraud_windows(limit_rows)
SELECT purge_fraud_windows($1);
