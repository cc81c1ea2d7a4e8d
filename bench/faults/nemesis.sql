-- What the nemesis does as the superuser.

-- name: terminate_committing(role_name)
-- End the sessions of a role that are in the middle of a commit. Returns how many.
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE usename = $1 AND state = 'active' AND query ~ 'commit_|record_|claim_';

-- name: terminate_all(role_name)
-- End every session of a role.
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1;

-- name: hold_wallets(wallets, hold_s)
-- Lock the rows of wallets, in their order, and keep them.
WITH held AS MATERIALIZED (SELECT id FROM wallets WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE)
SELECT count(*), pg_sleep($2) FROM held;

-- name: hold_offsets(topic, hold_s)
-- Lock the offset rows of a topic, and keep them: nobody commits, nobody claims.
WITH held AS MATERIALIZED (SELECT partition FROM consumer_offsets WHERE topic = $1 ORDER BY partition FOR UPDATE)
SELECT count(*), pg_sleep($2) FROM held;

-- name: lock_backwards(high, low, pause_s)
-- Lock the higher of two wallets and only later the lower one, against everybody else's order.
WITH first AS MATERIALIZED (SELECT id FROM wallets WHERE id = $1::uuid FOR UPDATE),
     pause AS MATERIALIZED (SELECT pg_sleep($3) FROM first),
     second AS MATERIALIZED (SELECT w.id FROM pause, wallets w WHERE w.id = $2::uuid FOR UPDATE OF w)
SELECT count(*) FROM second;

-- name: deadlocks()
SELECT deadlocks FROM pg_stat_database WHERE datname = current_database();

-- name: bring_the_bug()
ALTER TABLE wallet_transactions DROP CONSTRAINT IF EXISTS a_bug, ADD CONSTRAINT a_bug CHECK (feature IS DISTINCT FROM 'poison') NOT VALID;

-- name: mend_the_bug()
ALTER TABLE wallet_transactions DROP CONSTRAINT IF EXISTS a_bug;

-- name: lose_patience()
-- What fails is dead after seconds instead of hours.
UPDATE retry_policies SET base_s = 0.05, max_attempts = 3 WHERE topic = 'wallet.debit';

-- name: find_patience()
UPDATE retry_policies SET base_s = 0.5, max_attempts = 12 WHERE topic = 'wallet.debit';

-- name: dead_events()
SELECT id FROM retries WHERE topic = 'wallet.debit' AND state = 'dead';

-- name: replay_the_dead()
SELECT replay_dead(array_agg(id), 'faults', 'the bug is mended') AS id FROM retries WHERE topic = 'wallet.debit' AND state = 'dead' HAVING count(*) > 0;
