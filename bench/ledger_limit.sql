-- The ledger's tables once more, with the same columns, defaults, constraints, indexes and fill factors, and no functions.
CREATE SCHEMA bare;
DO $$
DECLARE
  t record;
BEGIN
  FOR t IN SELECT c.relname, c.reloptions FROM pg_class c
            WHERE c.relnamespace = 'public'::regnamespace AND c.relname IN ('wallets', 'lots', 'wallet_transactions', 'ledger_entries',
              'lot_consumptions', 'refusals', 'outbox', 'batches', 'consumer_offsets') LOOP
    EXECUTE format('CREATE TABLE bare.%I (LIKE public.%I INCLUDING ALL)', t.relname, t.relname);
    IF t.reloptions IS NOT NULL THEN
      EXECUTE format('ALTER TABLE bare.%I SET (%s)', t.relname, array_to_string(t.reloptions, ', '));
    END IF;
  END LOOP;
END $$;
