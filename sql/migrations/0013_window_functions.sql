-- migrate:up
-- Billing aggregates: deltas folded into tumbling windows, in the transaction that moves the offset. No clock is read:
-- a replay folds the same, a late delta amends the window it belongs to.
SET LOCAL ROLE core_owner;

-- d_*: parallel arrays, one per delta; d_dimension is canonical ('k=v' joined by ',' in key order), d_minute a whole minute.
CREATE FUNCTION commit_windows(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, p_records integer,
  d_metric text[], d_dimension text[], d_minute timestamptz[], d_count bigint[], d_credits bigint[], d_amount bigint[],
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_link bytea;
  v_bad integer;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  INSERT INTO billing_windows AS w (metric, resolution, dimension, window_start, count, credits, amount_paise, as_of_partition, as_of_offset)
    SELECT d.metric, r.resolution, d.dimension, r.starts, sum(d.count), sum(d.credits), sum(d.amount), p_partition, p_last_offset
      FROM unnest(d_metric, d_dimension, d_minute, d_count, d_credits, d_amount) AS d (metric, dimension, minute, count, credits, amount)
     CROSS JOIN LATERAL (VALUES ('1m', d.minute), ('1h', date_trunc('hour', d.minute, 'UTC')),
                                ('1d', date_trunc('day', d.minute, 'Asia/Kolkata'))) AS r (resolution, starts)
     GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 4, 3
  ON CONFLICT (metric, resolution, window_start, dimension) DO UPDATE
    SET count = w.count + excluded.count, credits = w.credits + excluded.credits, amount_paise = w.amount_paise + excluded.amount_paise,
        as_of_partition = excluded.as_of_partition, as_of_offset = excluded.as_of_offset, updated_at = now();
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_batch(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link,
    concat_ws('|', array_to_string(d_metric, ','), array_to_string(d_count, ','), array_to_string(d_credits, ','), array_to_string(d_amount, ',')),
    p_records + v_bad + v_dropped, p_records, 0, v_dropped, 0, 0, v_bad, 0);
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
