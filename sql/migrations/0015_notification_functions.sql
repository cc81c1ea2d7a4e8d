-- migrate:up
-- Billing facts, and what users are told about them: one row per fact, one notification per fact and channel, whatever is published again.
SET LOCAL ROLE core_owner;

-- What users are told about, and how if they have no other wish. A kind that is not here is a fact nobody is told about.
CREATE TABLE notice_kinds (
  kind text COLLATE "C" PRIMARY KEY,
  in_app boolean NOT NULL,
  email boolean NOT NULL
);
INSERT INTO notice_kinds VALUES
  ('credits_added', true, true), ('payment_failed', true, true), ('payment_held', true, true), ('refund_initiated', true, true),
  ('refund_done', true, true), ('refund_failed', true, true), ('refund_declined', true, true), ('payment_returned', true, true),
  ('payment_reversed', true, true), ('dispute_won', true, true), ('invoice_issued', true, true), ('low_balance', true, true),
  ('credits_expiring', true, true);

-- queued: never tried; failed: tried, to be tried again at next_at; sent: a mail server accepted it (in_app: it is there);
-- dead: given up, with the reason; suppressed: never to be sent (email_off, no_address, preference). No address and no name is kept here.
CREATE TABLE notifications (
  id uuid PRIMARY KEY DEFAULT uuidv7(),                 -- names the mail: the same Message-ID in every attempt
  event_id uuid NOT NULL,                               -- of billing_events and users, without foreign keys: a hot table, whose only
  user_id uuid NOT NULL,                                -- writer, book_notices, has just read both
  kind text COLLATE "C" NOT NULL,
  channel text COLLATE "C" NOT NULL CHECK (channel IN ('in_app', 'email')),
  state text NOT NULL CHECK (state IN ('queued', 'sent', 'failed', 'dead', 'suppressed')),
  attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  next_at timestamptz NOT NULL DEFAULT now(),           -- of a leased row: the end of its lease
  error text,                                           -- a code, never a server's words: they quote addresses
  sent_at timestamptz,
  read_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT once_per_event_and_channel UNIQUE (event_id, channel)
) WITH (fillfactor = 70);
CREATE INDEX notifications_due ON notifications (next_at) WHERE channel = 'email' AND state IN ('queued', 'failed');
CREATE INDEX notifications_of_user ON notifications (user_id, id) WHERE channel = 'in_app';
GRANT SELECT ON notice_kinds, notifications TO core_readonly;

-- users.notification_preferences: {"<channel>": false} or {"<channel>": {"<kind>": false}}; what is not said is wished for.
CREATE FUNCTION notice_allowed(p_preferences jsonb, p_channel text, p_kind text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(CASE jsonb_typeof(p_preferences -> p_channel) WHEN 'object' THEN p_preferences -> p_channel -> p_kind
                                                                ELSE p_preferences -> p_channel END, 'true') <> 'false'::jsonb
$$;

-- What a user is to be told of a fact: a row of notifications for each channel of its kind that the user has not refused.
CREATE FUNCTION notices_of(p_event uuid, p_user uuid, p_kind text)
RETURNS TABLE (event_id uuid, user_id uuid, kind text, channel text, state text, error text, sent_at timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT p_event, u.id, p_kind, c.channel,
         CASE WHEN c.channel = 'in_app' THEN 'sent' WHEN u.email IS NULL THEN 'suppressed' ELSE 'queued' END,
         CASE WHEN c.channel = 'email' AND u.email IS NULL THEN 'no_address' END,
         CASE WHEN c.channel = 'in_app' THEN now() END
    FROM (SELECT x.id, x.email, x.notification_preferences FROM users x WHERE x.id = p_user LIMIT 1) u
   CROSS JOIN LATERAL (SELECT x.email, x.in_app FROM notice_kinds x WHERE x.kind = p_kind LIMIT 1) k
   CROSS JOIN LATERAL (VALUES ('email', k.email), ('in_app', k.in_app)) AS c (channel, wanted)
   WHERE c.wanted AND notice_allowed(u.notification_preferences, c.channel, p_kind)
$$;

-- Facts and their notices as one set; whoever books it first wins. Outcomes, in the order given:
--   posted | exists (told before) | unknown_user (no such user: nothing is kept) | conflict (the fact is another user's)
CREATE FUNCTION book_notices(n_user uuid[], n_kind text[], n_occurred timestamptz[], n_payment uuid[], n_wallet uuid[], n_credits bigint[],
  n_amount bigint[], n_source text[], n_source_id text[])
RETURNS text[] LANGUAGE plpgsql SET enable_seqscan = off AS $$   -- rows are looked up one by one, as in 0007
DECLARE
  v_new uuid[];
  v_told uuid[];
  v_outcome text[];
BEGIN
  WITH fact AS (
    INSERT INTO billing_events (kind, user_id, payment_id, wallet_id, credits, amount, source, source_id, occurred_at)
      SELECT n.kind, n.user_id, n.payment, n.wallet, n.credits, n.amount, n.source, n.source_id, n.occurred
        FROM unnest(n_user, n_kind, n_occurred, n_payment, n_wallet, n_credits, n_amount, n_source, n_source_id) WITH ORDINALITY
               AS n (user_id, kind, occurred, payment, wallet, credits, amount, source, source_id, ord)
       CROSS JOIN LATERAL (SELECT x.id FROM users x WHERE x.id = n.user_id LIMIT 1) u
       ORDER BY n.kind COLLATE "C", n.source COLLATE "C", n.source_id COLLATE "C", n.ord
    ON CONFLICT (kind, source, source_id) DO NOTHING
    RETURNING id, user_id, kind
  ), told AS (
    INSERT INTO notifications (event_id, user_id, kind, channel, state, error, sent_at)
      SELECT w.* FROM fact f CROSS JOIN LATERAL notices_of(f.id, f.user_id, f.kind) w)
  SELECT array_agg(f.id) INTO v_new FROM fact f;
  IF cardinality(v_new) = cardinality(n_user) THEN   -- as nearly always: nothing was known, repeated, or of nobody
    RETURN array_fill('posted'::text, ARRAY[cardinality(n_user)]);
  END IF;

  -- A new snapshot sees the facts that another transaction has committed meanwhile.
  WITH told AS (
    INSERT INTO notifications (event_id, user_id, kind, channel, state, error, sent_at)
      SELECT w.* FROM (SELECT DISTINCT x.* FROM unnest(n_user, n_kind, n_source, n_source_id) AS x (user_id, kind, source, source_id)) n
       CROSS JOIN LATERAL (SELECT * FROM billing_events x WHERE x.kind = n.kind AND x.source = n.source AND x.source_id = n.source_id
                              AND x.user_id = n.user_id LIMIT 1) b
       CROSS JOIN LATERAL notices_of(b.id, b.user_id, b.kind) w
       WHERE b.id <> ALL (coalesce(v_new, '{}'))
       ORDER BY w.event_id, w.channel
    ON CONFLICT (event_id, channel) DO NOTHING
    RETURNING event_id)
  SELECT array_agg(DISTINCT t.event_id) INTO v_told FROM told t;

  SELECT array_agg(CASE WHEN u.id IS NULL THEN 'unknown_user'
                        WHEN b.user_id IS DISTINCT FROM n.user_id THEN 'conflict'
                        WHEN n.nth = 1 AND (b.id = ANY (v_new) OR b.id = ANY (v_told)) THEN 'posted'
                        ELSE 'exists' END ORDER BY n.ord)
    INTO v_outcome
    FROM (SELECT x.*, row_number() OVER (PARTITION BY x.user_id, x.kind, x.source, x.source_id ORDER BY x.ord) AS nth
            FROM unnest(n_user, n_kind, n_source, n_source_id) WITH ORDINALITY AS x (user_id, kind, source, source_id, ord)) n
    LEFT JOIN LATERAL (SELECT x.id FROM users x WHERE x.id = n.user_id LIMIT 1) u ON true
    LEFT JOIN LATERAL (SELECT x.id, x.user_id FROM billing_events x WHERE x.kind = n.kind AND x.source = n.source AND x.source_id = n.source_id
                        LIMIT 1) b ON true;
  RETURN v_outcome;
END $$;

-- notifications.billing: facts and their notices, in the transaction that moves the offset. n_*: one per notice.
-- Outcomes as book_notices; unknown_user and conflict are quarantined.
CREATE FUNCTION commit_notices(p_batch_id uuid, p_topic text, p_partition integer, p_group text, p_epoch bigint, p_from bigint, p_to bigint,
  p_last_offset bigint, p_last_digest bytea, p_progress jsonb, p_bad jsonb,
  n_user uuid[], n_kind text[], n_occurred timestamptz[], n_payment uuid[], n_wallet uuid[], n_credits bigint[], n_amount bigint[],
  n_source text[], n_source_id text[], n_offset bigint[],
  OUT r_batch_no bigint, OUT r_incarnation integer, OUT r_outcome text[],
  OUT o_topic text[], OUT o_partition integer[], OUT o_prev bigint[], OUT o_events text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
  v_link bytea;
  v_n integer := coalesce(cardinality(n_user), 0);
  v_dropped integer := coalesce((p_progress ->> 'dropped')::integer, 0);
  v_bad integer;
BEGIN
  SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation
    FROM begin_batch(p_topic, p_partition, p_group, p_epoch, p_from, p_to, p_last_offset, p_last_digest, p_progress) b;
  r_outcome := book_notices(n_user, n_kind, n_occurred, n_payment, n_wallet, n_credits, n_amount, n_source, n_source_id);
  IF r_outcome && ARRAY['unknown_user', 'conflict'] THEN
    INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id)
      SELECT p_topic, p_partition, r_incarnation, n_offset[g], r_outcome[g],
             convert_to(jsonb_build_object('user_id', n_user[g], 'kind', n_kind[g], 'occurred_at', n_occurred[g], 'payment_id', n_payment[g],
               'wallet_id', n_wallet[g], 'credits', n_credits[g], 'amount_paise', n_amount[g], 'source', n_source[g],
               'source_id', n_source_id[g])::text, 'UTF8'), p_batch_id
        FROM generate_series(1, v_n) g WHERE r_outcome[g] IN ('unknown_user', 'conflict');
  END IF;
  v_bad := coalesce(quarantine_records(p_topic, p_partition, r_incarnation, p_batch_id, p_bad), 0);
  PERFORM finish_decided(p_batch_id, p_topic, p_partition, p_group, r_batch_no, p_epoch, r_incarnation, p_from, p_to, v_link,
    concat_ws('|', array_to_string(n_kind, ','), array_to_string(n_source, ','), array_to_string(n_source_id, ','), array_to_string(r_outcome, ',')),
    r_outcome, v_bad, v_dropped);
END $$;

-- Who has credits that lapse within p_days hears of it once per wallet and day of expiry (IST). Returns how many were told.
CREATE FUNCTION remind_expiring(p_days integer, p_limit integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  v_outcome text[];
BEGIN
  SELECT book_notices(array_agg(x.owner_id), array_agg('credits_expiring'::text), array_agg(now()), array_agg(NULL::uuid), array_agg(x.wallet_id),
                      array_agg(x.credits), array_agg(NULL::bigint), array_agg('expiry'::text), array_agg(x.source_id))
    INTO v_outcome
    FROM (SELECT d.* FROM (
            SELECT w.owner_id, l.wallet_id, sum(l.free_credits)::bigint AS credits,
                   l.wallet_id || '@' || (l.expires_at AT TIME ZONE 'Asia/Kolkata')::date AS source_id
              FROM lots l JOIN wallets w ON w.id = l.wallet_id JOIN users u ON u.id = w.owner_id
             WHERE l.open AND l.free_credits > 0 AND l.expires_at < 'infinity'
               AND l.expires_at > now() AND l.expires_at <= now() + make_interval(days => p_days)
             GROUP BY w.owner_id, l.wallet_id, (l.expires_at AT TIME ZONE 'Asia/Kolkata')::date) d
           WHERE NOT EXISTS (SELECT FROM billing_events b WHERE b.kind = 'credits_expiring' AND b.source = 'expiry' AND b.source_id = d.source_id)
           ORDER BY d.source_id LIMIT p_limit) x;
  RETURN (SELECT count(*) FROM unnest(v_outcome) o WHERE o = 'posted');
END $$;

-- Take mails that are due; nobody else takes them for p_lease_s. An attempt counts from here: its holder may die with the mail handed over.
-- One that died in p_limit holders' hands is given up.
CREATE FUNCTION lease_notifications(p_limit integer, p_lease_s double precision, p_attempts integer)
RETURNS TABLE (id uuid, attempt integer, kind text, email text, name text, credits bigint, amount bigint, order_id text, occurred_at timestamptz,
               source_id text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  UPDATE notifications n SET state = 'dead', error = 'unknown_outcome'
   WHERE n.channel = 'email' AND n.state IN ('queued', 'failed') AND n.next_at <= now() AND n.attempts >= p_attempts;
  RETURN QUERY
    WITH due AS (
      SELECT n.id FROM notifications n WHERE n.channel = 'email' AND n.state IN ('queued', 'failed') AND n.next_at <= now()
       ORDER BY n.next_at LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
    ), leased AS (
      UPDATE notifications n SET attempts = n.attempts + 1, next_at = now() + make_interval(secs => p_lease_s)
        FROM due d WHERE n.id = d.id RETURNING n.*)
    SELECT l.id, l.attempts, l.kind, u.email, u.name, b.credits, b.amount, y.order_id, b.occurred_at, b.source_id
      FROM leased l JOIN billing_events b ON b.id = l.event_id JOIN users u ON u.id = l.user_id LEFT JOIN payments y ON y.id = b.payment_id
     ORDER BY l.id;
END $$;

-- What became of leased mails. r_outcome: sent; rejected (for good: dead); deferred or unknown (tried again, dead after p_attempts);
-- returned (never handed over: as if not leased). An attempt that is no longer the row's changes nothing.
CREATE FUNCTION record_notifications(r_id uuid[], r_attempt integer[], r_outcome text[], r_error text[],
  p_attempts integer, p_base_s double precision, p_cap_s double precision)
RETURNS TABLE (id uuid, state text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE notifications n
     SET state = CASE WHEN r.outcome = 'sent' THEN 'sent' WHEN r.outcome = 'returned' THEN n.state
                      WHEN r.outcome = 'rejected' OR n.attempts >= p_attempts THEN 'dead' ELSE 'failed' END,
         attempts = n.attempts - (r.outcome = 'returned')::integer,
         error = CASE r.outcome WHEN 'sent' THEN NULL WHEN 'returned' THEN n.error ELSE r.error END,
         sent_at = CASE WHEN r.outcome = 'sent' THEN now() END,
         next_at = now() + CASE WHEN r.outcome IN ('sent', 'returned') THEN interval '0'
                                ELSE make_interval(secs => least(p_cap_s, p_base_s * power(2, n.attempts - 1)) * (0.75 + random() / 2)) END
    FROM unnest(r_id, r_attempt, r_outcome, r_error) AS r (id, attempt, outcome, error)
   WHERE n.id = r.id AND n.attempts = r.attempt AND n.channel = 'email'
     AND (n.state IN ('queued', 'failed') OR r.outcome = 'sent' AND n.state IN ('suppressed', 'dead'))   -- what is out is out
  RETURNING n.id, n.state
$$;

-- There is no mail server: what waits for one never will. Returns how many.
CREATE FUNCTION suppress_notifications(p_limit integer) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH waiting AS (
    SELECT n.id FROM notifications n WHERE n.channel = 'email' AND n.state IN ('queued', 'failed') LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED
  ), gone AS (
    UPDATE notifications n SET state = 'suppressed', error = 'email_off' FROM waiting w WHERE n.id = w.id RETURNING 1)
  SELECT count(*)::integer FROM gone
$$;

-- A person wants dead or suppressed mails tried again. Returns how many.
CREATE FUNCTION requeue_notifications(p_ids uuid[], p_actor text) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH again AS (
    UPDATE notifications n SET state = 'queued', attempts = 0, error = NULL, next_at = now()
     WHERE n.id = ANY (p_ids) AND n.channel = 'email' AND n.state IN ('dead', 'suppressed') RETURNING n.id
  ), told AS (
    INSERT INTO audit_logs (actor, action, object_kind, object_id) SELECT p_actor, 'notification.requeue', 'notification', a.id::text FROM again a)
  SELECT count(*)::integer FROM again
$$;

-- The user has seen these. Returns how many were news.
CREATE FUNCTION mark_notifications_read(p_user uuid, p_ids uuid[]) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  WITH seen AS (
    UPDATE notifications n SET read_at = now()
     WHERE n.user_id = p_user AND n.id = ANY (p_ids) AND n.channel = 'in_app' AND n.read_at IS NULL RETURNING 1)
  SELECT count(*)::integer FROM seen
$$;

-- What a user wishes to hear, and where; mails that wait and are no longer wished for are not sent.
-- Outcomes: saved | unknown_user | malformed (other channels or kinds, or something else than true and false).
CREATE FUNCTION set_notification_preferences(p_user uuid, p_preferences jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF jsonb_typeof(p_preferences) IS DISTINCT FROM 'object' OR EXISTS (
    SELECT FROM jsonb_each(p_preferences) c
     WHERE c.key NOT IN ('email', 'in_app') OR jsonb_typeof(c.value) NOT IN ('boolean', 'object')
        OR EXISTS (SELECT FROM jsonb_each(CASE jsonb_typeof(c.value) WHEN 'object' THEN c.value ELSE '{}' END) k
                    WHERE jsonb_typeof(k.value) <> 'boolean' OR NOT EXISTS (SELECT FROM notice_kinds x WHERE x.kind = k.key))) THEN
    RETURN 'malformed';
  END IF;
  UPDATE users SET notification_preferences = p_preferences, updated_at = now() WHERE id = p_user;
  IF NOT FOUND THEN RETURN 'unknown_user'; END IF;
  UPDATE notifications n SET state = 'suppressed', error = 'preference'
   WHERE n.user_id = p_user AND n.channel = 'email' AND n.state IN ('queued', 'failed') AND NOT notice_allowed(p_preferences, 'email', n.kind);
  RETURN 'saved';
END $$;

-- Facts that arise where nobody is told about them, kept by the transaction that makes them: a payment's way through its states,
-- and what else than a spend, a hold or its end moves credits. A purchase is the payment's own 'credits_added', booked as it is told.
CREATE FUNCTION keep_payment_facts() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp
  SET enable_nestloop = off AS $$   -- both row sets are as large as the statement, whatever the plan was made for
BEGIN
  IF tg_op = 'INSERT' THEN
    INSERT INTO billing_events (kind, user_id, wallet_id, payment_id, credits, amount, source, source_id, occurred_at)
      SELECT 'payment_' || n.status, n.user_id, n.wallet_id, n.id, n.credits_granted, n.amount, 'payment', n.id::text, now()
        FROM new_rows n ORDER BY n.id
    ON CONFLICT (kind, source, source_id) DO NOTHING;
  ELSE
    INSERT INTO billing_events (kind, user_id, wallet_id, payment_id, credits, amount, source, source_id, occurred_at)
      SELECT 'payment_' || n.status, n.user_id, n.wallet_id, n.id, n.credits_granted, n.amount, 'payment', n.id::text, now()
        FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE o.status <> n.status AND n.status NOT IN ('active', 'credited') ORDER BY n.id
    ON CONFLICT (kind, source, source_id) DO NOTHING;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER keep_facts AFTER INSERT ON payments REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION keep_payment_facts();
CREATE TRIGGER keep_change_facts AFTER UPDATE ON payments REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION keep_payment_facts();

CREATE FUNCTION keep_wallet_fact() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  INSERT INTO billing_events (kind, user_id, wallet_id, credits, source, source_id, occurred_at)
    SELECT CASE new.transaction_type WHEN 'grant' THEN 'credits_granted' WHEN 'expire' THEN 'credits_expired'
                                     WHEN 'refund' THEN 'credits_refunded' ELSE 'credits_charged_back' END,
           w.owner_id, w.id, new.amount_credits, 'wallet_transaction', new.id::text, new.occurred_at
      FROM wallets w WHERE w.id = new.wallet_id
  ON CONFLICT (kind, source, source_id) DO NOTHING;
  RETURN NULL;
END $$;
CREATE TRIGGER keep_fact AFTER INSERT ON wallet_transactions FOR EACH ROW
  WHEN (new.transaction_type IN ('grant', 'expire', 'refund', 'chargeback')) EXECUTE FUNCTION keep_wallet_fact();

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
