-- One database of the core, empty or cloned. Run by psql as the superuser; psql variables: database, template.
\set ON_ERROR_STOP on
\if :{?database} \else \set database commdesk
\endif
\if :{?template} \else \set template template1
\endif

SELECT format('CREATE DATABASE %I OWNER core_owner TEMPLATE %I', :'database', :'template')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec
REVOKE CONNECT, TEMPORARY ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO core_web, core_worker, core_operator, core_migrator, core_readonly;
