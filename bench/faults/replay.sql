-- Reading every stream once more: how it is asked for, and a digest of each row that must not change by it.

-- name: rewind_partition(topic, partition, consumer_group, first_offset)
-- A new incarnation, from the first record on.
SELECT rewind_partition($1, $2, $3, $4, 'faults', 'everything is read once more');

-- name: quarantine()
SELECT md5((to_jsonb(r))::text) AS digest FROM quarantine r;

-- name: wallets()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM wallets r;

-- name: wallet_transactions()
SELECT md5((to_jsonb(r))::text) AS digest FROM wallet_transactions r;

-- name: ledger_entries()
SELECT md5((to_jsonb(r))::text) AS digest FROM ledger_entries r;

-- name: lots()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM lots r;

-- name: lot_consumptions()
SELECT md5((to_jsonb(r))::text) AS digest FROM lot_consumptions r;

-- name: holds()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM holds r;

-- name: refusals()
SELECT md5((to_jsonb(r))::text) AS digest FROM refusals r;

-- name: billing_windows()
SELECT md5((to_jsonb(r) - '{as_of_partition,as_of_offset,updated_at}'::text[])::text) AS digest FROM billing_windows r;

-- name: fraud_windows()
SELECT md5((to_jsonb(r) - '{as_of_partition,as_of_offset}'::text[])::text) AS digest FROM fraud_windows r;

-- name: fraud_events()
SELECT md5((to_jsonb(r))::text) AS digest FROM fraud_events r;

-- name: payments()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM payments r;

-- name: payment_attempts()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM payment_attempts r;

-- name: refunds()
SELECT md5((to_jsonb(r) - '{updated_at,next_at,leased_until,attempt,deferrals}'::text[])::text) AS digest FROM refunds r;

-- name: invoices()
SELECT md5((to_jsonb(r) - '{rendered_at,storage_key,render_attempt,render_after,render_error}'::text[])::text) AS digest FROM invoices r;

-- name: journal_entries()
SELECT md5((to_jsonb(r))::text) AS digest FROM journal_entries r;

-- name: notifications()
SELECT md5((to_jsonb(r) - '{state,attempts,next_at,error,sent_at}'::text[])::text) AS digest FROM notifications r;

-- name: disputes()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM disputes r;

-- name: unapplied_receipts()
SELECT md5((to_jsonb(r) - '{updated_at}'::text[])::text) AS digest FROM unapplied_receipts r;
