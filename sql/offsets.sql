-- Who owns a partition and how far it has come.

-- name: claim_partitions(topic, consumer_group, owner, partitions)
-- Take partitions over under a higher epoch.
SELECT partition, epoch, incarnation, next_offset, last_offset, last_digest FROM claim_partitions($1, $2, $3, $4);

-- name: reincarnate_partition(topic, partition, consumer_group, epoch, first_offset)
-- The broker lost or reused offsets: begin again. No row: fenced.
SELECT epoch, incarnation, next_offset FROM reincarnate_partition($1, $2, $3, $4, $5);

-- name: get_watermarks(topic, partition, consumer_group)
-- The last batch of each producer applied here.
SELECT producer_topic, producer_partition, producer_group, last_batch_no
  FROM producer_watermarks WHERE topic = $1 AND partition = $2 AND consumer_group = $3;

-- name: get_missing_slices(dest_topic, dest_partition, producer_topic, producer_partition, producer_group, after, up_to)
-- What a producer emitted for a destination between two batches, exclusive and inclusive, in order.
SELECT batch_no, prev_batch_no, incarnation, events FROM outbox
 WHERE dest_topic = $1 AND dest_partition = $2 AND producer_topic = $3 AND producer_partition = $4 AND producer_group = $5
   AND batch_no > $6 AND batch_no <= $7 ORDER BY batch_no;

-- name: get_batch_outbox(topic, partition, consumer_group, to_offset)
-- What a committed batch emitted, found by where it ended: for an answer that was lost.
SELECT b.batch_no, b.incarnation, o.dest_topic, o.dest_partition, o.prev_batch_no, o.events
  FROM batches b LEFT JOIN outbox o ON o.producer_topic = b.topic AND o.producer_partition = b.partition
   AND o.producer_group = b.consumer_group AND o.batch_no = b.batch_no
 WHERE b.topic = $1 AND b.partition = $2 AND b.consumer_group = $3 AND b.to_offset = $4
   AND b.batch_no = (SELECT batch_no FROM consumer_offsets WHERE topic = $1 AND partition = $2 AND consumer_group = $3);

-- name: get_positions(topic, consumer_group)
-- Where every partition of a topic that was ever claimed stands.
SELECT partition, next_offset FROM consumer_offsets WHERE topic = $1 AND consumer_group = $2;
