-- migrate:up
-- The frame of every batch: claim a partition, begin (fence, offset, watermarks), emit what follows, finish (counts, chain).
-- What a program may call is SECURITY DEFINER with a fixed search path; the rest runs only inside those.
SET LOCAL ROLE core_owner;

-- Take over partitions: a higher epoch fences whoever owned them. Returns where to resume.
CREATE FUNCTION claim_partitions(p_topic text, p_group text, p_owner text, p_partitions integer[])
RETURNS TABLE (partition integer, epoch bigint, incarnation integer, next_offset bigint, last_offset bigint, last_digest bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  INSERT INTO consumer_offsets (topic, partition, consumer_group)
    SELECT p_topic, x, p_group FROM unnest(p_partitions) x ORDER BY x ON CONFLICT DO NOTHING;
  PERFORM FROM consumer_offsets o WHERE o.topic = p_topic AND o.consumer_group = p_group AND o.partition = ANY (p_partitions)
    ORDER BY o.partition FOR UPDATE;
  RETURN QUERY
    UPDATE consumer_offsets o SET epoch = o.epoch + 1, owner = p_owner, claimed_at = now()
     WHERE o.topic = p_topic AND o.consumer_group = p_group AND o.partition = ANY (p_partitions)
    RETURNING o.partition, o.epoch, o.incarnation, o.next_offset, o.last_offset, o.last_digest;
END $$;

-- The broker lost or reused offsets: begin again from its first one. Idempotency makes the replay safe.
CREATE FUNCTION reincarnate_partition(p_topic text, p_partition integer, p_group text, p_epoch bigint, p_first_offset bigint)
RETURNS TABLE (epoch bigint, incarnation integer, next_offset bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM report_incident(o.topic, o.partition, 'reincarnated', o.next_offset, p_first_offset, 'incarnation ' || o.incarnation || ' is over')
     FROM consumer_offsets o WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group AND o.epoch = p_epoch;
  RETURN QUERY
    UPDATE consumer_offsets o
       SET epoch = o.epoch + 1, incarnation = o.incarnation + 1, next_offset = p_first_offset, last_offset = NULL, last_digest = NULL
     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group AND o.epoch = p_epoch
    RETURNING o.epoch, o.incarnation, o.next_offset;
END $$;

-- A chain that consumes no partition: API calls, the verifier, retries. Called after the wallets are locked.
CREATE FUNCTION begin_chain(p_topic text, p_partition integer, p_group text, OUT batch_no bigint, OUT link bytea, OUT incarnation integer)
LANGUAGE sql AS $$
  INSERT INTO consumer_offsets AS o (topic, partition, consumer_group, batch_no) VALUES (p_topic, p_partition, p_group, 1)
  ON CONFLICT (topic, partition, consumer_group) DO UPDATE SET batch_no = o.batch_no + 1, updated_at = now()
  RETURNING o.batch_no, o.link, o.incarnation
$$;

-- Move the offset under our epoch, or learn why not. p_progress:
--   {"watermarks": [[topic, partition, group, expected, last], ...],   producers' batches applied by this batch
--    "sessions": [[publisher, session, low, high], ...],               runs of publishers' sequence numbers
--    "parked": [[offset, key, payload, reason, error, delay_s], ...],  events that wait for a later turn, see park_events
--    "retry": [[id, attempt], ...]}                                    parked events that this batch decides: the offset stays
-- Errors: LG001 fenced (another owner claimed it), LG002 already committed (our own lost answer), LG003 watermark moved.
CREATE FUNCTION begin_batch(p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, OUT batch_no bigint, OUT link bytea, OUT incarnation integer)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  v consumer_offsets;
  v_run jsonb;
BEGIN
  IF p_progress ? 'retry' THEN
    UPDATE consumer_offsets o SET batch_no = o.batch_no + 1, updated_at = now()
     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group AND o.epoch = p_epoch AND o.next_offset = p_from
    RETURNING o.batch_no, o.link, o.incarnation INTO batch_no, link, incarnation;
    IF NOT FOUND THEN RAISE EXCEPTION 'fenced: %/% epoch %', p_topic, p_partition, p_epoch USING ERRCODE = 'LG001'; END IF;
    PERFORM finish_retries(p_progress -> 'retry');
    RETURN;
  END IF;
  LOOP
    UPDATE consumer_offsets o
       SET next_offset = p_to, last_offset = p_last_offset, last_digest = p_last_digest, batch_no = o.batch_no + 1, updated_at = now()
     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group AND o.epoch = p_epoch AND o.next_offset = p_from
    RETURNING o.batch_no, o.link, o.incarnation INTO batch_no, link, incarnation;
    EXIT WHEN FOUND;
    -- The row may have moved between our snapshot and its lock: read it again before concluding anything.
    SELECT * INTO v FROM consumer_offsets o
     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group FOR UPDATE;
    IF v.epoch IS DISTINCT FROM p_epoch THEN
      RAISE EXCEPTION 'fenced: %/% epoch % is now %', p_topic, p_partition, p_epoch, v.epoch USING ERRCODE = 'LG001';
    ELSIF v.next_offset >= p_to THEN
      RAISE EXCEPTION 'already committed: %/% to %', p_topic, p_partition, v.next_offset USING ERRCODE = 'LG002';
    ELSIF v.next_offset <> p_from THEN
      RAISE EXCEPTION 'fenced: %/% is at %, not %', p_topic, p_partition, v.next_offset, p_from USING ERRCODE = 'LG001';
    END IF;
  END LOOP;
  IF p_progress IS NULL THEN RETURN; END IF;
  IF p_progress ? 'parked' THEN PERFORM park_events(p_topic, p_partition, incarnation, p_progress -> 'parked'); END IF;

  IF EXISTS (
    SELECT FROM jsonb_array_elements(p_progress -> 'watermarks') w
      LEFT JOIN producer_watermarks m ON m.topic = p_topic AND m.partition = p_partition AND m.consumer_group = p_group
       AND m.producer_topic = w ->> 0 AND m.producer_partition = (w ->> 1)::integer AND m.producer_group = w ->> 2
     WHERE coalesce(m.last_batch_no, 0) <> (w ->> 3)::bigint) THEN
    RAISE EXCEPTION 'watermark moved: %/%', p_topic, p_partition USING ERRCODE = 'LG003';
  END IF;
  INSERT INTO producer_watermarks AS m
    SELECT p_topic, p_partition, p_group, w ->> 0, (w ->> 1)::integer, w ->> 2, (w ->> 4)::bigint
      FROM jsonb_array_elements(p_progress -> 'watermarks') w
  ON CONFLICT (topic, partition, consumer_group, producer_topic, producer_partition, producer_group)
    DO UPDATE SET last_batch_no = excluded.last_batch_no;

  IF jsonb_array_length(p_progress -> 'sessions') = 0 THEN RETURN; END IF;
  FOR v_run IN SELECT r FROM jsonb_array_elements(p_progress -> 'sessions') r ORDER BY r ->> 0, r ->> 1, (r ->> 2)::bigint LOOP
    INSERT INTO publisher_watermarks AS m (publisher, session, topic, partition, covered_seq)
      SELECT v_run ->> 0, (v_run ->> 1)::uuid, p_topic, p_partition, CASE WHEN (v_run ->> 2)::bigint <= 1 THEN (v_run ->> 3)::bigint ELSE 0 END
    ON CONFLICT (publisher, session, topic, partition) DO UPDATE SET covered_seq = (v_run ->> 3)::bigint, updated_at = now()
      WHERE m.covered_seq + 1 >= (v_run ->> 2)::bigint AND m.covered_seq < (v_run ->> 3)::bigint;
  END LOOP;
END $$;

-- The partition of a key, as streams.topics has it: murmur3_x86_32 (seed 104729), unsigned, modulo the number of partitions.
-- For the rare event whose key only the database knows; 32-bit products are taken in halves, so that a bigint holds them.
CREATE FUNCTION partition_of(p_key text, p_partitions integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
  c_mask CONSTANT bigint := 4294967295;
  v_bytes CONSTANT bytea := convert_to(p_key, 'UTF8');
  v_n CONSTANT integer := length(v_bytes);
  v_h bigint := 104729;
  v_k bigint;
BEGIN
  FOR i IN 0 .. (v_n + 3) / 4 - 1 LOOP
    v_k := 0;
    FOR j IN REVERSE least(3, v_n - 4 * i - 1) .. 0 LOOP v_k := v_k * 256 + get_byte(v_bytes, 4 * i + j); END LOOP;
    v_k := (v_k * 11601 + ((v_k * 52382 & 65535) << 16)) & c_mask;                    -- * 0xcc9e2d51
    v_k := ((v_k << 15) | (v_k >> 17)) & c_mask;
    v_k := (v_k * 13715 + ((v_k * 7047 & 65535) << 16)) & c_mask;                     -- * 0x1b873593
    v_h := v_h # v_k;
    CONTINUE WHEN 4 * i + 4 > v_n;
    v_h := ((v_h << 13) | (v_h >> 19)) & c_mask;
    v_h := (v_h * 5 + 3864292196) & c_mask;
  END LOOP;
  v_h := v_h # v_n;
  v_h := v_h # (v_h >> 16);
  v_h := (v_h * 51819 + ((v_h * 34283 & 65535) << 16)) & c_mask;                      -- * 0x85ebca6b
  v_h := v_h # (v_h >> 13);
  v_h := (v_h * 44597 + ((v_h * 49842 & 65535) << 16)) & c_mask;                      -- * 0xc2b2ae35
  v_h := v_h # (v_h >> 16);
  RETURN v_h % p_partitions;
END $$;

-- Events as streams.events writes them: compact, its fields in its order, times in UTC. A reader that is strict about keys compares a message with
-- its own writing of it, and only looks closer where they differ (tests/kept.py holds the two together).
CREATE FUNCTION event_time(p_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT '"' || replace(to_char(p_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z') || '"'
$$;
CREATE FUNCTION event_text(p_value text) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT coalesce(to_json(p_value)::text, 'null') $$;
CREATE FUNCTION event_id(p_id uuid) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT coalesce('"' || p_id::text || '"', 'null') $$;

-- A billing delta of one minute; p_dimension: its names and values, in turns.
CREATE FUNCTION delta_event(p_metric text, p_dimension text[], p_at timestamptz, p_count bigint, p_credits bigint, p_amount bigint) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT '{"metric":' || event_text(p_metric) || ',"dimension":{'
      || coalesce((SELECT string_agg(event_text(p_dimension[2 * n - 1]) || ':' || event_text(p_dimension[2 * n]), ',' ORDER BY n)
                     FROM generate_series(1, cardinality(p_dimension) / 2) n), '')
      || '},"minute":' || event_time(date_trunc('minute', p_at)) || ',"count":' || p_count || ',"credits":' || p_credits || ',"amount_paise":' || p_amount || '}'
$$;
-- What a user is told.
CREATE FUNCTION notice_event(p_user uuid, p_kind text, p_at timestamptz, p_payment uuid, p_wallet uuid, p_credits bigint, p_amount bigint) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT '{"user_id":' || event_id(p_user) || ',"kind":"' || p_kind || '","occurred_at":' || event_time(p_at) || ',"payment_id":' || event_id(p_payment)
      || ',"wallet_id":' || event_id(p_wallet) || ',"credits":' || coalesce(p_credits::text, 'null') || ',"amount_paise":' || coalesce(p_amount::text, 'null') || '}'
$$;
CREATE FUNCTION invoice_event(p_payment uuid, p_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT '{"payment_id":' || event_id(p_payment) || ',"occurred_at":' || event_time(p_at) || '}'
$$;
CREATE FUNCTION refund_event(p_refund uuid, p_payment uuid, p_at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT '{"refund_id":' || event_id(p_refund) || ',"payment_id":' || event_id(p_payment) || ',"occurred_at":' || event_time(p_at) || '}'
$$;

-- Store what follows from a batch: one outbox row per destination partition, numbered so that a consumer sees a gap.
-- Events are JSON objects as text, in order; returns the rows to publish.
CREATE FUNCTION emit(p_topic text, p_partition integer, p_group text, p_incarnation integer, p_batch_no bigint,
  p_dest_topic text[], p_dest_partition integer[], p_event text[])
RETURNS TABLE (dest_topic text, dest_partition integer, prev_batch_no bigint, events text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  IF coalesce(cardinality(p_event), 0) = 0 THEN RETURN; END IF;
  RETURN QUERY
  WITH slice AS (
    SELECT e.t, e.p, count(*)::integer AS n, '[' || string_agg(e.event, ',' ORDER BY e.ord) || ']' AS events
      FROM unnest(p_dest_topic, p_dest_partition, p_event) WITH ORDINALITY AS e (t, p, event, ord)
     WHERE e.t IS NOT NULL GROUP BY e.t, e.p
  ), before AS (
    SELECT s.t, s.p, coalesce(h.last_batch_no, 0) AS prev
      FROM slice s LEFT JOIN outbox_heads h ON h.producer_topic = p_topic AND h.producer_partition = p_partition
       AND h.producer_group = p_group AND h.dest_topic = s.t AND h.dest_partition = s.p
  ), head AS (
    INSERT INTO outbox_heads SELECT p_topic, p_partition, p_group, s.t, s.p, p_batch_no FROM slice s
    ON CONFLICT (producer_topic, producer_partition, producer_group, dest_topic, dest_partition)
      DO UPDATE SET last_batch_no = excluded.last_batch_no
  )
  INSERT INTO outbox AS o (dest_topic, dest_partition, producer_topic, producer_partition, producer_group, batch_no, prev_batch_no,
                           incarnation, n_events, events, published_at)
    SELECT s.t, s.p, p_topic, p_partition, p_group, p_batch_no, b.prev, p_incarnation, s.n, s.events,
           CASE WHEN p_topic = 'api' THEN '-infinity' ELSE now() END::timestamptz
      FROM slice s JOIN before b USING (t, p) ORDER BY s.t, s.p
  RETURNING o.dest_topic, o.dest_partition, o.prev_batch_no, o.events;
END $$;

-- Keep what nobody can read, whole: p_bad = [[offset, reason, key or null, payload base64], ...]. Returns how many were news. The same bytes on
-- the same partition again are the same record, whatever its offset is by now (a rewind, an archive published anew): finish_batch counts them
-- as existing (core.known is this transaction's alone).
CREATE FUNCTION quarantine_records(p_topic text, p_partition integer, p_incarnation integer, p_batch_id uuid, p_bad jsonb)
RETURNS integer LANGUAGE plpgsql STRICT AS $$
DECLARE
  v_n integer;
BEGIN
  INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, idempotency_key, payload, payload_digest, batch_id)
    SELECT p_topic, p_partition, p_incarnation, (e ->> 0)::bigint, e ->> 1, e ->> 2, b.payload, sha256(b.payload), p_batch_id
      FROM jsonb_array_elements(p_bad) WITH ORDINALITY AS x (e, ord) CROSS JOIN LATERAL (SELECT decode(x.e ->> 3, 'base64') AS payload) b
     ORDER BY x.ord
  ON CONFLICT (topic, partition, payload_digest) WHERE payload_digest IS NOT NULL DO NOTHING;
  GET DIAGNOSTICS v_n = ROW_COUNT;
  PERFORM set_config('core.known', (jsonb_array_length(p_bad) - v_n)::text, true);
  RETURN v_n;
END $$;

-- Close the batch: its counts (with the events that begin_batch parked, and the records that quarantine_records knew) and its link in the chain. p_canonical is the text of what it booked, in order.
CREATE FUNCTION finish_batch(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_batch_no bigint, p_epoch bigint,
  p_incarnation integer, p_from bigint, p_to bigint, p_link bytea, p_canonical text, p_n_records integer, p_posted integer,
  p_refused integer, p_existing integer, p_conflict integer, p_parked integer, p_quarantined integer, p_recognised bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  v_content bytea := sha256(convert_to(coalesce(p_canonical, ''), 'UTF8'));
  v_parked integer := coalesce(nullif(current_setting('core.parked', true), ''), '0')::integer;
  v_known integer := coalesce(nullif(current_setting('core.known', true), ''), '0')::integer;
  v_n_records integer := p_n_records + v_parked + v_known;
  v_link bytea := batch_link(p_link, batch_line(p_batch_id, p_topic, p_partition, p_group, p_batch_no, p_from, p_to, v_n_records,
    p_posted, p_refused, p_existing + v_known, p_conflict, p_parked + v_parked, p_quarantined, p_recognised), v_content);
BEGIN
  INSERT INTO batches (id, topic, partition, consumer_group, batch_no, epoch, incarnation, from_offset, to_offset, n_records,
                       posted, refused, existing, conflict, parked, quarantined, recognised_paise, content, link)
    VALUES (p_batch_id, p_topic, p_partition, p_group, p_batch_no, p_epoch, p_incarnation, p_from, p_to, v_n_records,
            p_posted, p_refused, p_existing + v_known, p_conflict, p_parked + v_parked, p_quarantined, p_recognised, v_content, v_link);
  UPDATE consumer_offsets SET link = v_link WHERE topic = p_topic AND partition = p_partition AND consumer_group = p_group;
END $$;

-- One link of the hash chain: over the link before it, the batch's own line, and the digest of what it booked.
CREATE FUNCTION batch_link(p_previous bytea, p_line text, p_content bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT sha256(p_previous || convert_to(p_line, 'UTF8') || p_content)
$$;
CREATE FUNCTION batch_line(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_batch_no bigint, p_from bigint, p_to bigint,
  p_n_records integer, p_posted integer, p_refused integer, p_existing integer, p_conflict integer, p_parked integer, p_quarantined integer,
  p_recognised bigint)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT concat_ws('|', p_batch_id, p_topic, p_partition, p_group, p_batch_no, p_from, p_to, p_n_records,
                   p_posted, p_refused, p_existing, p_conflict, p_parked, p_quarantined, p_recognised) || E'\n'
$$;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
