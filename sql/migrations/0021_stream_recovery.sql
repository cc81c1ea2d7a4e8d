-- migrate:up
-- What the broker lost, found and repaired; where groups are sent back to; what of the streams lies in the archive.
SET LOCAL ROLE core_owner;

-- Every time the broker's log was not what it should be, or a gap was mended. Only grows. Kinds:
--   reincarnated   offsets meant something else (a cut tail, reused offsets, a deleted stream): a group begins again
--   truncated      records were deleted before they were read: the partition halts, is published again, goes on
--   tail_lost      a stream ends before where it ended
--   gap_filled     a slice never came and was read from the outbox    slices_missing  nor was it there: the partition waits
--   unapplied      the outbox holds what its consumer, at the stream's end, has not applied: lost beyond it, published again
--   out_of_turn    a publisher's batch came whose predecessor never did: both are left to it, and come again in order
CREATE TABLE stream_incidents (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  kind text NOT NULL CHECK (kind IN ('reincarnated', 'truncated', 'tail_lost', 'gap_filled', 'slices_missing', 'unapplied', 'out_of_turn')),
  expected_offset bigint,
  found_offset bigint,
  detail text,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX stream_incidents_partition ON stream_incidents (topic, partition, id);
CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON stream_incidents FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON stream_incidents FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION report_incident(p_topic text, p_partition integer, p_kind text, p_expected bigint, p_found bigint, p_detail text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO stream_incidents (topic, partition, kind, expected_offset, found_offset, detail)
    VALUES (p_topic, p_partition, p_kind, p_expected, p_found, left(p_detail, 2000))
$$;

-- Where each stream was last seen to begin and end (first offset of its first and last chunk; -1: empty).
CREATE TABLE stream_marks (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  first_chunk bigint NOT NULL,
  last_chunk bigint NOT NULL,
  seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (topic, partition)
) WITH (fillfactor = 50);

-- Compare streams, as they were seen after p_looked, with what was seen of them before; a stream that ends earlier is an incident, once. Returns
-- those. What somebody else has seen since then stands: an answer that waited for the database is old.
CREATE FUNCTION mark_streams(p_topic text[], p_partition integer[], p_first bigint[], p_last bigint[], p_looked timestamptz)
RETURNS TABLE (topic text, partition integer, expected bigint, found bigint)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH seen AS (
    SELECT s.* FROM unnest(p_topic, p_partition, p_first, p_last) AS s (topic, partition, first, last)
     WHERE NOT EXISTS (SELECT FROM stream_marks m WHERE m.topic = s.topic AND m.partition = s.partition AND m.seen_at > p_looked)
  ), lost AS (
    SELECT s.topic, s.partition, m.last_chunk AS expected, s.last AS found FROM seen s JOIN stream_marks m USING (topic, partition) WHERE s.last < m.last_chunk
  ), told AS (
    INSERT INTO stream_incidents (topic, partition, kind, expected_offset, found_offset, detail)
      SELECT l.topic, l.partition, 'tail_lost', l.expected, l.found, 'the last chunk is an earlier one' FROM lost l
  ), kept AS (
    INSERT INTO stream_marks AS m SELECT s.topic, s.partition, s.first, s.last FROM seen s ORDER BY 1, 2
    ON CONFLICT (topic, partition) DO UPDATE SET first_chunk = excluded.first_chunk, last_chunk = excluded.last_chunk, seen_at = now()
  )
  SELECT topic, partition, expected, found FROM lost
$$;

-- Publish again at once what a partition's group has not applied: its unapplied slices, and the inbox rows of its keys without an outcome.
-- Returns how many rows.
CREATE FUNCTION republish_partition(p_topic text, p_partition integer, p_partitions integer, p_group text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_n integer;
  v_all integer := 0;
BEGIN
  UPDATE outbox o SET published_at = '-infinity'
   WHERE o.dest_topic = p_topic AND o.dest_partition = p_partition
     AND o.batch_no > coalesce((SELECT m.last_batch_no FROM producer_watermarks m WHERE m.topic = p_topic AND m.partition = p_partition
           AND m.consumer_group = p_group AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition
           AND m.producer_group = o.producer_group), 0);
  GET DIAGNOSTICS v_n = ROW_COUNT;
  v_all := v_all + v_n;
  IF p_topic = 'wallet.debit' THEN
    UPDATE usage_metering u SET published_at = NULL
     WHERE u.closed_at IS NULL AND u.published_at IS NOT NULL AND partition_of(u.wallet_id::text, p_partitions) = p_partition;
  ELSIF p_topic = 'webhook.processing' THEN
    UPDATE payment_webhooks w SET published_at = NULL
     WHERE w.closed_at IS NULL AND w.published_at IS NOT NULL AND partition_of(coalesce(w.order_id, w.id::text), p_partitions) = p_partition;
  ELSE RETURN v_all;
  END IF;
  GET DIAGNOSTICS v_n = ROW_COUNT;
  RETURN v_all + v_n;
END $$;

-- Slices that were published p_age_s ago, or longer, to a partition whose group stands at the stream's end (p_end of each) and has not applied
-- them: they are lost. They are published again at once. Returns the partitions, with the number of slices.
CREATE FUNCTION find_unapplied(p_group text, p_topic text[], p_partition integer[], p_age_s double precision)
RETURNS TABLE (topic text, partition integer, slices integer)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH lost AS (
    UPDATE outbox o SET published_at = '-infinity'
      FROM unnest(p_topic, p_partition) AS d (topic, partition)
     WHERE o.dest_topic = d.topic AND o.dest_partition = d.partition AND o.published_at > '-infinity'
       AND o.published_at < now() - make_interval(secs => p_age_s)
       AND o.batch_no > coalesce((SELECT m.last_batch_no FROM producer_watermarks m WHERE m.topic = o.dest_topic AND m.partition = o.dest_partition
             AND m.consumer_group = p_group AND m.producer_topic = o.producer_topic AND m.producer_partition = o.producer_partition
             AND m.producer_group = o.producer_group), 0)
    RETURNING o.dest_topic, o.dest_partition
  ), counted AS (
    SELECT dest_topic AS topic, dest_partition AS partition, count(*)::integer AS slices FROM lost GROUP BY 1, 2
  ), told AS (
    INSERT INTO stream_incidents (topic, partition, kind, detail) SELECT c.topic, c.partition, 'unapplied', c.slices || ' slices published again' FROM counted c)
  SELECT topic, partition, slices FROM counted
$$;

-- The same of inbox rows: published p_age_s ago and without any outcome, though their partition was read to its end. A wallet that has parked
-- items is left alone: its rows may be among them. p_partitions is how many a topic has.
CREATE FUNCTION find_unapplied_inbox(p_partitions integer, p_topic text[], p_partition integer[], p_age_s double precision)
RETURNS TABLE (topic text, partition integer, events integer)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH usage AS (
    UPDATE usage_metering u SET published_at = NULL
     WHERE u.closed_at IS NULL AND u.published_at < now() - make_interval(secs => p_age_s)
       AND EXISTS (SELECT FROM unnest(p_topic, p_partition) d (topic, partition)
                    WHERE d.topic = 'wallet.debit' AND d.partition = partition_of(u.wallet_id::text, p_partitions))
       AND NOT EXISTS (SELECT FROM retries r WHERE r.topic = 'wallet.debit' AND r.key = u.wallet_id::text AND r.state IN ('due', 'dead'))
       AND NOT EXISTS (SELECT FROM wallet_transactions t WHERE t.idempotency_key = u.idempotency_key)
       AND NOT EXISTS (SELECT FROM refusals t WHERE t.idempotency_key = u.idempotency_key)
       AND NOT EXISTS (SELECT FROM quarantine t WHERE t.idempotency_key = u.idempotency_key)
    RETURNING 'wallet.debit' AS topic, partition_of(u.wallet_id::text, p_partitions) AS partition
  ), webhooks AS (
    UPDATE payment_webhooks w SET published_at = NULL
     WHERE w.closed_at IS NULL AND w.published_at < now() - make_interval(secs => p_age_s)
       AND EXISTS (SELECT FROM unnest(p_topic, p_partition) d (topic, partition)
                    WHERE d.topic = 'webhook.processing' AND d.partition = partition_of(coalesce(w.order_id, w.id::text), p_partitions))
       AND NOT EXISTS (SELECT FROM retries r WHERE r.topic = 'webhook.processing' AND r.key = coalesce(w.order_id, w.id::text) AND r.state IN ('due', 'dead'))
    RETURNING 'webhook.processing' AS topic, partition_of(coalesce(w.order_id, w.id::text), p_partitions) AS partition
  ), counted AS (
    SELECT x.topic, x.partition, count(*)::integer AS events FROM (SELECT * FROM usage UNION ALL SELECT * FROM webhooks) x GROUP BY 1, 2
  ), told AS (
    INSERT INTO stream_incidents (topic, partition, kind, detail) SELECT c.topic, c.partition, 'unapplied', c.events || ' events published again' FROM counted c)
  SELECT topic, partition, events FROM counted
$$;

-- Send a group back to an earlier offset of a partition: a new incarnation, since offsets only rise within one. Its owner is fenced and claims
-- anew. Returns whether it moved; never forward, which would skip records.
CREATE FUNCTION rewind_partition(p_topic text, p_partition integer, p_group text, p_offset bigint, p_actor text, p_why text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH moved AS (
    UPDATE consumer_offsets o
       SET epoch = o.epoch + 1, incarnation = o.incarnation + 1, next_offset = p_offset, last_offset = NULL, last_digest = NULL
     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group AND o.epoch > 0 AND p_offset BETWEEN 0 AND o.next_offset
    RETURNING old.next_offset AS was
  ), told AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
      SELECT p_actor, 'queue.rewind', 'partition', p_topic || '-' || p_partition,
             jsonb_build_object('why', p_why, 'group', p_group, 'from', m.was, 'to', p_offset) FROM moved m)
  SELECT EXISTS (SELECT FROM moved)
$$;

-- Stretches of partitions that lie in the archive, in order and without overlap within an incarnation of the stream.
CREATE TABLE archive_segments (
  id uuid PRIMARY KEY,
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  life integer NOT NULL,                                -- raised when the stream's offsets began anew
  from_offset bigint NOT NULL,
  to_offset bigint NOT NULL,                            -- exclusive
  n_records bigint NOT NULL,
  first_at timestamptz NOT NULL,                        -- when the broker stored the first and the last record
  last_at timestamptz NOT NULL,
  bytes bigint NOT NULL,
  digest bytea NOT NULL,                                -- SHA-256 of the file
  last_digest bytea NOT NULL,                           -- of the last record: tells a reused offset
  place text NOT NULL UNIQUE,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (topic, partition, life, from_offset),
  CHECK (to_offset > from_offset)
);
CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON archive_segments FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON archive_segments FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION record_archived(p_id uuid, p_topic text, p_partition integer, p_life integer, p_from bigint, p_to bigint, p_n bigint, p_first timestamptz,
  p_last timestamptz, p_bytes bigint, p_digest bytea, p_last_digest bytea, p_place text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO archive_segments VALUES (p_id, p_topic, p_partition, p_life, p_from, p_to, p_n, p_first, p_last, p_bytes, p_digest, p_last_digest, p_place)
$$;

-- A person published archived records again.
CREATE FUNCTION tell_replayed(p_topic text, p_partition integer, p_segments integer, p_records bigint, p_actor text, p_why text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  INSERT INTO audit_logs (actor, action, object_kind, object_id, detail)
    VALUES (p_actor, 'archive.replay', 'partition', p_topic || '-' || p_partition,
            jsonb_build_object('why', p_why, 'segments', p_segments, 'records', p_records))
$$;

-- The invariants, asked of what was added since the last time: how far each chain was checked, and what came of it.
CREATE TABLE checked_heads (
  topic text COLLATE "C" NOT NULL,
  partition integer NOT NULL,
  consumer_group text COLLATE "C" NOT NULL,
  batch_no bigint NOT NULL,
  PRIMARY KEY (topic, partition, consumer_group)
) WITH (fillfactor = 50);
CREATE TABLE invariant_runs (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  scope text NOT NULL CHECK (scope IN ('new', 'all')),  -- what was added since the last run, or everything
  holder text NOT NULL,
  batches bigint NOT NULL,                              -- checked in this run
  behind bigint NOT NULL,                               -- committed and not yet checked when it began
  violated text[] NOT NULL,                             -- found in this run, or before and still nobody's settled case
  detail jsonb NOT NULL,                                -- {"<invariant>": [rows]}
  took_s double precision NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX invariant_runs_full ON invariant_runs (created_at) WHERE scope = 'all';

-- The rows of a batch, found again by its id: ids rise with time as the rows do, so a summary of pages is enough and costs the writers nothing.
CREATE INDEX wallet_transactions_batch ON wallet_transactions USING brin (batch_id) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX refusals_batch ON refusals USING brin (batch_id) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX quarantine_batch ON quarantine USING brin (batch_id) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX journal_batch ON journal_entries USING brin (batch_id) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX invoices_batch ON invoices USING brin (batch_id) WITH (pages_per_range = 32, autosummarize = on);

-- Record a run and move the watermarks. A violation becomes a case (kind invariant, one per invariant) and is told in every run until a person
-- has resolved that. Keeps the last thousand runs, and those that found something.
CREATE FUNCTION record_check(p_scope text, p_holder text, p_batches bigint, p_behind bigint, p_violated text[], p_detail jsonb, p_took_s double precision,
  p_topic text[], p_partition integer[], p_group text[], p_batch_no bigint[]) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_id bigint;
BEGIN
  INSERT INTO checked_heads AS h SELECT * FROM unnest(p_topic, p_partition, p_group, p_batch_no)
  ON CONFLICT (topic, partition, consumer_group) DO UPDATE SET batch_no = greatest(h.batch_no, excluded.batch_no);
  PERFORM open_case('invariant', v, '{"rows": 0}', jsonb_build_object('rows', p_detail -> v)) FROM unnest(p_violated) v;
  INSERT INTO invariant_runs (scope, holder, batches, behind, violated, detail, took_s)
    VALUES (p_scope, p_holder, p_batches, p_behind,
            ARRAY(SELECT v FROM unnest(p_violated) v UNION SELECT c.subject FROM reconciliation_cases c WHERE c.kind = 'invariant' AND c.state = 'open'),
            p_detail, p_took_s) RETURNING id INTO v_id;
  DELETE FROM invariant_runs WHERE id = v_id - 1000 AND detail = '{}' AND scope = 'new';
  RETURN v_id;
END $$;

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['stream_incidents', 'stream_marks', 'archive_segments', 'checked_heads', 'invariant_runs'] LOOP
    EXECUTE format('GRANT SELECT ON %I TO core_readonly', t);
  END LOOP;
END $$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
