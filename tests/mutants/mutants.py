"""The mutants: what somebody could break without noticing, and the tests that must notice.

Each edit replaces text that occurs exactly once in its file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_BATCHES = "sql/migrations/0005_batch_functions.sql"
_LEDGER = "sql/migrations/0006_ledger_functions.sql"
_COMMIT = "sql/migrations/0007_commit_batch.sql"
_FRAUD = "sql/migrations/0010_fraud_functions.sql"
_REFUNDS = "sql/migrations/0016_refund_functions.sql"
_CONCURRENCY = "tests/sql/test_concurrency.py"
_BETWEEN = "tests/agents/test_between_agents.py"
_SIMULATION = (
    "tests/simulation/test_simulation.py::"
    "test_whatever_breaks_everything_comes_to_the_specified_end_and_a_replay_changes_nothing[0]"
)


@dataclass(frozen=True, slots=True)
class Edit:
    """In `file`, `old` becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One way to be wrong. `tests` are pytest's arguments; one of them must fail."""

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


MUTANTS: Final = (
    # -- the offset and its owner
    Mutant(
        "no offset check",
        (
            Edit(
                _BATCHES,
                "last_digest = p_last_digest, batch_no = o.batch_no + 1, updated_at = now()\n"
                "     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group"
                " AND o.epoch = p_epoch AND o.next_offset = p_from",
                "last_digest = p_last_digest, batch_no = o.batch_no + 1, updated_at = now()\n"
                "     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group"
                " AND o.epoch = p_epoch",
            ),
        ),
        (f"{_CONCURRENCY}::test_a_batch_that_does_not_begin_where_the_last_one_ended_is_fenced",),
    ),
    Mutant(
        "no epoch check",
        (
            Edit(
                _BATCHES,
                "last_digest = p_last_digest, batch_no = o.batch_no + 1, updated_at = now()\n"
                "     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group"
                " AND o.epoch = p_epoch AND o.next_offset = p_from",
                "last_digest = p_last_digest, batch_no = o.batch_no + 1, updated_at = now()\n"
                "     WHERE o.topic = p_topic AND o.partition = p_partition AND o.consumer_group = p_group"
                " AND o.next_offset = p_from",
            ),
        ),
        (f"{_CONCURRENCY}::test_an_owner_whose_epoch_is_over_is_fenced_and_writes_nothing",),
    ),
    Mutant(
        "a claim leaves the epoch as it is",
        (Edit(_BATCHES, "SET epoch = o.epoch + 1, owner = p_owner", "SET epoch = o.epoch, owner = p_owner"),),
        (f"{_BETWEEN}::test_a_zombie_commits_nothing",),
    ),
    Mutant(
        "a retry does not ask who owns the partition",
        (
            Edit(
                _COMMIT,
                "IF NOT FOUND THEN RAISE EXCEPTION 'fenced: %/%', p_topic, p_partition USING ERRCODE = 'LG001'; END IF;",
                "",
            ),
        ),
        (f"{_CONCURRENCY}::test_retries_and_batches_of_one_partition_never_deadlock",),
    ),
    Mutant(
        "the offset in a second transaction",
        (
            Edit(
                _BATCHES,
                "       SET next_offset = p_to, last_offset = p_last_offset, last_digest = p_last_digest, batch_no",
                "       SET batch_no",
            ),
            Edit(
                "sql/migrations/0008_immutability_and_grants.sql",
                "\nRESET ROLE;\n",
                """
CREATE FUNCTION move_offset(p_topic text, p_partition integer, p_group text, p_to bigint, p_last bigint, p_digest bytea)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
  UPDATE consumer_offsets SET next_offset = p_to, last_offset = p_last, last_digest = p_digest
   WHERE topic = p_topic AND partition = p_partition AND consumer_group = p_group
$$;
GRANT EXECUTE ON FUNCTION move_offset TO core_app;

RESET ROLE;
""",
            ),
            Edit(
                "sql/batches.py",
                "async def commit(db: Database, statement: str, head: Head, *args: Any) -> Row | Emitted:\n",
                "async def commit(db: Database, statement: str, head: Head, *args: Any) -> Row | Emitted:\n"
                "    answer = await _commit(db, statement, head, *args)\n"
                "    where = (head.topic, head.partition, head.group, head.to_offset, head.last_offset)\n"
                '    await db.row("SELECT move_offset($1, $2, $3, $4, $5, $6)", *where, head.last_digest)\n'
                "    return answer\n\n\n"
                "async def _commit(db: Database, statement: str, head: Head, *args: Any) -> Row | Emitted:\n",
            ),
        ),
        (_SIMULATION,),
    ),
    Mutant(
        "watermarks are not compared",
        (
            Edit(
                _BATCHES,
                "WHERE coalesce(m.last_batch_no, 0) <> (w ->> 3)::bigint) THEN",
                "WHERE false) THEN",
            ),
        ),
        (f"{_CONCURRENCY}::test_a_watermark_that_moved_fences_the_batch",),
    ),
    # -- once
    Mutant(
        "no deduplication of keys",
        (
            Edit(_COMMIT, "WHERE x.idempotency_key = c.key LIMIT 1) t ON true", "WHERE false) t ON true"),
            Edit(
                "sql/migrations/0002_wallets_and_ledger.sql",
                "  CONSTRAINT transaction_key UNIQUE (idempotency_key),\n",
                "",
            ),
        ),
        (f"{_CONCURRENCY}::test_four_writers_on_the_same_wallets_neither_deadlock_nor_post_twice",),
    ),
    Mutant(
        "no deduplication of slices",
        (
            Edit(
                "agents/intake.py",
                "        if message.batch_no <= last:\n"
                "            intake.dropped += len(message.events)\n            return\n",
                "",
            ),
        ),
        (_BETWEEN,),
    ),
    Mutant(
        "gaps between agents are not filled",
        (Edit("agents/intake.py", "        if message.prev_batch_no > last:\n", "        if False:\n"),),
        (_BETWEEN,),
    ),
    Mutant(
        "refusals unrecorded",
        (
            Edit(
                _LEDGER,
                "    INSERT INTO refusals (idempotency_key",
                "    IF false THEN INSERT INTO refusals (idempotency_key",
            ),
            Edit(
                _LEDGER,
                "w.available_credits, p_batch_id, p_ord, p_occurred);\n    o_canonical := o_canonical || canonical_refusal",
                "w.available_credits, p_batch_id, p_ord, p_occurred); END IF;\n"
                "    o_canonical := o_canonical || canonical_refusal",
            ),
        ),
        (f"{_BETWEEN}::test_a_refused_debit_stays_refused_after_a_top_up",),
    ),
    Mutant(
        "the outbox outside the transaction",
        (
            Edit(_BATCHES, "  )\n  INSERT INTO outbox AS o (", "  ), kept AS (\n  INSERT INTO outbox AS o ("),
            Edit(
                _BATCHES,
                "JOIN before b USING (t, p) ORDER BY s.t, s.p\n"
                "  RETURNING o.dest_topic, o.dest_partition, o.prev_batch_no, o.events;",
                "JOIN before b USING (t, p) WHERE false RETURNING 1)\n"
                "  SELECT s.t, s.p, b.prev, s.events FROM slice s JOIN before b USING (t, p) ORDER BY s.t, s.p;",
            ),
        ),
        (_SIMULATION,),
    ),
    # -- locks
    Mutant(
        "unsorted locks",
        (
            Edit(
                _COMMIT,
                "  PERFORM FROM wallets w WHERE w.id = ANY (c_wallet) ORDER BY w.id FOR NO KEY UPDATE;",
                "  FOR i IN 1 .. v_n LOOP PERFORM FROM wallets w WHERE w.id = c_wallet[i] FOR NO KEY UPDATE; END LOOP;",
            ),
        ),
        (f"{_CONCURRENCY}::test_four_writers_on_the_same_wallets_neither_deadlock_nor_post_twice",),
    ),
    Mutant(
        "no wallet locks",
        (
            Edit(
                _COMMIT,
                "  PERFORM FROM wallets w WHERE w.id = ANY (c_wallet) ORDER BY w.id FOR NO KEY UPDATE;",
                "",
            ),
        ),
        (f"{_CONCURRENCY}::test_four_writers_on_the_same_wallets_neither_deadlock_nor_post_twice",),
    ),
    Mutant(
        "a chain is locked before the wallets",
        (
            Edit(
                _COMMIT,
                "  -- 2. The wallets, in id order",
                "  IF p_epoch IS NULL OR p_retry IS NOT NULL THEN\n"
                "    SELECT b.batch_no, b.link, b.incarnation INTO r_batch_no, v_link, r_incarnation\n"
                "      FROM begin_chain(p_topic, p_partition, p_group) b;\n  END IF;\n"
                "  -- 2. The wallets, in id order",
            ),
        ),
        ("tests/refunds/test_locks.py",),
    ),
    Mutant(
        "a parked item is taken twice",
        (
            Edit(
                _COMMIT,
                "IF v_rows <> v_n THEN RAISE EXCEPTION 'retries % are taken'",
                "IF false THEN RAISE EXCEPTION 'retries % are taken'",
            ),
        ),
        (f"{_CONCURRENCY}::test_retries_and_batches_of_one_partition_never_deadlock",),
    ),
    Mutant(
        "a refund without lock",
        (
            Edit(
                _REFUNDS,
                "  PERFORM FROM wallets w WHERE w.id = v_wallet FOR NO KEY UPDATE;\n"
                "  SELECT * INTO STRICT y FROM payments z WHERE z.id = p_payment FOR NO KEY UPDATE;\n",
                "  SELECT * INTO STRICT y FROM payments z WHERE z.id = p_payment;\n",
            ),
            Edit(
                _REFUNDS,
                "  SELECT * INTO l FROM lots WHERE id = c.o_lot FOR UPDATE;\n",
                "  SELECT * INTO l FROM lots WHERE id = c.o_lot;\n",
            ),
        ),
        (
            "tests/refunds/test_once.py::test_of_200_concurrent_refunds_of_one_payment_each_slice_has_one_winner",
        ),
    ),
    Mutant(
        "fraud's last counts without the lock of the checks",
        (
            Edit(
                _FRAUD,
                "  PERFORM FROM fraud_checks k WHERE k.payment_id = ANY (s_payment) ORDER BY k.payment_id FOR NO KEY UPDATE;\n",
                "",
            ),
        ),
        (
            "tests/payments/test_locks.py::test_the_last_counts_of_a_payment_bring_its_decision_whoever_commits_last",
        ),
    ),
    # -- authority
    Mutant(
        "a credit without a verified payment",
        (
            Edit(
                _LEDGER,
                "IF NOT FOUND OR pay.verified_at IS NULL OR pay.status <> 'verified' OR pay.wallet_id",
                "IF pay.wallet_id",
            ),
        ),
        (f"{_BETWEEN}::test_a_forged_credit_without_a_verified_payment_posts_nothing",),
    ),
    Mutant(
        "signatures are not checked",
        (
            Edit(
                "agents/intake.py",
                "secret is None or not messages.verify(\n"
                '                    record.value or b"", secret, record.headers.get("mac")\n                )',
                "secret is None",
            ),
        ),
        (f"{_BETWEEN}::test_only_a_known_publisher_within_its_scope_may_charge",),
    ),
    # -- the edges
    Mutant(
        "200 before commit",
        (
            Edit(
                "web/resources/webhooks.py",
                "        receipt = await request.app[INBOX].put(webhook)\n",
                "        import asyncio\n\n"
                "        request[EVENT_ID] = asyncio.ensure_future(request.app[INBOX].put(webhook))  # type: ignore[assignment]\n"
                '        receipt = "new"\n',
            ),
        ),
        ("tests/web/test_webhooks.py", "tests/web/test_edge.py"),
    ),
    Mutant(
        "named producer",
        (
            Edit(
                "streams/link.py",
                "wire.declare_publisher(stream, None, number)",
                'wire.declare_publisher(stream, "core", number)',
            ),
        ),
        ("tests/streams/test_publish.py",),
    ),
    Mutant(
        "no digest check",
        (
            Edit(
                "streams/transport/partition.py",
                "return Verdict.SAME if digest(chunk.timestamp_ms, raw) == claim.last_digest else Verdict.OTHER",
                "return Verdict.SAME if raw is not None else Verdict.OTHER",
            ),
        ),
        ("tests/simulation/test_reader.py",),
    ),
    Mutant(
        "float parsing",
        (
            Edit(
                "gateway/wire.py",
                "        return Decimal(literal)\n",
                "        return Decimal(literal) if 'e' in literal else Decimal(str(round(float(literal), 2)))\n",
            ),
        ),
        ("tests/gateway/test_webhooks.py", "tests/gateway/test_client.py"),
    ),
)
