-- Cluster-level roles, before any migration. Run by psql as the superuser; safe to repeat.
-- Passwords come from the environment, so that no process list shows them.
\set ON_ERROR_STOP on
\getenv web_password CORE_WEB_PASSWORD
\getenv worker_password CORE_WORKER_DATABASE_PASSWORD
\getenv operator_password CORE_OPERATOR_PASSWORD
\getenv migrator_password CORE_MIGRATOR_PASSWORD
\getenv readonly_password CORE_READONLY_PASSWORD

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['core_owner', 'core_web', 'core_worker', 'core_operator', 'core_migrator', 'core_readonly']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

-- The owner of every object logs in nowhere: who serves requests can neither alter nor disable anything.
ALTER ROLE core_owner NOLOGIN;
ALTER ROLE core_web LOGIN PASSWORD :'web_password';
ALTER ROLE core_worker LOGIN PASSWORD :'worker_password';
ALTER ROLE core_operator LOGIN PASSWORD :'operator_password';
ALTER ROLE core_migrator LOGIN PASSWORD :'migrator_password';
ALTER ROLE core_readonly LOGIN PASSWORD :'readonly_password';
ALTER ROLE core_readonly SET default_transaction_read_only = on;
GRANT core_owner TO core_migrator;
-- Migrations, and dbmate's own table, are the owner's from the first statement on.
ALTER ROLE core_migrator SET role = 'core_owner';
