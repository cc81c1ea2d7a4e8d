"""What keeps plans from depending on how full the tables were when a session made them."""

from tests.sql.books import Connection


async def test_what_commits_batches_never_reads_a_table_from_end_to_end(admin: Connection) -> None:
    careless = await admin.fetch(
        "SELECT proname FROM pg_proc p CROSS JOIN LATERAL (SELECT unnest(proconfig) AS said) c"
        " WHERE pronamespace = 'public'::regnamespace GROUP BY proname"
        " HAVING bool_or(said LIKE 'plan_cache_mode=%') AND NOT bool_or(said = 'enable_seqscan=off')"
    )
    assert [row["proname"] for row in careless] == []
