-- The ledger's two largest tables in monthly partitions, in a scratch database. As superuser.
-- Their keys begin with the transaction's id, a UUIDv7: its first 48 bits are milliseconds, so a month is a range of ids and the primary
-- key stays what it is. wallet_transactions keeps its keys unique for ever, so it is not split.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: split_by_month()
CREATE FUNCTION month_id(p_month timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex((extract(epoch FROM p_month) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid
$$;
DO $$
DECLARE
  t text;
  v_month timestamptz;
BEGIN
  SET LOCAL ROLE core_owner;
  FOREACH t IN ARRAY ARRAY['ledger_entries', 'lot_consumptions'] LOOP
    EXECUTE format('ALTER TABLE %1$I RENAME TO %1$s_whole', t);
    EXECUTE format('CREATE TABLE %1$I (LIKE %1$s_whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS) PARTITION BY RANGE (transaction_id)', t);
    EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY (transaction_id, %I)', t, CASE t WHEN 'ledger_entries' THEN 'leg' ELSE 'lot_id' END);
    FOR v_month IN SELECT generate_series(date_trunc('month', now()) - interval '24 months', date_trunc('month', now()) + interval '2 months', interval '1 month') LOOP
      EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', t || to_char(v_month, '_YYYY_MM'), t,
                     public.month_id(v_month), public.month_id(v_month + interval '1 month'));
    END LOOP;
    EXECUTE format('CREATE TABLE %1$s_other PARTITION OF %1$I DEFAULT', t);
    EXECUTE format('CREATE TRIGGER refuse_rewrite BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_change()', t);
    EXECUTE format('GRANT SELECT ON %I TO core_web, core_worker, core_operator, core_readonly', t);
    EXECUTE format('DROP TABLE %1$s_whole', t);
  END LOOP;
END $$;

-- name: partitions()
-- Where the rows went.
SELECT tableoid::regclass::text AS partition, count(*) AS n FROM ledger_entries GROUP BY 1;

-- name: detach()
-- A month leaves: what retention would do, measured.
DO $$ BEGIN EXECUTE format('ALTER TABLE ledger_entries DETACH PARTITION %I', 'ledger_entries' || to_char(now(), '_YYYY_MM')); END $$;
