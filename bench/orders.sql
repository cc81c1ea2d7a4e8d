-- Who orders, and what became of the orders. As superuser.

-- name: people(count)
-- Users and their wallets by rank.
SELECT user_id, wallet_id FROM bench.people WHERE n <= $1 ORDER BY n;

-- name: progress(at)
-- How many orders made since then are credited.
SELECT count(*) FILTER (WHERE status = 'credited') AS credited FROM payments WHERE created_at >= $1::timestamptz;

-- name: outcomes(ids)
-- Per order its purchases, and when the first was committed (seconds since the epoch).
SELECT y.order_id, y.status, coalesce(t.purchases, 0) AS purchases, extract(epoch FROM t.committed_at)::float8 AS credited
  FROM unnest($1::text[]) AS asked (order_id)
  JOIN payments y ON y.order_id = asked.order_id
  LEFT JOIN LATERAL (SELECT count(*) AS purchases, min(b.created_at) AS committed_at FROM wallet_transactions x JOIN batches b ON b.id = x.batch_id
                      WHERE x.source = 'payment' AND x.source_id = y.id::text AND x.transaction_type = 'purchase') t ON true;
