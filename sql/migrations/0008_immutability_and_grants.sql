-- migrate:up
-- The ledger refuses to be rewritten, even by its owner; and each role gets only what it needs.
SET LOCAL ROLE core_owner;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% of % is refused: corrections are new transactions', tg_op, tg_table_name USING ERRCODE = 'LG010';
END $$;

DO $$
DECLARE
  t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['wallet_transactions', 'ledger_entries', 'lot_consumptions', 'refusals', 'batches', 'quarantine',
                           'fraud_events', 'billing_events', 'audit_logs', 'webhook_bodies'] LOOP
    EXECUTE format('CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
  END LOOP;
END $$;

-- This month and the next p_ahead of the ledger's two largest tables, where they are not there yet. What is of no month made so far goes to
-- <table>_other: it is found there, but cannot leave with its month. A table is made on its own and attached, which those who write do not
-- notice; who would have to wait for a reader gives up and comes again. Returns how many were made.
CREATE FUNCTION make_months(p_ahead integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
  v_month timestamptz;
  v_table text;
  v_part text;
  v_made integer := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('make_months'));
  FOR v_month IN SELECT m AT TIME ZONE 'UTC' FROM generate_series(
      date_trunc('month', now() AT TIME ZONE 'UTC'), (now() AT TIME ZONE 'UTC') + make_interval(months => least(p_ahead, 24)), interval '1 month') m LOOP
    FOREACH v_table IN ARRAY ARRAY['ledger_entries', 'lot_consumptions'] LOOP
      v_part := v_table || to_char(v_month AT TIME ZONE 'UTC', '_YYYY_MM');
      CONTINUE WHEN to_regclass('public.' || v_part) IS NOT NULL;
      EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', v_part, v_table);
      EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)', v_table, v_part,
                     month_id(v_month), month_id((v_month AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC'));
      EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON public.%I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', v_part);
      v_made := v_made + 1;
    END LOOP;
  END LOOP;
  RETURN v_made;
END $$;
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON ledger_entries_other FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON lot_consumptions_other FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
SELECT make_months(3);

-- The function frame: nobody runs what is inside, only the entry points granted below.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE core_owner IN SCHEMA public REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE core_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

DO $$
DECLARE
  t name;
BEGIN
  FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tableowner = 'core_owner' LOOP
    EXECUTE format('GRANT SELECT ON %I TO core_readonly', t);
  END LOOP;
END $$;
REVOKE SELECT ON publishers FROM core_readonly;   -- it holds the services' secrets
GRANT EXECUTE ON FUNCTION batch_link, batch_line, canonical_transaction, canonical_refusal TO core_readonly;

RESET ROLE;

-- migrate:down
DO $$ BEGIN RAISE EXCEPTION 'this migration cannot be undone'; END $$;
