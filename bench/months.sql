-- The ledger's two largest tables as they are, in months, and whole beside them, in a scratch database. As superuser.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: make_whole()
-- One table each, as they would be without months.
DO $$
DECLARE
  t text;
BEGIN
  SET LOCAL ROLE core_owner;
  FOREACH t IN ARRAY ARRAY['ledger_entries', 'lot_consumptions'] LOOP
    EXECUTE format('CREATE TABLE %1$s_whole (LIKE %1$I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)', t);
    EXECUTE format('DROP TABLE %1$I', t);
    EXECUTE format('ALTER TABLE %1$s_whole RENAME TO %1$I', t);
    EXECUTE format('CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('GRANT SELECT ON %I TO core_web, core_worker, core_operator, core_readonly', t);
  END LOOP;
END $$;

-- name: make_many_months()
-- Two years of them.
SELECT make_months(24);

-- name: partitions()
-- Where the rows went.
SELECT tableoid::regclass::text AS partition, count(*) AS n FROM ledger_entries GROUP BY 1;

-- name: detach()
-- A month leaves: what retention would do, measured.
DO $$ BEGIN EXECUTE format('ALTER TABLE ledger_entries DETACH PARTITION %I', 'ledger_entries' || to_char(now() AT TIME ZONE 'UTC', '_YYYY_MM')); END $$;
