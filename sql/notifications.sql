-- Billing facts and what users are told about them.

-- name: commit_notices(batch_id, topic, partition, consumer_group, epoch, from_offset, to_offset, last_offset, last_digest, progress, bad, users, kinds, occurred, payments, wallets, credits, amounts, sources, source_ids, offsets)
-- Facts, their notifications and the offset, in one transaction.
SELECT * FROM commit_notices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21);

-- name: remind_expiring(days, limit_rows)
-- Tell who has credits that lapse within so many days.
SELECT remind_expiring($1, $2);

-- name: has_due()
-- Whether a mail waits that may be tried now.
SELECT EXISTS (SELECT FROM notifications WHERE channel = 'email' AND state IN ('queued', 'failed') AND next_at <= now());

-- name: lease_notifications(limit_rows, lease_s, attempts)
SELECT * FROM lease_notifications($1, $2, $3);

-- name: record_notifications(ids, attempts, outcomes, errors, limit_attempts, base_s, cap_s)
SELECT id, state FROM record_notifications($1, $2, $3, $4, $5, $6, $7);

-- name: suppress_notifications(limit_rows)
SELECT suppress_notifications($1);

-- name: requeue_notifications(ids, actor)
SELECT requeue_notifications($1, $2);

-- name: mark_read(user_id, ids)
SELECT mark_notifications_read($1, $2);

-- name: set_preferences(user_id, preferences)
SELECT set_notification_preferences($1, $2);

-- name: get_preferences(user_id)
SELECT notification_preferences FROM users WHERE id = $1;

-- name: list_notifications(user_id, after, limit_rows)
-- What a user is told in the app, the newest first, older than a notification; from the newest if that is null.
SELECT n.id, n.kind, b.credits, b.amount AS amount_paise, b.payment_id, b.wallet_id, b.occurred_at, n.created_at, n.read_at
  FROM notifications n JOIN billing_events b ON b.id = n.event_id
 WHERE n.user_id = $1 AND n.channel = 'in_app' AND ($2::uuid IS NULL OR n.id < $2) ORDER BY n.id DESC LIMIT $3;

-- name: count_unread(user_id)
SELECT count(*) FROM notifications WHERE user_id = $1 AND channel = 'in_app' AND read_at IS NULL;

-- name: count_by_state()
-- For the operators: how many notifications of each channel are where.
SELECT channel, state, count(*) AS n, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
  FROM notifications GROUP BY channel, state ORDER BY channel, state;
