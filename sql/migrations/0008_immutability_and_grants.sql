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
                           'fraud_events', 'billing_events', 'audit_logs'] LOOP
    EXECUTE format('CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', t);
  END LOOP;
END $$;

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
