-- What became of prepared orders. As superuser.

-- name: progress(first, last)
-- How many of these orders are credited.
SELECT count(*) FILTER (WHERE status = 'credited') AS credited FROM payments WHERE order_id BETWEEN $1 AND $2;

-- name: outcomes(first, last)
-- Per order, in the order of sending: its purchases, and when each stage was committed (seconds since the epoch).
SELECT substr(y.order_id, 7)::integer AS number, y.status, coalesce(t.purchases, 0) AS purchases,
       extract(epoch FROM w.created_at)::float8 AS accepted, extract(epoch FROM w.closed_at)::float8 AS signalled,
       extract(epoch FROM v.created_at)::float8 AS due, extract(epoch FROM y.verified_at)::float8 AS verified,
       extract(epoch FROM y.fraud_decided_at)::float8 AS decided, extract(epoch FROM t.committed_at)::float8 AS credited
  FROM payments y
  LEFT JOIN LATERAL (SELECT count(*) AS purchases, min(b.created_at) AS committed_at FROM wallet_transactions x JOIN batches b ON b.id = x.batch_id
                      WHERE x.source = 'payment' AND x.source_id = y.id::text AND x.transaction_type = 'purchase') t ON true
  LEFT JOIN payment_webhooks w ON w.business_key = 'PAYMENT_SUCCESS_WEBHOOK|' || (2000000000 + substr(y.order_id, 7)::bigint)::text || '|SUCCESS'
  LEFT JOIN verifications v ON v.payment_id = y.id
 WHERE y.order_id BETWEEN $1 AND $2
 ORDER BY number;

-- name: backlog()
-- What waits to be asked about, and for how long.
SELECT count(*) AS due, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s FROM verifications WHERE state = 'due';
