-- Windows by the million. As superuser.
-- sqlfluff:exclude_rules:layout,aliasing,references,structure,ambiguous,capitalisation.functions,capitalisation.identifiers,capitalisation.literals

-- name: put_fraud_windows(kinds, entities, partitions, at, buckets)
-- An entity's row, as of its partition, last seen some time within the last day.
INSERT INTO fraud_windows (entity_kind, entity, buckets, last_at, as_of_partition, as_of_offset)
  SELECT x.kind, x.entity, $5::jsonb, $4::timestamptz - x.ord * interval '1 second', x.partition, -1
    FROM unnest($1::text[], $2::text[], $3::integer[]) WITH ORDINALITY AS x (kind, entity, partition, ord);

-- name: put_billing_windows(count, minute, partitions)
-- So many dimensions at one minute, its hour and its day.
INSERT INTO billing_windows (metric, resolution, dimension, window_start, count, credits, amount_paise, as_of_partition, as_of_offset)
  SELECT 'credits_spent', r.resolution, 'community=-,feature=f' || n, r.starts, 1, 1, 1, n % $3::integer, -1
    FROM generate_series(1, $1::integer) n
   CROSS JOIN LATERAL (VALUES ('1m', $2::timestamptz), ('1h', date_trunc('hour', $2::timestamptz, 'UTC')), ('1d', date_trunc('day', $2::timestamptz, 'Asia/Kolkata')))
           AS r (resolution, starts);

-- name: sizes()
SELECT (SELECT count(*) FROM fraud_windows) AS fraud_rows, (SELECT count(*) FROM billing_windows) AS billing_rows,
       pg_total_relation_size('fraud_windows') AS fraud_bytes, pg_total_relation_size('billing_windows') AS billing_bytes;

-- name: people(count)
SELECT n, user_id::text AS user_id FROM bench.people WHERE n <= $1;

-- name: settle()
VACUUM (ANALYZE);
