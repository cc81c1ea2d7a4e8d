-- migrate:up
-- A payment from its row to its verification: created, reported by webhooks, asked for at the gateway, verified.
-- Locks are taken in one order everywhere: offset row, wallets by id, payments by id, named chain.
SET LOCAL ROLE core_owner;

-- One billing delta: payments that reached a status in a minute.
CREATE FUNCTION payment_delta(p_status text, p_minute timestamptz, p_count bigint, p_credits bigint, p_amount bigint) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT json_build_object('metric', 'payments', 'dimension', json_build_object('status', p_status),
    'minute', to_char(date_trunc('minute', p_minute) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
    'count', p_count, 'credits', p_credits, 'amount_paise', p_amount)::text
$$;

-- A payment before the gateway hears of it. The pack and its GST split are the server's, computed by domain/; payment_tax checks the sum.
-- p_key is '<principal>:<key>', p_hash what the same key must repeat, p_delta_partition that of analytics.billing for status=created.
-- Outcomes: created; exists (the payment of that key); conflict (the key stands for another request); unknown_wallet (not this user's).
CREATE FUNCTION create_payment(
  p_batch_id uuid, p_shard integer, p_id uuid, p_key text, p_hash bytea, p_user uuid, p_wallet uuid, p_order_id text,
  p_amount bigint, p_base bigint, p_bonus bigint, p_taxable bigint, p_cgst bigint, p_sgst bigint, p_igst bigint, p_place text,
  p_phone text, p_email text, p_device text, p_ip inet, p_metadata jsonb, p_delta_partition integer,
  OUT r_outcome text, OUT r_payment uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  v_hash bytea;
  v_chain record;
BEGIN
  PERFORM FROM wallets w WHERE w.id = p_wallet AND w.owner_id = p_user;
  IF NOT FOUND THEN r_outcome := 'unknown_wallet'; RETURN; END IF;
  INSERT INTO payments (id, user_id, wallet_id, order_id, amount, base_credits, bonus_credits, credits_granted, taxable_amount, cgst_amount,
      sgst_amount, igst_amount, gst_amount, place_of_supply, customer_phone, customer_email, device_id, ip, metadata, idempotency_key, request_hash)
    VALUES (p_id, p_user, p_wallet, p_order_id, p_amount, p_base, p_bonus, p_base + p_bonus, p_taxable, p_cgst,
      p_sgst, p_igst, p_cgst + p_sgst + p_igst, p_place, p_phone, p_email, p_device, p_ip, coalesce(p_metadata, '{}'), p_key, p_hash)
  ON CONFLICT (idempotency_key) DO NOTHING RETURNING id INTO r_payment;
  IF r_payment IS NULL THEN
    SELECT y.id, y.request_hash INTO STRICT r_payment, v_hash FROM payments y WHERE y.idempotency_key = p_key;
    r_outcome := CASE WHEN v_hash = p_hash THEN 'exists' ELSE 'conflict' END;
    RETURN;
  END IF;
  r_outcome := 'created';
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['analytics.billing'], ARRAY[p_delta_partition],
                    ARRAY[payment_delta('created', now(), 1, p_base + p_bonus, p_amount)]);
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '',
                       1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- The gateway knows the order: the customer can pay. Says it again without effect; a payment that is further stays there.
CREATE FUNCTION order_created(p_payment uuid, p_cf_order_id text, p_session_id text, p_expires_at timestamptz) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE payments SET cashfree_order_id = p_cf_order_id, payment_session_id = p_session_id, expires_at = p_expires_at, updated_at = now(),
                      status = CASE WHEN status IN ('created', 'failed') AND payment_session_id IS NULL THEN 'active' ELSE status END
   WHERE id = p_payment RETURNING status
$$;

-- The gateway refused the order for good. Outcomes: failed; exists (it had left 'created' before); unknown.
CREATE FUNCTION fail_order(p_batch_id uuid, p_shard integer, p_payment uuid, p_failure text, p_delta_partition integer, OUT r_outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  y payments;
  v_chain record;
BEGIN
  SELECT * INTO y FROM payments WHERE id = p_payment FOR NO KEY UPDATE;
  IF NOT FOUND THEN r_outcome := 'unknown'; RETURN; END IF;
  IF y.status <> 'created' THEN r_outcome := 'exists'; RETURN; END IF;
  r_outcome := 'failed';
  UPDATE payments SET status = 'failed', failed_at = coalesce(failed_at, now()), failure = p_failure, updated_at = now() WHERE id = p_payment;
  SELECT * INTO v_chain FROM begin_chain('api', p_shard, 'core');
  IF y.failed_at IS NULL THEN
    PERFORM FROM emit('api', p_shard, 'core', v_chain.incarnation, v_chain.batch_no, ARRAY['analytics.billing'], ARRAY[p_delta_partition],
                      ARRAY[payment_delta('failed', now(), 1, y.credits_granted, y.amount)]);
  END IF;
  PERFORM finish_batch(p_batch_id, 'api', p_shard, 'core', v_chain.batch_no, 0, v_chain.incarnation, 0, 0, v_chain.link, '',
                       1, 1, 0, 0, 0, 0, 0, 0);
END $$;

-- The inbox: webhooks whose bytes were verified, one set. A fact that is known already counts its delivery.
-- Returns, in the order given, whether each is new or a replay (also of one earlier in the set).
CREATE FUNCTION insert_webhooks(
  w_id uuid[], w_key text[], w_kind text[], w_type text[], w_order text[], w_payment text[], w_refund text[], w_status text[], w_group text[],
  w_method jsonb[], w_instrument text[], w_amount bigint[], w_currency text[], w_occurred timestamptz[], w_version text[], w_stale boolean[],
  w_ip inet[], w_body bytea[])
RETURNS text[] LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_generic_plan AS $$
  WITH item AS (
    SELECT *, row_number() OVER (PARTITION BY key ORDER BY ord) AS nth, count(*) OVER (PARTITION BY key) AS deliveries
      FROM unnest(w_id, w_key, w_kind, w_type, w_order, w_payment, w_refund, w_status, w_group, w_method, w_instrument, w_amount, w_currency,
                  w_occurred, w_version, w_stale, w_ip, w_body) WITH ORDINALITY
        AS i (id, key, kind, type, order_id, payment, refund, status, pay_group, method, instrument, amount, currency, occurred, version,
              stale, ip, body, ord)
  ), stored AS (
    INSERT INTO payment_webhooks AS w (id, business_key, kind, event_type, order_id, cashfree_payment_id, refund_id, status, payment_group,
        payment_method, instrument, amount, currency, occurred_at, version, stale, source_ip, deliveries, body)
      SELECT id, key, kind, type, order_id, payment, refund, status, pay_group, method, instrument, amount, currency,
             greatest(least(coalesce(occurred, now()), now() + interval '5 minutes'), now() - interval '24 hours'),
             version, stale, ip, deliveries, body
        FROM item WHERE nth = 1 ORDER BY key
    ON CONFLICT (business_key) DO UPDATE SET deliveries = w.deliveries + excluded.deliveries
    RETURNING new.business_key AS key, old.id IS NULL AS fresh
  )
  SELECT array_agg(CASE WHEN s.fresh AND i.nth = 1 THEN 'new' ELSE 'replay' END ORDER BY i.ord) FROM item i JOIN stored s USING (key)
$$;

-- For the relay: up to p_limit webhooks that nobody has published yet, or whose outcome is still missing after p_stale_s seconds.
CREATE FUNCTION take_webhooks(p_limit integer, p_stale_s double precision)
RETURNS TABLE (id uuid, event_type text, order_id text, cashfree_payment_id text, refund_id text, status text, version text, received_at timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_ids uuid[];
BEGIN
  SELECT array_agg(id) INTO v_ids FROM (
    SELECT w.id FROM payment_webhooks w WHERE w.published_at IS NULL ORDER BY w.id LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED) x;
  IF coalesce(cardinality(v_ids), 0) < p_limit THEN
    SELECT v_ids || array_agg(id) INTO v_ids FROM (
      SELECT w.id FROM payment_webhooks w WHERE w.closed_at IS NULL AND w.published_at < now() - make_interval(secs => p_stale_s)
       ORDER BY w.published_at LIMIT p_limit - coalesce(cardinality(v_ids), 0) FOR NO KEY UPDATE SKIP LOCKED) x;
  END IF;
  IF v_ids IS NULL THEN RETURN; END IF;
  RETURN QUERY
    WITH claimed AS (UPDATE payment_webhooks w SET published_at = now() WHERE w.id = ANY (v_ids) RETURNING w.*)
    SELECT c.id, c.event_type, c.order_id, c.cashfree_payment_id, c.refund_id, c.status, c.version, c.created_at FROM claimed c ORDER BY c.id;
END $$;

GRANT EXECUTE ON FUNCTION create_payment, order_created, fail_order, insert_webhooks, take_webhooks TO core_app;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
