-- Billing windows as the API serves them.

-- name: get_aggregates(metric, resolution, step_s, from_at, to_at, having_pairs, by_name, topic, consumer_group, limit_rows)
-- Windows of one metric in [from, to), summed into steps of step_s where that is coarser than the stored resolution, for the dimensions
-- that have all of having_pairs ('name=value'), broken down by one dimension's values or not at all; and, from the same snapshot,
-- the offset that each partition of the topic had committed.
WITH part AS (
  SELECT coalesce(date_bin(make_interval(secs => nullif($3, 0)), w.window_start, 'epoch'), w.window_start) AS starts,
         (regexp_match(',' || w.dimension || ',', ',' || $7::text || '=([^,]*),'))[1] AS value, w.count, w.credits, w.amount_paise
    FROM billing_windows w
   WHERE w.metric = $1 AND w.resolution = $2 AND w.window_start >= $4 AND w.window_start < $5
     AND string_to_array(w.dimension, ',') @> $6::text[]
), step AS (
  SELECT starts, value, sum(count)::bigint AS count, sum(credits)::bigint AS credits, sum(amount_paise)::bigint AS amount_paise
    FROM part GROUP BY starts, value ORDER BY starts, value LIMIT $10
)
SELECT (SELECT array_agg(s.starts ORDER BY s.starts, s.value) FROM step s) AS starts,
       (SELECT array_agg(s.value ORDER BY s.starts, s.value) FROM step s) AS dim_values,
       (SELECT array_agg(s.count ORDER BY s.starts, s.value) FROM step s) AS counts,
       (SELECT array_agg(s.credits ORDER BY s.starts, s.value) FROM step s) AS credits,
       (SELECT array_agg(s.amount_paise ORDER BY s.starts, s.value) FROM step s) AS amounts,
       (SELECT json_agg(json_build_array(o.partition, o.incarnation, o.last_offset) ORDER BY o.partition)
          FROM consumer_offsets o WHERE o.topic = $8 AND o.consumer_group = $9) AS positions;
