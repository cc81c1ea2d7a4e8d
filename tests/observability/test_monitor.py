"""The monitor: what the database says, shown by one worker at a time."""

import asyncio
from typing import Any, cast
from uuid import UUID

import asyncpg

from agents import monitor
from agents.core import Core, PostgresOwnership
from agents.monitor import BOARD, Monitor
from sql import monitor as sql_monitor
from sql.db import Database, DatabaseSettings
from streams.address import Address
from streams.lag import LagReader


class Silent:
    """Publishes nothing."""

    async def publish(self, outgoing: object) -> None:
        raise AssertionError("a monitor publishes nothing")


def shown() -> dict[str, dict[tuple[str, ...], float]]:
    return {
        sample.name: {tuple(s.labels.values()): s.value for s in family.samples if s.name == sample.name}
        for family in BOARD.collect()
        for sample in family.samples
    }


async def test_one_worker_measures_and_the_next_takes_over(database: Any, broker: Any) -> None:
    admin = await asyncpg.connect(database.admin_url)
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        core = Core(db, Silent(), "commdesk", 2)
        ownership = PostgresOwnership(db, "commdesk", [])
        async with LagReader(Address.parse(broker.url)) as lag:
            first = Monitor(core, ownership, lag, holder="a")
            second = Monitor(core, ownership, lag, holder="b")
            assert await first.once()
            assert not await second.once()
            seen = shown()
            assert seen["core_monitor_up"] == {(): 1}
            assert seen["core_broker_up"] == {(): 1}
            assert seen["core_waiting"][("webhook_inbox",)] == 0
            assert seen["core_stream_incidents_total"][("truncated",)] == 0
            assert seen["core_database_connections"][()] >= 1

            await admin.execute("UPDATE duties SET held_until = now() - interval '1 second'")
            assert await second.once()
            assert not await first.once(), "the duty is another's"
            assert shown() == {}, "and nothing is shown twice"
    await admin.close()


async def test_ages_dead_letters_incidents_and_violations_are_shown(database: Any, broker: Any) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute(
        """
        INSERT INTO retries (topic, partition, incarnation, source_offset, key, payload, state, next_at, reason, created_at)
          VALUES ('wallet.debit', 0, 1, 5, 'k', '{}', 'dead', now(), 'test', now() - interval '90 seconds');
        INSERT INTO stream_incidents (topic, partition, kind) VALUES ('wallet.debit', 0, 'truncated');
        INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id, created_at)
          SELECT 'wallet.debit', 0, 1, n, 'forged', '', gen_random_uuid(), now() - interval '1 minute'
            FROM generate_series(1, 3) n;
        INSERT INTO invariant_runs (scope, holder, batches, behind, violated, detail, took_s)
          VALUES ('new', 'c', 10, 7, '{i3_balances_are_not_negative}', '{}', 0.1);
        INSERT INTO reconciliation_cases (kind, subject, expected, actual) VALUES ('unknown_settlement', 's', '{}', '{}');
        INSERT INTO payment_webhooks (id, business_key, kind, event_type, occurred_at, version, stale, created_at)
          VALUES (gen_random_uuid(), 'b', 'payment', 't', now(), 'v', false, now() - interval '40 seconds');
        INSERT INTO billing_windows (metric, resolution, dimension, window_start, count, credits, amount_paise,
                                     as_of_partition, as_of_offset)
          VALUES ('payments', '1d', 'status=held', now(), 3, 0, 150000, 0, 0),
                 ('payments', '1d', 'status=held', now() - interval '1 day', 2, 0, 100000, 0, 0);
        """
    )
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        core = Core(db, Silent(), "commdesk", 2)
        async with LagReader(Address.parse(broker.url)) as lag:
            watching = Monitor(core, PostgresOwnership(db, "commdesk", []), lag, holder="a")
            assert await watching.once()
            assert await watching.once(), "again, and nothing is counted twice"
            await admin.execute("UPDATE duties SET held_until = now() - interval '1 second'")
            seen = shown()
            assert await Monitor(core, PostgresOwnership(db, "commdesk", []), lag, holder="z").once()
            assert not await watching.once()
    await admin.close()
    assert seen["core_retries"] == {("wallet.debit", "dead"): 1}
    assert 89 < seen["core_retries_oldest_seconds"]["wallet.debit", "dead"] < 120
    assert seen["core_stream_incidents_total"][("truncated",)] == 1
    assert seen["core_quarantined_total"]["wallet.debit",] == 3
    assert seen["core_quarantined_total"]["wallet.credit",] == 0, "a first one is an increase"
    assert seen["core_invariant_violated"] == {("i3_balances_are_not_negative",): 1}
    assert seen["core_invariant_unchecked_batches"] == {(): 7}
    assert seen["core_reconciliation_cases"] == {("unknown_settlement",): 1}
    assert seen["core_waiting"][("webhook_inbox",)] == 1
    assert 39 < seen["core_waiting_oldest_seconds"][("webhook_inbox",)] < 70
    assert seen["core_payments_total"]["held",] == 5
    assert seen["core_payments_paise_total"]["held",] == 250000
    assert seen["core_payments_total"]["mismatch",] == 0


async def test_what_came_while_nobody_measured_is_an_increase_for_who_measures_next(
    database: Any, broker: Any
) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute(
        """
        INSERT INTO stream_incidents (topic, partition, kind, created_at)
          VALUES ('wallet.debit', 0, 'truncated', now() - interval '1 hour'), ('wallet.debit', 1, 'truncated', now());
        INSERT INTO quarantine (topic, partition, incarnation, source_offset, reason, payload, batch_id, created_at)
          VALUES ('wallet.debit', 0, 1, 1, 'forged', '', gen_random_uuid(), now() - interval '1 hour'),
                 ('wallet.debit', 0, 1, 2, 'forged', '', gen_random_uuid(), now() - interval '3 seconds');
        INSERT INTO billing_windows (metric, resolution, dimension, window_start, count, credits, amount_paise,
                                     as_of_partition, as_of_offset)
          VALUES ('payments', '1d', 'status=mismatch', date_trunc('day', now()), 3, 0, 300, 0, 0),
                 ('payments', '1m', 'status=mismatch', now() - interval '1 hour', 2, 0, 200, 0, 0),
                 ('payments', '1m', 'status=mismatch', now() - interval '5 seconds', 1, 0, 100, 0, 0);
        """
    )
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        core = Core(db, Silent(), "commdesk", 2)
        async with LagReader(Address.parse(broker.url)) as lag:
            watching = Monitor(core, PostgresOwnership(db, "commdesk", []), lag, holder="a")
            looks = []
            for _ in range(2):
                assert await watching.once()
                seen = shown()
                looks.append(
                    (
                        seen["core_stream_incidents_total"]["truncated",],
                        seen["core_quarantined_total"]["wallet.debit",],
                        seen["core_payments_total"]["mismatch",],
                    )
                )
            watching._drop()
    await admin.close()
    assert looks == [(1, 1, 2), (2, 2, 3)]


async def test_a_broker_that_answers_nothing_is_not_up(database: Any) -> None:
    class Frozen:
        async def read(self, positions: object) -> None:
            await asyncio.sleep(3600)

    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        core, frozen = Core(db, Silent(), "commdesk", 2), cast(LagReader, Frozen())
        watching = Monitor(core, PostgresOwnership(db, "commdesk", []), frozen, holder="a", every_s=0.2)
        async with asyncio.timeout(10):
            assert await watching.once()
        assert shown()["core_broker_up"] == {(): 0}
        watching._drop()


async def test_a_refund_that_the_gateway_has_is_late_after_its_time_one_that_it_has_not_since_it_was_made(
    database: Any,
) -> None:
    admin = await asyncpg.connect(database.admin_url)
    await admin.execute("SET session_replication_role = replica")
    await admin.execute(
        """
        INSERT INTO refunds (id, refund_id, payment_id, wallet_id, amount, policy, status, requested_by,
                             idempotency_key, next_at, created_at)
          SELECT gen_random_uuid(), 'r' || n, gen_random_uuid(), gen_random_uuid(), 100, 'PRO_RATA', status, 'asha',
                 'k' || n, now() + at, now() - interval '1 hour'
            FROM (VALUES (1, 'pending', interval '-10 seconds'), (2, 'pending', interval '1 hour'),
                         (3, 'done', interval 'infinity'), (4, 'due', interval '5 minutes')) x (n, status, at)
        """
    )
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:

        async def waiting() -> tuple[int, float]:
            found = await sql_monitor.measure(db, since=UUID(int=0), until=UUID(int=0), after_quarantined=0)
            return found.waits["refunds"]

        count, oldest_s = await waiting()
        assert count == 2
        assert 3590 < oldest_s < 3700, "it was to be carried an hour ago, whatever pauses there were"
        await admin.execute("UPDATE refunds SET status = 'pending' WHERE status = 'due'")
        count, oldest_s = await waiting()
        assert count == 1
        assert 9 < oldest_s < 60, "made an hour ago, and asked about when its time came"
    await admin.close()


async def test_without_the_broker_its_numbers_are_gone_and_the_rest_stay(database: Any) -> None:
    async with await Database.connect(DatabaseSettings(database_url=database.url)) as db:
        core = Core(db, Silent(), "commdesk", 2)
        ownership = PostgresOwnership(db, "commdesk", [])
        ownership.epochs["wallet.debit", 0] = 1
        await ownership.claim("wallet.debit", [0], "a")
        async with LagReader(Address.parse("rabbitmq-stream://x:y@127.0.0.1:9/z")) as lag:
            watching = Monitor(core, ownership, lag, holder="a")
            assert await watching.once()
            assert shown()["core_broker_up"] == {(): 0}
            assert shown()["core_monitor_up"] == {(): 1}
            watching._drop()


def test_a_batch_is_counted_once_between_two_looks() -> None:
    low, high = monitor._first_id(1_000), monitor._first_id(1_001)
    assert low == UUID("00000000-03e8-7000-8000-000000000000")
    assert low < UUID("00000000-03e8-7abc-9def-0123456789ab") < high
