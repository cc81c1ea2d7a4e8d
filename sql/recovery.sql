-- What the broker lost and how far groups are sent back; the archive's table of contents.

-- name: report_incident(topic, partition, kind, expected_offset, found_offset, detail)
SELECT report_incident($1, $2, $3, $4, $5, $6);

-- name: get_incidents(topic, limit_rows)
-- The newest first; of every topic where it is null.
SELECT id, topic, partition, kind, expected_offset, found_offset, detail, created_at FROM stream_incidents
 WHERE $1::text IS NULL OR topic = $1 ORDER BY id DESC LIMIT $2;

-- name: count_incidents()
-- Incidents of each kind, and on how many partitions something was truncated.
SELECT kind, count(*) AS n, count(DISTINCT topic || '/' || partition) AS partitions FROM stream_incidents GROUP BY kind ORDER BY kind;

-- name: now()
-- The database's clock: the only one that all workers share.
SELECT clock_timestamp();

-- name: mark_streams(topics, partitions, first_chunks, last_chunks, looked_at)
SELECT topic, partition, expected, found FROM mark_streams($1, $2, $3, $4, $5);

-- name: republish_partition(topic, partition, partition_count, consumer_group)
SELECT republish_partition($1, $2, $3, $4);

-- name: get_unapplied(consumer_group, age_s)
-- Partitions that have not applied a slice published so long ago.
SELECT DISTINCT o.dest_topic AS topic, o.dest_partition AS partition FROM outbox o
  LEFT JOIN producer_watermarks m ON m.topic = o.dest_topic AND m.partition = o.dest_partition AND m.consumer_group = $1
   AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition AND m.producer_group = o.producer_group
 WHERE o.published_at > '-infinity' AND o.published_at < now() - make_interval(secs => $2::double precision) AND o.batch_no > coalesce(m.last_batch_no, 0)
   AND EXISTS (SELECT FROM consumer_offsets c WHERE c.topic = o.dest_topic AND c.partition = o.dest_partition AND c.consumer_group = $1 AND c.epoch > 0);

-- name: get_unapplied_inbox(partition_count, age_s)
-- Partitions of inbox rows published so long ago and not closed; the oldest rows tell.
SELECT DISTINCT x.topic, partition_of(x.key, $1) AS partition
  FROM ((SELECT 'wallet.debit' AS topic, u.wallet_id::text AS key FROM usage_metering u
          WHERE u.closed_at IS NULL AND u.published_at < now() - make_interval(secs => $2::double precision) ORDER BY u.published_at LIMIT 200)
        UNION ALL
        (SELECT 'webhook.processing', coalesce(w.order_id, w.id::text) FROM payment_webhooks w
          WHERE w.closed_at IS NULL AND w.published_at < now() - make_interval(secs => $2::double precision) ORDER BY w.published_at LIMIT 200)) x;

-- name: find_unapplied_inbox(partition_count, topics, partitions, age_s)
SELECT topic, partition, events FROM find_unapplied_inbox($1, $2, $3, $4);

-- name: find_unapplied(consumer_group, topics, partitions, age_s)
SELECT topic, partition, slices FROM find_unapplied($1, $2, $3, $4);

-- name: get_all_positions(consumer_group)
-- Where every claimed partition stands, and under which epoch.
SELECT topic, partition, epoch, next_offset, last_digest, owner FROM consumer_offsets WHERE consumer_group = $1 AND epoch > 0 ORDER BY topic, partition;

-- name: rewind_partition(topic, partition, consumer_group, to_offset, actor, why)
SELECT rewind_partition($1, $2, $3, $4, $5, $6);

-- name: get_archived(topic, partition)
-- What of a partition lies in the archive, in order.
SELECT id, topic, partition, life, from_offset, to_offset, n_records, first_at, last_at, bytes, digest, last_digest, place FROM archive_segments
 WHERE topic = $1 AND partition = $2 ORDER BY life, from_offset;

-- name: get_archive_ends()
-- The last segment of every partition that has one.
SELECT DISTINCT ON (topic, partition) id, topic, partition, life, from_offset, to_offset, n_records, first_at, last_at, bytes, digest, last_digest, place
  FROM archive_segments ORDER BY topic ASC, partition ASC, life DESC, from_offset DESC;

-- name: record_archived(segment_id, topic, partition, life, from_offset, to_offset, n_records, first_at, last_at, bytes, digest, last_digest, place)
SELECT record_archived($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13);

-- name: tell_replayed(topic, partition, segments, records, actor, why)
SELECT tell_replayed($1, $2, $3, $4, $5, $6);
