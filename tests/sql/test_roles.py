"""What each role may not do: the ledger is changed by its functions or not at all."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from sql.db import Database
from tests.conftest import Database as Prepared
from tests.sql.books import Connection
from tests.sql.desk import Partition, command, fund, open_wallets

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
    "payment_webhooks": "id body",
    "consumer_offsets": "topic partition consumer_group epoch incarnation next_offset last_offset last_digest link",
    "outbox": "dest_topic dest_partition batch_no prev_batch_no events",
    "producer_watermarks": "last_batch_no",
    "retries": "key payload attempt next_at state",
    "lots": "wallet_id expires_at free_credits",
    "holds": "wallet_id credits state",
    "verifications": "payment_id state",
    "fraud_checks": "payment_id entity_kind counts",
    "billing_windows": "metric resolution dimension window_start",
    "fraud_windows": "entity buckets",
}


@pytest.fixture(params=["core_app", "core_readonly"])
async def login(request: pytest.FixtureRequest, database: Prepared) -> AsyncIterator[Connection]:
    """A connection as a role that logs in."""
    url = database.url if request.param == "core_app" else database.readonly_url
    connection = await asyncpg.connect(url)
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
    unique = {row["indexdef"].split(" ON public.")[1].replace(" USING btree", "") for row in rows}
    assert {
        "payments (order_id)",
        "payments (idempotency_key)",
        "wallet_transactions (idempotency_key)",
        "wallet_transactions (wallet_id, seq)",
        "refusals (idempotency_key)",
        "refunds (refund_id)",
    } <= unique
