-- migrate:up
-- Settlements that the gateway's webhook tells of: made due as soon as they are heard of.
SET LOCAL ROLE core_owner;

-- settlements.processing: the gateway has settled, says its webhook. With the offset, the settlement gets its header, and the reconciliation that
-- fetches, posts and compares its lines is due now instead of next night. Outcomes: posted | exists (its totals are known: it was fetched) |
-- quarantined (no such webhook lies in the inbox).
CREATE FUNCTION commit_settlements(
  p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb, s_id text[], s_inbox uuid[], s_offset bigint[],
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_link bytea;
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_bad integer;
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  SELECT array_agg(CASE WHEN w.id IS NULL THEN 'quarantined' WHEN g.net_paise IS NOT NULL OR e.nth > 1 THEN 'exists' ELSE 'posted' END ORDER BY e.ord)
    INTO r_outcome
    FROM (SELECT x.*, row_number() OVER (PARTITION BY x.id ORDER BY x.ord) AS nth FROM unnest(s_id, s_inbox) WITH ORDINALITY AS x (id, inbox, ord)) e
    LEFT JOIN payment_webhooks w ON w.id = e.inbox AND w.kind = 'settlement' AND settlement_of(w.business_key) = e.id
    LEFT JOIN gateway_settlements g ON g.id = e.id;
  INSERT INTO gateway_settlements (id)
    SELECT e.id FROM unnest(s_id, r_outcome) AS e (id, outcome) WHERE e.outcome = 'posted' ORDER BY e.id ON CONFLICT (id) DO NOTHING;
  IF 'posted' = ANY (r_outcome) THEN
    UPDATE recon_jobs SET next_at = least(next_at, now()) WHERE job = 'reconcile';
  END IF;
  INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
    SELECT p_topic, p_partition, r_incarnation, e.source_offset, 'unknown_settlement',
           convert_to(jsonb_build_object('settlement_id', e.id, 'inbox_id', e.inbox)::text, 'UTF8'), p_batch_id
      FROM unnest(s_id, s_inbox, s_offset, r_outcome) AS e (id, inbox, source_offset, outcome) WHERE e.outcome = 'quarantined';
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link, '', r_outcome, v_bad, v_dropped);
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
