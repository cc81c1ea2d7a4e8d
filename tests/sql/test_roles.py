"""What each role may not do: the ledger is changed by its functions or not at all."""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import asyncpg
import pytest

from sql.db import Database
from sql.queries import load
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.desk import Partition, command, fund, open_wallets
from tests.sql.programs import PROGRAMS, statements_of

LEDGER = (
    "wallet_transactions",
    "ledger_entries",
    "lot_consumptions",
    "refusals",
    "batches",
    "quarantine",
    "audit_logs",
)
DOORS = {"commit_batch", "claim_partitions", "reincarnate_partition", "sync_balance", "flag_overdue_holds"}
INSIDE = (
    "apply_command",
    "post_transaction",
    "move_lot",
    "reverse_lot",
    "begin_batch",
    "begin_chain",
    "finish_batch",
    "emit",
)

# The tables of the mission, and the fields it names.
FIELDS = {
    "users": "id",
    "wallets": "id owner_id available_credits locked_credits pending_credits lifetime_purchased_credits "
    "auto_recharge_enabled auto_recharge_threshold",
    "wallet_transactions": "id wallet_id transaction_type credits balance_before balance_after source source_id metadata "
    "idempotency_key created_at",
    "ledger_entries": "transaction_id account amount",
    "payments": "id user_id order_id payment_session_id cashfree_order_id cashfree_payment_id amount credits_granted "
    "gst_amount platform_fee currency status payment_method payment_group customer_phone customer_email metadata "
    "idempotency_key webhook_verified refunded refund_amount fraud_score retry_count created_at updated_at",
    "payment_attempts": "order_id cashfree_payment_id status",
    "refunds": "id payment_id amount status",
    "invoices": "id number payment_id",
    "billing_events": "id kind",
    "subscriptions": "id user_id status",
    "usage_metering": "id wallet_id feature quantity credits",
    "community_settlements": "id community_id payable_amount status",
    "fraud_events": "payment_id score reasons verdict",
    "audit_logs": "actor action",
    "payment_webhooks": "id",
    "webhook_bodies": "webhook_id body",
    "consumer_offsets": "topic partition consumer_group epoch incarnation next_offset last_offset last_digest link",
    "outbox": "dest_topic dest_partition batch_no prev_batch_no events",
    "producer_watermarks": "last_batch_no",
    "retries": "key payload attempt next_at state",
    "lots": "wallet_id expires_at free_credits",
    "holds": "wallet_id credits state",
    "verifications": "payment_id state",
    "fraud_checks": "payment_id entities counts",
    "billing_windows": "metric resolution dimension window_start",
    "fraud_windows": "entity buckets",
}


@pytest.fixture(params=["core_app", "core_web", "core_worker", "core_operator", "core_readonly"])
async def login(request: pytest.FixtureRequest, database: Prepared) -> AsyncIterator[Connection]:
    """A connection as a role that logs in."""
    urls = {
        "core_app": database.url,
        "core_web": database.web_url,
        "core_worker": database.worker_url,
        "core_operator": database.operator_url,
        "core_readonly": database.readonly_url,
    }
    connection = await asyncpg.connect(urls[request.param])
    await connection.execute("SET default_transaction_read_only = off")
    yield connection
    await connection.close()


@pytest.mark.parametrize(
    "statement",
    ["INSERT INTO {} DEFAULT VALUES", "UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {}"],
)
async def test_who_logs_in_writes_no_table_directly(login: Connection, statement: str) -> None:
    tables = [
        row["tablename"]
        for row in await login.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_migrations'"
        )
    ]
    assert set(LEDGER) < set(tables)
    for table in tables:
        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedColumnError)):
            await login.execute(statement.format(table))


async def test_who_logs_in_calls_only_the_doors(login: Connection) -> None:
    rows = await login.fetch(
        """
        SELECT p.proname, p.prosecdef, has_function_privilege(p.oid, 'EXECUTE') AS may,
               has_function_privilege('core_app', p.oid, 'EXECUTE') AS app_may, p.proconfig
          FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
        """
    )
    assert {row["proname"] for row in rows} > DOORS | set(INSIDE)
    for row in rows:
        assert not (row["may"] and row["proname"] in INSIDE), row["proname"]
        if row["prosecdef"]:
            assert any(c.startswith("search_path=pg_catalog") for c in row["proconfig"] or ()), row["proname"]
    assert {row["proname"] for row in rows if row["app_may"]} >= DOORS


async def test_the_owner_of_everything_logs_in_nowhere_and_owns_everything(admin: Connection) -> None:
    assert await admin.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'core_owner'") is False
    foreign = await admin.fetch(
        """
        SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
           AND pg_get_userbyid(c.relowner) <> 'core_owner'
        """
    )
    assert foreign == []


@pytest.mark.parametrize("statement", ["UPDATE {} SET created_at = now()", "DELETE FROM {}", "TRUNCATE {}"])
async def test_even_their_owner_cannot_rewrite_the_ledger_s_rows(
    database: Prepared, db: Database, admin: Connection, statement: str
) -> None:
    (wallet,) = await open_wallets(admin, 1)
    await fund(db, [wallet], 10)
    debit = await Partition.claim(db)
    same = command(wallet, "spend", 3)
    await debit.commit(
        [same, command(wallet, "spend", 300), command(wallet, "spend", 4, key=same.key, request_hash=b"x")]
    )
    await admin.execute(
        "INSERT INTO audit_logs (actor, action, object_kind, object_id) VALUES ('me', 'look', 'x', '1')"
    )
    owner = await asyncpg.connect(database.direct_url)
    try:
        assert await owner.fetchval("SELECT current_user::text") == "core_owner"
        for table in LEDGER:
            change = statement.format(table)
            if table in ("ledger_entries", "lot_consumptions"):
                change = change.replace("created_at = now()", "transaction_id = transaction_id")
            assert await owner.fetchval("SELECT count(*) > 0 FROM " + table)
            with pytest.raises(asyncpg.PostgresError) as refused:
                await owner.execute(change)
            assert refused.value.sqlstate == "LG010", table
    finally:
        await owner.close()


async def test_the_tables_of_the_mission_have_the_fields_it_names(admin: Connection) -> None:
    rows = await admin.fetch(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    )
    found: dict[str, set[str]] = {}
    for row in rows:
        found.setdefault(row["table_name"], set()).add(row["column_name"])
    missing = {table: set(fields.split()) - found.get(table, set()) for table, fields in FIELDS.items()}
    assert {table: fields for table, fields in missing.items() if fields} == {}
    threshold = (
        "SELECT column_default FROM information_schema.columns WHERE column_name = 'auto_recharge_threshold'"
    )
    assert await admin.fetchval(threshold) == "200"


async def test_no_key_and_no_order_is_stored_twice(admin: Connection) -> None:
    rows = await admin.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' AND indexdef LIKE 'CREATE UNIQUE%'"
    )
    unique = {
        re.split(r" ON (?:ONLY )?public\.", row["indexdef"])[1].replace(" USING btree", "") for row in rows
    }
    assert {
        "payments (order_id)",
        "payments (idempotency_key)",
        "wallet_transactions (idempotency_key)",
        "wallet_transactions (wallet_id, seq)",
        "refusals (idempotency_key)",
        "refunds (refund_id)",
    } <= unique


PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER", "MAINTAIN")
BY_HAND = {
    "core_operator": {
        *("cancel_delayed", "delay_event", "register_publisher", "requeue_notifications", "sync_balance"),
        "void_invoice",
    }
}
"""What no program of ours calls: an operator does, at a SQL prompt."""
HIDDEN = {"api_keys", "outgoing_secrets", "publishers", "request_keys"}
"""Tables with secrets, or their hashes: not for whoever only looks."""

_RELATIONS = """
SELECT c.relname, p.privilege
  FROM pg_class c CROSS JOIN unnest($2::text[]) AS p (privilege)
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
   AND (has_table_privilege($1::text, c.oid, p.privilege)
        OR (p.privilege = ANY ('{SELECT,INSERT,UPDATE,REFERENCES}') AND has_any_column_privilege($1::text, c.oid, p.privilege)))
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text AS signature, p.proname, p.prorettype = 'trigger'::regtype AS for_trigger,
       has_function_privilege($1::text, p.oid, 'EXECUTE') AS may,
       (SELECT coalesce(string_agg(format('$%s::%s', n, format_type(t, NULL)), ', ' ORDER BY n), '')
          FROM unnest(p.proargtypes) WITH ORDINALITY AS a (t, n)) AS something
  FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
"""
_DENIED = re.compile(r"permission denied for (\w+) (\w+)")


async def needed(admin: Connection, statements: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """The tables and the functions that these statements need, asked of PostgreSQL: it refuses until all are granted."""
    tables: set[str] = set()
    functions: set[str] = set()
    transaction = admin.transaction()
    await transaction.start()
    try:
        await admin.execute("CREATE ROLE probe NOLOGIN; GRANT USAGE ON SCHEMA public TO probe")
        for name, statement in statements.items():
            while denied := await _denied(admin, statement):
                kind, what = denied
                known = functions if kind == "function" else tables
                assert what not in known, f"{name} needs {what} in a way that is not granted"
                known.add(what)
                grant = f"EXECUTE ON FUNCTION {what}" if kind == "function" else f"SELECT ON {what}"
                await admin.execute(f"GRANT {grant} TO probe")
    finally:
        await transaction.rollback()
    return tables, functions


async def _denied(admin: Connection, statement: str) -> tuple[str, str] | None:
    try:
        async with admin.transaction():
            await admin.execute("SET LOCAL ROLE probe")
            await admin.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
            await admin.execute("RESET ROLE")
    except asyncpg.InsufficientPrivilegeError as error:
        if found := _DENIED.search(str(error)):
            return found[1], found[2]
        raise
    return None


async def granted(admin: Connection, role: str) -> tuple[dict[str, set[str]], set[str]]:
    """What a role may: its privileges by table, and the functions."""
    tables: dict[str, set[str]] = {}
    for row in await admin.fetch(_RELATIONS, role, PRIVILEGES):
        tables.setdefault(row["relname"], set()).add(row["privilege"])
    functions = {row["proname"] for row in await admin.fetch(_FUNCTIONS, role) if row["may"]}
    return tables, functions


@pytest.mark.parametrize("role", PROGRAMS)
async def test_a_program_may_what_its_statements_need_and_nothing_else(admin: Connection, role: str) -> None:
    statements = statements_of(role)
    assert len(statements) > 20
    tables, functions = await needed(admin, statements)
    may_read, may_call = await granted(admin, role)
    functions |= BY_HAND.get(role, set())
    missing = sorted((tables - may_read.keys()) | (functions - may_call))
    too_much = sorted((may_read.keys() - tables) | (may_call - functions))
    assert (missing, too_much) == ([], []), "say it in sql/migrations/0090_privileges.sql"
    assert {table: what for table, what in may_read.items() if what != {"SELECT"}} == {}


async def test_whoever_only_looks_may_read_what_is_no_secret_and_call_what_the_invariants_need(
    admin: Connection,
) -> None:
    may_read, may_call = await granted(admin, "core_readonly")
    relations = {
        row["relname"]
        for row in await admin.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        )
    }
    assert relations - may_read.keys() == HIDDEN & relations
    assert {table: what for table, what in may_read.items() if what != {"SELECT"}} == {}
    _, functions = await needed(admin, load("invariants"))
    assert may_call >= functions
    assert not [
        f for f in may_call if f.startswith(("commit", "create", "record", "claim", "purge", "revoke"))
    ]


async def test_nobody_has_anything_that_is_not_said(admin: Connection) -> None:
    roles = await admin.fetch("SELECT * FROM pg_roles WHERE rolname LIKE 'core\\_%'")
    assert {row["rolname"] for row in roles} >= {*PROGRAMS, "core_owner", "core_migrator", "core_readonly"}
    for row in roles:
        powers = [
            row[f"rol{power}"] for power in ("super", "createrole", "createdb", "replication", "bypassrls")
        ]
        assert not any(powers), row["rolname"]
    members = await admin.fetch(
        "SELECT m.member::regrole::text AS who, m.roleid::regrole::text AS what FROM pg_auth_members m"
        " WHERE m.member::regrole::text LIKE 'core\\_%'"
    )
    assert {(row["who"], row["what"]) for row in members} == {
        ("core_migrator", "core_owner"),
        *(("core_app", program) for program in PROGRAMS),  # the tests' login
    }
    for role in (*PROGRAMS, "core_readonly", "core_app"):
        for what in ("CREATE", "TEMPORARY"):
            assert not await admin.fetchval(
                "SELECT has_database_privilege($1, current_database(), $2)", role, what
            )
        assert not await admin.fetchval("SELECT has_schema_privilege($1, 'public', 'CREATE')", role)
    public = await admin.fetch(
        "SELECT c.relname AS name FROM pg_class c, aclexplode(c.relacl) a"
        " WHERE c.relnamespace = 'public'::regnamespace AND a.grantee = 0"
        " UNION ALL SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace"
        "   AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) a WHERE a.grantee = 0))"
    )
    assert [row["name"] for row in public] == []


async def test_what_a_role_was_not_given_it_is_refused_when_it_tries(
    login: Connection, admin: Connection
) -> None:
    role = await login.fetchval("SELECT current_user::text")
    may_read, _ = await granted(admin, role)
    relations = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')"
    )
    tried = 0
    for row in relations:
        if row["relname"] not in may_read:
            tried += 1
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.execute(f'SELECT FROM "{row["relname"]}" LIMIT 1')
    for row in await admin.fetch(_FUNCTIONS, role):
        if not row["may"] and not row["for_trigger"]:
            tried += 1
            call = f"{row['signature'].partition('(')[0]}({row['something']})"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await login.execute(f"EXPLAIN (GENERIC_PLAN) SELECT {call}")
    assert tried > 20
    for statement in (
        "CREATE TABLE mine (x int)",
        "CREATE TEMP TABLE mine (x int)",
        "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "SET ROLE core_owner",
        "SET SESSION AUTHORIZATION core_migrator",
        "ALTER TABLE wallets DISABLE TRIGGER ALL",
        "DROP TABLE wallets",
        "ALTER FUNCTION commit_batch RENAME TO mine",
        "ALTER TABLE publishers OWNER TO CURRENT_USER",
        "SET session_replication_role = replica",
        "COPY wallets TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT * FROM pg_authid",
        "SELECT lo_import('/etc/passwd')",
        "ALTER SYSTEM SET fsync = off",
    ):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await login.execute(statement)
        assert refused.value.sqlstate in ("42501", "0LP01"), (statement, refused.value)


def test_the_login_of_the_tests_is_nobody_s_in_production() -> None:
    roles = (Path(__file__).resolve().parents[2] / "deploy" / "local" / "roles.sql").read_text()
    assert "core_app" not in roles
