-- The tests' login: every program at once. Run by psql as the superuser after roles.sql; safe to repeat.
\getenv password CORE_APP_PASSWORD
SELECT 'CREATE ROLE core_app' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'core_app')
\gexec
ALTER ROLE core_app LOGIN PASSWORD :'password';
GRANT core_web, core_worker, core_operator TO core_app;
